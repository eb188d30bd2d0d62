"""Scenarios: what is simulated, what must hold, and the line that replays it.

A scenario is a function that is handed a `Run`: the seed, how many nodes, a place for figures and
for what went wrong. It checks with `Run.check` and goes on, so that one run says all that is wrong.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lattica.errors import NotFound

from ._simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_FAILURES = 20  # kept of one run; the first ones tell


class UnknownScenario(NotFound):
    """There is no scenario of that name."""

    code = "sim-scenario"
    hint = "`lattica sim --list` names them"


class Run:
    """One scenario under one seed, while it runs.

    Attributes:
        seed: of all chance.
        nodes: how many nodes take part.
        figures: what was measured, by name; names end in their unit where there is one.
        failures: what did not hold.
    """

    def __init__(
        self, seed: int, nodes: int, *, on_trace: Callable[[str], None] | None = None
    ) -> None:
        self.seed, self.nodes = seed, nodes
        self.figures: dict[str, float] = {}
        self.failures: list[str] = []
        self.failed = 0
        self._on_trace = on_trace
        self._simulations: list[Simulation] = []
        self._hash = hashlib.blake2b(digest_size=16)

    def simulation(self, **conditions: Any) -> Simulation:
        """Return a new world of this seed; what happens in it counts for the digest."""
        made = Simulation(
            self.seed + (len(self._simulations) << 32), on_trace=self._on_trace, **conditions
        )
        self._simulations.append(made)
        return made

    def check(self, holds: bool, text: str) -> None:
        """Note a failure where something does not hold that must."""
        if not holds:
            self.failed += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures.append(text)

    def figure(self, name: str, value: float) -> None:
        """Note what was measured."""
        self.figures[name] = value
        self._hash.update(f"{name}={value!r};".encode())

    @property
    def digest(self) -> str:
        """A hash over all that happened in all worlds of this run, and its figures."""
        whole = self._hash.copy()
        for simulation in self._simulations:
            whole.update(simulation.digest.encode())
        return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a scenario showed.

    Attributes:
        scenario: its name.
        seed: which run it was.
        nodes: how many nodes took part.
        figures: what was measured.
        failures: what did not hold; empty when all is well.
        digest: two runs with the same digest were the same run.
        seconds: how long it took, by a real clock.
    """

    scenario: str
    seed: int
    nodes: int
    figures: dict[str, float]
    failures: tuple[str, ...]
    digest: str
    seconds: float

    @property
    def replay(self) -> str:
        """The command that repeats this run."""
        return f"lattica sim {self.scenario} --seed {self.seed} --nodes {self.nodes}"

    def to_json(self) -> dict[str, Any]:
        """Return it as programs read it."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "nodes": self.nodes,
            "ok": not self.failures,
            "figures": self.figures,
            "failures": list(self.failures),
            "digest": self.digest,
            "replay": self.replay,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to simulate.

    Attributes:
        name: what it is called.
        summary: what must hold, in one line.
        nodes: how many take part if nobody says otherwise.
        play: runs it.
    """

    name: str
    summary: str
    nodes: int
    play: Callable[[Run], None] = field(repr=False)

    def run(
        self,
        seed: int,
        nodes: int | None = None,
        *,
        on_trace: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Run it under one seed. An error that is no failure, a bug, names the seed as well.

        Args:
            seed: of all chance.
            nodes: how many take part; as many as usual if not given.
            on_trace: called with a line for each event.
        """
        run = Run(seed, nodes if nodes is not None else self.nodes, on_trace=on_trace)
        started = time.perf_counter()
        log, unheard = logging.getLogger("lattica"), logging.NullHandler()
        log.addHandler(unheard)  # what simulated nodes warn of is for who has asked for a log
        try:
            self.play(run)
        except BaseException as error:
            error.add_note(f"replay: lattica sim {self.name} --seed {run.seed} --nodes {run.nodes}")
            raise
        finally:
            log.removeHandler(unheard)
        seconds = time.perf_counter() - started
        failures = tuple(run.failures)
        if run.failed > len(failures):
            failures += (f"and {run.failed - len(failures)} more",)
        return Outcome(self.name, seed, run.nodes, run.figures, failures, run.digest, seconds)


def summarise(runs: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the least, mean and greatest value of each figure over several runs."""
    values: dict[str, list[float]] = {}
    for figures in runs:
        for name, value in figures.items():
            values.setdefault(name, []).append(value)
    return {
        name: {"min": min(seen), "mean": sum(seen) / len(seen), "max": max(seen)}
        for name, seen in values.items()
    }
