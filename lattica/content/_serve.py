"""Answering one peer on one stream: requests read, blocks read ahead from disk, answers sent.

Three tasks share a stream. One reads requests into a bounded queue, so that a cancellation is heard
while leaves are on their way out. One takes requests in order and reads the next batch of blocks in
a worker thread. One sends the batch before it (`_replies`). A stream holds two batches at most,
however much is asked of it.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from lattica._nursery import private_nursery
from lattica.errors import LatticaError, LimitExceeded, ProtocolError

from ._compress import LeafPacker
from ._fetchers import Fetchers, encode_peers, read_addresses
from ._messages import (
    MAX_BLOCK,
    MAX_REQUEST,
    MAX_UNANSWERED,
    BlocksRequest,
    CancelRequest,
    Encoding,
    HaveRequest,
    LeavesRequest,
    PeersRequest,
    Request,
    Status,
    UnknownRequest,
    decode_request,
    encode_end,
    encode_have,
    encode_have_all,
    pack_bitmap,
)
from ._replies import Piece, Sender, frame, news
from ._values import Absent

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Stream

    from ._compress import Compress
    from ._reading import BlockBatch
    from ._traffic import ExchangeLimits, ExchangeStats
    from ._uploads import Uploads

# What requests cost that bring nobody any content, as bytes that were read in vain: a look-up of a
# block takes as long as 16 KiB, an answer of another kind as long as 128.
_LOOKUP_COST, _ANSWER_COST, _CANCEL_COST = 16 << 10, 128 << 10, 8 << 10
_BUSY_SECONDS = 1.0  # that a peer waits at most for the answer that it has to wait
_MAX_FETCHED = 16  # objects that a peer asks for the fetchers of, on one stream
_log = logging.getLogger(__name__)


class TooManyRequests(ProtocolError):
    """A peer asked for more at once than the protocol allows."""

    code = "too-many-requests"
    hint = f"a fetcher waits with more than {MAX_UNANSWERED} unanswered requests"


class TooManyStreams(LimitExceeded):
    """A peer has as many streams open as we serve."""

    code = "too-many-content-streams"
    hint = "a fetcher needs one stream per provider"


class Gains(Protocol):
    """The leaves of an object that is being fetched here, as they become verified."""

    @property
    def complete(self) -> bool:
        """Whether every leaf is here."""

    def flags(self) -> bytes:
        """Return a byte for each leaf: 1 if it is here, else 0."""

    @property
    def version(self) -> int:
        """Counts the times that leaves were gained."""

    async def changed(self, version: int) -> bool:
        """Wait until `version` is not the newest any more. False: no more will come."""


class Library(Protocol):
    """What `Conversation` serves from: the exchange over the store, with node-wide bounds."""

    limits: ExchangeLimits
    stats: ExchangeStats
    compress: Compress
    fetchers: Fetchers
    uploads: Uploads
    queued_hashes: int  # of requests that are not answered, on all streams
    queued_by: Counter[PeerId]  # the same, by who asks; nobody is listed with none

    async def read(
        self,
        hashes: Sequence[bytes],
        max_bytes: int,
        packer: LeafPacker | None = None,
        limit: int = MAX_BLOCK,
    ) -> BlockBatch:
        """Return the first of these blocks, as `Store.read_blocks` with room for heads.

        With a packer, those that shrink are packed. Those over `limit` bytes are not read.
        """

    def wasted(self, peer: PeerId, size: int) -> None:
        """Count bytes that were read for `peer`, which then did not take them."""

    def paid_at(self, peer: PeerId) -> float:
        """Return when something may be read for `peer` again: now, unless much was in vain."""

    async def leaf_hashes(
        self, root: CID, first: int, count: int, peer: PeerId
    ) -> list[bytes] | Status:
        """Return the multihashes of a range of leaves, or why not; `peer` asks."""

    async def availability(self, root: CID, peer: PeerId) -> bytes | Gains | Status:
        """Return what of `root` is here: flags, or what is being gained, or why it cannot be told.

        b"" stands for everything.
        """

    def admit(self, conversation: Conversation) -> bool:
        """Say whether `conversation` may be served now; it calls `leave` when it is through.

        It may lose that when others wait, and is told so by its `choke`.
        """

    def leave(self, conversation: Conversation) -> None:
        """Give back what `admit` gave."""

    def took(self, conversation: Conversation, leaves: Sequence[tuple[int, int]]) -> None:
        """Note leaves that were sent, each with its size and its bytes on the wire."""

    def share(self) -> int:
        """Return how many bytes a conversation may read at once, as things are."""


@dataclass(frozen=True, slots=True)
class _PutOff:
    """A request that came when too much was asked already; what it asked for is not kept."""

    id: int


class Conversation:
    """One stream, from the provider's side. `run` it once."""

    def __init__(self, stream: Stream, library: Library) -> None:
        self._stream, self._library = stream, library
        self._queue: deque[Request | _PutOff] = deque()
        self._queued_hashes = 0  # of these, and of the one that is being answered
        self._unanswered = 0
        self._open: set[int] = set()  # ids of requests that are not answered, or pushed for
        self._cancelled: set[int] = set()  # some of them
        self._pushing: dict[int, trio.CancelScope] = {}
        self._fetched: set[CID] = set()  # what the peer asked the fetchers of
        self._asked = trio.Event()
        self._finished = False  # the peer will ask no more
        limits = library.limits
        self._sender = Sender(stream, library.uploads, limits.send_seconds)
        self._packer = LeafPacker(library.compress)
        self._choked = False  # others are served first

    async def run(self) -> None:
        """Serve until the peer is done, and everything is answered.

        Raises:
            ProtocolError: the peer broke the protocol.
            SlowReader: it does not take what it asked for.
            trio.BrokenResourceError: it left.
        """
        outbox, inbox = trio.open_memory_channel[Piece](0)
        try:
            async with private_nursery() as nursery:
                nursery.start_soon(self._answer, outbox, nursery)
                nursery.start_soon(self._send_pieces, inbox)
                try:
                    await self._read_requests()
                    self._finished = True
                    self._asked.set()
                    for scope in self._pushing.values():
                        scope.cancel()
                except BaseException:
                    nursery.cancel_scope.cancel()
                    raise
        finally:
            self._unqueue(self._queued_hashes)
            for root in self._fetched:
                self._library.fetchers.leave(root, self._stream.peer, trio.current_time())

    @property
    def peer(self) -> PeerId:
        """Who asks."""
        return self._stream.peer

    def choke(self) -> None:
        """Let others be served first: what is not read yet is answered BUSY, the rest is hurried.

        Until it is admitted again, for a later request.
        """
        self._choked = True
        self._sender.hurry()

    # --- requests in

    async def _read_requests(self) -> None:
        while (data := await self._stream.receive_message(MAX_REQUEST)) is not None:
            request = decode_request(data)
            if isinstance(request, CancelRequest):
                if not self._cancel(request.id):
                    await self._pay(_CANCEL_COST)
                continue
            if self._unanswered == MAX_UNANSWERED or request.id in self._open:
                raise TooManyRequests(
                    f"request {request.id} beside {self._unanswered} unanswered ones, limit"
                    f" {MAX_UNANSWERED}, each with an id of its own",
                    peer=self._stream.peer,
                )
            self._open.add(request.id)
            self._unanswered += 1
            self._queue.append(self._thinned(request))
            self._asked.set()

    def _thinned(self, request: Request) -> Request | _PutOff:
        """Return what of a request is worth keeping until its turn comes."""
        if isinstance(request, BlocksRequest):
            count = len(request.hashes)
            library, peer = self._library, self._stream.peer
            limits = library.limits
            if (
                library.queued_hashes + count > limits.queued_hashes
                or library.queued_by[peer] + count > limits.queued_hashes_of_one
            ):
                return _PutOff(request.id)
            library.queued_hashes += count
            library.queued_by[peer] += count
            self._queued_hashes += count
        # What we do not know takes sixty times its size on the wire, and is of no use.
        return replace(request, extra={}) if request.extra else request

    def _unqueue(self, hashes: int) -> None:
        library, peer = self._library, self._stream.peer
        library.queued_hashes -= hashes
        self._queued_hashes -= hashes
        library.queued_by[peer] -= hashes
        if not library.queued_by[peer]:
            del library.queued_by[peer]

    def _cancel(self, request_id: int) -> bool:
        """Answer a request no more; False where none is open that was not cancelled before."""
        if request_id in self._pushing:
            self._pushing[request_id].cancel()
            return True
        if request_id not in self._open or request_id in self._cancelled:
            return False
        self._cancelled.add(request_id)
        return True

    # --- answers made

    async def _answer(self, outbox: trio.MemorySendChannel[Piece], nursery: trio.Nursery) -> None:
        async with outbox:
            while True:
                if not self._queue:
                    if self._finished:
                        return
                    self._asked = trio.Event()
                    await self._asked.wait()
                    continue
                try:
                    while self._queue:
                        request = self._queue.popleft()
                        await self._answer_one(outbox, request, nursery)
                        if isinstance(request, BlocksRequest):
                            self._unqueue(len(request.hashes))
                finally:
                    self._library.leave(self)

    async def _answer_one(
        self,
        outbox: trio.MemorySendChannel[Piece],
        request: Request | _PutOff,
        nursery: trio.Nursery,
    ) -> None:
        try:
            if isinstance(request, HaveRequest | PeersRequest | UnknownRequest):
                await self._pay(_ANSWER_COST)
            if isinstance(request, HaveRequest):
                status = await self._answer_have(outbox, request, nursery)
            elif isinstance(request, PeersRequest):
                status = await self._answer_peers(outbox, request)
            elif isinstance(request, UnknownRequest | CancelRequest):
                status = Status.UNKNOWN
            elif self._is_wasting:
                status = await self._put_off()
            elif isinstance(request, _PutOff) or not self._admit():
                status = Status.BUSY
            elif isinstance(request, LeavesRequest):
                status = await self._answer_leaves(outbox, request)
            else:
                status = await self._answer_blocks(outbox, request, request.hashes, 0)
        except (ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:  # noqa: BLE001  # one request that trips us must not end the service
            _log.exception("request %s of %s failed", request.id, self._stream.peer)
            status = Status.FAILED
        await self._end(outbox, request, status)

    async def _pay(self, cost: int) -> None:
        """Wait until the peer has made up for what was in vain, then count this as well."""
        await trio.sleep_until(self._library.paid_at(self._stream.peer))
        self._library.wasted(self._stream.peer, cost)

    async def _put_off(self) -> Status:
        """Have the peer wait, or it would ask again at once; not for long, or it gives us up."""
        now = trio.current_time()
        await trio.sleep_until(min(self._library.paid_at(self._stream.peer), now + _BUSY_SECONDS))
        return Status.BUSY

    @property
    def _is_wasting(self) -> bool:
        return self._library.paid_at(self._stream.peer) > trio.current_time()

    def _admit(self) -> bool:
        if not self._library.admit(self):
            return False
        if self._choked:
            self._choked = False
            self._sender.relax()
        return True

    async def _answer_leaves(
        self, outbox: trio.MemorySendChannel[Piece], request: LeavesRequest
    ) -> Status:
        hashes = await self._library.leaf_hashes(
            request.root, request.first, request.count, self._stream.peer
        )
        if isinstance(hashes, Status):
            return hashes
        status = await self._answer_blocks(outbox, request, hashes, request.first)
        return Status.ABSENT if status is Status.OK and len(hashes) < request.count else status

    async def _answer_blocks(
        self,
        outbox: trio.MemorySendChannel[Piece],
        request: BlocksRequest | LeavesRequest,
        hashes: Sequence[bytes],
        number: int,
    ) -> Status:
        """Read and pass on all of `hashes`, numbered from `number` on."""
        limit = request.limit if isinstance(request, BlocksRequest) else MAX_BLOCK
        reads_planes = Encoding.ZSTD_PLANES in request.encodings
        done = 0
        while done < len(hashes) and request.id not in self._cancelled:
            if self._choked:
                return Status.BUSY
            packer = self._packer if reads_planes and self._packer.pays else None
            batch = await self._library.read(hashes[done:], self._library.share(), packer, limit)
            count = len(batch)  # it is gone once it is sent
            absent = sum(isinstance(block, Absent) for block in batch.blocks)
            self._library.wasted(self._stream.peer, absent * _LOOKUP_COST)
            sizes: list[tuple[int, int]] = []
            try:
                views, sizes = frame(batch, request.id, number + done)
                await outbox.send(Piece(request.id, views, batch, sizes))
            except BaseException:
                self._note_wasted(sizes)
                batch.release()
                raise
            done += count
        return Status.OK

    async def _answer_have(
        self,
        outbox: trio.MemorySendChannel[Piece],
        request: HaveRequest,
        nursery: trio.Nursery,
    ) -> Status:
        held = await self._library.availability(request.root, self._stream.peer)
        if isinstance(held, Status):
            return held
        if isinstance(held, bytes):
            have = encode_have(request.id, 0, pack_bitmap(held))
            await outbox.send(Piece(request.id, [have if held else encode_have_all(request.id)]))
            return Status.OK
        version, flags = held.version, held.flags()
        await outbox.send(Piece(request.id, [encode_have(request.id, 0, pack_bitmap(flags))]))
        if request.push and len(self._pushing) < self._library.limits.pushes_per_stream:
            scope = self._pushing[request.id] = trio.CancelScope()
            nursery.start_soon(partial(self._push, request.id, held, version, flags, scope))
        return Status.OK

    async def _answer_peers(
        self, outbox: trio.MemorySendChannel[Piece], request: PeersRequest
    ) -> Status:
        fetchers, peer = self._library.fetchers, self._stream.peer
        remote = self._stream.connection.remote_address
        others = fetchers.others(request.root, peer, remote, trio.current_time())
        if request.root not in self._fetched:
            if len(self._fetched) == _MAX_FETCHED:
                return Status.BUSY
            self._fetched.add(request.root)
            fetchers.join(request.root, peer, read_addresses(request.addresses), remote)
        await outbox.send(Piece(request.id, [encode_peers(request.id, others)]))
        return Status.OK

    async def _end(
        self,
        outbox: trio.MemorySendChannel[Piece],
        request: Request | _PutOff,
        status: Status,
    ) -> None:
        if request.id in self._cancelled:
            status = Status.CANCELLED
        await outbox.send(Piece(request.id, [encode_end(request.id, status)], end=True))

    # --- answers out

    async def _send_pieces(self, inbox: trio.MemoryReceiveChannel[Piece]) -> None:
        async with inbox:
            async for piece in inbox:
                taken = False
                try:
                    if piece.end or piece.request_id not in self._cancelled:
                        await self._send_piece(piece)
                        taken = True
                finally:
                    if not taken:
                        self._note_wasted(piece.leaf_sizes)
                    piece.release()
                if piece.end:
                    self._unanswered -= 1
                    self._cancelled.discard(piece.request_id)
                    if piece.request_id not in self._pushing:
                        self._open.discard(piece.request_id)
        await self._stream.send_eof()

    async def _send_piece(self, piece: Piece) -> None:
        began = trio.current_time()
        await self._sender.send(piece.views, content=bool(piece.leaf_sizes))
        if piece.leaf_sizes:
            wire = sum(size for _, size in piece.leaf_sizes)
            self._packer.note_sent(wire, trio.current_time() - began)
            self._library.took(self, piece.leaf_sizes)

    def _note_wasted(self, leaf_sizes: Sequence[tuple[int, int]]) -> None:
        self._library.wasted(self._stream.peer, sum(size for size, _ in leaf_sizes))

    async def _push(
        self, request_id: int, gains: Gains, version: int, told: bytes, scope: trio.CancelScope
    ) -> None:
        """Tell the peer what is gained, at most a few times a second, until it has had enough."""
        with scope:
            while await gains.changed(version):
                if gains.complete:
                    await self._sender.send([encode_have_all(request_id)])
                    break
                version, flags = gains.version, gains.flags()
                if told_news := news(request_id, told, flags):
                    await self._sender.send([told_news])
                told = flags
                await trio.sleep(self._library.limits.push_seconds)
        del self._pushing[request_id]
        self._open.discard(request_id)


async def converse(stream: Stream, library: Library) -> None:
    """Serve one stream to its end; what the peer does wrong resets it."""
    try:
        await Conversation(stream, library).run()
    except* (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
        # A group where a stream that was lost failed its reader and its sender at once.
        _log.debug("stopped serving %s: %s", stream.peer, group.exceptions[0])
        stream.reset()
