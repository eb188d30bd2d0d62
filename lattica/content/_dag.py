"""The shape of content: leaf sizes, segments, and the balanced tree over them. Pure.

A file is its segments in order. A segment is cut into leaves, whose size depends on the segment's
length alone; index blocks of at most 1 024 links are built over them, level by level, until one
link is left, and the segments' roots are joined by the same kind of tree. A tree over one link is
that link. These rules are frozen in spec/content.md §2: the same bytes under the same segments have
the same identifier on every node.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.cid import CID, DIGEST_SIZE, Codec, HashFunction
from lattica.errors import InvalidInput

from ._holes import zero_multihash
from ._unixfs import MAX_BLOCK_BYTES, MAX_LINKS, MAX_SIZE, Link, encode_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SMALL_LEAF, LARGE_LEAF = 256 << 10, 1 << 20  # bytes
LARGE_FROM = 16 << 30  # bytes; a segment of this length or more has large leaves


class SegmentsError(InvalidInput):
    """The segments given do not cut the file: they must cover it exactly, in order."""

    code = "segments"
    hint = "pass segments whose lengths add up to the file's, none of them empty"


@dataclass(frozen=True, slots=True)
class Segment:
    """A contiguous byte range of a file that gets a sub-DAG, and so a CID, of its own.

    Attributes:
        length: bytes; only the one segment of an empty file may be empty.
        stride: element width in bytes, a hint for compression that changes no identifier.
        name: opaque label from above (a tensor's name); "" for what nobody looks up.
        leaf_bytes: size of its leaves, 2 MiB at most; 0 is the usual one, see `leaf_size`.
    """

    length: int
    stride: int = 1
    name: str = ""
    leaf_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BuiltSegment:
    """A segment and the CID it got. `offset` in bytes from the start of the file."""

    root: CID
    offset: int
    length: int
    stride: int
    name: str
    leaf_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a file: its number and place in it, and the multihash of its bytes."""

    index: int
    offset: int
    length: int
    multihash: bytes

    @property
    def cid(self) -> CID:
        """The leaf's CID."""
        return CID(Codec.RAW, self.multihash)


class LeafTable:
    """The leaves of one file, in order, compactly: 40 bytes each.

    Attributes:
        root: the file's root.
        hash_function: of all its blocks.
    """

    __slots__ = ("_digests", "_ends", "_head", "hash_function", "root")

    def __init__(self, root: CID, leaves: Iterable[Leaf] = ()) -> None:
        self.root = root
        self.hash_function = root.hash_function
        self._head = root.multihash[:2]
        self._digests = bytearray()
        self._ends = array("Q")
        for leaf in leaves:
            self.append(leaf.length, leaf.multihash)

    @property
    def size(self) -> int:
        """Bytes of all leaves so far: of the file, once every leaf is in."""
        return self._ends[-1] if self._ends else 0

    @property
    def zero_bytes(self) -> int:
        """Bytes of the leaves of usual size that are all zeros: they need no room."""
        return sum(
            length * self._digests.count(zero_multihash(self.hash_function, length)[2:])
            for length in (SMALL_LEAF, LARGE_LEAF)
        )

    def zeros(self) -> Iterator[int]:
        """Give the numbers of the leaves of usual size that are all zeros, and of the last one."""
        for length in (SMALL_LEAF, LARGE_LEAF):
            digest = zero_multihash(self.hash_function, length)[2:]
            place = self._digests.find(digest)
            while place >= 0:
                if place % DIGEST_SIZE == 0 and self[place // DIGEST_SIZE].length == length:
                    yield place // DIGEST_SIZE
                place = self._digests.find(digest, place + 1)
        if len(self):
            last = self[len(self) - 1]
            usual = last.length in (0, SMALL_LEAF, LARGE_LEAF)
            if not usual and last.multihash == zero_multihash(self.hash_function, last.length):
                yield last.index

    def append(self, length: int, multihash: bytes, count: int = 1) -> None:
        """Add the next leaf, `count` times. All have the hash function of the file's root."""
        if count == 1:
            self._ends.append(self.size + length)
            self._digests += multihash[2:]
        else:
            size = self.size
            self._ends.extend(range(size + length, size + length * count + 1, length))
            self._digests += multihash[2:] * count

    def at(self, offset: int) -> int:
        """Return the number of the leaf that holds byte `offset`; `len(self)` past the end."""
        return bisect_right(self._ends, offset)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Leaf:
        if not 0 <= index < len(self._ends):
            raise IndexError(f"leaf {index} of {len(self._ends)}")
        offset = self._ends[index - 1] if index else 0
        digest = self._digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
        return Leaf(index, offset, self._ends[index] - offset, self._head + digest)

    def __iter__(self) -> Iterator[Leaf]:
        return map(self.__getitem__, range(len(self)))


def leaf_size(segment_length: int) -> int:
    """Return the leaf size in bytes of a segment: 256 KiB below 16 GiB, else 1 MiB."""
    return SMALL_LEAF if segment_length < LARGE_FROM else LARGE_LEAF


def check_segments(segments: Sequence[Segment], size: int) -> None:
    """Refuse segments that do not cut a file of `size` bytes. Raises SegmentsError."""
    total = sum(segment.length for segment in segments)
    if total != size or total > MAX_SIZE or not segments:
        raise SegmentsError(f"{len(segments)} segments of {total} bytes for a file of {size}")
    for segment in segments:
        if segment.length < 0 or segment.stride < 1:
            raise SegmentsError(f"a segment of length {segment.length}, stride {segment.stride}")
        if not 0 <= segment.leaf_bytes <= MAX_BLOCK_BYTES:
            raise SegmentsError(f"a segment with leaves of {segment.leaf_bytes} bytes")
        if segment.length == 0 and len(segments) > 1:
            raise SegmentsError("an empty segment beside others")


class TreeBuilder:
    """Links in, in order; index blocks out as they fill; the root link at the end.

    Holds at most one block's links per level, whatever the number of leaves. All levels but the
    root's have full blocks up to the last one: the `balanced` layout of IPFS.
    """

    def __init__(
        self,
        emit: Callable[[CID, bytes], None],
        hash_function: HashFunction = HashFunction.BLAKE3,
        *,
        max_links: int = MAX_LINKS,
    ) -> None:
        """Make a builder that passes each index block and its CID to `emit`, children first."""
        self._emit = emit
        self._hash_function = hash_function
        self._max_links = max_links
        self._levels: list[list[Link]] = [[]]  # lowest first; what is not yet in a block
        self._closed: tuple[list[Link], Link] | None = None  # the last block, and the link to it

    def add(self, link: Link, count: int = 1) -> None:
        """Add the next child, `count` times."""
        while count:
            taken = min(count, self._max_links - len(self._levels[0]))
            self._levels[0] += [link] * taken
            if len(self._levels[0]) == self._max_links:
                self._close(0)
            count -= taken

    def finish(self) -> Link:
        """Emit what is still open and return the root's link; of one child, that child's."""
        for level, links in enumerate(self._levels):  # grows while the lower levels are closed
            if level == len(self._levels) - 1 and len(links) == 1:
                return links[0]
            if links:
                self._close(level)
        raise ValueError("a tree over nothing")

    def _add(self, level: int, link: Link) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(link)
        if len(self._levels[level]) == self._max_links:
            self._close(level)

    def _close(self, level: int) -> None:
        links, self._levels[level] = self._levels[level], []
        if self._closed is not None and self._closed[0] == links:  # zeros upon zeros
            self._add(level + 1, self._closed[1])
            return
        block = encode_file(links)
        cid = CID.of(block, Codec.DAG_PB, self._hash_function)
        self._emit(cid, block)
        size = sum(link.size for link in links)
        total = len(block) + sum(link.total_size for link in links)
        link = Link(cid, size, total)
        self._closed = links, link
        self._add(level + 1, link)


class FileBuilder:
    """The leaves of one file in, as multihashes; index blocks, root and segment roots out.

        while (length := builder.next_length()) is not None:
            builder.add(multihash_of(the next `length` bytes))
        link = builder.finish()

    Attributes:
        segments: those that are whole so far.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        emit: Callable[[CID, bytes], None],
        hash_function: HashFunction = HashFunction.BLAKE3,
    ) -> None:
        """Build a file that is cut into `segments`; index blocks go to `emit`, children first."""
        self.segments: list[BuiltSegment] = []
        self._emit, self._hash_function = emit, hash_function
        self._file = TreeBuilder(emit, hash_function)
        self._ahead = iter(segments)
        self._offset = 0
        self._segment: Segment | None = None
        self._next_segment()

    def next_length(self) -> int | None:
        """Return how many bytes the next leaf has, or None when the file is whole."""
        return None if self._segment is None else min(self._leaf_size, self._missing)

    @property
    def equal_leaves(self) -> int:
        """How many leaves of `next_length` bytes follow each other; 0 when the file is whole."""
        return 0 if self._segment is None else max(1, self._missing // self._leaf_size)

    def add(self, multihash: bytes, count: int = 1) -> None:
        """Add the next leaf, of `next_length` bytes, `count` (at most `equal_leaves`) times."""
        segment = self._segment
        if segment is None:
            raise ValueError("the file is whole")
        length = min(self._leaf_size, self._missing)
        self._tree.add(Link(CID(Codec.RAW, multihash), length, length), count)
        self._missing -= length * count
        if self._missing == 0:
            link = self._tree.finish()
            self._file.add(link)
            self.segments.append(
                BuiltSegment(
                    link.cid,
                    self._offset,
                    segment.length,
                    segment.stride,
                    segment.name,
                    segment.leaf_bytes,
                )
            )
            self._offset += segment.length
            self._next_segment()

    def finish(self) -> Link:
        """Return the link to the whole file."""
        return self._file.finish()

    def _next_segment(self) -> None:
        self._segment = next(self._ahead, None)
        if self._segment is not None:
            self._missing = self._segment.length
            self._leaf_size = self._segment.leaf_bytes or leaf_size(self._segment.length)
            self._tree = TreeBuilder(self._emit, self._hash_function)
