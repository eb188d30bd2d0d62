"""Progress for people: one line on a terminal that redraws itself, else one line every 5 s.

It counts verified bytes. What it says is a function of the progress reports and the clock, so the
promise "never 100 % before the last hash" is kept here, in `percent`, and tested.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lattica.results import Progress, ProgressCallback

REDRAW_S = 0.1
PLAIN_S = 5.0
_RATE_WINDOW_S = 3.0  # how far back the shown rate looks
_BAR = 24  # characters
_WORDS = {"hash": "hashed", "find": "found", "fetch": "verified", "verify": "checked"}


def size(count: float) -> str:
    """Return bytes for people: three digits, in powers of 1 000 as disks and networks are sold."""
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f} {unit}"


def counted(number: int, noun: str) -> str:
    """Return a number of things for people: `1 peer`, `2 peers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time span for people: `0:07`, `12:05`, `3:02:11`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def percent(done: int, total: int | None) -> int | None:
    """Return whole per cents, rounded down: 100 means all of it."""
    if total is None:
        return None
    return 100 if done >= total else done * 100 // total


@dataclass
class Meter:
    """Turns reports and the time into a line of text. Pure.

    Attributes:
        label: what is being done, as the line begins.
    """

    label: str
    _samples: list[tuple[float, int]] = field(default_factory=list)
    _phase: str = ""

    def line(
        self, report: Mapping[str, Any], now: float, *, bar: bool, width: int | None = None
    ) -> str:
        """Return the line for `report` (`Progress.to_json`) at `now`, in seconds.

        Where that is longer than `width`, the bar gives way to the numbers, and then the label.
        """
        done, total, phase = report["done_bytes"], report["total_bytes"], report["phase"]
        rate = self._rate(phase, done, now)
        if phase == "find" or total is None:
            peers = report["peers"]
            return f"{self.label}  looking for providers, {counted(peers, 'peer')} so far"
        share = percent(done, total)
        parts = [f"{_WORDS.get(phase, phase)} {size(done)} of {size(total)}  {share} %"]
        if rate and done < total:
            parts += [f"{size(rate)}/s", f"ETA {duration((total - done) / rate)}"]
        if phase == "fetch":
            parts.append(counted(report["peers"], "peer"))
        numbers = "  ".join(parts)
        filled = _BAR * done // total if total else _BAR
        drawn = "█" * filled + "░" * (_BAR - filled)
        lines = [f"{self.label}  {drawn}  {numbers}"] if bar else []
        lines += [f"{self.label}  {numbers}", numbers]
        return next((line for line in lines if width is None or len(line) <= width), numbers)

    def _rate(self, phase: str, done: int, now: float) -> float | None:
        if phase != self._phase:
            self._phase, self._samples = phase, []
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[0][0] < now - _RATE_WINDOW_S:
            self._samples.pop(0)
        then, before = self._samples[0]
        return (done - before) / (now - then) if now - then > 0.2 else None


class ProgressDisplay:
    """Shows reports on `stream`. Use it as a context manager: the end clears its line."""

    def __init__(
        self,
        label: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = Meter(label)
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._next = clock() + (0 if self._live else PLAIN_S)
        self._drawn = False

    def update(self, report: Mapping[str, Any]) -> None:
        """Take the newest report; draws only when it is time to."""
        if report["news"]:
            self.close()
            self._stream.write(f"{report['news']}\n")
        now = self._clock()
        width = shutil.get_terminal_size().columns - 1 if self._live else None
        line = self._meter.line(report, now, bar=self._live, width=width)
        if now < self._next:
            return
        self._next = now + (REDRAW_S if self._live else PLAIN_S)
        if width is not None:
            self._write("\r" + line[:width].ljust(width))
        else:
            self._write(line + "\n")

    def close(self) -> None:
        """Clear the line, if one is drawn."""
        if self._live and self._drawn:
            self._write("\r\033[K")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, text: str) -> None:
        self._drawn = True
        self._stream.write(text)
        self._stream.flush()


@contextlib.contextmanager
def shown(
    progress: ProgressCallback | bool | None, label: str
) -> Iterator[ProgressCallback | None]:
    """Give the callback for a `progress=` argument: True is a display on stderr for the block."""
    if progress is not True:
        yield progress or None
        return
    with ProgressDisplay(label) as display:

        def show(report: Progress) -> None:
            display.update(report.to_json())

        yield show
