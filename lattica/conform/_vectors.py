"""Runs the specification's vectors against this implementation.

A vector file is data: `{"format", "suite", "spec", "notes", "cases"}` (spec/README.md). For each
suite there is a *reader*, which makes of a case's input what this implementation makes of it, in
the words of the case's `result`. A reader that raises a `LatticaError` refuses; a case whose result
is `invalid` passes then, and only then. The files ship inside the package.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from lattica.errors import InvalidInput, LatticaError

from . import (
    _readers,
    _readers_content,
    _readers_delta,
    _readers_links,
    _readers_models,
    _readers_private,
)
from ._outcome import Failure, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    Case = Mapping[str, Any]
    Reader = Callable[[Case], object]

FORMAT = "lattica-vectors/1"
READERS: dict[str, Reader] = {
    **_readers.READERS,
    **_readers_content.READERS,
    **_readers_delta.READERS,
    **_readers_links.READERS,
    **_readers_models.READERS,
    **_readers_private.READERS,
}
_INVALID = "invalid"


class UnknownSuite(InvalidInput):
    """There are no vectors of that name."""

    code = "unknown-suite"


@dataclass(frozen=True, slots=True)
class VectorFile:
    """One file of vectors.

    Attributes:
        suite: its name.
        document: the specification that it pins, without its folder.
        cases: as they stand in the file.
    """

    suite: str
    document: str
    cases: tuple[Case, ...]


def load_vectors() -> list[VectorFile]:
    """Return the vector files that ship with the package, by name."""
    files = []
    folder = resources.files(__package__).joinpath("vectors")
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if not entry.name.endswith(".json") or entry.name == "schema.json":
            continue
        document = json.loads(entry.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise Failure(f"{entry.name} has format {document['format']!r}, expected {FORMAT!r}")
        name = document["spec"].removeprefix("spec/")
        files.append(VectorFile(document["suite"], name, tuple(document["cases"])))
    return files


def run_vectors(suites: Collection[str] = ()) -> list[Outcome]:
    """Run all vectors, or those of some suites. Raises UnknownSuite."""
    files = load_vectors()
    unknown = set(suites) - {file.suite for file in files}
    if unknown:
        raise UnknownSuite(
            f"no vectors named {', '.join(sorted(unknown))}",
            hint=f"there are: {', '.join(file.suite for file in files)}",
        )
    outcomes: list[Outcome] = []
    for file in files:
        if suites and file.suite not in suites:
            continue
        reader = READERS.get(file.suite)
        if reader is None:  # vectors that nobody runs pin nothing
            detail = "no reader runs this suite"
            outcomes.append(Outcome(file.suite, "all", file.document, Verdict.FAIL, detail))
        else:
            outcomes += (run_case(reader, file, case) for case in file.cases)
    return outcomes


def run_case(reader: Reader, file: VectorFile, case: Case) -> Outcome:
    """Run one case. Raises nothing."""
    started = time.perf_counter()
    verdict, detail = _judge(reader, case)
    elapsed = time.perf_counter() - started
    clause = f"{file.document} §{case['section']}"
    return Outcome(file.suite, case["id"], clause, verdict, detail, elapsed)


def _judge(reader: Reader, case: Case) -> tuple[Verdict, str]:
    expected = case["result"]
    try:
        found = reader(case)
    except Failure as failure:
        return Verdict.FAIL, str(failure)
    except LatticaError as error:
        if expected == _INVALID:
            return Verdict.PASS, ""
        return Verdict.FAIL, f"was refused: {error}"
    except Exception as error:  # noqa: BLE001  # a reader that crashes is a finding, not the end
        return Verdict.FAIL, f"ended in {type(error).__name__}: {error}"
    if found != expected:
        return Verdict.FAIL, f"read as {_brief(found)}, expected {_brief(expected)}"
    return Verdict.PASS, ""


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 200 else f"{text[:200]}…"
