"""Every vector of the specification holds, and none is overlooked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lattica.conform import _vectors, run
from lattica.conform._blackbox import CHECKS
from lattica.conform._outcome import Outcome, Report, Verdict
from lattica.conform._vectors import READERS, VectorFile, load_vectors, run_case, run_vectors
from lattica.errors import CodecError, InvalidInput

FILES = load_vectors()
SPEC = Path(__file__).parents[2] / "spec"
CASES = [(file, case) for file in FILES for case in file.cases]


@pytest.mark.parametrize(
    ("file", "case"), CASES, ids=[f"{file.suite}-{case['id']}" for file, case in CASES]
)
def test_every_vector_holds(file: VectorFile, case: dict[str, Any]) -> None:
    assert file.suite in READERS
    outcome = run_case(READERS[file.suite], file, case)
    assert outcome.verdict is Verdict.PASS, outcome.line


def test_every_reader_has_vectors_and_every_file_a_reader() -> None:
    assert READERS.keys() == {file.suite for file in FILES}


def test_the_files_that_ship_are_those_of_the_specification() -> None:
    files = [path for path in (SPEC / "vectors").glob("*.json") if path.name != "schema.json"]
    assert {json.loads(path.read_text())["suite"] for path in files} == READERS.keys()
    assert all(json.loads(path.read_text())["suite"] == path.stem for path in files)


def test_cases_have_names_of_their_own() -> None:
    names = [(file.suite, case["id"]) for file, case in CASES]
    assert len(names) == len(set(names))


CLAUSES = {check.clause for check in CHECKS} | {
    f"{file.document} §{case['section']}" for file, case in CASES
}


@pytest.mark.skipif(not SPEC.exists(), reason="the tests run without the checkout")
@pytest.mark.parametrize("clause", sorted(CLAUSES))
def test_what_a_case_or_check_pins_is_written_down(clause: str) -> None:
    document, _, section = clause.partition(" §")
    text = (SPEC / document).read_text()
    assert re.search(rf"^(#+ )?{re.escape(section)}\. ", text, re.MULTILINE), clause


FILE = VectorFile("made-up", "nowhere.md", ())


def outcome_of(reader: object, expected: object) -> Outcome:
    case = {"id": "one", "section": "1", "result": expected}
    return run_case(reader, FILE, case)  # type: ignore[arg-type]  # some are meant to be wrong


def refuse(case: object) -> object:
    raise CodecError(f"{case} is refused")


def crash(case: object) -> object:
    raise IndexError(case)


def test_a_case_passes_only_with_the_expected_result() -> None:
    assert outcome_of(lambda _: 1, 1).verdict is Verdict.PASS
    assert outcome_of(lambda _: 2, 1).verdict is Verdict.FAIL
    assert outcome_of(lambda _: 2, 1).detail == "read as 2, expected 1"


def test_a_refusal_passes_where_one_is_expected_and_fails_elsewhere() -> None:
    assert outcome_of(refuse, "invalid").verdict is Verdict.PASS
    assert outcome_of(refuse, 1).verdict is Verdict.FAIL
    assert outcome_of(lambda _: 1, "invalid").verdict is Verdict.FAIL


def test_a_reader_that_crashes_fails_even_where_a_refusal_is_expected() -> None:
    assert outcome_of(crash, "invalid").verdict is Verdict.FAIL
    assert "IndexError" in outcome_of(crash, "invalid").detail


def test_vectors_without_a_reader_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vectors, "READERS", {})
    outcomes = run_vectors(["ticket"])
    assert [one.verdict for one in outcomes] == [Verdict.FAIL]
    assert not Report(tuple(outcomes)).passed


def test_an_unknown_suite_is_an_error_that_names_the_known() -> None:
    with pytest.raises(InvalidInput, match="no vectors named nothing") as caught:
        run_vectors(["nothing"])
    assert "ticket" in caught.value.hint


def test_a_run_prints_a_line_for_each_suite_and_returns_zero(tmp_path: Path) -> None:
    lines: list[str] = []
    junit = tmp_path / "report.xml"
    assert run(suites=["ticket", "exchange"], junit=junit, write=lines.append) == 0
    assert len(lines) == 3
    assert lines[-1].startswith("conforms: ")
    assert junit.read_text().count("<testcase") == sum(
        len(file.cases) for file in FILES if file.suite in ("ticket", "exchange")
    )


def test_a_run_that_is_told_to_be_verbose_prints_each_case() -> None:
    lines: list[str] = []
    run(suites=["ticket"], verbose=True, write=lines.append)
    cases = next(file.cases for file in FILES if file.suite == "ticket")
    assert len(lines) == len(cases) + 1
    assert lines[0] == f"pass  ticket/{cases[0]['id']}  (ticket.md §{cases[0]['section']})"


def test_a_run_as_json_is_one_object() -> None:
    lines: list[str] = []
    run(suites=["ticket"], as_json=True, write=lines.append)
    (report,) = map(json.loads, lines)
    assert report["conforms"] is True
    assert report["fail"] == 0
    assert report["pass"] == len(report["outcomes"])


def test_a_report_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="cannot write"):
        run(suites=["ticket"], junit=Path("/nowhere/report.xml"), write=lambda _: None)


def test_an_empty_report_does_not_pass() -> None:
    assert not Report(()).passed
    skipped = Outcome("target", "one", "links.md §1.1", Verdict.SKIP, "not spoken")
    assert not Report((skipped,)).passed


def test_failures_come_out_in_every_form() -> None:
    failed = Outcome("target", "one", "links.md §1.1", Verdict.FAIL, "was <wrong>")
    skipped = Outcome("target", "two", "links.md §1.1", Verdict.SKIP, "not spoken")
    report = Report((failed, skipped))
    assert list(report.lines()) == [
        "fail  target/one  (links.md §1.1): was <wrong>",
        "skip  target/two  (links.md §1.1): not spoken",
        "does not conform: 0 pass, 1 fail, 1 skip",
    ]
    assert 'failures="1"' in report.to_junit()
    assert "&lt;wrong&gt;" in report.to_junit()
    assert report.to_json()["conforms"] is False
