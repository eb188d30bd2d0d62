"""The segments of a file that is named by its root: which CID each has. Pure.

A file's tree stands on the roots of its segments (spec/content.md §2.5). Who knows how many
segments there are, and how long each is, finds their roots in the topmost index blocks: one block
for up to 1 024 of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica.cid import CID, Codec, HashFunction
from lattica.errors import InvalidInput

from ._dag import FileBuilder, Segment
from ._unixfs import MAX_LINKS, DagError, DirectoryNode, Link, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SEGMENTS = 1 << 20  # of one file whose segments are looked up: their roots take 150 MiB


class NotCutSo(DagError):
    """A file is not cut into the segments that were expected: they have no CIDs of their own."""

    code = "not-cut"
    hint = "its publisher shared it under another name, or with another program"


class SegmentRoots:
    """Finds the roots of a file's segments, from index blocks given as they arrive.

    roots = SegmentRoots(root, [8192, 1 << 20, 4096])
    while needed := roots.needed():
        for cid in needed:
            roots.receive(cid, block_of(cid))
    roots.found()
    """

    def __init__(self, root: CID, lengths: Sequence[int]) -> None:
        """Look for segments of these lengths, in bytes, in file order. Raises InvalidInput."""
        if not 0 < len(lengths) <= MAX_SEGMENTS:
            raise InvalidInput(f"{len(lengths)} segments of one file, limit {MAX_SEGMENTS}")
        self.root, self._lengths = root, lengths
        self._levels = 0  # of index blocks above the segments' roots
        while MAX_LINKS**self._levels < len(lengths):
            self._levels += 1
        self._links = [Link(root, sum(lengths), 0)]
        self._children: dict[CID, tuple[Link, ...]] = {}

    def needed(self) -> list[CID]:
        """Return the index blocks that are needed next; none once all is known."""
        if not self._levels:
            return []
        return list(
            dict.fromkeys(link.cid for link in self._links if link.cid not in self._children)
        )

    def receive(self, cid: CID, block: bytes | bytearray | memoryview) -> None:
        """Take an index block that is needed.

        Raises:
            IntegrityError: the bytes do not hash to `cid`.
            NotCutSo: the file is another, or not cut so.
            DagError: the index is malformed.
        """
        if cid.codec != Codec.DAG_PB:
            raise NotCutSo(f"{self.root} is not cut into {len(self._lengths)} segments", cid=cid)
        node = decode(cid, block)
        if isinstance(node, DirectoryNode):
            raise DagError(f"{cid} is a directory where a file was expected", cid=cid)
        self._children[cid] = node.links
        if all(link.cid in self._children for link in self._links):
            self._descend()

    def found(self) -> list[CID]:
        """Return the root of each segment, in file order. Raises NotCutSo."""
        sizes = [link.size for link in self._links]
        if self._levels or sizes != list(self._lengths):
            raise NotCutSo(
                f"{self.root} is not cut into {len(self._lengths)} segments", cid=self.root
            )
        return [link.cid for link in self._links]

    def _descend(self) -> None:
        below: list[Link] = []
        for link in self._links:
            children = self._children[link.cid]
            if sum(child.size for child in children) != link.size:
                raise NotCutSo(f"{link.cid} does not hold {link.size} bytes", cid=link.cid)
            below += children
            if len(below) > len(self._lengths):
                raise NotCutSo(
                    f"{self.root} has more than {len(self._lengths)} segments", cid=self.root
                )
        self._links, self._children = below, {}
        self._levels -= 1


def segment_cid(
    data: bytes | bytearray | memoryview, hash_function: HashFunction = HashFunction.BLAKE3
) -> CID:
    """Return the CID that bytes have as a segment of any file, and as a plain file."""
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    builder = FileBuilder([Segment(view.nbytes)], _forget, hash_function)
    position = 0
    while (length := builder.next_length()) is not None:
        builder.add(hash_function.multihash(view[position : position + length]))
        position += length
    return builder.finish().cid


def _forget(_cid: CID, _block: bytes) -> None:
    """Keep no index block: the root is all that is asked for."""
