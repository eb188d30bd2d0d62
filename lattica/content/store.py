"""What this node holds: objects, index blocks, and where each leaf's bytes are on disk.

A shared file is served in place: the index says at which offset of which file a leaf is, and a read
asks the file whether it has changed and hashes the bytes before anybody sees them. Only content
that has no file, or shall outlive it, is copied: one file each, in `files/` of the store.

Objects can be fetched into the store itself, too: they lie in `cache/`, and with `files/` they are
what a quota bounds (`_room`): the least used goes when something new needs the room.

The directory of a store: `lock` (held by the one process that uses it), `index.sqlite`, `files/`
and `cache/`.
A process that is killed leaves it sound: rows are written after the files they name, and what no
row names is swept away at the next start.

Any thread may call any method. Reads never wait for writes. Methods marked *slow* take long, or
wait for another that does: call them from a worker thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from lattica.cid import CID, HashFunction
from lattica.errors import InvalidInput, NotFound

from ._adding import copy_file, join_sources, label_file, put_source
from ._build import Built, BuiltFile, Kind, Progress, Segments, build
from ._download import Download, discard, part_path, storage_errors
from ._index import Index
from ._moves import look
from ._reading import BlockBatch as BlockBatch, Reader
from ._room import Room
from ._rows import DownloadRow
from ._sources import BufferPool, Sources
from ._tidy import CACHE, FILES, SCRATCH, forget_gone, sweep, tidy, unlink_owned
from ._values import (
    Absent as Absent,
    Availability as Availability,
    DestinationTaken as DestinationTaken,
    Extent as Extent,
    NamedSegment as NamedSegment,
    ObjectState as ObjectState,
    QuotaExceeded as QuotaExceeded,
    StorageError as StorageError,
    StoredObject as StoredObject,
    StoreLocked as StoreLocked,
    Usage as Usage,
)
from ._verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._dag import Segment
    from ._rows import OwnedRow, SourceRow
    from ._values import VerifyReport

_ROOTS_PAGE = 1000  # rows read at a time by `provided`

_log = logging.getLogger(__name__)


class Store:
    """The store of one node. Made by `Store.open`; a context manager.

    Attributes:
        path: its directory.
    """

    def __init__(self, path: Path, lock: int, max_open_files: int, quota: int | None) -> None:
        self.path = path
        self._lock = lock
        self._index = Index(path / "index.sqlite")
        self._sources = Sources(self._index.source, max_open_files)
        self._reader = Reader(self._index, self._sources, BufferPool())
        self._downloads: dict[int, Download] = {}
        # Serialises what works in several transactions, so that one does not sweep away the rows
        # that another is still joining together.
        self._upkeep = threading.Lock()
        self._room = Room(self._index, self._sources, quota, self._evict)
        self._evicted: list[CID] = []

    @classmethod
    def open(cls, path: Path, *, max_open_files: int = 64, quota: int | None = None) -> Self:
        """*Slow.* Open, or make, the store in directory `path`.

        Args:
            path: a directory that belongs to the store alone.
            max_open_files: shared files kept open between reads.
            quota: most bytes that the store may use for what is its own; None: no bound. Where it
                uses more, the least used goes now; what is pinned never goes.

        Raises:
            StoreLocked: another process has it open; the message names it.
            StoreError: its index is damaged, or of another version.
            StorageError: the directory cannot be made or written.
        """
        path = path.absolute()
        try:
            for part in (FILES, CACHE):
                (path / part).mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise StorageError(f"cannot use the store {path}: {error.strerror}") from error
        with ExitStack() as undo:
            undo.callback(os.close, lock)
            store = cls(path, lock, max_open_files, quota)
            undo.callback(store._index.close)
            tidy(store._index, path, store._drop)
            store._room.shrink(())
            undo.pop_all()
        return store

    def close(self) -> None:
        """Close everything and give up the lock. Open downloads stay for later."""
        with ExitStack() as last:  # in reverse order, and each even if one before it fails
            last.callback(os.close, self._lock)
            last.callback(self._index.close)
            last.callback(self._sources.close)
            last.callback(self._note_changes)
            last.callback(self._room.note_used)
            for download in list(self._downloads.values()):
                last.callback(download.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # objects

    def add(
        self,
        built: Built,
        *,
        name: str | None = None,
        pinned: bool = False,
        copy: bool = False,
        take: bool = False,
    ) -> StoredObject:
        """*Slow.* Share a hashed object: in place, or, with `copy`, from a copy in the store.

        With `take` its files become the store's: they are moved, within their file system.

        Adding what is here updates its name and path; it stays pinned if it was. Killed half-way,
        the object is not here.

        Raises:
            SourceChanged: with `copy`, a file is no longer what was hashed.
            StorageError: with `copy` or `take`, the disk refuses.
            QuotaExceeded: with `copy` or `take`, the store's bound leaves no room.
        """
        stored = _described(built, built.name if name is None else name, pinned)
        with self._upkeep:
            if copy or take:
                self._room.make(built.size, self._downloads)
            if take:
                taken = [self._take_source(file) for file in built.files]
                sources = [source for source, _ in taken]
                if built.kind is Kind.FILE:
                    stored = replace(stored, path=taken[0][1])
            else:
                sources = [self._add_source(file, copy=copy) for file in built.files]
            self._drop(join_sources(self._index, stored, built, sources))
            self._forget(sources)
        return self._stored(built.root)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """*Slow.* A folder in the store for files on their way into it; it goes with the block."""
        with tempfile.TemporaryDirectory(dir=self.path, prefix=SCRATCH) as folder:
            yield Path(folder)

    def add_bytes(
        self,
        data: bytes | bytearray | memoryview,
        *,
        name: str,
        segments: Segments | None = None,
        hash_function: HashFunction = HashFunction.BLAKE3,
        pinned: bool = False,
    ) -> StoredObject:
        """*Slow.* Share bytes that have no file: they are kept in the store.

        Raises:
            StorageError: the disk refuses.
            QuotaExceeded: the store's bound leaves no room.
        """
        return self.add_written(
            lambda file: file.write(data),
            len(data),
            name=name,
            segments=segments,
            hash_function=hash_function,
            pinned=pinned,
        )

    def add_written(
        self,
        write: Callable[[BinaryIO], object],
        size: int,
        *,
        name: str,
        segments: Segments | None = None,
        hash_function: HashFunction = HashFunction.BLAKE3,
        pinned: bool = False,
    ) -> StoredObject:
        """*Slow.* As `add_bytes`, of what `write` writes: `size` bytes, into a file of the store.

        What `write` raises leaves nothing behind.
        """
        path = self._new_file()
        with self._upkeep:
            self._room.make(size, self._downloads)
            with storage_errors(path), _removed_on_failure(path):
                with path.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                built = build(path, segments=segments, hash_function=hash_function)
                source = put_source(self._index, built.files[0], path, owned=True)
            stored = _described(built, name, pinned)
            self._drop(join_sources(self._index, stored, built, [source]))
        return self._stored(built.root)

    def objects(self) -> list[StoredObject]:
        """Return all objects, oldest first."""
        return self._with_changes(self._index.objects())

    def object(self, root: CID) -> StoredObject | None:
        """Return the object of `root`, or None."""
        found = self._with_changes(self._index.objects(root))
        return found[0] if found else None

    def extent(self, root: CID) -> Extent:
        """*Slow.* Say what an object consists of. Raises NotFound."""
        return self._index.extent(self._number(root))

    def named(self, root: CID) -> list[NamedSegment]:
        """Return the named segments (tensors) of an object, by file and offset."""
        return self._index.names(self._number(root))

    def label(self, root: CID, cut: Callable[[Path], Sequence[Segment] | None]) -> int:
        """*Slow.* Name the segments of an object that arrived without names: find its tensors.

        Nothing is hashed but index blocks. A cut that does not give the file's own root is not how
        it was shared, and is ignored.

        Args:
            root: the object.
            cut: what `build` would be given, see `lattica.models.cut_file`.

        Returns:
            How many segments have names now.
        """
        number = self._number(root)
        for file in self._index.files(number):
            if file.source.download is None and (segments := cut(file.source.path)) is not None:
                label_file(self._index, number, file, segments)
        return len(self._index.names(number))

    def pin(self, root: CID, pinned: bool = True) -> None:
        """Say whether an object is to be kept when space is needed. Raises NotFound."""
        with self._index.writing() as transaction:
            transaction.pin(self._number(root), pinned)

    def touch(self, root: CID) -> None:
        """Note that an object was asked for: it goes later when space is needed."""
        with self._index.writing() as transaction:
            transaction.touch(root, time.time())

    def remove(self, root: CID) -> bool:
        """*Slow.* Forget an object and what only it needs; False when it is not here.

        A file of the user stays; the store's own copies and part files go.

        Raises:
            InvalidInput: it is being downloaded.
        """
        with self._upkeep:
            found = self._index.objects(root)
            if not found:
                return False
            if any(download.root == root for download in self._downloads.values()):
                raise InvalidInput(f"{root} is being downloaded", cid=root, hint="stop that first")
            for row in self._index.downloads():
                if row.object == found[0][0]:
                    discard(self._index, row)
            with self._index.writing() as transaction:
                transaction.delete_object(found[0][0])
                orphans = transaction.take_orphans()
            self._drop(orphans)
        return True

    def usage(self) -> Usage:
        """*Slow.* Say what the store uses of the disk, and for which objects."""
        with self._upkeep:
            return self._room.usage()

    def collect(self) -> tuple[int, list[CID]]:
        """*Slow.* Collect garbage: forget objects whose files are gone, delete what nobody needs.

        Keeps what is pinned, and to the quota. Returns how many bytes that freed, and the objects
        that are no longer here.
        """
        with self._upkeep:
            before = self._room.usage().used_bytes
            look(self._index, self._sources)  # what was renamed is not gone
            gone = forget_gone(self._index, self._downloads)
            with self._index.writing() as transaction:
                orphans = transaction.take_orphans()
            self._drop(orphans)
            strays = sweep(self._index, self.path)
            self._room.shrink(self._downloads)
            self._index.compact()
            evicted = [root for root in self._evicted if self.object(root) is None]
            freed = before - self._room.usage().used_bytes
        return max(0, freed) + strays, [*gone, *evicted]

    def take_evicted(self) -> list[CID]:
        """Return the objects that have made room for others since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def provided(self) -> Iterator[bytes]:
        """Give the multihashes to provide: roots of complete objects and of named segments.

        Of objects that have changed, none is.
        """
        suspects = {*self._sources.changed, *self._sources.damaged_sources()}
        changed = self._index.changed_objects() | self._index.objects_of_sources(suspects)
        after = b""
        while page := self._index.roots(after, _ROOTS_PAGE, changed):
            after = page[-1]
            yield from (CID.from_bytes(root).multihash for root in page)

    # blocks

    def has(self, multihash: bytes) -> bool:
        """Whether a block would be given now, as far as is known without reading it."""
        return self._reader.has(multihash)

    def size_of(self, multihash: bytes) -> int | None:
        """Return the length of a block that `has` says is here, else None."""
        return self._reader.size(multihash)

    def read_index(self, cid: CID) -> bytes | None:
        """Return an index block, checked against its hash, or None."""
        return self._reader.index_block(cid.multihash)

    def read_blocks(
        self,
        multihashes: Sequence[bytes],
        *,
        max_bytes: int = 1 << 20,
        gap: int = 0,
        stopped: bool = False,
    ) -> BlockBatch:
        """Read blocks, index or leaf, each checked against its hash.

        Answers a prefix of `multihashes`: what fits `max_bytes` (at most 2 MiB), and at least one.
        Call again with the rest. Adjacent leaves are read in one system call. `gap`: bytes left
        free before each leaf, see `BlockBatch.buffer`. With `stopped`, leaves are tried that a
        download which is not running may have left: many will prove wrong. 1 MiB from the page
        cache takes some 0.3 ms, so the event loop may call this where it trusts the disk.
        """
        return self._reader.read(multihashes, max_bytes, gap, stopped)

    def availability(self, root: CID) -> Availability | None:
        """Return which leaves of the file `root` are here; None when it is no file of ours."""
        for part in list(self._reader.parts.values()):
            if part.leaves.root == root:
                return Availability(len(part.leaves), part.done, part.bitmap())
        for file in self._index.files_of_root(root):
            source = file.source
            changed = source.changed or source.id in self._sources.changed
            if source.download is None and not changed:
                return Availability(file.leaf_count, True, _full_bitmap(file.leaf_count))
        return None

    def file_of(self, root: CID) -> Path | None:
        """Return where a file with this root is, as an object or in one, as far as is known."""
        for file in self._index.files_of_root(root):
            source = file.source
            changed = source.changed or source.id in self._sources.changed
            if source.download is None and not changed:
                return source.path
        return None

    # downloads

    def cache_path(self, root: CID) -> Path:
        """Return where in the store `root` goes when it is fetched for the store to keep."""
        return self.path / CACHE / str(root)

    def download(
        self, root: CID, destination: Path, *, overwrite: bool = False, pinned: bool = False
    ) -> Download:
        """*Slow.* Begin, or resume, receiving `root` into `destination`.

        At `cache_path` it is the store's, to keep or to drop; anywhere else it is the user's.

        Args:
            root: what to receive.
            destination: what to make.
            overwrite: replace a file that stands there.
            pinned: keep it when space is needed, from now on.

        Raises:
            DestinationTaken: `destination` exists (and is not to be overwritten), or another
                download of this store is writing it.
        """
        destination = Path(os.path.abspath(destination))
        if os.path.lexists(destination) and not overwrite:
            raise DestinationTaken(f"{destination} exists")
        if destination.is_dir():  # told before anything is fetched, not after
            raise DestinationTaken(f"{destination} is a directory, which is not written over")
        with self._upkeep:
            rows = [row for row in self._index.downloads() if row.destination == destination]
            if any(row.id in self._downloads for row in rows):
                raise DestinationTaken(f"{destination} is being downloaded already")
            known = [row for row in rows if row.root == root]
            download = Download(
                known[0] if known else self._begin_download(root, destination, pinned),
                index=self._index,
                sources=self._sources,
                reader=self._reader,
                overwrite=overwrite,
                owned=self._owns(destination),
                reserve=lambda size: self._reserve(download, size),
                on_close=self._close_download,
            )
            self._downloads[download.id] = download
        if pinned:
            self.pin(root)
        return download

    # upkeep

    def look(self) -> int:
        """*Slow.* See whether files are still as they were; find those that were renamed.

        Nothing is read. Returns how many files were found under another name.
        """
        with self._upkeep:
            return look(self._index, self._sources)

    def verify(
        self, root: CID, progress: Progress | None = None, *, most: int = 1000
    ) -> VerifyReport:
        """*Slow.* Hash every block of an object. What is sound again is served again.

        Args:
            root: the object.
            progress: called with bytes hashed; what it raises ends the check.
            most: how many damages to list; all are counted.

        Raises:
            NotFound: it is not here.
            InvalidInput: it is not here whole.
        """
        number = self._number(root)
        if self._stored(root).state is ObjectState.PARTIAL:
            raise InvalidInput(f"{root} is not complete", cid=root, hint="finish the download")
        return verify(self._index, self._sources, number, root, progress, most)

    def mend_index(self, root: CID, cid: CID, block: bytes) -> None:
        """Put an index block of an object back, which has been checked."""
        with self._index.writing() as transaction:
            transaction.put_blocks(self._number(root), [(cid, block)])

    # inside

    def _number(self, root: CID) -> int:
        found = self._index.objects(root)
        if not found:
            raise NotFound(f"{root} is not in the store", cid=root, hint="see `lattica ls`")
        return found[0][0]

    def _stored(self, root: CID) -> StoredObject:
        stored = self.object(root)
        if stored is None:
            raise NotFound(f"{root} is not in the store", cid=root, hint="see `lattica ls`")
        return stored

    def _with_changes(self, found: list[tuple[int, StoredObject]]) -> list[StoredObject]:
        """Lay over rows what is known of sources and not yet written down."""
        suspects = {*self._sources.changed, *self._sources.damaged_sources()}
        changed = self._index.objects_of_sources(suspects)
        return [
            replace(stored, state=ObjectState.CHANGED)
            if number in changed and stored.state is ObjectState.COMPLETE
            else stored
            for number, stored in found
        ]

    def _add_source(self, file: BuiltFile, *, copy: bool) -> int:
        if not copy:
            return put_source(self._index, file, file.path, owned=self._owns(file.path))
        path = self._new_file()
        with storage_errors(path), _removed_on_failure(path):
            copy_file(file, path)
            return put_source(self._index, file, path, owned=True)

    def _take_source(self, file: BuiltFile) -> tuple[int, Path]:
        path = self._new_file()
        with storage_errors(path), _removed_on_failure(path):
            os.rename(file.path, path)
            return put_source(self._index, file, path, owned=True), path

    def _owns(self, path: Path) -> bool:
        return path.is_relative_to(self.path / CACHE)

    def _reserve(self, download: Download, size: int) -> None:
        with self._upkeep:
            self._room.reserve(download.id, size, self._downloads)

    def _begin_download(self, root: CID, destination: Path, pinned: bool) -> DownloadRow:
        stored = StoredObject(
            root=root,
            kind=Kind.FILE,
            size=0,
            name=destination.name,
            path=destination,
            added=time.time(),
            pinned=pinned,
            state=ObjectState.PARTIAL,
        )
        target = part_path(destination, root)
        with self._index.writing() as transaction:
            number = transaction.begin_object(stored)
            download = transaction.begin_download(number, destination, target)
        return DownloadRow(download, number, root, destination, target, None, finishing=False)

    def _close_download(self, download: Download) -> None:
        self._downloads.pop(download.id, None)
        self._room.release(download.id)

    def _new_file(self) -> Path:
        return self.path / FILES / secrets.token_hex(16)

    def _forget(self, sources: Iterable[int]) -> None:
        for source in sources:
            self._sources.forget(source)

    def _drop(self, orphans: Iterable[SourceRow]) -> None:
        """Let go of sources whose rows are gone, and of the files that were the store's own."""
        for orphan in orphans:
            self._sources.forget(orphan.id)
            if orphan.owned:
                unlink_owned(orphan.path, self.path)

    def _evict(self, row: OwnedRow) -> None:
        """Let go of what the store keeps for an object, and of the object if that was all of it."""
        for download in self._index.downloads():
            if download.id == row.download:
                discard(self._index, download)
        with self._index.writing() as transaction:
            if not transaction.drop_owned(row.object):
                transaction.delete_object(row.object)
            orphans = transaction.take_orphans()
        self._drop(orphans)
        sweep(self._index, self.path)  # directories without files in them
        self._evicted.append(row.root)
        _log.info("%s made room", row.root)

    def _note_changes(self) -> None:
        if self._sources.changed:
            with self._index.writing() as transaction:
                transaction.mark_changed(sorted(self._sources.changed))


def _lock(path: Path) -> int:
    """Take the lock of a store: it goes with the descriptor, however the process ends."""
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


def _described(built: Built, name: str, pinned: bool) -> StoredObject:
    return StoredObject(
        root=built.root,
        kind=built.kind,
        size=built.size,
        name=name,
        path=built.path,
        added=time.time(),
        pinned=pinned,
        state=ObjectState.COMPLETE,
    )


def _full_bitmap(count: int) -> bytes:
    return b"\xff" * (count // 8) + bytes([(1 << count % 8) - 1] if count % 8 else [])


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
