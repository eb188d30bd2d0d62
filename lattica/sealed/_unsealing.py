"""What is sealed, on its way to its destination: written in order, and resumed where it stopped.

Beside the destination stands a directory that nobody else may read, until all is there: `data`,
which becomes the destination, and `done`, which says how many chunks of it are on the disk for
sure. It is written after they are, so a process that is killed, and a machine that fails, lose the
last few chunks at most, and never keep one that is not whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from bisect import bisect_right
from typing import IO, TYPE_CHECKING, Self

from lattica.content import DestinationTaken, StorageError, check_written_names

from ._format import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ._table import Table, TableEntry

_SYNC_CHUNKS = 256  # 64 MiB: at most so much is fetched again


class Unsealing:
    """One object on its way out. A context manager; left without `finish`, it can be resumed.

    Attributes:
        next_chunk: the chunk that has to come next.
    """

    def __init__(self, table: Table, destination: Path, tag: str, *, overwrite: bool) -> None:
        """*Slow.* Begin, or resume what was begun for the same `destination` and `tag`.

        Raises:
            DestinationTaken: something stands there.
            UnsafeName: a name would be misread by this system.
            StorageError: the disk refuses.
        """
        if os.path.lexists(destination) and (not overwrite or destination.is_dir()):
            raise DestinationTaken(f"{destination} exists")
        check_written_names(table.sizes)
        self._table, self._destination = table, destination
        self._folder = destination.with_name(f".{destination.name}.{tag}.unsealing")
        self._data, self._done = self._folder / "data", self._folder / "done"
        self._files = list(table.entries())
        self._current: tuple[int, IO[bytes]] | None = None
        self._unsynced: set[int] = set()
        self._finished = False
        with _disk(destination):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self.next_chunk = self._saved()
            if not self.next_chunk:
                self._lay_out()
        self._saved_chunk = self.next_chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """*Slow.* Note how far it is, for whoever resumes it. After `finish` it does nothing."""
        if self._finished:
            return
        with contextlib.suppress(OSError):  # then more is fetched again
            if self.next_chunk > self._saved_chunk:
                self._save()
        if self._current is not None:
            self._current[1].close()
            self._current = None

    def write(self, chunk: bytes) -> None:
        """*Slow.* Take the next chunk. Raises StorageError."""
        start = self.next_chunk * CHUNK_BYTES
        with _disk(self._destination):
            for number, entry in self._overlapping(start, start + len(chunk)):
                begin = max(start, entry.offset)
                end = min(start + len(chunk), entry.offset + entry.size)
                file = self._open(number)
                file.seek(begin - entry.offset)
                file.write(chunk[begin - start : end - start])
            self.next_chunk += 1
            if self.next_chunk - self._saved_chunk >= _SYNC_CHUNKS:
                self._save()

    def finish(self) -> None:
        """*Slow.* Put all of it on the disk and in its place. Raises StorageError."""
        if self.next_chunk != self._table.chunk_count:
            raise ValueError("not every chunk has come")
        with _disk(self._destination):
            self._save()
            if self._current is not None:
                self._current[1].close()
                self._current = None
            os.replace(self._data, self._destination)
            self._finished = True
            shutil.rmtree(self._folder)

    def _saved(self) -> int:
        try:
            count = int(self._done.read_text()[:20])
        except (OSError, ValueError):
            return 0
        return count if 0 <= count <= self._table.chunk_count and self._data.exists() else 0

    def _save(self) -> None:
        if self._current is not None:
            self._current[1].flush()
        for number in self._unsynced:
            with self._path(number).open("rb") as file:
                os.fsync(file.fileno())
        self._unsynced.clear()
        new = self._done.with_name("done.new")
        with new.open("w") as file:
            file.write(str(self.next_chunk))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._done)
        self._saved_chunk = self.next_chunk

    def _lay_out(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._data) if self._data.is_dir() else self._data.unlink()
        if self._table.is_directory:
            self._data.mkdir(mode=0o700)
            for path in self._table.directories:
                (self._data / path).mkdir(mode=0o700)
        for number in range(len(self._files)):
            os.close(os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def _path(self, number: int) -> Path:
        path = self._files[number].path
        return self._data / path if path else self._data

    def _open(self, number: int) -> IO[bytes]:
        if self._current is None or self._current[0] != number:
            if self._current is not None:
                self._current[1].close()
            self._current = number, self._path(number).open("r+b")
        self._unsynced.add(number)
        return self._current[1]

    def _overlapping(self, start: int, end: int) -> list[tuple[int, TableEntry]]:
        """Return the files that have bytes from `start` to `end` of what is sealed."""
        first = bisect_right(self._files, start, key=lambda entry: entry.offset) - 1
        found = []
        for number in range(max(first, 0), len(self._files)):
            entry = self._files[number]
            if entry.offset >= end:
                break
            if entry.size and entry.offset + entry.size > start:
                found.append((number, entry))
        return found


@contextlib.contextmanager
def _disk(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {destination}: {error.strerror}") from error
