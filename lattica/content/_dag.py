"""The shape of content: leaf sizes, segments, and the balanced tree over them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lattica.cid import CID, HashFunction

from ._unixfs import Link


@dataclass(frozen=True, slots=True)
class Segment:
    """A contiguous byte range of a file that gets a sub-DAG, and so a CID, of its own.

    Attributes:
        length: bytes; only the one segment of an empty file may be empty.
        stride: element width in bytes, a hint for compression that changes no identifier.
        name: opaque label from above (a tensor's name); "" for what nobody looks up.
    """

    length: int
    stride: int = 1
    name: str = ""


class Leaf(NamedTuple):
    """One leaf of a file: its number and place in it, and the multihash of its bytes."""

    index: int
    offset: int
    length: int
    multihash: bytes


class LeafTable:
    """All leaves of one file, in order, compactly: about 40 bytes each."""

    root: CID
    size: int  # bytes of the file

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Leaf:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Leaf]:
        raise NotImplementedError

    def at(self, offset: int) -> int:
        """Return the number of the leaf that holds byte `offset`."""
        raise NotImplementedError

    def append(self, length: int, multihash: bytes) -> None:
        """Add the next leaf in file order."""
        raise NotImplementedError


def leaf_size(segment_length: int) -> int:
    """Return the leaf size in bytes of a segment: 256 KiB below 16 GiB, else 1 MiB."""
    raise NotImplementedError


class TreeBuilder:
    """Links in, in order; index blocks out as they fill; the root link at the end."""

    def __init__(
        self,
        emit: Callable[[CID, bytes], None],
        hash_function: HashFunction = HashFunction.BLAKE3,
        *,
        max_links: int = 1024,
    ) -> None: ...

    def add(self, link: Link) -> None:
        """Add the next child."""
        raise NotImplementedError

    def finish(self) -> Link:
        """Emit what is still open and return the root's link; of one child, that child's."""
        raise NotImplementedError
