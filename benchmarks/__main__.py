"""`python -m benchmarks NAME`: run one benchmark and print a table, or with `--json` one object."""

from __future__ import annotations

import argparse

from . import (
    codec,
    connect,
    delta,
    dht,
    faults,
    fetch,
    growth,
    memory,
    rows,
    stream,
    swarm,
)

BENCHMARKS = {
    "stream": stream,
    "fetch": fetch,
    "connect": connect,
    "memory": memory,
    "delta": delta,
    "dht": dht,
    "rows": rows,
    "codec": codec,
    "swarm": swarm,
    "faults": faults,
    "growth": growth,
}


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument("--quick", action="store_true", help="smaller; ends within 50 s")
        command.add_argument(
            "--peers", action="store_true", help="beside the foreign peers of `make interop`, too"
        )
    options = parser.parse_args()
    report = BENCHMARKS[options.benchmark].run(quick=options.quick, peers=options.peers)
    report.print(as_json=options.json)


if __name__ == "__main__":
    main()
