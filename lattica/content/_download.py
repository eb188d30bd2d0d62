"""Content on its way in: written in place beside its destination, renamed once when it is whole.

A download writes below one *part path*: a file at its full size with holes where leaves are
missing, or a directory tree of such files. Which leaves are there is known in memory only. After a
restart every byte of the file is hashed again, so what was received is kept and nothing is
believed: there is no bitmap on disk that could disagree with the file. Leaves are served from the
part file as soon as they are written, and when the download has stopped, too (`_leftovers`).

What a kill leaves behind: before `finish` renames, the part path and the rows of the download;
after it, the destination, which the next start knows by its inode and takes over.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from lattica.errors import InvalidInput

from ._adding import put_leaves, sync_directory, unrepeated
from ._below import folder_below, move, open_file_below
from ._build import Kind, Stamp
from ._open_files import OpenFiles
from ._part import PartFile
from ._unixfs import MAX_SIZE, encode_name
from ._values import DestinationTaken, ObjectState, StorageError, StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lattica.cid import CID

    from ._dag import LeafTable
    from ._index import Index
    from ._reading import Reader
    from ._rows import DownloadRow, FileRow
    from ._sources import Sources

_MAX_OPEN = 64  # part files kept open between two writes


class Download:
    """An object on its way in, file or directory. Made by `Store.download`; a context manager.

    Leaving the block without `finish` keeps everything for a later `Store.download`.

    Attributes:
        root: what is received.
        destination: where it will be.
        part_path: where it is until then, beside the destination.
        owned: whether it is written into the store, for the store to keep or to drop.
    """

    def __init__(
        self,
        row: DownloadRow,
        *,
        index: Index,
        sources: Sources,
        reader: Reader,
        overwrite: bool,
        owned: bool,
        reserve: Callable[[int], None],
        on_close: Callable[[Download, list[PartFile]], None],
    ) -> None:
        self.root, self.destination, self.part_path = row.root, row.destination, row.part_path
        self.id, self.owned, self._object = row.id, owned, row.object
        self._inode = row.inode
        self._index, self._sources, self._reader = index, sources, reader
        self._reserve = reserve
        self._overwrite, self._on_close = overwrite, on_close
        self._parts: dict[str, PartFile] = {}
        self._files_open: OpenFiles[None] = OpenFiles(_MAX_OPEN)
        self._inodes: set[tuple[int, int]] = set()  # of all parts
        self._known: dict[str, int] | None = None  # sources of an earlier run, by path

    @property
    def received(self) -> bool:
        """Whether any of it is here, as far as has been looked."""
        return any(part.verified_bytes for part in self._parts.values())

    def add_index(self, cid: CID, block: bytes) -> None:
        """Remember an index block, which `Walker` or `Tree` has checked, for a resume."""
        with self._index.writing() as transaction:
            transaction.put_blocks(self._object, [(cid, block)])

    def reserve(self, size: int) -> None:
        """*Slow.* Make room for `size` bytes in all, where the store has a bound: see `Room`.

        Raises:
            QuotaExceeded: what is pinned leaves too little.
        """
        if self.owned:
            self._reserve(size)

    def open_part(self, leaves: LeafTable, path: str = "") -> PartFile:
        """*Slow.* Open, or make at its full size with holes, the file at `path` in the object.

        `path` is "" when the object is this file. What an earlier run left in it counts for
        nothing until `PartFile.rescan`. Calling it again returns the same part.

        Raises:
            StorageError: no room for it, or the disk refuses.
            UnsafeName: `path` leads out of the object.
        """
        if (part := self._parts.get(path)) is not None:
            return part
        target = self._target(path)
        *above, name = self._names(path)
        with storage_errors(target), folder_below(self.part_path.parent, above) as folder:
            descriptor = open_file_below(folder, name)
            try:
                self._note_inode()
                _check_room(descriptor, target, leaves.size - leaves.zero_bytes)
                stamp = Stamp.of(os.fstat(descriptor))
                self._check_distinct(target, stamp)
                os.ftruncate(descriptor, leaves.size)
                stamp = Stamp.of(os.fstat(descriptor))
            finally:
                os.close(descriptor)
        source = self._register(leaves, path, target, stamp)
        part = PartFile(leaves, target, stamp, source, self._reader, self._files_open)
        self._parts[path] = part
        self._reader.parts[source] = part
        return part

    def make_directory(self, path: str = "") -> None:
        """Make a directory at `path` in the object; "" is the object itself."""
        if os.path.lexists(self.destination):  # told before anything is fetched, not after
            raise DestinationTaken(f"{self.destination} exists, and a directory replaces nothing")
        with storage_errors(self._target(path)):
            with folder_below(self.part_path.parent, self._names(path)):
                self._note_inode()
        with self._index.writing() as transaction:
            transaction.grow_object(self._object, Kind.DIRECTORY, 0)

    def finish(self, *, name: str | None = None) -> StoredObject:
        """*Slow.* Sync, rename into place, and serve from there. All parts must be done.

        Raises:
            DestinationTaken: something stands at the destination by now; everything is kept.
            StorageError: the disk refuses; everything is kept.
        """
        opened = {part.source for part in self._parts.values() if part.done}
        if not all(file.source.id in opened for file in self._files()):
            raise InvalidInput(f"{self.root} is not complete", cid=self.root)
        for part in self._parts.values():
            part.sync()
        with storage_errors(self.destination):
            for directory in {part.path.parent for part in self._parts.values()}:
                sync_directory(directory)
            with self._index.writing() as transaction:
                transaction.note_finishing(self.id)
            move(self.part_path, self.destination, overwrite=self._overwrite)
            sync_directory(self.destination.parent)
        stored = adopt(self._index, self._row(), name)
        for source in opened:
            self._sources.forget(source)
        self._close([])
        return stored

    def discard(self) -> None:
        """*Slow.* Forget the download and delete what it wrote."""
        self._close([])
        discard(self._index, self._row())

    def discard_if_empty(self) -> None:
        """*Slow.* As `discard`, if nothing was received, now or in an earlier run."""
        opened = {part.source for part in self._parts.values()}
        if not self.received and all(file.source.id in opened for file in self._files()):
            self.discard()

    def close(self) -> None:
        """Close its files. What is there is served on. Calling it again does nothing."""
        self._close(list(self._parts.values()))

    def _close(self, left: list[PartFile]) -> None:
        for part in self._parts.values():
            self._reader.parts.pop(part.source, None)
            self._sources.forget(part.source)
            part.close()
        self._parts = {}
        self._on_close(self, left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _row(self) -> DownloadRow:
        return next(row for row in self._index.downloads() if row.id == self.id)

    def _files(self) -> Iterator[FileRow]:
        return (file for file in self._index.files(self._object) if file.source.download == self.id)

    def _target(self, path: str) -> Path:
        if not path:
            return self.part_path
        for part in path.split("/"):
            encode_name(part)
        return self.part_path / PurePosixPath(path)

    def _names(self, path: str) -> tuple[str, ...]:
        """Return the names that lead from the destination's folder to `path` in the object."""
        return (self.part_path.name, *PurePosixPath(path).parts)

    def _note_inode(self) -> None:
        """Note what stands at the part path, so that it is known again once renamed."""
        inode = self.part_path.lstat().st_ino & MAX_SIZE
        if self._inode != inode:  # another one, if somebody removed the first
            self._inode = inode
            with self._index.writing() as transaction:
                transaction.note_inode(self.id, self._inode)

    def _check_distinct(self, target: Path, stamp: Stamp) -> None:
        """Refuse one file for two names: where case does not count, or names are normalised."""
        key = stamp.device, stamp.inode
        if key in self._inodes:
            raise StorageError(
                f"{target} is another file of the object under another name",
                hint="choose a destination on a file system that tells all names apart",
            )
        self._inodes.add(key)

    def _register(self, leaves: LeafTable, path: str, target: Path, stamp: Stamp) -> int:
        """Note the part in the index, leaves first, so that a part with a file row has them all."""
        if self._known is None:
            self._known = {file.path: file.source.id for file in self._files()}
        if (known := self._known.get(path)) is not None:
            with self._index.writing() as transaction:
                transaction.update_part(known, stamp)
            return known
        with self._index.writing() as transaction:
            source = transaction.put_part(target, stamp, self.id, owned=self.owned)
        put_leaves(
            self._index,
            ((source, leaf.offset, leaf.multihash, leaf.length, 1) for leaf in unrepeated(leaves)),
        )
        with self._index.writing() as transaction:
            transaction.put_file(self._object, path, source, leaves.root, len(leaves))
            kind = Kind.DIRECTORY if path else Kind.FILE
            transaction.grow_object(self._object, kind, leaves.size)
        return source


