"""What is sealed, on its way to its destination: written in order, and resumed where it stopped.

Beside the destination stands a directory that nobody else may read, until all is there: `data`,
which becomes the destination, and `done`, which says how many chunks of it are on the disk for
sure. It is written after they are, so a process that is killed, and a machine that fails, lose the
last few chunks at most, and never keep one that is not whole.

The folder that this happens in may be everybody's. So the directory has to be ours, nobody else may
enter it, and all that is in it is reached through its descriptor: whatever is put in its place
meanwhile, nothing that was sealed is written there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from bisect import bisect_right
from typing import IO, TYPE_CHECKING, Self

from lattica.content import (
    DestinationTaken,
    StorageError,
    check_written_names,
    folder_below,
    move,
)

from ._format import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ._table import Table, TableEntry

_DATA, _DONE = "data", "done"
_SUFFIX = ".unsealing"
_MAX_NAME_BYTES = 255
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
        self._overwrite = overwrite
        self._files = list(table.entries())
        self._current: tuple[int, IO[bytes]] | None = None
        self._unsynced: set[int] = set()
        self._name = _folder_name(destination, tag)
        self._closed = False
        with _disk(destination):
            self._folder = _own_folder(destination.parent, self._name)
            try:
                self.next_chunk = self._saved_chunk = self._saved()
                if not self.next_chunk:
                    self._lay_out()
            except BaseException:
                os.close(self._folder)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """*Slow.* Note how far it is, for whoever resumes it. Calling it again does nothing."""
        if self._closed:
            return
        with contextlib.suppress(OSError):  # then more is fetched again
            if self.next_chunk > self._saved_chunk:
                self._save()
        self._let_go()
        self._closed = True
        os.close(self._folder)

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
        """*Slow.* Put all of it on the disk and in its place.

        Raises:
            DestinationTaken: something has come to stand there; all is kept.
            StorageError: the disk refuses.
        """
        if self.next_chunk != self._table.chunk_count:
            raise ValueError("not every chunk has come")
        with _disk(self._destination):
            self._save()
            self._let_go()
            move(_DATA, self._destination, overwrite=self._overwrite, folder=self._folder)
            with contextlib.suppress(OSError):  # nothing that matters is left in it
                os.unlink(_DONE, dir_fd=self._folder)
                self._destination.with_name(self._name).rmdir()
            self.close()

    # All below is done in the directory that is open, by names in it.

    def _saved(self) -> int:
        try:
            with self._file(_DONE, os.O_RDONLY) as file:
                count = int(file.read(20))
            os.stat(_DATA, dir_fd=self._folder, follow_symlinks=False)
        except (OSError, ValueError):
            return 0
        return count if 0 <= count <= self._table.chunk_count else 0

    def _save(self) -> None:
        if self._current is not None:
            self._current[1].flush()
        for number in self._unsynced:
            with self._file(self._path(number), os.O_RDONLY) as file:
                os.fsync(file.fileno())
        self._unsynced.clear()
        new = f"{_DONE}.new"
        with self._file(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.write(str(self.next_chunk).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, _DONE, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._saved_chunk = self.next_chunk

    def _lay_out(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(_DATA, dir_fd=self._folder, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(_DATA, dir_fd=self._folder)
            else:
                os.unlink(_DATA, dir_fd=self._folder)
        if self._table.is_directory:
            for path in ("", *self._table.directories):
                os.mkdir(f"{_DATA}/{path}", 0o700, dir_fd=self._folder)
        for number in range(len(self._files)):
            self._file(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL).close()

    def _path(self, number: int) -> str:
        path = self._files[number].path
        return f"{_DATA}/{path}" if path else _DATA

    def _open(self, number: int) -> IO[bytes]:
        if self._current is None or self._current[0] != number:
            self._let_go()
            self._current = number, self._file(self._path(number), os.O_RDWR)
        self._unsynced.add(number)
        return self._current[1]

    def _file(self, path: str, flags: int) -> IO[bytes]:
        mode = "rb" if flags == os.O_RDONLY else "r+b" if flags == os.O_RDWR else "wb"
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(path, flags, 0o600, dir_fd=self._folder), mode)

    def _let_go(self) -> None:
        if self._current is not None:
            self._current[1].close()
            self._current = None

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


def _folder_name(destination: Path, tag: str) -> str:
    """Return what the directory beside `destination` is called; long names are cut."""
    suffix = f".{tag}{_SUFFIX}"
    kept = os.fsencode(f".{destination.name}")[: _MAX_NAME_BYTES - len(suffix)]
    return os.fsdecode(kept) + suffix


def _own_folder(parent: Path, name: str) -> int:
    """Open, or make, a directory that is ours alone. Raises OSError."""
    with folder_below(parent, [name], mode=0o700) as folder:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():  # not even the folder's owner may be its owner
            raise PermissionError(errno.EPERM, f"{name} is there, and belongs to another user")
        if status.st_mode & 0o077:
            os.fchmod(folder, 0o700)
        return os.dup(folder)


@contextlib.contextmanager
def _disk(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {destination}: {error.strerror}") from error
