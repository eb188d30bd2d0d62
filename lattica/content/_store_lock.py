"""One process to a store."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from ._values import StoreLocked

if TYPE_CHECKING:
    from pathlib import Path


def lock_store(path: Path) -> int:
    """Take the lock of a store: it goes with the descriptor, however the process ends.

    Raises:
        StoreLocked: another process has it.
        OSError: the file cannot be made.
    """
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreLocked(f"process {owner} has the store {path} open") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
