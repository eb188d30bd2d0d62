"""Talking to one provider on one stream: requests out as planned, answers in, settled in batches.

Two tasks share the stream. One sends what the planner wants asked, whenever something may have
changed. The other takes pieces off the stream, copies them into leaf-sized buffers (a copy costs a
tenth of what hashing in odd pieces would cost extra), and hands whole leaves on in batches of some
mebibytes to a worker thread, which hashes and writes them: a thread costs less than a hundredth
then, and a disk that makes us wait holds nobody else up. Meanwhile the multiplexer receives on,
into its window. Memory stays at a window and a batch per provider.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeAlias

import trio

from lattica._nursery import private_nursery
from lattica.dht import leads_there
from lattica.errors import LatticaError, NotFound, Refused, Unreachable

from ._fetchers import decode_peers
from ._messages import (
    ALL_LEAVES,
    MAX_ADDRESSES,
    Answer,
    AnswerDecoder,
    AnswerHead,
    AnswerKind,
    BlocksRequest,
    CancelRequest,
    Encoding,
    HaveRequest,
    PeersRequest,
    Status,
    encode_request,
    read_end_message,
    read_status,
    unpack_bitmap,
)
from ._stages import LeafStage, UnexpectedAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Multiaddr, PeerInfo, Stream

    from ._events import LeafMismatch
    from ._peer_state import Ask
    from ._stages import Stage

_POOLED_BYTES = 64 << 10  # memory for leaves from this size on is used again
_MAX_FREE_BYTES = 8 << 20  # of such memory kept: two batches
_PAUSE_SECONDS = 0.05  # leaves are settled when nothing comes for so long,
_GATHER_SECONDS = 0.05  # and when the first of them has waited for so long,
_MAX_GATHERED = 1024  # or when there are so many: settling tiny ones takes longer than receiving
_YIELD_AFTER = 512  # answers in one piece: some milliseconds, and others want to run, too
_MAX_EARLY_HAVE = 16  # HAVE answers kept until the index is known: 1 MiB, 8 Mi leaves
_MAX_IDLE_HAVE = 64  # HAVE answers without news: reading one takes milliseconds
_NOTHING = memoryview(b"")


class ProviderRefused(Refused):
    """A provider does not serve us."""

    code = "provider-refused"


class HoldsNothing(NotFound):
    """A provider knows nothing of the object."""

    code = "holds-nothing"


class StreamEnded(Unreachable):
    """A provider ended the stream, or fell silent, while we still asked."""

    code = "stream-ended"


class ProviderSilent(StreamEnded):
    """A provider says nothing any more."""

    code = "provider-silent"


class Side(Protocol):
    """The fetch, as a session sees it."""

    root: CID
    stage: Stage | None
    watch: bool
    ids: Iterator[int]
    encodings: tuple[int, ...]

    @property
    def addresses(self) -> Sequence[Multiaddr]:
        """Where other fetchers can reach this node."""

    def found(self, peers: Sequence[PeerInfo]) -> None:
        """Note that these fetch the object, too, as a provider says."""

    @property
    def write_bytes(self) -> int:
        """How much to gather before `settle`."""

    def asked(self) -> None:
        """Note that the planner was asked what to ask: a deadline may have come nearer."""

    def received(self, peer: PeerId, stage: Stage, size: int, wire: int) -> None:
        """Note that an item of `size` bytes came from `peer`, and how many bytes it was sent as."""

    def refused(self, peer: PeerId, status: Status) -> None:
        """Note that `peer` will not send something."""

    def lied(self, lie: LeafMismatch) -> None:
        """Note that a provider sent something else in place of what it was asked for."""

    async def settle(self, peer: PeerId, stage: Stage, items: list[Item]) -> LeafMismatch | None:
        """Hash and keep items in a worker thread. Returns the lie, if one does not match."""


Item: TypeAlias = tuple[int, memoryview]
Batch: TypeAlias = "list[tuple[Stage, int, memoryview]]"  # what has come, by what it is part of


class Session:
    """One provider, while its stream lasts. `run` it once.

    Attributes:
        peer: the provider.
        partial: whether it may come to hold more than it does now.
    """

    def __init__(self, stream: Stream, side: Side) -> None:
        self.peer, self.partial = stream.peer, side.watch
        self._stream, self._side = stream, side
        self._decoder = AnswerDecoder(self._place)
        self._pending: deque[tuple[Stage, Ask]] = deque()  # asked for, in order; not ended
        self._cancellations: deque[int] = deque()
        self._bell = trio.Event()
        self._have_id, self._peers_id = next(side.ids), next(side.ids)
        self._early_have: list[Answer] = []
        self._idle_have = 0  # HAVE answers that told nothing new
        self._told_peers = False
        self._holds_all = not side.watch  # for want of better knowledge
        self._leaves: LeafStage | None = None
        self._batch: Batch = []
        self._batch_bytes, self._batch_since = 0, 0.0
        self._to_keep, self._kept = trio.open_memory_channel[Batch](0)
        self._saved_bytes = 0  # content that was received and not sent, since leaves came packed
        self._free: dict[int, list[bytearray]] = {}  # by size, a power of two
        self._free_bytes = 0

    def ring(self) -> None:
        """Look for something to ask: what the planner would say may have changed."""
        self._bell.set()

    def cancel_request(self, request_id: int) -> None:
        """Tell the provider to stop answering a request."""
        self._cancellations.append(request_id)
        self._bell.set()

    def join(self, stage: Stage, now: float) -> None:
        """Let the planner of `stage` ask this provider."""
        if isinstance(stage, LeafStage):
            self._leaves = stage
            stage.planner.add_peer(self.peer, now, complete=self._holds_all)
            for answer in self._early_have:
                self._add_have(stage, answer)
            self._early_have = []
        else:
            stage.planner.add_peer(self.peer, now, complete=True)
        self._bell.set()

    async def run(self) -> None:
        """Ask and receive until cancelled, or until the provider gives cause to stop.

        Raises:
            StreamEnded: it ended the stream.
            HoldsNothing, ProviderRefused: it has nothing for us.
            LeafMismatch: it sent something that does not match its hash.
            ProtocolError: it broke the protocol.
            trio.BrokenResourceError: the stream or the connection was lost.
        """
        async with private_nursery() as nursery:
            nursery.start_soon(self._send_requests)
            nursery.start_soon(self._keep_batches)
            try:
                await self._receive_answers()
            except (LatticaError, trio.BrokenResourceError):
                # Whole leaves are good, however the stream ended. The empty batch is taken when
                # the one before it is kept.
                await self._hand_over()
                await self._to_keep.send([])
                raise
            finally:
                _put_back(self._batch)
                nursery.cancel_scope.cancel()

    # --- requests out

    async def _send_requests(self) -> None:
        have = HaveRequest(self._have_id, self._side.root, push=True)
        try:
            if self._side.watch:
                await self._stream.send_message(encode_request(have))
                await self._stream.send_message(encode_request(self._introduction()))
            while True:
                self._bell = trio.Event()
                while (message := self._next_message()) is not None:
                    await self._stream.send_message(message)
                await self._bell.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError, LatticaError):
            return  # the receiving side learns the same, and says so

    def _introduction(self) -> PeersRequest:
        remote = self._stream.connection.remote_address
        useful = [bytes(each) for each in self._side.addresses if leads_there(each, remote)]
        return PeersRequest(self._peers_id, self._side.root, tuple(useful[:MAX_ADDRESSES]))

    def _next_message(self) -> bytes | None:
        if self._cancellations:
            return encode_request(CancelRequest(self._cancellations.popleft()))
        stage = self._side.stage
        if stage is None:
            return None
        ask = stage.planner.next_request(self.peer, trio.current_time())
        self._side.asked()
        if ask is None:
            return None
        self._pending.append((stage, ask))
        sized = all(map(stage.size_of, range(ask.first, ask.first + ask.count)))
        return encode_request(
            BlocksRequest(
                ask.id,
                stage.hashes(ask.first, ask.count),
                encodings=self._side.encodings if sized else (),
            )
        )

    # --- answers in

    async def _receive_answers(self) -> None:
        while True:
            piece = await self._next_piece()
            # Whoever takes us out of the plan cancels us, and a piece may have been under way here.
            await trio.lowlevel.checkpoint_if_cancelled()
            now = trio.current_time()
            if piece is not None:
                if not piece:
                    raise StreamEnded(
                        f"{self.peer} ended the stream"
                        + " inside an answer" * self._decoder.inside,
                        peer=self.peer,
                    )
                await self._receive(piece, now)
            if piece is None or self._is_due(now):
                await self._hand_over()

    async def _receive(self, piece: bytes | memoryview, now: float) -> None:
        planner = self._pending[0][0].planner if self._pending else None
        before = self._decoder.leaf_bytes + self._saved_bytes
        for number, answer in enumerate(self._decoder.receive(piece), 1):
            self._take(answer, now)
            if number % _YIELD_AFTER == 0:
                await trio.lowlevel.checkpoint()
        # Content alone is progress: who fills the line with anything else counts as silent.
        size = self._decoder.leaf_bytes + self._saved_bytes - before
        if planner is not None and size:
            planner.receive_bytes(self.peer, size, now)

    def _is_due(self, now: float) -> bool:
        return self._batch_bytes > 0 and (
            self._batch_bytes >= self._side.write_bytes
            or len(self._batch) >= _MAX_GATHERED
            or now - self._batch_since > _GATHER_SECONDS
            or not self._pending
        )

    async def _next_piece(self) -> bytes | memoryview | None:
        """Return the next piece; None when leaves wait to be settled and nothing comes."""
        if not self._batch or self._stream.unread_bytes:
            return await self._stream.receive_view()
        with trio.move_on_after(_PAUSE_SECONDS):
            return await self._stream.receive_view()
        return None

    def _place(self, head: AnswerHead) -> memoryview:
        """Return memory for a leaf, after holding its head against what was asked."""
        stage, ask = self._expected(head)
        if ask.next >= ask.end or head.number != ask.next - ask.first:
            raise UnexpectedAnswer(f"number {head.number} of request {head.request} is not due")
        if read_status(head.status) is not Status.OK:
            if head.length:
                raise UnexpectedAnswer(f"{head.length} bytes with status {head.status}")
            return _NOTHING
        if head.encoding == Encoding.RAW:
            stage.check(ask.next, head.length)
        elif head.encoding not in self._side.encodings:
            raise UnexpectedAnswer(f"encoding {head.encoding}, which was not asked for")
        elif not 0 < head.length < (size := stage.size_of(ask.next)):
            raise UnexpectedAnswer(f"packed into {head.length} bytes, not less than {size}")
        return self._memory(head.length)

    def _expected(self, head: AnswerHead) -> tuple[Stage, Ask]:
        if not self._pending or self._pending[0][1].id != head.request:
            raise UnexpectedAnswer(f"an answer to request {head.request}, which is not due")
        return self._pending[0]

    def _take(self, answer: Answer, now: float) -> None:
        head = answer.head
        if head.kind == AnswerKind.LEAF:
            self._take_leaf(answer, now)
        elif head.kind == AnswerKind.HAVE and head.request == self._have_id:
            self._take_have(answer)
        elif head.kind == AnswerKind.END and head.request == self._have_id:
            self._take_have_end(answer)
        elif head.kind == AnswerKind.PEERS and head.request == self._peers_id:
            if self._told_peers:
                raise UnexpectedAnswer("who else fetches it, a second time")
            self._told_peers = True
            remote = self._stream.connection.remote_address
            self._side.found(decode_peers(answer.payload, remote))
        elif head.kind == AnswerKind.END and head.request == self._peers_id:
            self._peers_id = -1  # it has told all it will
        elif head.kind == AnswerKind.END:
            stage, ask = self._expected(head)
            self._pending.popleft()
            if ask.next < ask.end:
                self._side.refused(self.peer, answer.status)
            stage.planner.request_ended(self.peer, answer.status, now)
            self._side.asked()
            if answer.status is Status.REFUSED:
                raise self._refusal(answer)
            self._bell.set()

    def _take_leaf(self, answer: Answer, now: float) -> None:
        stage, ask = self._pending[0]
        item = ask.next
        if answer.status is not Status.OK:
            stage.planner.leaf_refused(self.peer)
            self._side.refused(self.peer, answer.status)
            return
        wire = len(answer.payload)
        size = stage.size_of(item) or wire  # as content: batches are bounded by that
        self._saved_bytes += size - wire
        self._side.received(self.peer, stage, size, wire)
        if stage.planner.leaf_arrived(self.peer):
            if not self._batch:
                self._batch_since = now
            self._batch.append((stage, item, answer.payload))
            self._batch_bytes += max(1, size)
        else:
            self._recycle(answer.payload)

    def _take_have(self, answer: Answer) -> None:
        if answer.head.flags & ALL_LEAVES:
            self._holds_all, self.partial = True, False
        elif answer.head.number % 8:
            raise UnexpectedAnswer(f"a bitmap that starts at leaf {answer.head.number}")
        if self._leaves is not None:
            self._add_have(self._leaves, answer)
            self._bell.set()
        elif len(self._early_have) == _MAX_EARLY_HAVE:
            raise UnexpectedAnswer("more about leaves than can be kept until the index is known")
        else:
            self._early_have.append(answer)

    def _add_have(self, stage: LeafStage, answer: Answer) -> None:
        if answer.head.flags & ALL_LEAVES:
            stage.planner.set_complete(self.peer)
            return
        flags = unpack_bitmap(answer.payload, 8 * len(answer.payload))
        if not stage.planner.add_have(self.peer, answer.head.number, flags):
            self._idle_have += 1
            if self._idle_have > _MAX_IDLE_HAVE:
                raise UnexpectedAnswer(
                    f"{self.peer} says again and again that it holds nothing new"
                )

    def _take_have_end(self, answer: Answer) -> None:
        if answer.status is Status.ABSENT:
            raise HoldsNothing(f"{self.peer} holds nothing of it", peer=self.peer)
        if answer.status is Status.BUSY:
            raise StreamEnded(f"{self.peer} is busy", peer=self.peer)
        if answer.status is Status.REFUSED:
            raise self._refusal(answer)
        if answer.status is not Status.OK:  # it cannot tell: asking is the way to find out
            self._holds_all, self.partial = True, False
            if self._leaves is not None:
                self._leaves.planner.set_complete(self.peer)
                self._bell.set()

    def _refusal(self, answer: Answer) -> ProviderRefused:
        said = read_end_message(answer)
        return ProviderRefused(
            f"{self.peer} refused" + (f": {said}" if said else ""), peer=self.peer
        )

    # --- leaves kept

    async def _hand_over(self) -> None:
        """Have what has come kept, once what came before it is; cancelled, it is here still."""
        await self._to_keep.send(self._batch)
        self._batch, self._batch_bytes = [], 0

    async def _keep_batches(self) -> None:
        """Keep one batch while the next one comes: the disk and the line work at the same time."""
        async for batch in self._kept:
            await self._keep(batch)

    async def _keep(self, batch: Batch) -> None:
        """Have all of a batch checked and kept; what is not is put back into the plan.

        Raises:
            LeafMismatch: the provider lied.
        """
        left = batch
        try:
            while left:
                stage = left[0][0]
                items = [(item, view) for owner, item, view in left if owner is stage]
                lie = await self._side.settle(self.peer, stage, items)
                left = [entry for entry in left if entry[0] is not stage]
                for _, view in items:
                    self._recycle(view)
                if lie is not None:
                    raise lie
                self._bell.set()
        finally:
            _put_back(left)

    def _memory(self, size: int) -> memoryview:
        if size < _POOLED_BYTES:
            return memoryview(bytearray(size))
        room = 1 << (size - 1).bit_length()
        if free := self._free.get(room):
            self._free_bytes -= room
            return memoryview(free.pop())[:size]
        return memoryview(bytearray(room))[:size]

    def _recycle(self, view: memoryview) -> None:
        buffer = view.obj
        if not isinstance(buffer, bytearray) or len(buffer) < _POOLED_BYTES:
            return
        if self._free_bytes + len(buffer) <= _MAX_FREE_BYTES:
            self._free.setdefault(len(buffer), []).append(buffer)
            self._free_bytes += len(buffer)


def _put_back(batch: Batch) -> None:
    """Let what was not kept be asked for again."""
    for stage, item, _ in batch:
        stage.planner.leaf_wrong(item)
