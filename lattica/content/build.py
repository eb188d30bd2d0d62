"""From a file or directory to its identifier: one sequential read, every leaf hashed once."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lattica.cid import CID, HashFunction

from ._dag import LeafTable, Segment

Segments = Sequence[Segment] | Callable[[Path], Sequence[Segment] | None]


class Kind(enum.IntEnum):
    """What a root CID names."""

    FILE = 0
    DIRECTORY = 1


class Stamp(NamedTuple):
    """What a file looked like when it was hashed; any difference means that it changed."""

    size: int  # bytes
    mtime_ns: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class BuiltSegment:
    """A segment and the CID it got. `offset` in bytes from the start of the file."""

    root: CID
    offset: int
    length: int
    stride: int
    name: str


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """One hashed file: where it is, how it looked, its leaves and segments."""

    path: Path  # absolute
    stamp: Stamp
    root: CID
    leaves: LeafTable
    segments: tuple[BuiltSegment, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A hashed object: what `Store.add` takes. `index` holds every index block by its CID."""

    root: CID
    kind: Kind
    name: str
    path: Path
    size: int  # content bytes
    files: tuple[BuiltFile, ...]
    index: dict[CID, bytes]


def build(
    source: Path | str,
    *,
    segments: Segments | None = None,
    hash_function: HashFunction = HashFunction.BLAKE3,
    follow_symlinks: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Hash `source`, a file or directory. Blocks: call it from a worker thread.

    Args:
        source: what to hash; a symlink here is followed.
        segments: how a file is cut: a list for a file, or a function of the path for either. None
            (or a function that returns None) is one segment.
        hash_function: of every leaf and index block.
        follow_symlinks: hash what symlinks to files inside a directory point to.
        progress: called with the number of bytes hashed since the last call, every few
            milliseconds; what it raises ends the build.

    Raises:
        InvalidInput: not there, not a regular file, a name or segments that cannot be shared.
        SourceChanged: a file changed while it was read.
        LimitExceeded: more entries than a directory may have.
    """
    raise NotImplementedError


async def build_in_thread(
    source: Path | str,
    *,
    segments: Segments | None = None,
    hash_function: HashFunction = HashFunction.BLAKE3,
    follow_symlinks: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """`build` from Trio: in a worker thread, `progress` on the loop, cancelled within one batch."""
    raise NotImplementedError
