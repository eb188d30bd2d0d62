"""What a conformance run found, and how it is shown: lines, JSON, JUnit. No I/O."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from lattica.errors import LatticaError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(enum.Enum):
    """How one case or check went. A skipped one asks for what the node does not claim to do."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


class Failure(LatticaError):
    """The node does not do what the clause asks."""

    code = "conformance"
    hint = "read the clause that the line names"


class Skip(LatticaError):
    """The clause is about something that the node does not speak."""

    code = "conformance-skip"
    hint = "nothing is wrong"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report.

    Attributes:
        suite: the vector file, or `target`.
        id: stable name of the case or check.
        clause: the document and section that it pins.
        verdict: how it went.
        detail: what was seen and what was expected, where it did not pass.
        seconds: how long it took.
    """

    suite: str
    id: str
    clause: str
    verdict: Verdict
    detail: str = ""
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """The outcome for people."""
        text = f"{self.verdict.value}  {self.suite}/{self.id}  ({self.clause})"
        return f"{text}: {self.detail}" if self.detail else text


@dataclass(frozen=True, slots=True)
class Report:
    """All outcomes of a run, in order."""

    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether something was run and nothing failed."""
        return any(one.verdict is Verdict.PASS for one in self.outcomes) and not self.failures

    @property
    def failures(self) -> list[Outcome]:
        """What failed."""
        return [one for one in self.outcomes if one.verdict is Verdict.FAIL]

    def count(self, verdict: Verdict) -> int:
        """How many outcomes there are of one kind."""
        return sum(one.verdict is verdict for one in self.outcomes)

    def lines(self, *, verbose: bool = False) -> Iterable[str]:
        """Return the report for people: suites of vectors in one line each unless `verbose`."""
        suites: dict[str, list[Outcome]] = {}
        for one in self.outcomes:
            suites.setdefault(one.suite, []).append(one)
        for suite, outcomes in suites.items():
            brief = suite != "target" and not verbose
            shown = [one for one in outcomes if not brief or one.verdict is not Verdict.PASS]
            yield from (one.line for one in shown)
            if brief and not shown:
                yield f"pass  {suite}: {len(outcomes)} cases"
        counts = ", ".join(f"{self.count(verdict)} {verdict.value}" for verdict in Verdict)
        yield f"{'conforms' if self.passed else 'does not conform'}: {counts}"

    def to_json(self) -> dict[str, object]:
        """Return the report as one JSON object."""
        return {
            "conforms": self.passed,
            **{verdict.value: self.count(verdict) for verdict in Verdict},
            "outcomes": [
                asdict(one) | {"verdict": one.verdict.value, "seconds": round(one.seconds, 4)}
                for one in self.outcomes
            ],
        }

    def to_junit(self) -> str:
        """Return the report as JUnit XML, which continuous integration shows."""
        root = ET.Element("testsuite", name="lattica conform", tests=str(len(self.outcomes)))
        root.set("failures", str(self.count(Verdict.FAIL)))
        root.set("skipped", str(self.count(Verdict.SKIP)))
        for one in self.outcomes:
            case = ET.SubElement(root, "testcase", classname=one.suite, name=one.id)
            case.set("time", f"{one.seconds:.4f}")
            if one.verdict is not Verdict.PASS:
                kind = "failure" if one.verdict is Verdict.FAIL else "skipped"
                ET.SubElement(case, kind, message=f"{one.clause}: {one.detail}")
        return ET.tostring(root, encoding="unicode", xml_declaration=True)
