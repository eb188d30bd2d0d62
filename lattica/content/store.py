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

import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from lattica.cid import HashFunction
from lattica.errors import InvalidInput

from ._adding import label_file
from ._catalogue import Catalogue
from ._downloads import Downloads
from ._index import Index
from ._intake import Intake
from ._leftovers import Leftovers
from ._moves import look
from ._reading import Reader
from ._sources import BufferPool, Sources
from ._spare import unless_full
from ._store_lock import lock_store
from ._tidy import CACHE, FILES, SCRATCH, tidy
from ._unixfs import MAX_BLOCK_BYTES
from ._upkeep import Upkeep
from ._values import Availability, ObjectState, StorageError
from ._verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lattica.cid import CID

    from ._build import Built, Progress, Segments
    from ._dag import Segment
    from ._download import Download
    from ._reading import BlockBatch
    from ._values import Extent, NamedSegment, StoredObject, Usage, VerifyReport


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
        active: dict[int, Download] = {}
        self._leftovers = Leftovers(self._index, self._reader, active)
        self._catalogue = Catalogue(self._index, self._sources, self._reader, self._leftovers)
        self._upkeep = upkeep = Upkeep(
            self._index, self._sources, self._leftovers, path, active, quota
        )
        self._intake = Intake(self._index, upkeep, path, active)
        self._downloads = Downloads(
            self._index, self._sources, self._reader, self._leftovers, upkeep, path, active
        )

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
            path.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is kept is nobody else's
            for part in (FILES, CACHE):
                (path / part).mkdir(exist_ok=True)
            lock = lock_store(path)
        except OSError as error:
            raise StorageError.of(f"cannot use the store {path}", error) from error
        with ExitStack() as undo:
            undo.callback(os.close, lock)
            store = cls(path, lock, max_open_files, quota)
            undo.callback(store._index.close)
            tidy(store._index, path, store._upkeep.drop)
            store._upkeep.room.shrink(())
            undo.pop_all()
        return store

    def close(self) -> None:
        """Close everything and give up the lock. Open downloads stay for later."""
        with ExitStack() as last:  # in reverse order, and each even if one before it fails
            last.callback(os.close, self._lock)
            last.callback(self._index.close)
            last.callback(self._sources.close)
            # A disk that is full may not make a failure of what has succeeded: the next start finds
            # out by itself what has changed.
            last.callback(unless_full, self._note_changes)
            last.callback(unless_full, self._upkeep.room.note_used)
            last.callback(self._downloads.close)

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
        self._intake.add(built, name=name, pinned=pinned, copy=copy, take=take)
        return self._catalogue.stored(built.root)

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
        root = self._intake.add_written(
            write,
            size,
            name=name,
            segments=segments,
            hash_function=hash_function,
            pinned=pinned,
        )
        return self._catalogue.stored(root)

    def objects(self) -> list[StoredObject]:
        """Return all objects, oldest first."""
        return self._catalogue.objects()

    def object(self, root: CID) -> StoredObject | None:
        """Return the object of `root`, or None."""
        found = self._catalogue.objects(root)
        return found[0] if found else None

    def extent(self, root: CID) -> Extent:
        """*Slow.* Say what an object consists of. Raises NotFound."""
        return self._index.extent(self._catalogue.number(root))

    def named(self, root: CID) -> list[NamedSegment]:
        """Return the named segments (tensors) of an object, by file and offset."""
        return self._index.names(self._catalogue.number(root))

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
        number = self._catalogue.number(root)
        for file in self._index.files(number):
            if file.source.download is None and (segments := cut(file.source.path)) is not None:
                label_file(self._index, number, file, segments)
        return len(self._index.names(number))

    def pin(self, root: CID, pinned: bool = True) -> None:
        """Say whether an object is to be kept when space is needed. Raises NotFound."""
        with self._index.writing() as transaction:
            transaction.pin(self._catalogue.number(root), pinned)

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
        return self._upkeep.remove(root)

    def usage(self) -> Usage:
        """*Slow.* Say what the store uses of the disk, and for which objects."""
        return self._upkeep.usage()

    def collect(self) -> tuple[int, list[CID]]:
        """*Slow.* Collect garbage: forget objects whose files are gone, delete what nobody needs.

        Keeps what is pinned, and to the quota. Returns how many bytes that freed, and the objects
        that are no longer here.
        """
        return self._upkeep.collect()

    def take_evicted(self) -> list[CID]:
        """Return the objects that have made room for others since the last call."""
        return self._upkeep.take_evicted()

    def provided(self) -> Iterator[bytes]:
        """Give the multihashes to provide: roots of complete objects and of named segments.

        Of objects that have changed, none is.
        """
        return self._catalogue.provided()

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
        limit: int = MAX_BLOCK_BYTES,
    ) -> BlockBatch:
        """Read blocks, index or leaf, each checked against its hash.

        Answers a prefix of `multihashes`: what fits `max_bytes` (at most 2 MiB), and at least one.
        Call again with the rest. Adjacent leaves are read in one system call. `gap`: bytes left
        free before each leaf, see `BlockBatch.buffer`. With `stopped`, leaves are tried that a
        download which is not running may have left: many will prove wrong. Blocks of more than
        `limit` bytes are not read, but said to be too large. 1 MiB from the page cache takes some
        0.3 ms, so the event loop may call this where it trusts the disk.
        """
        return self._reader.read(multihashes, max_bytes, gap, stopped, limit)

    def availability(self, root: CID) -> Availability | None:
        """*Slow.* Return which leaves of an object are here; None when it is none of ours.

        Of a directory, if it is whole, or was begun to be fetched.
        """
        return self._catalogue.availability(root)

    def file_of(self, root: CID) -> Path | None:
        """Return where a file with this root is, as an object or in one, as far as is known."""
        return self._catalogue.file_of(root)

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
        download = self._downloads.begin(root, destination, overwrite=overwrite, pinned=pinned)
        if pinned:
            self.pin(root)
        return download

    def leftovers(self) -> list[CID]:
        """Return the objects of which an earlier process left a part that nobody has hashed yet."""
        return self._leftovers.unknown()

    def look_at_leftovers(self, root: CID, progress: Progress | None = None) -> bool:
        """*Slow.* Hash what an earlier process left of an object, and serve what matches.

        Args:
            root: the object.
            progress: called with bytes hashed; what it raises ends the look, what was found stays.

        Returns:
            Whether any of it is here.
        """
        return self._leftovers.look(root, progress)

    # upkeep

    def look(self) -> int:
        """*Slow.* See whether files are still as they were; find those that were renamed.

        Nothing is read. Returns how many files were found under another name.
        """
        with self._upkeep.lock:
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
        number = self._catalogue.number(root)
        if self._catalogue.stored(root).state is ObjectState.PARTIAL:
            raise InvalidInput(f"{root} is not complete", cid=root, hint="finish the download")
        return verify(self._index, self._sources, number, root, progress, most)

    def mend_index(self, root: CID, cid: CID, block: bytes) -> None:
        """Put an index block of an object back, which has been checked."""
        with self._index.writing() as transaction:
            transaction.put_blocks(self._catalogue.number(root), [(cid, block)])

    def _note_changes(self) -> None:
        if self._sources.changed:
            with self._index.writing() as transaction:
                transaction.mark_changed(sorted(self._sources.changed))
