# ruff: noqa: T201  a command that talks
"""Throw malformed inputs at every decoder: `python tests/fuzz [--count N] [--seed S] [DECODER…]`.

Each input ends in a value or in an error of ours, and memory stays flat; anything else is printed
with the input in hexadecimal, and the exit status is 1. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import _decoders
import _decoders_private
from _mutate import mutate

from lattica.errors import LatticaError

DECODERS = {**_decoders.DECODERS, **_decoders_private.DECODERS}
GROWTH_LIMIT_MIB = 64  # of the whole process, over all inputs of one decoder


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("decoders", nargs="*", metavar="DECODER", help=", ".join(DECODERS))
    options = parser.parse_args()
    faults = 0
    for name in options.decoders or DECODERS:
        faults += fuzz(name, options.count, options.seed)
    print(f"{faults} faults" if faults else "no faults")
    return 1 if faults else 0


def fuzz(name: str, count: int, seed: int) -> int:
    """Throw `count` inputs at one decoder; print what happened; return the number of faults."""
    decoder = DECODERS[name]
    rng = random.Random(f"{name} {seed}")
    corpus = decoder.corpus()
    started, before = time.perf_counter(), _peak_mib()
    values = refused = faults = 0
    for number in range(count):
        data = mutate(rng, corpus)
        try:
            decoder.decode(data)
            values += 1
        except LatticaError:
            refused += 1
        except Exception:  # noqa: BLE001  finding these is what this program is for
            faults += 1
            if faults <= 3:
                print(f"{name}: input {number} of seed {seed}: {data.hex()}")
                traceback.print_exc()
    grown = _peak_mib() - before
    if grown > GROWTH_LIMIT_MIB:
        faults += 1
        print(f"{name}: memory grew by {grown:.0f} MiB, limit {GROWTH_LIMIT_MIB}")
    seconds = time.perf_counter() - started
    print(
        f"{name:20} {values:8} values {refused:8} refused {faults:4} faults"
        f" {grown:5.0f} MiB more {seconds:6.1f} s",
        flush=True,
    )
    return faults


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
