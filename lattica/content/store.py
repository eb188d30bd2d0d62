"""What this node holds: objects, index blocks, and where each leaf's bytes are on disk.

Every method may be called from any thread. Reads never wait for writes. Methods marked *slow* can
take long or wait for a writer: call them from a worker thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lattica.cid import CID, HashFunction

from ._dag import LeafTable, Segment
from ._build import Built, Kind


class Absent(enum.Enum):
    """Why a block was not given."""

    NOT_HERE = enum.auto()
    SOURCE_CHANGED = enum.auto()  # the file that held it is no longer what was shared


class ObjectState(enum.IntEnum):
    """Whether an object can be served whole."""

    COMPLETE = 0
    PARTIAL = 1  # being downloaded, or a download that stopped
    CHANGED = 2  # a source is no longer what was shared; `verify` may clear it


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One row of `lattica ls`."""

    root: CID
    kind: Kind
    size: int  # content bytes
    name: str
    path: Path
    added: float  # seconds since the epoch
    pinned: bool
    state: ObjectState


class BlockBatch:
    """Verified blocks, in the order asked for. Give the memory back with `release` or `with`.

    Attributes:
        blocks: per multihash, for as many as were answered: its bytes, or why not. Views into one
            pooled buffer: they must not be used after `release`.
        buffer: that pooled buffer, writable. With `gap`, the exchange writes what goes before each
            block on the wire into it, so that a run of blocks leaves in one send, uncopied.
        offsets: per block: where in `buffer` it starts, or -1 for one that stands elsewhere. Blocks
            stand in the order asked for, each `gap` bytes behind the one before it (the first one
            too), with nothing else between them.
        strides: per multihash, the element width that its segment was given (1 for index blocks).
    """

    blocks: list[bytes | memoryview | Absent]
    buffer: memoryview
    offsets: list[int]
    strides: list[int]

    def release(self) -> None:
        """Return the buffer to the pool."""

    def __enter__(self) -> BlockBatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class Availability:
    """Which leaves of a file (by number) are here. `bitmap`: bit i%8 of byte i//8, low first."""

    leaf_count: int
    complete: bool
    bitmap: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A leaf or index block that is gone or does not match; `path` is the file's, relative."""

    cid: CID
    path: str
    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found. `damaged` lists the first ones, `damaged_count` counts all."""

    root: CID
    checked_bytes: int
    damaged_count: int
    damaged: tuple[Damage, ...]


class PartFile:
    """One file of a download: written in place, leaf by leaf. Made by `Download.open_part`.

    Any thread; one writer at a time per leaf.
    """

    leaves: LeafTable
    verified_bytes: int

    def has(self, index: int) -> bool:
        """Whether leaf `index` is in the file, verified."""
        raise NotImplementedError

    def missing(self) -> Iterator[int]:
        """Give the numbers of the leaves still to be fetched, ascending."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """Whether every leaf is there."""
        raise NotImplementedError

    def bitmap(self) -> bytes:
        """Return a copy of the bitmap, as in `Availability`."""
        raise NotImplementedError

    def rescan(self, progress: Callable[[int], None] | None = None) -> None:
        """*Slow.* Hash what an earlier run left in the file and note the leaves that match."""

    def write(self, index: int, buffers: Sequence[bytes | memoryview]) -> None:
        """Write verified leaves `index`, `index + 1`, … in place, with one system call.

        The caller has checked each one's hash; lengths are checked here. From then on the leaves
        are served. Raises StorageError when the disk refuses.
        """

    def fill_from_store(self, progress: Callable[[int], None] | None = None) -> int:
        """*Slow.* Copy leaves that the store has already from other files; returns bytes."""
        raise NotImplementedError


class Download:
    """An object on its way in, file or directory. Made by `Store.download`; a context manager.

    Everything lands under `part_path` (`<destination>.part`: a file, or a directory tree) and is
    renamed once, by `finish`. Leaving the block without `finish` keeps it for a later `download`.
    """

    root: CID
    destination: Path
    part_path: Path

    def add_index(self, cid: CID, block: bytes) -> None:
        """Remember an index block (verified by the caller: `Walker`, `Tree`) for a later resume."""

    def open_part(
        self, leaves: LeafTable, path: str = "", *, segments: Sequence[Segment] = ()
    ) -> PartFile:
        """*Slow.* Open, or make at full size (sparse), the file at relative `path`.

        Existing bytes count for nothing until `rescan`. `segments` pass strides on, if known.
        """
        raise NotImplementedError

    def make_directory(self, path: str) -> None:
        """Make an (empty) directory at relative `path`."""

    def finish(self, *, name: str | None = None) -> StoredObject:
        """*Slow.* All parts are done: sync, rename into place, and serve from there.

        Raises:
            InvalidInput: something stands at `destination` by now; the part file is kept.
        """
        raise NotImplementedError

    def discard(self) -> None:
        """Forget the download and delete what it wrote."""

    def close(self) -> None:
        """Close files. What was written stays, for a later `Store.download` of the same."""

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Store:
    """The store of one node. Made by `Store.open`; a context manager; one process at a time."""

    @classmethod
    def open(cls, path: Path, *, max_open_files: int = 64) -> Store:
        """*Slow.* Open, or make, the store in directory `path`.

        Raises:
            StoreLocked: another process has it open; the message names its pid.
            StoreError: it is damaged, or of a newer version.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close everything and give up the lock."""

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # objects

    def add(self, built: Built, *, name: str | None = None, pinned: bool = False) -> StoredObject:
        """*Slow.* Share a hashed object in place. Adding it again updates name, path and pin."""
        raise NotImplementedError

    def add_bytes(
        self,
        data: bytes | memoryview,
        *,
        name: str,
        segments: Sequence[Segment] | None = None,
        hash_function: HashFunction = HashFunction.BLAKE3,
        pinned: bool = False,
    ) -> StoredObject:
        """*Slow.* Share bytes that have no file: they get one inside the store."""
        raise NotImplementedError

    def objects(self) -> list[StoredObject]:
        """Return all objects, oldest first."""
        raise NotImplementedError

    def object(self, root: CID) -> StoredObject | None:
        """Return one object, or None."""
        raise NotImplementedError

    def remove(self, root: CID) -> bool:
        """*Slow.* Forget an object and what only it needs; user files stay. False: not here."""
        raise NotImplementedError

    def provided(self) -> Iterator[bytes]:
        """Give the multihashes to provide: roots of complete objects and of named segments."""
        raise NotImplementedError

    # blocks

    def has(self, multihash: bytes) -> bool:
        """Whether a block of this hash would be given now, as far as the index knows."""
        raise NotImplementedError

    def read_index(self, cid: CID) -> bytes | None:
        """Return an index block, checked against its hash, or None."""
        raise NotImplementedError

    def read_blocks(
        self, multihashes: Sequence[bytes], *, max_bytes: int = 1 << 20, gap: int = 0
    ) -> BlockBatch:
        """Read blocks, index or leaf, checked against their hashes.

        Answers a prefix of `multihashes`: as many as fit `max_bytes`, at least one. Call again with
        the rest. Adjacent leaves are read in one system call (`preadv`, past the gaps). `gap`: bytes
        left free before each block, see `BlockBatch.buffer`.
        """
        raise NotImplementedError

    def availability(self, root: CID) -> Availability | None:
        """Return which leaves of the file `root` are here; None when nothing is known of it."""
        raise NotImplementedError

    # downloads

    def download(self, root: CID, destination: Path, *, overwrite: bool = False) -> Download:
        """*Slow.* Begin, or resume, receiving `root` into `destination`.

        Raises:
            InvalidInput: `destination` exists, or is being written by another download.
        """
        raise NotImplementedError

    # upkeep

    def verify(self, root: CID, progress: Callable[[int], None] | None = None) -> VerifyReport:
        """*Slow.* Hash every block of an object. Sources that match again are offered again."""
        raise NotImplementedError
