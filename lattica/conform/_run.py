"""Runs everything and tells about it: what `lattica conform` does.

What it runs is imported when it runs, so that the command line can name it without loading a node.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from ._outcome import Report


def run(
    target: str | None = None,
    *,
    suites: Collection[str] = (),
    as_json: bool = False,
    junit: Path | None = None,
    verbose: bool = False,
    write: Callable[[str], object] | None = None,
) -> int:
    """Hold this implementation to the vectors, or the node at `target` to the black-box checks.

    Args:
        target: a multiaddr of a running node; None runs the vectors.
        suites: names of vector files; all if empty. With `target` none is run unless named.
        as_json: write one JSON object instead of lines.
        junit: a file to write the report to as JUnit XML.
        verbose: write a line for each case that passed, too.
        write: gets each line; None prints them.

    Returns:
        0 if everything that applies passed, else 1.

    Raises:
        InvalidInput: no such address, no such suite, or `junit` cannot be written.
    """
    write = write or _print
    report = make_report(target, suites)
    if junit is not None:
        try:
            junit.write_text(report.to_junit(), encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"cannot write {junit}: {error.strerror}") from error
    if as_json:
        write(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        for line in report.lines(verbose=verbose):
            write(line)
    return 0 if report.passed else 1


def make_report(target: str | None, suites: Collection[str] = ()) -> Report:
    """Run what `run` runs. Raises InvalidInput."""
    import trio

    from lattica.transport import Multiaddr

    from ._blackbox import check_target
    from ._outcome import Report
    from ._vectors import run_vectors

    address = None if target is None else Multiaddr.parse(target)
    outcomes = run_vectors(suites) if suites or address is None else []
    if address is not None:
        outcomes += trio.run(check_target, address)
    return Report(tuple(outcomes))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
