"""Rows of the store's index as values."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lattica.cid import CID

from ._build import Kind, Stamp
from ._values import ObjectState, StoredObject

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def file_of(row: Sequence[Any]) -> FileRow:
    """Return the file of a row: path, root, leaf count, and its source."""
    return FileRow(row[0], CID.from_bytes(row[1]), row[2], source_of(row[3:]))


def source_of(row: Sequence[Any]) -> SourceRow:
    """Return the source of a row of `SOURCE_COLUMNS`."""
    source, path, *stamp, changed, owned, download = row
    return SourceRow(source, path_of(path), Stamp(*stamp), bool(changed), bool(owned), download)


def path_of(encoded: bytes) -> Path:
    """Return a path from the bytes that the file system knows it by."""
    return Path(os.fsdecode(encoded))
