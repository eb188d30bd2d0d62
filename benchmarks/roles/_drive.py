"""The driver's side of the protocol: say that you are ready, measure when told to."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PIECE = 1 << 20  # bytes handed to each write


def say(**figures: Any) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def drive(measure: Callable[[], dict[str, float]]) -> None:
    """Answer each `run` with what `measure` returns."""
    say(ready=True)
    for _ in sys.stdin:
        say(**measure())


async def drive_async(measure: Callable[[], Awaitable[dict[str, float]]]) -> None:
    """Answer each `run` with what `measure` returns, on a Trio loop."""
    say(ready=True)
    async for _ in trio.wrap_file(sys.stdin):
        say(**await measure())


async def until_told_to_end() -> None:
    """Wait for the end of standard input: then blocks end in order, and what they started too."""
    async for _ in trio.wrap_file(sys.stdin):
        pass


def upload_figures(size: int, started: float, cpu_started: float) -> dict[str, float]:
    """Figures of an acknowledged upload of `size` bytes."""
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu_started
    return {"mb_per_s": size / seconds / 1e6, "cpu_s_per_gb": cpu / size * 1e9}


def quantiles(name: str, milliseconds: list[float]) -> dict[str, float]:
    """Figures of how long something took, many times over."""
    ordered = sorted(milliseconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return {f"{name}_p50_ms": statistics.median(ordered), f"{name}_p99_ms": p99}
