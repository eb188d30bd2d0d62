"""Blocks by their hash: from memory, from the store, else from peers.

What several wait for is asked for once. Peers are dialled when the first block is missing here, and
their streams are kept for the next one: a small read then costs a round trip, not a handshake.
Blocks that are missing at the same time are one stage of a `Planner`, as the leaves of a fetch are;
when all have come, the next ones begin a new stage. When nobody can help, whoever waits is told
why, and the next block that is missing has everybody asked afresh.
"""

from __future__ import annotations

import logging
from array import array
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.cid import CID, Codec, HashFunction
from lattica.errors import LatticaError

from ._dag import LARGE_LEAF, SMALL_LEAF
from ._events import LeafMismatch
from ._holes import zero_multihash
from ._messages import MAX_BLOCK
from ._planner import Planner
from ._providers import Providers
from ._stages import INDEX_ESTIMATE, UnexpectedAnswer, unpacked
from ._values import Absent

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator, Sequence

    from lattica.identity import PeerId
    from lattica.transport import Mesh, PeerInfo

    from ._bans import Bans
    from ._budget import Budget
    from ._events import FetchEvent
    from ._session import Item
    from ._stages import Stage
    from ._traffic import ExchangeLimits, ExchangeStats
    from ._unixfs import FileNode
    from .bitswap import Bitswap
    from .store import Store

_MAX_STAGE = 1 << 18  # blocks of one stage, some 40 bytes each; what comes then waits for the next
_LOCAL_BYTES = 1 << 20  # read from the store at once

_log = logging.getLogger(__name__)


class Want:
    """A block that somebody waits for.

    Attributes:
        multihash: what it hashes to.
        length: its bytes, where the index says so; None for an index block.
        offset: of its first byte in its file, for messages.
        path: of that file in its object, for messages.
        data: the block, proven, once it is here.
    """

    __slots__ = ("_ended", "_error", "data", "length", "multihash", "offset", "path")

    def __init__(self, multihash: bytes, length: int | None, offset: int, path: str) -> None:
        self.multihash, self.length, self.offset, self.path = multihash, length, offset, path
        self.data: bytes | None = None
        self._error: LatticaError | None = None
        self._ended: trio.Event | None = None

    @property
    def ended(self) -> bool:
        """Whether it is here, or has failed."""
        return self.data is not None or self._error is not None

    async def wait(self) -> bytes:
        """Return the block once it is here. Raises what kept it from coming."""
        if not self.ended:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self.data is not None
        return self.data

    def end(self, data: bytes | None = None, error: LatticaError | None = None) -> None:
        """Note what became of it, and wake who waits."""
        self.data, self._error = data, error
        if self._ended is not None:
            self._ended.set()


class _BlockStage:
    """The blocks that peers are asked for now. See `_stages.Stage`."""

    def __init__(self, root: CID, ids: Iterator[int]) -> None:
        self.is_content = True
        self.open = 0  # blocks that have not come
        self._root = root
        self._lengths = array("I")  # 0: not known
        self._wants: list[Want | None] = []  # None once it has come
        self.planner = Planner(0, self._size, ids=ids)

    def __len__(self) -> int:
        return len(self._wants)

    def add(self, wants: Sequence[Want]) -> None:
        """Have peers asked for these as well."""
        self._wants += wants
        self._lengths.extend(want.length or 0 for want in wants)
        self.open += len(wants)
        self.planner.extend(len(wants))

    def take(self, item: int) -> Want | None:
        """Return a block that has come, the first time it is asked for."""
        want, self._wants[item] = self._wants[item], None
        self.open -= want is not None
        return want

    def take_open(self) -> list[Want]:
        """Return the blocks that have not come; nobody waits for them here any more."""
        left = [want for want in self._wants if want is not None]
        self._wants = [None] * len(self._wants)
        self.open = 0
        return left

    def hashes(self, first: int, count: int) -> tuple[bytes, ...]:
        """As `Stage.hashes`. What has come is not asked for again."""
        wants = self._wants[first : first + count]
        return tuple(want.multihash for want in wants if want is not None)

    def codec(self, item: int) -> int:
        """As `Stage.codec`."""
        want = self._wants[item]
        return Codec.DAG_PB if want is not None and want.length is None else Codec.RAW

    def size_of(self, item: int) -> int:
        """As `Stage.size_of`."""
        return self._lengths[item]

    def check(self, item: int, length: int) -> None:
        """As `Stage.check`."""
        expected = self._lengths[item]
        want = self._wants[item]
        known = want is not None and want.length is not None
        if length > MAX_BLOCK or (known and length != expected):
            raise UnexpectedAnswer(f"block {item} of {length} bytes, not {expected or MAX_BLOCK}")

    def settle(self, items: Sequence[tuple[int, memoryview]]) -> list[int]:
        """As `Stage.settle`: what matches is kept in its `Want`."""
        wrong = []
        for item, received in items:
            want = self._wants[item]
            if want is None:
                continue
            view = unpacked(received, self._lengths[item] or len(received))
            if view is not None and _matches(want.multihash, view):
                want.data = bytes(view)
            else:
                wrong.append(item)
        return wrong

    def mismatch(self, item: int, peer: PeerId) -> LeafMismatch:
        """As `Stage.mismatch`."""
        want = self._wants[item]
        assert want is not None
        return LeafMismatch(
            cid=self._root if want.length is not None else CID(Codec.DAG_PB, want.multihash),
            leaf=-1,
            offset=want.offset,
            path=want.path,
            peer=peer,
            index=want.length is None,
        )

    def _size(self, item: int) -> int:
        return self._lengths[item] or INDEX_ESTIMATE


