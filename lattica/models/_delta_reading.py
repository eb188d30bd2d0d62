"""Tensors of one version from those of another, by the payloads of deltas, read where those are.

A delta has a payload for each tensor that changed (spec/delta.md). Payloads are ranges of a file
like any other: those that are needed are read, applied and hashed, and what comes of it either is
the tensor that is wanted or is dropped, to be read whole.

Which version the old tensors are of is written nowhere. So the smallest that changed are tried with
each way of deltas, the cheapest first, and the way that leads to the right bytes is taken for the
rest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from lattica._nursery import private_nursery
from lattica.cid import HashFunction
from lattica.codec import tensor_bytes
from lattica.content import segment_cid
from lattica.errors import LatticaError

from ._checkpoint import BLOCK_BYTES
from ._delta_codec import (
    LENGTH,
    PAYLOAD_HEAD,
    DeltaError,
    decode_block,
    longest_block,
    read_head,
)
from ._delta_format import Delta, parse_delta
from ._delta_plan import cheapest_chain
from ._safetensors import LENGTH_BYTES, Tensor, header_size, parse_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica.cid import CID
    from lattica.content import ObjectReader

    from ._delta_plan import DeltaLink
    from ._view import TensorInfo

    OpenDelta = Callable[[CID], AbstractAsyncContextManager[ObjectReader]]
    Way = Sequence[DeltaLink]

_PIECE_BYTES = 8 << 20  # of a payload read at once
_TENSORS = 4  # made at the same time, where each has memory of its own
_PROBES = 3  # tensors without any way that fits, after which the old ones are taken for strangers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A tensor that is to be made of an older one.

    Attributes:
        tensor: what is wanted; its CID is known.
        old: the older one, of the same dtype and shape.
        out: where it goes.
        in_place: whether `out` is the memory of `old`: then it is written once all is right.
    """

    tensor: TensorInfo
    old: Any
    out: memoryview
    in_place: bool = False


class DeltaWays:
    """The deltas that lead to an object, for whoever reads its tensors."""

    def __init__(self, links: Sequence[DeltaLink], open_delta: OpenDelta) -> None:
        """Note which deltas may be had; `open_delta` opens one, and nothing is opened before."""
        self._links, self._open_delta = list(links), open_delta
        self._readers: list[ObjectReader] = []
        self._received = 0

    @property
    def received_bytes(self) -> int:
        """What came over the network of all deltas so far."""
        return self._received + sum(reader.received_bytes for reader in self._readers)

    async def make(
        self, root: CID, changes: Sequence[Change], progress: Callable[[int], object] | None
    ) -> set[str]:
        """Make tensors of the file `root` out of older ones, as far as deltas lead there.

        Args:
            root: of the file that has them.
            changes: what is wanted, and what there is.
            progress: called with the bytes of each tensor that was made.

        Returns:
            The names of those that were made, and are right. The `out` of others may hold anything,
            unless it is the old tensor.
        """
        ways = self._ways_to(root, sum(one.tensor.length for one in changes))
        made: set[str] = set()
        if not ways:
            return made
        async with private_nursery() as nursery:
            opened = _OpenDeltas(self._open_delta, self._readers, nursery)
            await _make(opened, ways, changes, made, progress)
            self._received = self.received_bytes
            self._readers.clear()
            nursery.cancel_scope.cancel()
        return made

    def _ways_to(self, root: CID, limit: int) -> list[Way]:
        """Return the cheapest way from each version that deltas lead from, the cheapest first."""
        bases = dict.fromkeys(link.base for link in self._links)
        found = (cheapest_chain(root, {base}, self._links, limit) for base in bases)
        ways = [way for way in found if way]
        return sorted(ways, key=lambda way: sum(link.size for link in way))


async def _make(
    opened: _OpenDeltas,
    ways: list[Way],
    changes: Sequence[Change],
    made: set[str],
    progress: Callable[[int], object] | None,
) -> None:
    """Make one tensor after the other until a way is known that fits, then some at a time."""
    room = trio.CapacityLimiter(1 if any(one.in_place for one in changes) else _TENSORS)
    waiting = sorted(changes, key=lambda one: one.tensor.length, reverse=True)

    async def make(one: Change) -> None:
        async with room:
            for way in list(ways):
                if await _apply(opened, way, one):
                    ways.remove(way)
                    ways.insert(0, way)  # the next one most likely comes by it, too
                    made.add(one.tensor.name)
                    if progress is not None:
                        progress(one.tensor.length)
                    return

    for _ in range(_PROBES):
        if waiting and not made:
            await make(waiting.pop())
    if made:
        async with private_nursery() as nursery:
            for one in reversed(waiting):
                nursery.start_soon(make, one)


