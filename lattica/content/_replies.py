"""Answers on their way to one peer: framed around the blocks they bring, sent, and let go.

The store leaves 16 bytes free in front of each block, where the head goes, so that a run of leaves
is a single send, straight from the buffer it was read into.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.errors import LimitExceeded

from ._messages import (
    HEAD_SIZE,
    AnswerHead,
    AnswerKind,
    Status,
    encode_have,
    pack_bitmap,
    packed_leaf,
    write_leaf_head,
)
from ._values import Absent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.transport import Stream

    from ._reading import BlockBatch
    from ._uploads import Uploads

_NEWS_LEAVES = 2048  # that one answer tells of at most, when leaves are gained here and there
HURRIED_SECONDS = 5.0  # for one batch, to a peer that is not to be served now
_WHY_ABSENT = {
    Absent.NOT_HERE: Status.ABSENT,
    Absent.SOURCE_CHANGED: Status.SOURCE_CHANGED,
    Absent.TOO_LARGE: Status.TOO_LARGE,
}


class SlowReader(LimitExceeded):
    """A peer asked for content and does not take it."""

    code = "slow-reader"
    hint = "the peer, or the way to it, is too slow; it may ask again"


@dataclass(slots=True)
class Piece:
    """Part of an answer, ready to be sent; with `end`, its last. `batch` owns the memory."""

    request_id: int
    views: list[bytes | memoryview]
    batch: BlockBatch | None = None
    leaf_sizes: Sequence[tuple[int, int]] = ()  # of each leaf: content bytes, bytes on the wire
    end: bool = False

    def release(self) -> None:
        """Give the memory back. Nothing of it may be sent afterwards."""
        if self.batch is not None:
            self.batch.release()


class Sender:
    """The sending side of one stream, shared by all that answer on it."""

    def __init__(self, stream: Stream, uploads: Uploads, seconds: float) -> None:
        """Send on `stream`; a peer that takes longer than `seconds` for one batch is a slow one."""
        self._stream, self._uploads = stream, uploads
        self._usual_seconds = self._seconds = seconds
        self._turn = trio.Lock()
        self._scope = trio.CancelScope()  # of the batch that is being sent

    async def send(self, views: Sequence[bytes | memoryview], *, content: bool = False) -> None:
        """Send all of it, `content` no faster than the upload limit says. Raises SlowReader."""
        async with self._turn:
            if not content or (step := self._uploads.piece_bytes) is None:
                await self._send_at_once(views)
                return
            for view in views:
                for start in range(0, len(view), step):
                    part = view[start : start + step]
                    await self._uploads.wait(self._stream.peer, len(part))
                    await self._send_at_once([part])

    def hurry(self) -> None:
        """Give the peer little time for what is on its way, and for each batch to come."""
        self._seconds = min(self._seconds, HURRIED_SECONDS)
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._seconds)

    def relax(self) -> None:
        """Give the peer the usual time again for what is to come."""
        self._seconds = self._usual_seconds

    async def _send_at_once(self, views: Sequence[bytes | memoryview]) -> None:
        seconds = self._seconds
        with trio.move_on_after(seconds) as self._scope:
            for view in views:
                await self._stream.send_all(view)
        if self._scope.cancelled_caught:
            size = sum(map(len, views))
            text = f"{size} bytes were not taken in {seconds:.0f} s"
            if self._seconds < seconds:
                text = f"{size} bytes were taken too slowly while others waited"
            raise SlowReader(text, peer=self._stream.peer)


def frame(
    batch: BlockBatch, request_id: int, number: int
) -> tuple[list[bytes | memoryview], list[tuple[int, int]]]:
    """Return what to send for a batch, heads written before their blocks.

    And of each leaf that is sent the content bytes and the bytes on the wire.
    """
    views: list[bytes | memoryview] = []
    sizes: list[tuple[int, int]] = []
    start = end = -1  # of the run of blocks in the buffer that is being gathered

    def put(view: bytes) -> None:
        nonlocal start, end
        if end > start:
            views.append(batch.buffer[start:end])
        start = end = -1
        views.append(view)

    for position, (block, offset) in enumerate(zip(batch.blocks, batch.offsets, strict=True)):
        if isinstance(block, Absent):
            put(bytes(AnswerHead(AnswerKind.LEAF, _WHY_ABSENT[block], 0, 0, request_id, number, 0)))
        elif offset < 0:
            head = AnswerHead(AnswerKind.LEAF, Status.OK, 0, 0, request_id, number, len(block))
            put(b"".join((bytes(head), block)))
            sizes.append((len(block), len(block)))
        elif (packed := batch.packed.get(position)) is not None:
            put(packed_leaf(request_id, number, packed))
            sizes.append((len(block), len(packed)))
        else:
            size, head_start = len(block), offset - HEAD_SIZE
            if head_start != end:
                if end > start:
                    views.append(batch.buffer[start:end])
                start = head_start
            head_view = batch.buffer[head_start:offset]
            write_leaf_head(head_view, request_id, number, Status.OK, size)
            end = offset + size
            sizes.append((size, size))
        number += 1
    if end > start:
        views.append(batch.buffer[start:end])
    return views, sizes


def news(request_id: int, before: bytes, now: bytes) -> bytes:
    """Return HAVE answers for the leaves that are new; b"" for none. Long gaps are left out."""
    difference = int.from_bytes(before, "little") ^ int.from_bytes(now, "little")
    changed = difference.to_bytes(len(now), "little")
    out, leaf = bytearray(), changed.find(1)
    while leaf >= 0:
        first = leaf // 8 * 8
        end = changed.rfind(1, first, first + _NEWS_LEAVES) + 1
        out += encode_have(request_id, first, pack_bitmap(now[first:end]))
        leaf = changed.find(1, end)
    return bytes(out)
