"""Blocks out of the store: found by multihash, read in place, and proven by their hash.

This is the path of every byte that is served: look up, one system call for adjacent leaves, one
hash per leaf, no copy after that. A leaf that does not match is looked for elsewhere, then refused.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lattica.cid import DIGEST_SIZE, HashFunction

from ._rows import Place
from ._sources import MAX_GAPS
from ._unixfs import MAX_BLOCK_BYTES
from ._values import Absent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._index import Index
    from ._part import PartFile
    from ._sources import BufferPool, Sources

_MAX_BATCH = 1024  # blocks in one batch: bounds the work on tiny leaves; buffers of one preadv
_HASHES = {bytes((function, DIGEST_SIZE)): function for function in HashFunction}

_log = logging.getLogger(__name__)


class BlockBatch:
    """Proven blocks, in the order asked for. Give the memory back with `release`, or `with`.

    Attributes:
        blocks: for as many of the multihashes as were answered: the bytes, or why not. The views
            are into `buffer`, and must not be used after `release`.
        strides: for each of them the element width given for its segment; 1 for index blocks.
        buffer: where the leaves stand, writable: with `gap`, whoever sends them writes what goes
            before each into the room left there, and sends a run of leaves in one piece.
        offsets: for each block where in `buffer` it starts; -1 for one that stands elsewhere or is
            absent. Blocks stand in the order asked for, `gap` bytes apart, the first one too.
        packed: the packed form (`codec.pack_planes`) of blocks that somebody has packed, by number.
    """

    __slots__ = ("_pool", "_pooled", "blocks", "buffer", "offsets", "packed", "strides")

    def __init__(self, plan: Sequence[Place | bytes | Absent], gap: int, pool: BufferPool) -> None:
        self.blocks: list[bytes | memoryview | Absent] = []
        self.strides: list[int] = []
        self.offsets: list[int] = []
        self.packed: dict[int, bytes] = {}
        end = 0
        for found in plan:
            if isinstance(found, Place):
                self.blocks.append(Absent.NOT_HERE)  # until it has been read
                self.offsets.append(end + gap)
                self.strides.append(found.stride)
                end += gap + found.length
            else:
                self.blocks.append(found)
                self.offsets.append(-1)
                self.strides.append(1)
        self._pool = pool
        self._pooled: bytearray | None = pool.take() if end else None
        self.buffer = memoryview(self._pooled or b"")[:end]

    def release(self) -> None:
        """Give the memory back. Calling it again does nothing."""
        pooled, self._pooled = self._pooled, None
        self.blocks, self.buffer, self.packed = [], memoryview(b""), {}
        if pooled is not None:
            self._pool.give_back(pooled)

    def __len__(self) -> int:
        return len(self.offsets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Reader:
    """Finds and reads blocks. Safe to use from any thread.

    Attributes:
        parts: the files being downloaded, by source: their verified leaves are read as well.
    """

    def __init__(self, index: Index, sources: Sources, pool: BufferPool) -> None:
        self.parts: dict[int, PartFile] = {}
        self._index, self._sources, self._pool = index, sources, pool

    def has(self, multihash: bytes) -> bool:
        """Whether a block would be given, as far as is known without reading it."""
        if multihash[:2] not in _HASHES:
            return False
        places = self._index.places(multihash)
        return any(map(self._is_usable, places)) or self._index.has_block(multihash)

    def size(self, multihash: bytes) -> int | None:
        """Return the length of a block that would be given, as far as is known without reading."""
        if multihash[:2] not in _HASHES:
            return None
        for place in self._index.places(multihash):
            if self._is_usable(place):
                return place.length
        return self._index.block_size(multihash)

    def index_block(self, multihash: bytes) -> bytes | None:
        """Return an index block, or None when it is not here (or is, damaged)."""
        if multihash[:2] not in _HASHES or (block := self._index.block(multihash)) is None:
            return None
        if _matches(multihash, block):
            return block
        _log.error("an index block of the store is damaged: %s", multihash.hex())
        return None

    def read(
        self,
        multihashes: Sequence[bytes],
        max_bytes: int,
        gap: int = 0,
        stopped: bool = False,
        limit: int = MAX_BLOCK_BYTES,
    ) -> BlockBatch:
        """Read a prefix of `multihashes`; see `Store.read_blocks`."""
        plan = self._plan(multihashes, max_bytes, gap, stopped, limit)
        batch = BlockBatch(plan, gap, self._pool)
        for run in _runs(plan):
            self._read_run(multihashes, run, batch)
        return batch

    def _plan(
        self, multihashes: Sequence[bytes], max_bytes: int, gap: int, stopped: bool, limit: int
    ) -> list[Place | bytes | Absent]:
        """Find as many of `multihashes` as may be answered in one batch, at least one."""
        room = max(0, min(max_bytes, MAX_BLOCK_BYTES))
        plan: list[Place | bytes | Absent] = []
        for multihash in multihashes[: min(_MAX_BATCH, max(1, MAX_GAPS // max(gap, 1)))]:
            found = self._find(multihash, stopped, limit)
            if isinstance(found, Place):
                room -= found.length
            elif isinstance(found, bytes):
                room -= len(found)
            if room < 0 and plan:
                break
            plan.append(found)
        return plan

    def _find(self, multihash: bytes, stopped: bool, limit: int) -> Place | bytes | Absent:
        if multihash[:2] not in _HASHES:
            return Absent.NOT_HERE
        changed = False
        left: Place | None = None  # by a download that does not run
        for place in self._index.places(multihash):
            if self._is_usable(place):
                return place if place.length <= limit else Absent.TOO_LARGE
            changed = changed or place.download is None
            if stopped and place.download is not None and place.source not in self.parts:
                left = place
        if limit < MAX_BLOCK_BYTES and (self._index.block_size(multihash) or 0) > limit:
            return Absent.TOO_LARGE
        block = self.index_block(multihash)
        if block is None and left is not None:
            return left
        if block is None:
            return Absent.SOURCE_CHANGED if changed else Absent.NOT_HERE
        return block

    def _is_usable(self, place: Place) -> bool:
        if place.download is not None:
            part = self.parts.get(place.source)
            return part is not None and part.has_at(place.offset)
        return not (
            place.changed
            or place.source in self._sources.changed
            or self._sources.is_damaged(place.source, place.offset)
        )

    def _read_run(self, multihashes: Sequence[bytes], run: _Run, batch: BlockBatch) -> None:
        numbers = range(run.start, run.start + len(run.places))
        leaves = [
            batch.buffer[batch.offsets[number] :][: place.length]
            for number, place in zip(numbers, run.places, strict=True)
        ]
        readable = self._sources.read(run.places[0].source, run.places[0].offset, leaves)
        for number, place, leaf in zip(numbers, run.places, leaves, strict=True):
            if readable and _matches(multihashes[number], leaf):
                batch.blocks[number] = leaf
                continue
            if readable:
                self._refuse(place)
            batch.blocks[number] = self._read_elsewhere(multihashes[number], place, leaf)

    def _read_elsewhere(
        self, multihash: bytes, failed: Place, into: memoryview
    ) -> memoryview | Absent:
        """Read a leaf from any other source than the one that failed."""
        for place in self._index.places(multihash):
            if place.source == failed.source or not self._is_usable(place):
                continue
            if self._sources.read(place.source, place.offset, [into]):
                if _matches(multihash, into):
                    return into
                self._refuse(place)
        return Absent.NOT_HERE if failed.download is not None else Absent.SOURCE_CHANGED

    def _refuse(self, place: Place) -> None:
        """Note that the bytes of a leaf are not what they were."""
        if place.download is not None and place.source not in self.parts:
            return  # nobody has said that they were
        _log.warning("source %d has wrong bytes at offset %d", place.source, place.offset)
        part = self.parts.get(place.source)
        if part is not None:
            part.lose_at(place.offset)
        else:
            self._sources.note_damaged(place.source, place.offset)


@dataclass(slots=True)
class _Run:
    """Leaves that are adjacent both in the request and in their file."""

    start: int  # number of the first in the request
    places: list[Place]

    def continues(self, number: int, place: Place) -> bool:
        """Whether `place`, `number` of the request, comes right after."""
        last = self.places[-1]
        return (
            number == self.start + len(self.places)
            and place.source == last.source
            and place.offset == last.offset + last.length
        )


def _runs(plan: list[Place | bytes | Absent]) -> list[_Run]:
    runs: list[_Run] = []
    for number, found in enumerate(plan):
        if not isinstance(found, Place):
            continue
        if runs and runs[-1].continues(number, found):
            runs[-1].places.append(found)
        else:
            runs.append(_Run(number, [found]))
    return runs


def _matches(multihash: bytes, data: bytes | memoryview) -> bool:
    return _HASHES[multihash[:2]].digest(data) == multihash[2:]
