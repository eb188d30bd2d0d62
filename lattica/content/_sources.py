"""Reading shared files in place: open files, whether they are still what was shared, buffers.

A file is asked for its size, time and inode before its bytes are read, and whoever reads hashes
what came: the first tells at little cost that a file was replaced or written to, the second is the
proof. (The device number is kept but not compared: it is not stable across restarts.) Nothing is
mapped into memory, because a mapped file that gets truncated kills the process.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ._build import Stamp
from ._open_files import OpenFile, OpenFiles
from ._unixfs import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._rows import SourceRow

_MAX_DAMAGED = 1024  # leaves of one file remembered as damaged; beyond, the file counts as changed
_MAX_IDLE_BUFFERS = 8  # 16 MiB kept between reads
MAX_GAPS = 64 << 10  # bytes in a buffer for what callers write between blocks

_log = logging.getLogger(__name__)


def same_file(stamp: Stamp, other: Stamp) -> bool:
    """Whether two stamps are of one unchanged file."""
    return stamp[:3] == other[:3]


class BufferPool:
    """Buffers for a block of any size and the gaps between smaller ones.

    They are used again: fresh memory costs more than the read into it.
    """

    def __init__(self) -> None:
        self._idle: list[bytearray] = []

    def take(self) -> bytearray:
        """Return a buffer; its contents are whatever was there."""
        try:
            return self._idle.pop()
        except IndexError:
            return bytearray(MAX_BLOCK_BYTES + MAX_GAPS)

    def give_back(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody reads any more."""
        if len(self._idle) < _MAX_IDLE_BUFFERS:
            self._idle.append(buffer)


class Sources:
    """The files that leaves are read from. Safe to use from any thread.

    Attributes:
        changed: sources found to be no longer what was shared, and not yet noted in the index.
        used: when each source was read last, in seconds since the epoch, not yet noted either.
    """

    def __init__(self, load: Callable[[int], SourceRow | None], max_open: int) -> None:
        """Read files that `load` tells of by number; keep at most about `max_open` of them open."""
        self.changed: set[int] = set()
        self.used: dict[int, float] = {}
        self._load = load
        self._open: OpenFiles[SourceRow] = OpenFiles(max_open)
        self._damaged: dict[int, set[int]] = {}  # offsets of leaves that failed their hash
        self._lock = threading.Lock()

    def read(self, source: int, offset: int, into: list[memoryview]) -> bool:
        """Fill buffers, in order, with what follows `offset` in a source, in one system call.

        False: the source is gone, changed, too short or cannot be read.
        """
        if source in self.changed:
            return False
        self.used[source] = time.time()
        with self._open.using(source, partial(self._open_source, source)) as file:
            if file is None or not self._unchanged(file.about):
                return False
            try:
                return read_exactly(file.descriptor, offset, into)
            except OSError as error:
                _log.warning("cannot read %s at %d: %s", file.about.path, offset, error)
                return False

    def is_damaged(self, source: int, offset: int) -> bool:
        """Whether the leaf there failed its hash before."""
        return offset in self._damaged.get(source, ())

    def note_damaged(self, source: int, offset: int) -> None:
        """Remember that the leaf at `offset` does not match its hash."""
        with self._lock:
            damaged = self._damaged.setdefault(source, set())
            damaged.add(offset)
            if len(damaged) > _MAX_DAMAGED:
                self.changed.add(source)

    def damaged(self, source: int) -> frozenset[int]:
        """Return the offsets of the leaves of `source` that failed their hash."""
        with self._lock:
            return frozenset(self._damaged.get(source, ()))

    def damaged_sources(self) -> list[int]:
        """Return the sources with leaves that failed their hash."""
        with self._lock:
            return list(self._damaged)

    def forget(self, source: int) -> None:
        """Drop what is known of a source: its row has changed, or is gone."""
        with self._lock:
            self.changed.discard(source)
            self._damaged.pop(source, None)
            self.used.pop(source, None)
        self._open.forget(source)

    def take_used(self) -> dict[int, float]:
        """Return `used`, which begins anew."""
        with self._lock:
            used, self.used = self.used, {}
        return used

    def close(self) -> None:
        """Close every file."""
        self._open.close()

    def _unchanged(self, row: SourceRow) -> bool:
        # The path is asked, not the descriptor: a file that was replaced by a rename is still open
        # here, and still not what the path names now. A file being written changes by nature.
        if row.download is not None:
            return True
        try:
            if same_file(row.stamp, Stamp.of(row.path.stat())):
                return True
            _log.warning("%s is no longer what was shared: not served; share it again", row.path)
        except OSError as error:
            _log.warning("%s cannot be read any more: not served: %s", row.path, error)
        self.changed.add(row.id)
        return False

    def _open_source(self, source: int) -> OpenFile[SourceRow] | None:
        """Open a source. None: it is gone, or not the file that was shared."""
        row = self._load(source)
        if row is None or row.changed:
            return None
        try:
            descriptor = os.open(row.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            _log.warning("%s cannot be opened any more: not served: %s", row.path, error)
            self._mark_gone(row)
            return None
        if Stamp.of(os.fstat(descriptor)).inode != row.stamp.inode:
            os.close(descriptor)
            self._mark_gone(row)
            return None
        return OpenFile(descriptor, row)

    def _mark_gone(self, row: SourceRow) -> None:
        if row.download is None:
            self.changed.add(row.id)


def read_exactly(descriptor: int, offset: int, into: list[memoryview]) -> bool:
    """Fill buffers (at most 1024) from `offset` of a file. False: it is too short. OSError."""
    missing = sum(map(len, into))
    while missing:
        count = os.preadv(descriptor, into, offset)
        if count == 0:
            return False
        missing, offset = missing - count, offset + count
        if missing:
            into = after(into, count)
    return True


def before(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Return the first `count` bytes of `buffers`."""
    head: list[memoryview] = []
    for buffer in buffers:
        if not count:
            break
        head.append(buffer[:count])
        count -= len(head[-1])
    return head


def after(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Return what is left of `buffers` after their first `count` bytes."""
    rest: list[memoryview] = []
    for buffer in buffers:
        if count < len(buffer):
            rest.append(buffer[count:])
        count = max(0, count - len(buffer))
    return rest
