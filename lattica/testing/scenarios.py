"""All scenarios by name; `lattica sim` runs them.

As a program, `python -m lattica.testing.scenarios NAME FIRST LAST STEP NODES`, it runs every
STEP-th seed and prints a line of JSON for each: what `lattica sim --jobs` starts. NODES 0 is the
usual number.
"""

from __future__ import annotations

import json
import sys

from ._dht_scenarios import SCENARIOS as _DHT
from ._scenario import (
    Outcome as Outcome,
    Run as Run,
    Scenario as Scenario,
    UnknownScenario as UnknownScenario,
    summarise as summarise,
)

SCENARIOS = {scenario.name: scenario for scenario in _DHT}


def find_scenario(name: str) -> Scenario:
    """Return the scenario of that name. Raises UnknownScenario."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UnknownScenario(f"no scenario is called {name!r}") from None


def main() -> None:
    """Run what the command line says; see the module."""
    first, last, step, nodes = map(int, sys.argv[2:])
    for seed in range(first, last + 1, step):
        outcome = find_scenario(sys.argv[1]).run(seed, nodes or None)
        sys.stdout.write(json.dumps(outcome.to_json()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