def recover(index: Index) -> None:
    """Take over the downloads that a kill cut off between their rename and their rows.

    Those that it cut off before they wrote anything are dropped.
    """
    for row in index.downloads():
        if not index.has_parts(row):
            with suppress(StorageError):
                discard(index, row)
            continue
        with suppress(OSError):
            if row.finishing and row.inode == row.destination.lstat().st_ino & MAX_SIZE:
                with suppress(FileNotFoundError):
                    row.part_path.unlink()  # the other name of a file that was linked, not renamed
                adopt(index, row, None)


def adopt(index: Index, row: DownloadRow, name: str | None) -> StoredObject:
    """Turn a download that stands at its destination into an object that is served from there."""
    files = [file for file in index.files(row.object) if file.source.download == row.id]
    pinned = any(stored.pinned for _, stored in index.objects(row.root))
    kind = Kind.DIRECTORY if row.destination.is_dir() else Kind.FILE
    stamps = {file.path: Stamp.of((row.destination / file.path).stat()) for file in files}
    stored = StoredObject(
        root=row.root,
        kind=kind,
        size=sum(stamp.size for stamp in stamps.values()),
        name=row.destination.name if name is None else name,
        path=row.destination,
        added=time.time(),
        pinned=pinned,
        state=ObjectState.COMPLETE,
    )
    with index.writing() as transaction:
        transaction.put_object(stored)
        for file in files:
            path = row.destination / file.path
            transaction.update_source(file.source.id, path, stamps[file.path])
        transaction.end_download(row.id)
    return index.objects(row.root)[0][1]


def discard(index: Index, row: DownloadRow) -> None:
    """Delete what a download wrote, then its rows, and its object if nothing else wants that."""
    with storage_errors(row.part_path):
        if row.part_path.is_dir() and not row.part_path.is_symlink():
            shutil.rmtree(row.part_path)
        else:
            row.part_path.unlink(missing_ok=True)
    with index.writing() as transaction:
        transaction.end_download(row.id)
        if not transaction.is_wanted(row.object):
            transaction.delete_object(row.object)


def _check_room(descriptor: int, path: Path, size: int) -> None:
    status, disk = os.fstat(descriptor), os.fstatvfs(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is not a regular file")
    missing = size - status.st_blocks * 512
    free = disk.f_bavail * disk.f_frsize
    if missing > free:
        raise StorageError(f"{path} needs {missing} more bytes, the disk has {free}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """What the system refuses in this block is a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError.of(f"cannot write {path}", error) from error
