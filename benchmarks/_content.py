"""What the content benchmarks share: a node that shares a file, one that gets it, and the file."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ._worker import Worker, role, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for files and node homes. Set TMPDIR to choose the disk."""
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder:
        yield Path(folder)


def make_file(path: Path, size: int) -> None:
    """Write `size` bytes that neither repeat nor compress."""
    with path.open("wb") as file:
        for _ in range(size // (4 * MIB)):
            file.write(os.urandom(4 * MIB))


@contextmanager
def sharing(path: Path, home: Path) -> Iterator[Worker]:
    """A node that shares `path`; its worker's `ready` is the ticket."""
    with worker(role("content", "share", home, path)) as running:
        yield running


@contextmanager
def getting(ticket: str, folder: Path) -> Iterator[Worker]:
    """A process that gets `ticket` into `folder`, from nothing, each time it is told to run."""
    with worker(role("content", "get", ticket, folder)) as running:
        yield running
