"""Results: medians with their runs, ratios paired within rounds, a table or JSON."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Result:
    """One figure, measured some times over."""

    name: str
    unit: str
    runs: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@dataclass(slots=True)
class Report:
    """What a benchmark found.

    Attributes:
        benchmark: its name.
        results: the figures.
        ratios: ours against baselines of the same run; keys are stable.
        targets: what each ratio or figure should reach: `(">=", 0.65)`.
        notes: what was left out and why.
    """

    benchmark: str
    results: list[Result] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    targets: dict[str, tuple[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, unit: str, runs: list[float]) -> None:
        """Note a figure, if it was measured at all."""
        if runs:
            self.results.append(Result(name, unit, runs))

    def compare(self, key: str, ours: str, baseline: str) -> None:
        """Note the ratio of two figures: the median of the ratios taken round by round.

        Rounds are paired because the machine drifts; both figures of a round saw the same machine.
        """
        by_name = {result.name: result.runs for result in self.results}
        if ours in by_name and baseline in by_name:
            pairs = zip(by_name[ours], by_name[baseline], strict=True)
            self.ratios[key] = statistics.median(a / b for a, b in pairs)

    def print(self, *, as_json: bool) -> None:
        """Write the report to standard output."""
        if as_json:
            results = [
                {"name": r.name, "unit": r.unit, "median": r.median, "runs": r.runs}
                for r in self.results
            ]
            body = {"benchmark": self.benchmark, "results": results, "ratios": self.ratios}
            json.dump({**body, "notes": self.notes}, sys.stdout)
            sys.stdout.write("\n")
            return
        console = Console(highlight=False)
        console.print(self._table("figure", self._result_rows()))
        if self.ratios:
            console.print(self._table("ratio", self._ratio_rows()))
        for note in self.notes:
            console.print(f"note: {note}")

    def _result_rows(self) -> list[tuple[str, ...]]:
        return [
            (r.name, _figure(r.median), r.unit, _range(r.runs), self._verdict(r.name, r.median))
            for r in self.results
        ]

    def _ratio_rows(self) -> list[tuple[str, ...]]:
        return [
            (key, f"{value:.2f}", "", "", self._verdict(key, value))
            for key, value in self.ratios.items()
        ]

    def _verdict(self, key: str, value: float) -> str:
        if key not in self.targets:
            return ""
        sign, bound = self.targets[key]
        reached = value >= bound if sign == ">=" else value <= bound
        return f"{sign} {bound:g}: {'yes' if reached else 'NO'}"

    def _table(self, kind: str, rows: list[tuple[str, ...]]) -> Table:
        table = Table(title=f"{self.benchmark}: {kind}s", title_justify="left")
        for column in (kind, "median", "unit", "range", "target"):
            table.add_column(column, justify="right" if column in ("median", "range") else "left")
        for row in rows:
            table.add_row(*row)
        return table


def _range(runs: list[float]) -> str:
    return f"{_figure(min(runs))} … {_figure(max(runs))}" if len(runs) > 1 else ""


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
