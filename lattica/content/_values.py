"""What the store tells its callers, and the errors it raises."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lattica.errors import InvalidInput, LatticaError, LimitExceeded

if TYPE_CHECKING:
    from pathlib import Path

    from lattica.cid import CID

    from ._build import Kind


_MAY_NOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)


class StoreError(LatticaError):
    """The store itself cannot be used."""

    code = "store"
    hint = "check the disk; a store that is damaged can be removed, shared files are not in it"


class StorageError(LatticaError):
    """The disk refused a write: it is full, read-only or failing."""

    code = "storage"
    hint = "free some space, then run the same command: what was received is kept"

    @classmethod
    def of(cls, what: str, error: OSError) -> Self:
        """Return the error that says what could not be done, and what to do about it."""
        found = cls(f"{what}: {error.strerror}")
        if error.errno in _MAY_NOT_WRITE:
            found.hint = "choose a place that you may write to, or make this one so"
        return found


class StoreLocked(InvalidInput):
    """Another process has the store open."""

    code = "store-locked"
    hint = "use the running node, or stop it first"


class DestinationTaken(InvalidInput):
    """Something stands, or is being written, where a download should go."""

    code = "destination-taken"
    hint = "choose another destination, move away what is there, or overwrite a file with --force"


class QuotaExceeded(LimitExceeded):
    """The store may not grow so far, and what it would have to drop is pinned or in use."""

    code, exit_code = "quota", 6
    retryable = False
    hint = "raise --quota, or unpin something: `lattica du` shows what is kept"


class Absent(enum.Enum):
    """Why a block was not given."""

    NOT_HERE = enum.auto()
    SOURCE_CHANGED = enum.auto()  # the file that held it is no longer what was shared
    TOO_LARGE = enum.auto()  # for who asks: it has not been read


class ObjectState(enum.IntEnum):
    """Whether an object can be served whole."""

    COMPLETE = 0
    PARTIAL = 1  # being downloaded, or a download that stopped
    CHANGED = 2  # a file is no longer what was shared; `verify` looks again


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of the store.

    Attributes:
        root: its identifier.
        kind: file or directory.
        size: content bytes; of a download, of the files opened so far.
        name: what it was shared as.
        path: where it is, or will be, on disk.
        added: seconds since the epoch.
        pinned: whether it is to be kept when space is needed.
        state: whether it can be served whole.
    """

    root: CID
    kind: Kind
    size: int
    name: str
    path: Path
    added: float
    pinned: bool
    state: ObjectState


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store keeps bytes of its own for.

    Attributes:
        root: the object.
        size: bytes of the store's own files; of a download, what they will have.
        pinned: whether it is kept when space is needed.
        used: when it was read last, or added, in seconds since the epoch.
    """

    root: CID
    size: int
    pinned: bool
    used: float


@dataclass(frozen=True, slots=True)
class Extent:
    """What an object consists of, as far as its index is here.

    Attributes:
        files: in a directory, links and folders aside; else 1.
        leaves: of all files.
        index_blocks: what names them.
        index_bytes: of these.
    """

    files: int
    leaves: int
    index_blocks: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of the disk the store uses.

    Attributes:
        quota: most bytes that it may use; None: no bound.
        index_bytes: of its database.
        kept: the objects that it has bytes of its own for, the least used first.
    """

    quota: int | None
    index_bytes: int
    kept: tuple[Kept, ...]

    @property
    def used_bytes(self) -> int:
        """All of it."""
        return self.index_bytes + sum(kept.size for kept in self.kept)


@dataclass(frozen=True, slots=True)
class NamedSegment:
    """A segment that somebody looks up: a tensor.

    Attributes:
        path: of the file inside the object; "" when it is the object.
        name: the label it was given.
        offset: in bytes, in the file.
        length: in bytes.
        root: its own identifier, the same in every file that contains it.
    """

    path: str
    name: str
    offset: int
    length: int
    root: CID


@dataclass(frozen=True, slots=True)
class Availability:
    """Which leaves of a file are here, by number.

    Attributes:
        leaf_count: of the whole file.
        complete: whether all of them are here.
        bitmap: leaf i is bit i % 8 (the lowest is 0) of byte i // 8; spare bits are 0.
    """

    leaf_count: int
    complete: bool
    bitmap: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A block of an object that is gone or no longer hashes to its CID.

    Attributes:
        cid: the block's.
        path: the file's inside the object; "" when it is the object.
        offset: of the first content byte that is affected, in the file.
        length: content bytes affected, as far as the index tells.
        reason: what is wrong.
        place: where the file is on disk; None for a block of the index.
    """

    cid: CID
    path: str
    offset: int
    length: int
    reason: str
    place: Path | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `Store.verify` found.

    Attributes:
        root: the object.
        checked_bytes: content bytes that were read and hashed.
        damaged_count: blocks that failed.
        damaged: the first of them.
        differing: files that are not what they were, while the same content is sound elsewhere.
    """

    root: CID
    checked_bytes: int
    damaged_count: int
    damaged: tuple[Damage, ...]
    differing: tuple[Path, ...] = ()
