"""Rows of the store's index as values.

A disk may have changed any of them. So what a row says is checked before it is used, as if it came
from a stranger: sizes that would take all memory, paths that are none, kinds that nobody knows.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from lattica.cid import CID
from lattica.errors import CodecError

from ._build import Kind, Stamp
from ._unixfs import MAX_BLOCK_BYTES
from ._values import ObjectState, StoredObject, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_P = ParamSpec("_P")
_T = TypeVar("_T")


_TAG_CHARACTERS = 8  # of the CID, in the name of the part path


def _checked(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a row that means nothing end in a StoreError."""

    @functools.wraps(read)
    def checked(*args: _P.args, **options: _P.kwargs) -> _T:
        try:
            return read(*args, **options)
        except (ValueError, TypeError, CodecError) as error:
            raise StoreError(f"the store's index has a row that means nothing: {error}") from error

    return checked


class Place(NamedTuple):
    """Where a leaf's bytes are.

    Attributes:
        source: number of the file.
        offset: in bytes, in the file.
        length: in bytes.
        stride: element width in bytes of its segment.
        changed: whether the file is known to be no longer what was shared.
        download: the download that still writes the file, if any.
    """

    source: int
    offset: int
    length: int
    stride: int
    changed: bool
    download: int | None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A file on disk that holds leaves. `download` is the one that still writes it, if any."""

    id: int
    path: Path
    stamp: Stamp
    changed: bool
    owned: bool
    download: int | None


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file of an object, at one source."""

    path: str
    root: CID
    leaf_count: int
    source: SourceRow


@dataclass(frozen=True, slots=True)
class DownloadRow:
    """A download that has not been finished. `finishing`: it is whole, and about to be renamed."""

    id: int
    object: int
    root: CID
    destination: Path
    part_path: Path
    inode: int | None
    finishing: bool

    @property
    def is_sound(self) -> bool:
        """Whether what it writes is called after its object and its destination."""
        place = self.destination
        named = bool(place.name) and place.is_absolute()
        return named and self.part_path == part_path(place, self.root)


class OwnedRow(NamedTuple):
    """An object and the bytes that the store keeps for it.

    Attributes:
        object: its number.
        root: its identifier.
        pinned: whether it is to be kept.
        used: when it was read last, or added, in seconds since the epoch.
        size: bytes of the store's own files; of a download, what they will have.
        download: the download that still writes them, if any.
    """

    object: int
    root: CID
    pinned: bool
    used: float
    size: int
    download: int | None


SOURCE_COLUMNS = (  # what `source_of` reads, of `sources s`
    "s.id, s.path, s.size, s.mtime_ns, s.inode, s.device, s.changed, s.owned, s.download"
)


@_checked
def cid_of(encoded: bytes) -> CID:
    """Return the CID in a column."""
    return CID.from_bytes(encoded)


@_checked
def place_of(row: Sequence[Any]) -> Place:
    """Return the place of a leaf."""
    place = Place(*row)
    if not (place.offset >= 0 and 0 <= place.length <= MAX_BLOCK_BYTES):
        raise ValueError(f"a leaf of {place.length} bytes at {place.offset}")
    return place


@_checked
def object_of(row: Sequence[Any]) -> StoredObject:
    """Return the object of a row of `Index.objects`, its number aside."""
    root, kind, size, name, path, added, pinned, complete, broken = row
    state = ObjectState.CHANGED if broken else ObjectState.COMPLETE
    return StoredObject(
        root=CID.from_bytes(root),
        kind=Kind(kind),
        size=size,
        name=name,
        path=path_of(path),
        added=added,
        pinned=bool(pinned),
        state=state if complete else ObjectState.PARTIAL,
    )


def object_values(stored: StoredObject) -> tuple[object, ...]:
    """Return the values of an object's row, but for `complete`."""
    return (
        bytes(stored.root),
        int(stored.kind),
        stored.size,
        stored.name,
        os.fsencode(stored.path),
        stored.added,
        stored.pinned,
    )


@_checked
def file_of(row: Sequence[Any]) -> FileRow:
    """Return the file of a row: path, root, leaf count, and its source."""
    file = FileRow(row[0], CID.from_bytes(row[1]), row[2], source_of(row[3:]))
    if not 0 < file.leaf_count <= max(1, file.source.stamp.size):
        raise ValueError(f"a file of {file.source.stamp.size} bytes in {file.leaf_count} leaves")
    return file


@_checked
def source_of(row: Sequence[Any]) -> SourceRow:
    """Return the source of a row of `SOURCE_COLUMNS`."""
    source, path, *looks, changed, owned, download = row
    stamp = Stamp(*looks)
    if stamp.size < 0:
        raise ValueError(f"a file of {stamp.size} bytes")
    return SourceRow(source, path_of(path), stamp, bool(changed), bool(owned), download)


def part_path(destination: Path, root: CID) -> Path:
    """Return where a download to `destination` writes: a name of its own for each root."""
    suffix = f".{str(root)[-_TAG_CHARACTERS:]}.part"
    kept = os.fsencode(destination.name)[: 255 - len(suffix)]
    return destination.with_name(os.fsdecode(kept) + suffix)


@_checked
def path_of(encoded: bytes) -> Path:
    """Return a path from the bytes that the file system knows it by."""
    if b"\0" in encoded:
        raise ValueError(f"a path with a NUL: {encoded!r:.100}")
    return Path(os.fsdecode(encoded))
