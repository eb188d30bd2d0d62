"""Measured processes, started and driven from outside: lines of JSON over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]


class WorkerFailed(RuntimeError):
    """A measured process ended before it answered; its own words are on standard error."""


class Worker:
    """A running process that answers in JSON lines. Made by `worker`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ready: Any = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self) -> dict[str, Any]:
        """Ask for one run and return its figures. Raises WorkerFailed."""
        self.tell_to_run()
        return self.read()

    def tell_to_run(self) -> None:
        """Ask for one run; `read` returns its figures. Raises WorkerFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._words()) from None

    def read(self) -> dict[str, Any]:
        """Return the next JSON line. Raises WorkerFailed."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # foreign libraries print to standard output, too
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise WorkerFailed(self._words())

    def peak_rss_mib(self) -> float:
        """The process's largest resident set so far, in MiB (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024

    def _words(self) -> str:
        return f"{' '.join(map(str, self._process.args))} ended"  # type: ignore[arg-type]  # a list


@contextmanager
def worker(command: Sequence[str | Path]) -> Iterator[Worker]:
    """Run `command` for the block and wait until it says that it is ready."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        running = Worker(process)
        running.ready = running.read()["ready"]
        yield running
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    # Its input first: whoever reads it ends in order and takes along what it has started.
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    for harder in (process.terminate, process.kill):
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            harder()
    process.wait()


@contextmanager
def max_up(rate: str) -> Iterator[None]:
    """Have nodes that are started in the block send no more than `rate`, as `--max-up` does."""
    os.environ["LATTICA_MAX_UP"] = rate
    try:
        yield
    finally:
        del os.environ["LATTICA_MAX_UP"]


def role(name: str, *arguments: object, python: Path | None = None) -> list[str]:
    """Return the command of a role: `benchmarks.roles.<name>`."""
    interpreter = python or Path(sys.executable)
    return [str(interpreter), "-m", f"benchmarks.roles.{name}", *map(str, arguments)]
