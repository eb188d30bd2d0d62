"""Fetching from one provider that speaks Bitswap, in place of `content._session.Session`.

The planner asks for runs of leaves and takes answers in order; Bitswap knows single blocks, in any
order, on streams that the provider opens. So wants go out as the planner's requests say, a bounded
number of them at a time, and what comes early is kept until its turn.

A block is named by its bytes, so a wrong one answers nothing: it is dropped. One that was wanted
not long ago is late, that is all. Any other is what a liar sends in place of what it was asked for,
and what an honest peer does not send: whoever sends such, and for some seconds nothing else, lied.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.cid import CID
from lattica.content._messages import Status
from lattica.content._session import HoldsNothing, StreamEnded
from lattica.content._stages import UnexpectedAnswer
from lattica.errors import LatticaError

from ._messages import Entry, WantType

if TYPE_CHECKING:
    from lattica.content._peer_state import Ask
    from lattica.content._session import Side
    from lattica.content._stages import Stage
    from lattica.identity import PeerId

    from .service import Bitswap, Heard

_MAX_ASKS = 8  # of the planner, 4 MiB each: what may come early, and so be kept, is bounded by them
_MAX_WANTS = 512  # told and not answered; others keep 1024 of a peer
_MAX_USELESS_BYTES = 64 << 20  # that nobody wants, more than of use; a race leaves some behind
_MAX_GATHERED = 1024  # blocks that are settled at once
_MAX_STRANGE = 32  # blocks that were never wanted, with none of use between them
_DOUBT_SECONDS = 5.0  # from the first of them on, if none of use comes
_PAUSE_SECONDS, _GATHER_SECONDS = 0.05, 0.25  # as for any provider, see `content._session`


@dataclass(frozen=True, slots=True)
class _Run:
    """What the planner asked for at once, and what its items are called."""

    stage: Stage
    ask: Ask
    cids: list[CID]

    def cid(self, item: int) -> CID:
        """The name of an item of this run."""
        return self.cids[item - self.ask.first]


class BitswapSession:
    """One provider, as long as it is asked. `run` it once.

    Attributes:
        peer: the provider.
        partial: False: what it lacks it says when asked, and does not tell what it gains.
    """

    def __init__(self, peer: PeerId, bitswap: Bitswap, side: Side) -> None:
        self.peer, self.partial = peer, False
        self._bitswap, self._side = bitswap, side
        self._pending: deque[_Run] = deque()  # asked for, in order; not ended
        self._cancelled: set[int] = set()  # ids of some of them
        self._unsent: deque[Entry] = deque()
        self._cancellations: list[bytes] = []
        self._told: set[bytes] = set()  # CIDs that were asked for and not answered
        self._wanted: Counter[bytes] = Counter()  # multihashes, by how often they are due
        self._early: dict[bytes, memoryview | None] = {}  # answers that are not due; None: lacks it
        self._bell = trio.Event()
        self._batch: list[tuple[Stage, int, memoryview]] = []
        self._batch_bytes, self._batch_since = 0, 0.0
        self._useful_bytes = self._useless_bytes = 0
        self._strange = 0  # blocks that were never wanted, since the last one of use
        self._doubt_at = math.inf  # when they are a lie, if none of use comes
        self._lost: LatticaError | None = None

    def ring(self) -> None:
        """Look for something to ask: what the planner would say may have changed."""
        self._bell.set()

    def cancel_request(self, request_id: int) -> None:
        """Ask no more for what a request of the planner is about."""
        self._cancelled.add(request_id)
        self._bell.set()

    def join(self, stage: Stage, now: float) -> None:
        """Let the planner of `stage` ask this provider."""
        stage.planner.add_peer(self.peer, now, complete=True)
        self._bell.set()

    async def run(self) -> None:
        """Ask and receive until cancelled, or until the provider gives cause to stop.

        Raises:
            ProtocolNotSupported: it does not speak Bitswap.
            HoldsNothing: it has nothing for us.
            LeafMismatch: it sends something else than what it is asked for.
            UnexpectedAnswer: it sends and sends what was not asked for.
            StreamEnded: the connection was lost.
        """
        with self._bitswap.asking(self.peer) as heard:
            try:
                await self._bitswap.agree(self.peer)
                root = Entry(bytes(self._side.root), WantType.HAVE, send_dont_have=True)
                await self._bitswap.tell(self.peer, [root])
                async with private_nursery() as nursery:
                    nursery.start_soon(self._send_wants, nursery.cancel_scope)
                    await self._receive(heard)
                if self._lost is not None:
                    raise self._lost
            except LatticaError:
                await self._settle()  # whole blocks are good, however it ended
                raise
            finally:
                for stage, item, _ in self._batch:
                    stage.planner.leaf_wrong(item)
                self._bitswap.release(self.peer, self._told)

    # --- wants out

    async def _send_wants(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                self._bell = trio.Event()
                self._ask()
                if entries := self._next_entries():
                    await self._bitswap.tell(self.peer, entries)
                else:
                    await self._bell.wait()
        except LatticaError as error:  # the connection; the receiving side would wait for ever
            self._lost = error
            scope.cancel()

    def _ask(self) -> None:
        stage, now = self._side.stage, trio.current_time()
        while stage is not None and len(self._pending) < _MAX_ASKS:
            ask = stage.planner.next_request(self.peer, now)
            self._side.asked()
            if ask is None:
                return
            items = enumerate(stage.hashes(ask.first, ask.count), ask.first)
            run = _Run(stage, ask, [CID(stage.codec(item), multihash) for item, multihash in items])
            self._pending.append(run)
            for cid in run.cids:
                if not self._wanted[cid.multihash]:
                    self._unsent.append(Entry(bytes(cid), send_dont_have=True))
                self._wanted[cid.multihash] += 1

    def _next_entries(self) -> list[Entry]:
        room = max(0, _MAX_WANTS - len(self._told))
        fresh = [self._unsent.popleft() for _ in range(min(room, len(self._unsent)))]
        self._told.update(entry.cid for entry in fresh)
        entries = self._bitswap.want(self.peer, fresh)
        gone, self._cancellations = self._cancellations, []
        return entries + self._bitswap.unwant(self.peer, gone)

    # --- blocks in

    async def _receive(self, heard: trio.MemoryReceiveChannel[Heard]) -> None:
        while True:
            news = await self._next_news(heard)
            # Whoever takes us out of the plan cancels us, and news may have been under way here.
            await trio.lowlevel.checkpoint_if_cancelled()
            now = trio.current_time()
            if news is not None:
                self._take(news, now)
            self._deliver(now)
            self._doubt(now)
            if self._is_due(news, now):
                await self._settle()

    async def _next_news(self, heard: trio.MemoryReceiveChannel[Heard]) -> Heard | None:
        """Return what came next; None when nothing does, and something is to be done meanwhile."""
        pause = _PAUSE_SECONDS if self._batch else math.inf
        try:
            with trio.move_on_at(min(trio.current_time() + pause, self._doubt_at)):
                return await heard.receive()
        except trio.EndOfChannel:
            raise StreamEnded(f"the connection to {self.peer} ended", peer=self.peer) from None
        return None

    def _take(self, news: Heard, now: float) -> None:
        if self._side.root.multihash in news.lacking:
            raise HoldsNothing(f"{self.peer} holds nothing of it", peer=self.peer)
        planner = self._pending[0].stage.planner if self._pending else None
        for multihash, data in news.blocks:
            if multihash not in self._wanted or multihash in self._early:
                self._note_useless(len(data))
                if not self._bitswap.was_wanted(self.peer, multihash):
                    self._note_strange(now)
                continue
            self._strange, self._doubt_at = 0, math.inf
            self._early[multihash] = memoryview(data)
            self._useful_bytes += len(data)
            if planner is not None:
                planner.receive_bytes(self.peer, len(data), now)
        for multihash in news.lacking:
            if multihash in self._wanted:
                self._early.setdefault(multihash, None)

    def _note_useless(self, size: int) -> None:
        self._useless_bytes += size
        if self._useless_bytes > _MAX_USELESS_BYTES + self._useful_bytes:
            raise UnexpectedAnswer(
                f"{self._useless_bytes} bytes of blocks that were not asked for", peer=self.peer
            )

    def _note_strange(self, now: float) -> None:
        self._strange += 1
        if self._strange == 1:
            self._doubt_at = now + _DOUBT_SECONDS
        elif self._strange == _MAX_STRANGE:
            self._doubt_at = now

    def _doubt(self, now: float) -> None:
        """Raise LeafMismatch when the provider has sent something else for too long."""
        if now < self._doubt_at:
            return
        self._strange, self._doubt_at = 0, math.inf
        for run in self._pending:
            if run.ask.id not in self._cancelled and run.ask.rest:
                lie = run.stage.mismatch(run.ask.next, self.peer)
                self._side.lied(lie)
                raise lie

    def _deliver(self, now: float) -> None:
        """Hand on what has its turn."""
        while self._pending:
            run = self._pending[0]
            ask, planner = run.ask, run.stage.planner
            cancelled = ask.id in self._cancelled
            while ask.next < ask.end and not cancelled:
                if run.cid(ask.next).multihash not in self._early:
                    return
                self._deliver_one(run, ask.next, now)
            for item in ask.rest:
                self._let_go(run.cid(item), arrived=False)
            self._cancelled.discard(ask.id)
            self._pending.popleft()
            planner.request_ended(self.peer, Status.CANCELLED if cancelled else Status.OK, now)
            self._side.asked()
            self._bell.set()

    def _deliver_one(self, run: _Run, item: int, now: float) -> None:
        cid = run.cid(item)
        block = self._early[cid.multihash]
        self._let_go(cid, arrived=block is not None)
        if block is None:
            run.stage.planner.leaf_refused(self.peer)
            self._side.refused(self.peer, Status.ABSENT)
            return
        self._side.received(self.peer, run.stage, len(block), len(block))
        if run.stage.planner.leaf_arrived(self.peer):
            if not self._batch:
                self._batch_since = now
            self._batch.append((run.stage, item, block))
            self._batch_bytes += max(1, len(block))

    def _let_go(self, cid: CID, *, arrived: bool) -> None:
        """Want a block once less."""
        self._wanted[cid.multihash] -= 1
        if self._wanted[cid.multihash] > 0:
            return
        del self._wanted[cid.multihash]
        self._early.pop(cid.multihash, None)
        told = bytes(cid)
        if told in self._told:
            self._told.discard(told)
            if arrived:
                self._bitswap.got(self.peer, told)
            else:
                self._cancellations.append(told)
        else:
            self._unsent = deque(entry for entry in self._unsent if entry.cid != told)

    # --- blocks kept

    def _is_due(self, news: Heard | None, now: float) -> bool:
        return self._batch_bytes > 0 and (
            news is None
            or self._batch_bytes >= self._side.write_bytes
            or len(self._batch) >= _MAX_GATHERED
            or now - self._batch_since > _GATHER_SECONDS
            or not self._pending
        )

    async def _settle(self) -> None:
        """Settle what has come. Cancelled before a thread took it up, it is still in the batch."""
        while self._batch:
            stage = self._batch[0][0]
            items = [(item, view) for owner, item, view in self._batch if owner is stage]
            lie = await self._side.settle(self.peer, stage, items)
            self._batch = [entry for entry in self._batch if entry[0] is not stage]
            if lie is not None:
                raise lie
            self._bell.set()
        self._batch_bytes = 0