class Blocks:
    """Where the blocks of one object come from. `run` it in a nursery while it is used.

    Attributes:
        root: of the object.
        nodes: index blocks seen lately, decoded and proven: for `Walker`.
        received_bytes: content and index blocks that came from peers.
    """

    def __init__(
        self,
        mesh: Mesh,
        store: Store,
        root: CID,
        *,
        providers: Iterable[PeerInfo],
        more: AsyncIterable[PeerInfo | None] | None,
        limits: ExchangeLimits,
        stats: ExchangeStats,
        encodings: tuple[int, ...],
        bans: Bans,
        budget: Budget,
        patience: float,
        cache_bytes: int,
        bitswap: Bitswap | None = None,
    ) -> None:
        self.root, self._bitswap = root, bitswap
        self._mesh, self._store, self._limits, self._stats = mesh, store, limits, stats
        self._encodings = encodings
        self._known, self._more, self._patience = list(providers), more, patience
        self._bans, self._budget = bans, budget
        self.nodes: OrderedDict[CID, FileNode] = OrderedDict()
        self.received_bytes = 0
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()  # by multihash, oldest use first
        self._cached = 0  # bytes of them
        self._pending: dict[bytes, Want] = {}  # that peers are asked for, or will be
        self._queue: deque[Want] = deque()  # of these, those that no stage has yet
        self._queued = trio.Event()
        self._providers: Providers | None = None
        self._stage: _BlockStage | None = None
        self._done = trio.Event()  # with the present stage

    async def request(self, wants: Sequence[Want]) -> list[Want]:
        """Ask for blocks. Returns as many wants, of which those at hand have ended.

        Cancelled, nothing has been asked for.
        """
        found: dict[bytes, Want] = {}
        missing: list[Want] = []
        for want in wants:
            if want.multihash in found:
                continue
            known = self._pending.get(want.multihash)
            if known is None:
                known = want
                if (data := self._cache.get(want.multihash)) is not None:
                    self._cache.move_to_end(want.multihash)
                    known.end(data)
                else:
                    missing.append(want)
            found[want.multihash] = known
        if missing:
            await self._look_here(missing)
            found.update(self._ask(missing))
        return [found[want.multihash] for want in wants]

    async def get(self, multihash: bytes, length: int | None = None) -> bytes:
        """Return one block; an index block unless `length` says how long the leaf is."""
        (want,) = await self.request([Want(multihash, length, 0, "")])
        return await want.wait()

    async def run(self) -> None:
        """Have peers asked for what is missing here, until cancelled."""
        while True:
            await self._queued.wait()
            providers = Providers(
                self._mesh,
                self.root,
                self,
                self._limits,
                self._encodings,
                self._bans,
                self._budget,
                self._patience,
                watch=False,
                bitswap=self._bitswap,
            )
            self._providers = providers
            try:
                async with private_nursery() as nursery:
                    providers.join(self._known, self._more)
                    providers.start(nursery)
                    while True:
                        await self._queued.wait()
                        await self._work(providers)
            except* LatticaError as group:  # of sessions that failed just as all were ended
                _log.debug("a provider of %s was left: %s", self.root, group.exceptions[0])
            self._providers = None
            assert providers.failure is not None  # nothing else ends the nursery but our own end
            self._fail(providers.failure)

    # --- what is here

    async def _look_here(self, wants: Sequence[Want]) -> None:
        """End those that the store has, and those that are zeros."""
        for want in wants:
            if want.length in (SMALL_LEAF, LARGE_LEAF):
                function = HashFunction(want.multihash[0])
                if want.multihash == zero_multihash(function, want.length):
                    want.end(bytes(want.length))
        wants = [want for want in wants if not want.ended]
        here = await trio.to_thread.run_sync(self._read, [want.multihash for want in wants])
        for want in wants:
            if (data := here.get(want.multihash)) is not None:
                want.end(data)
                self._remember(want.multihash, data)

    def _read(self, multihashes: list[bytes]) -> dict[bytes, bytes]:
        """*Slow.* Read what the store has, each proven by its hash."""
        found: dict[bytes, bytes] = {}
        while multihashes:
            with self._store.read_blocks(
                multihashes, max_bytes=_LOCAL_BYTES, stopped=True
            ) as batch:
                for multihash, block in zip(multihashes, batch.blocks, strict=False):
                    if not isinstance(block, Absent):
                        found[multihash] = bytes(block)
                multihashes = multihashes[len(batch) :]
        return found

    def _remember(self, multihash: bytes, data: bytes) -> None:
        if multihash in self._cache or len(data) > self._cache_bytes:
            return
        self._cache[multihash] = data
        self._cached += len(data)
        while self._cached > self._cache_bytes:
            self._cached -= len(self._cache.popitem(last=False)[1])

    # --- what is not

    def _ask(self, wants: Sequence[Want]) -> dict[bytes, Want]:
        """Have peers asked for what has not ended, unless they are asked already."""
        asked: dict[bytes, Want] = {}
        for want in wants:
            if want.ended:
                continue
            known = self._pending.setdefault(want.multihash, want)
            asked[want.multihash] = known
            if known is want:
                self._queue.append(want)
        if self._queue:
            if self._stage is not None and not self._done.is_set():
                self._plan(self._stage)
            self._queued.set()
        return asked

    def _plan(self, stage: _BlockStage) -> None:
        room = max(0, _MAX_STAGE - len(stage))
        batch = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
        if batch:
            stage.add(batch)
            if self._providers is not None:
                self._providers.ring()

    async def _work(self, providers: Providers) -> None:
        """Have all that is queued fetched, and what is asked for meanwhile."""
        self._stage, self._done = _BlockStage(self.root, providers.ids), trio.Event()
        self._plan(self._stage)
        await providers.work(self._stage, self._done)
        self._stage = None
        if not self._queue:
            self._queued = trio.Event()

    def _fail(self, error: LatticaError) -> None:
        """Tell whoever waits that nobody can help."""
        left = [*(self._stage.take_open() if self._stage else ()), *self._queue]
        self._queue.clear()
        self._stage, self._queued = None, trio.Event()
        for want in left:
            self._pending.pop(want.multihash, None)
            want.end(error=error)

    # --- what providers bring (see `_providers.Keeper`)

    async def settle(self, peer: PeerId, stage: Stage, items: list[Item]) -> LeafMismatch | None:
        """Check what `peer` sent, and give it to who waits for it."""
        assert isinstance(stage, _BlockStage)
        assert self._providers is not None
        wrong = await trio.to_thread.run_sync(stage.settle, items)
        lie = stage.mismatch(wrong[0], peer) if wrong else None
        if lie is not None:
            self._providers.ban(lie)
        for item, _ in items:
            if item in wrong:
                stage.planner.leaf_wrong(item)
                continue
            stage.planner.leaf_verified(item)
            want = stage.take(item)
            if want is not None and want.data is not None:
                self._pending.pop(want.multihash, None)
                self._remember(want.multihash, want.data)
                want.end(want.data)
        if stage is self._stage and not stage.open:
            self._done.set()
        self._providers.gained(stage.planner)
        if lie is not None:
            self._providers.ring()
        return lie

    def received(self, peer: PeerId, stage: Stage | None, size: int, wire: int) -> None:
        """Count what came."""
        self.received_bytes += size
        self._stats.received(peer, size, wire)

    def tell(self, event: FetchEvent) -> None:
        """Nobody listens: a read tells of trouble by failing."""


def _matches(multihash: bytes, data: memoryview) -> bool:
    function = HashFunction(multihash[0])
    return function.digest(data) == multihash[2:]
