"""What a command says and where: data to stdout, talk to stderr, one shape for every error.

Three faces: text for people, `--json` (one object when all is done) and `--json-lines` (one object
for each event). Colours only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import enum
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What others name may steer a terminal, or change the direction of what stands beside it.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_RED, _BOLD, _RESET = "\033[31m", "\033[1m", "\033[0m"


class Face(enum.Enum):
    """How results are shown."""

    TEXT = enum.auto()
    JSON = enum.auto()
    JSON_LINES = enum.auto()


class Output:
    """Where a command writes. `quiet` keeps talk and progress back; errors are always told."""

    def __init__(
        self,
        face: Face = Face.TEXT,
        *,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.face, self.quiet = face, quiet
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.colour = may_colour(self.stderr)

    def data(self, line: str) -> None:
        """Write one line of what the user asked for (text face only)."""
        if self.face is Face.TEXT:
            self._write(self.stdout, plain(line))

    def say(self, line: str) -> None:
        """Write one line of talk."""
        if not self.quiet:
            self._write(self.stderr, plain(line))

    def result(self, value: Mapping[str, Any], event: str = "result") -> None:
        """Write the result as JSON, if that is what was asked for."""
        if self.face is Face.JSON:
            self._write(self.stdout, json.dumps(value, indent=2))
        else:
            self.event(event, value)

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write one event of `--json-lines`."""
        if self.face is Face.JSON_LINES:
            self._write(self.stdout, json.dumps({"event": name, **fields}))

    def error(self, report: Mapping[str, Any]) -> None:
        """Tell an error, as `lattica._control.describe` gives it."""
        label = f"error[{report['exit_code']} {report['code']}]:"
        if self.colour:
            label = f"{_BOLD}{_RED}{label}{_RESET}"
        self._write(self.stderr, f"{label} {plain(str(report['message']))}")
        if report["hint"]:
            self._write(self.stderr, f"  hint: {plain(str(report['hint']))}")
        if self.face is Face.JSON:
            self._write(self.stdout, json.dumps({"error": dict(report)}, indent=2))
        else:
            self.event("error", report)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows: aligned under headings on a terminal, else with tabs between the fields."""
        rows = [[one_line(cell) for cell in row] for row in rows]
        if not self.stdout.isatty():
            for row in rows:
                self.data("\t".join(row))
            return
        if not rows:
            return
        widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.data("  ".join(cells).rstrip())

    @staticmethod
    def _write(stream: TextIO, line: str) -> None:
        # Each line is out before the next thing happens: a reader may wait for the ticket.
        stream.write(line + "\n")
        stream.flush()


def plain(text: str) -> str:
    """Return text with escapes, as Python writes them, for what would steer a terminal."""
    return _STEERING.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return text that stays in its place in a table: no line breaks and no tabs either."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def may_colour(stream: TextIO) -> bool:
    """Say whether to colour what goes to `stream` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