async def _apply(opened: _OpenDeltas, way: Way, change: Change) -> bool:
    """Make a tensor by the payloads along a way; False where that is no use."""
    size = change.tensor.length
    try:
        files = [await opened.file(link) for link in way]
        steps = [(one, one.payloads[name]) for one in files if (name := change.tensor.name) in one]
        if not steps or sum(step.stop - step.start for _, step in steps) >= size:
            return False
        old = tensor_bytes(change.old)
        assert old is not None  # it was compared before
        out = memoryview(bytearray(size)) if change.in_place else change.out
        base = old.data
        for file, step in steps:
            await _decode(_Payload(file.reader, step), base, out)
            base = out
    except LatticaError as error:
        logger.info("the deltas to %s are of no use: %s", change.tensor.name, error)
        return False
    cid = change.tensor.cid
    assert cid is not None  # tensors without one are not asked for
    function = HashFunction(cid.hash_function)
    if await trio.to_thread.run_sync(segment_cid, out, function) != cid:
        return False
    if change.in_place:
        change.out[:] = out
    return True


async def _decode(payload: _Payload, base: memoryview, out: memoryview) -> None:
    """Write what a payload makes of `base` into `out`, which may be the same memory."""
    codec, width = read_head(await payload.take(PAYLOAD_HEAD.size), len(out))
    for start in range(0, len(out), BLOCK_BYTES):
        piece = slice(start, start + BLOCK_BYTES)
        block = await payload.block(longest_block(len(out[piece]), width))
        await trio.to_thread.run_sync(decode_block, codec, block, base[piece], out[piece], width)
    payload.finish()


class _Payload:
    """Reads one payload from front to back, some mebibytes at a time."""

    def __init__(self, reader: ObjectReader, payload: Tensor) -> None:
        self._reader, self._payload = reader, payload
        self._position, self._ahead = payload.start, memoryview(b"")

    async def take(self, length: int) -> memoryview:
        """Return the next bytes. Raises DeltaError where there are not as many."""
        if (lacking := length - len(self._ahead)) > 0:
            rest = self._payload.stop - self._position
            if lacking > rest:
                raise DeltaError(f"the payload of {self._payload.name!r} ends early")
            count = min(rest, max(lacking, _PIECE_BYTES))
            more = await self._reader.read(self._position, count)
            self._position += count
            self._ahead = memoryview(bytes(self._ahead) + more)
        taken, self._ahead = self._ahead[:length], self._ahead[length:]
        return taken

    async def block(self, limit: int) -> memoryview:
        """Return the next block. Raises DeltaError where it is longer than it may be."""
        (length,) = LENGTH.unpack(await self.take(LENGTH.size))
        if length > limit:
            raise DeltaError(f"a block of {length} bytes, limit {limit}")
        return await self.take(length)

    def finish(self) -> None:
        """Raise DeltaError where anything is left."""
        if self._ahead or self._position != self._payload.stop:
            raise DeltaError(f"bytes behind the payload of {self._payload.name!r}")


@dataclass(frozen=True, slots=True)
class _DeltaFile:
    """A delta that is open."""

    reader: ObjectReader
    payloads: dict[str, Tensor] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.payloads


class _OpenDeltas:
    """Opens deltas, each once, and keeps them open in a nursery."""

    def __init__(
        self, open_delta: OpenDelta, readers: list[ObjectReader], nursery: trio.Nursery
    ) -> None:
        self._open_delta, self._readers, self._nursery = open_delta, readers, nursery
        self._found: dict[CID, _DeltaFile | LatticaError] = {}
        self._lock = trio.Lock()

    async def file(self, link: DeltaLink) -> _DeltaFile:
        """Return an open delta. Raises what it was not opened for, each time."""
        async with self._lock:
            if link.delta not in self._found:
                try:
                    self._found[link.delta] = await self._nursery.start(self._hold, link)
                except LatticaError as error:
                    self._found[link.delta] = error
        found = self._found[link.delta]
        if isinstance(found, LatticaError):
            raise found
        return found

    async def _hold(self, link: DeltaLink, task_status: trio.TaskStatus[_DeltaFile]) -> None:
        async with self._open_delta(link.delta) as reader:
            self._readers.append(reader)
            delta = await _read_delta(reader, link)
            payloads = {one.name: one for one in delta.payloads if one.name != delta.header}
            task_status.started(_DeltaFile(reader, payloads))
            await trio.sleep_forever()


async def _read_delta(reader: ObjectReader, link: DeltaLink) -> Delta:
    """Read what a delta says of itself. Raises InvalidInput where it is not what was named."""
    if reader.size != link.size:
        raise DeltaError(f"{link.delta} has {reader.size} bytes, expected {link.size}")
    start = await reader.read(0, min(LENGTH_BYTES, reader.size))
    header = await reader.read(0, header_size(start, reader.size))
    parsed = await trio.to_thread.run_sync(parse_header, header, reader.size)
    delta = parse_delta(parsed, str(link.delta))
    if (delta.base, delta.result) != (link.base, link.result):
        raise DeltaError(f"{link.delta} leads from {delta.base} to {delta.result}")
    return delta
