"""What conversations with peers are served from: the store, and the fetches that are running.

The bounds of all conversations together are kept here: how many are served at once, how much memory
they read into, and how many threads read for them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica.cid import CID, Codec
from lattica.errors import InvalidInput

from ._budget import Budget
from ._dag import LeafTable
from ._fetchers import Fetchers
from ._messages import HEAD_SIZE, Status, unpack_bitmap
from ._serve import Conversation, TooManyStreams, converse
from ._slots import Slots
from ._unixfs import MAX_BLOCK_BYTES, DagError
from ._values import ObjectState
from ._walk import Walker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lattica.identity import PeerId
    from lattica.transport import Stream

    from ._compress import Compress, LeafPacker
    from ._reading import BlockBatch
    from ._serve import Gains
    from ._traffic import ExchangeLimits, ExchangeStats
    from ._uploads import Uploads
    from .fetch import Fetch
    from .store import Store

_READERS = 4  # worker threads that read for all streams: more do not make two cores faster
_MAX_TABLES = 8  # files whose leaves were asked for by range lately
_TABLE_COST = 1024  # bytes of content that are read and hashed in the time of one leaf's row
_MAX_TABLE_LEAVES = 1 << 20  # of all of them: 40 MiB; larger files are asked for by hash


class StoreLibrary:
    """What conversations are served from: the store, and the fetches that are running."""

    def __init__(
        self,
        store: Store,
        fetches: Mapping[CID, Fetch],
        *,
        limits: ExchangeLimits,
        stats: ExchangeStats,
        compress: Compress,
        uploads: Uploads,
    ) -> None:
        """Serve `store`, and what `fetches` are bringing, as they change."""
        self.limits, self.stats = limits, stats
        self.compress, self.uploads = compress, uploads
        self.fetchers, self.queued_hashes = Fetchers(), 0
        self.queued_by: Counter[PeerId] = Counter()
        self._store, self._fetches = store, fetches
        self._readers = trio.CapacityLimiter(_READERS)
        self._lookers = trio.CapacityLimiter(1)
        self._slots = Slots[Conversation](limits.busy_streams, self._choke)
        self._choked: set[Conversation] = set()  # lost their slots, and are not through yet
        self._streams: Counter[PeerId] = Counter()
        self._wasted = Budget(None, limits.wasted_per_peer)
        self._scopes: set[trio.CancelScope] = set()
        self._ended = trio.Event()
        self._tables: OrderedDict[CID, LeafTable] = OrderedDict()

    async def serve(self, stream: Stream) -> None:
        """Handle one stream. Registered with the mesh."""
        if self._streams[stream.peer] >= self.limits.streams_per_peer:
            limit = self.limits.streams_per_peer
            raise TooManyStreams(f"more than {limit} content streams", peer=stream.peer)
        self._streams[stream.peer] += 1
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                await converse(stream, self)
            if scope.cancelled_caught:
                stream.reset()  # an answer that is cut must not look finished
        finally:
            self._scopes.discard(scope)
            self._streams[stream.peer] -= 1
            self._streams += Counter()  # drops peers without streams
            self._ended.set()

    async def close(self) -> None:
        """Stop serving. Waits for reads that are under way: the store may be closed next."""
        for scope in self._scopes:
            scope.cancel()
        with trio.CancelScope(shield=True):
            while self._scopes:
                self._ended = trio.Event()
                await self._ended.wait()

    def admit(self, conversation: Conversation) -> bool:
        """Say whether one more may be served: see `Slots`."""
        if len(self._choked - {conversation}) >= self.limits.busy_streams:
            return False
        if not self._slots.take(conversation, conversation.peer, trio.current_time()):
            return False
        self._choked.discard(conversation)
        return True

    def leave(self, conversation: Conversation) -> None:
        """One less is served."""
        self._slots.leave(conversation)
        self._choked.discard(conversation)

    def _choke(self, conversation: Conversation) -> None:
        self._choked.add(conversation)
        conversation.choke()

    def share(self) -> int:
        """Return the share of one stream: half of it is read while half of it is sent."""
        share = self.limits.read_bytes // (2 * max(1, len(self._slots) + len(self._choked)))
        least = min(self.limits.batch_bytes, self.uploads.piece_bytes or share)
        return max(1, min(least, share))

    async def read(
        self,
        hashes: Sequence[bytes],
        max_bytes: int,
        packer: LeafPacker | None = None,
        limit: int = MAX_BLOCK_BYTES,
    ) -> BlockBatch:
        """Read blocks in a worker thread, hashed and packed there. Cancelled, none is lost."""

        def read() -> BlockBatch:
            batch = self._store.read_blocks(hashes, max_bytes=max_bytes, gap=HEAD_SIZE, limit=limit)
            if packer is not None:
                packer.pack(batch)
            return batch

        return await trio.to_thread.run_sync(read, limiter=self._readers)

    async def sizes(self, multihashes: Sequence[bytes]) -> list[int | None]:
        """Look up in a worker thread how large blocks are; None for one that is not here."""
        look_up = partial(_sizes, self._store, multihashes)
        # Not a reader's: whoever asks for much must not keep those waiting who take it.
        return await trio.to_thread.run_sync(look_up, limiter=self._lookers)

    async def wait_to_send(self, peer: PeerId, size: int) -> None:
        """Return when so many bytes may be sent to `peer`."""
        await self.uploads.wait(peer, size)

    def took(self, conversation: Conversation, leaves: Sequence[tuple[int, int]]) -> None:
        """Count leaves that went out, each with its size and its bytes on the wire."""
        for sizes in leaves:
            self.stats.sent(conversation.peer, *sizes)
        wire = sum(wire for _, wire in leaves)
        self._slots.sent(conversation, wire, trio.current_time())

    def sent(self, peer: PeerId, size: int) -> None:
        """Count a block that went to `peer`."""
        self.stats.sent(peer, size, size)

    def wasted(self, peer: PeerId, size: int) -> None:
        """Count bytes that were read for `peer`, which then did not take them."""
        if size:
            self._wasted.spend(peer, size, trio.current_time())

    def paid_at(self, peer: PeerId) -> float:
        """Return when something may be read for `peer` again: now, unless much was in vain."""
        return self._wasted.ready_at(peer, trio.current_time())

    async def leaf_hashes(
        self, root: CID, first: int, count: int, peer: PeerId
    ) -> list[bytes] | Status:
        """Look a range of leaves up in the file's index, which is kept for the next range."""
        table = self._tables.get(root)
        if table is None:
            try:
                look_up = partial(_leaf_table, self._store, root)
                table = await trio.to_thread.run_sync(look_up, limiter=self._readers)
            except (DagError, InvalidInput):  # a directory, or no index of ours
                table = None
            if table is None:
                return Status.ABSENT
            self._remember(root, table)
            self.wasted(peer, len(table) * _TABLE_COST)  # or a stranger has them made in turn
        if len(table) > _MAX_TABLE_LEAVES:
            return Status.TOO_LARGE
        self._tables.move_to_end(root)
        return [table[leaf].multihash for leaf in range(first, min(first + count, len(table)))]

    def _remember(self, root: CID, table: LeafTable) -> None:
        self._tables[root] = table
        while len(self._tables) > 1 and (
            len(self._tables) > _MAX_TABLES
            or sum(map(len, self._tables.values())) > _MAX_TABLE_LEAVES
        ):
            self._tables.popitem(last=False)

    async def availability(self, root: CID, peer: PeerId) -> bytes | Gains | Status:
        """Say what of `root` is here. Who asks while we fetch it becomes one we may ask."""
        fetch = self._fetches.get(root)
        if fetch is not None:
            fetch.meet(peer)
            return fetch
        return await trio.to_thread.run_sync(self._held, root, limiter=self._readers)

    def _held(self, root: CID) -> bytes | Status:
        stored = self._store.object(root)
        if stored is not None and stored.state is ObjectState.COMPLETE:
            return b""
        held = self._store.availability(root)
        if held is None:
            changed = stored is not None and stored.state is ObjectState.CHANGED
            return Status.SOURCE_CHANGED if changed else Status.ABSENT
        return b"" if held.complete else unpack_bitmap(held.bitmap, held.leaf_count)


def _sizes(store: Store, multihashes: Sequence[bytes]) -> list[int | None]:
    return [store.size_of(multihash) for multihash in multihashes]


def _leaf_table(store: Store, root: CID) -> LeafTable | None:
    """Read a file's leaves from its index, one over the limit at most. None: not a file here."""
    table = LeafTable(root)
    if root.codec == Codec.RAW:
        table.append(0, root.multihash)
        return table
    walker = Walker(root)
    while not walker.done:
        for cid in walker.needed():
            block = store.read_index(cid)
            if block is None:
                return None
            walker.receive(cid, block)
        for leaf in walker.leaves():
            table.append(leaf.length, leaf.multihash)
            if len(table) > _MAX_TABLE_LEAVES:
                return table
    return table
