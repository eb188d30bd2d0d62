"""Which leaves to ask of whom. Pure: answers and `now` in, requests and advice out.

Every leaf is missing, asked for, arrived (here, being hashed) or verified. A peer that has room is
given a run of missing leaves it holds, the rarest first (`_rarity`), so that what few peers hold is
soon held by more, and peers that fetch the same object have something to give to each other. As
long as nobody else is known to fetch it, all are equally rare, and files fill from the front;
otherwise equals are taken from a random place, so that no two fetchers ask for the same.

A peer's room is a window of bytes in flight that follows its measured rate: enough to cover the way
there and back and a quarter of a second, so that a fast peer is never idle and a slow one never
sits on much. A peer that is silent for longer than its own history explains loses its leaves to
others; it may still deliver them. When nothing is missing any more, idle peers race what the
slowest still owe, each leaf at most twice, and who comes second is cancelled.

What a peer refuses it is not asked for again. A leaf costs three bytes here, and two more for each
peer that does not hold everything.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING

from ._holdings import Holdings
from ._leaf_states import LeafStates
from ._messages import MAX_COUNT, Status
from ._pace import Pace
from ._peer_state import Ask, PeerState
from ._plan import CancelAsk, PeerReady, PeerSilent, PeerStalled, PlannerLimits
from ._rarity import MAX_HOLDERS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from lattica.identity import PeerId

    from ._budget import Budget
    from ._plan import PlannerEvent

_ALIGNED = 16  # a random place is a multiple of so many leaves: runs leave whole runs over,
_PLACES = 1024  # if that leaves so many places: else fetchers would choose the same too often


class Planner:
    """Decides over the leaves of one object.

    Whoever does the I/O reports what happened, asks `next_request` for each peer after every
    report, and carries out what `next_event` says. The index blocks of an object are planned in
    the same way, each of them as a leaf: they become known while they are fetched (`extend`).

    Attributes:
        scattered: ask from random places, though nobody is here yet who does not hold everything.
        budget: limits how much is asked for in a second; None is no limit.
    """

    def __init__(
        self,
        count: int,
        size: Callable[[int], int],
        *,
        ids: Iterator[int] | None = None,
        limits: PlannerLimits | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Make a planner with every leaf missing and no peer.

        Args:
            count: leaves of the object.
            size: bytes of a leaf, from the verified index (or an estimate, for index blocks).
            ids: where request ids come from; shared by planners whose requests share a stream.
            limits: bounds other than the usual.
            rng: says where to begin among equally rare leaves; without it, always at the front.
        """
        self.scattered = False
        self.budget: Budget | None = None
        self._budget_at = math.inf  # when the budget lets somebody be asked again
        self._rng = rng
        self._leaves, self._size = LeafStates(count, size), size
        self._ids = ids if ids is not None else itertools.count(1)
        self._limits = limits or PlannerLimits()
        self._peers: dict[PeerId, PeerState] = {}
        self._holdings = Holdings(self._leaves)
        self._doubtful: set[int] = set()  # leaves that more than one peer may be sending
        self._in_flight = 0
        self._race_at = math.inf  # when to look again whether an idle peer should race
        self._events: deque[PlannerEvent] = deque()

    # --- what is known

    @property
    def done(self) -> bool:
        """Whether every leaf is verified."""
        return self._leaves.verified == len(self._leaves)

    @property
    def verified(self) -> int:
        """How many leaves are verified."""
        return self._leaves.verified

    @property
    def in_flight_bytes(self) -> int:
        """Bytes asked for and not arrived."""
        return self._in_flight

    @property
    def peers(self) -> list[PeerId]:
        """The peers that are here."""
        return list(self._peers)

    def is_verified(self, leaf: int) -> bool:
        """Whether `leaf` is verified."""
        return self._leaves.is_verified(leaf)

    def verified_flags(self) -> bytes:
        """Return a byte for each leaf: 1 if it is verified, else 0."""
        return self._leaves.verified_flags()

    def rate(self, peer: PeerId) -> float:
        """Bytes a second that `peer` delivers while it is asked; 0 when not known."""
        found = self._peers.get(peer)
        return found.pace.rate if found else 0.0

    def idle(self) -> bool:
        """Whether nothing is on the way, nor can be asked for: only news of leaves can help."""
        if self._leaves.arrived:
            return False
        return not any(
            peer.asks or peer.paused_until or self._holdings.rarest(peer.holding, 0) >= 0
            for peer in self._peers.values()
        )

    # --- peers come and go

    def add_peer(self, peer: PeerId, now: float, *, complete: bool = False) -> None:
        """Take up `peer`, which holds every leaf or, so far, none. Ignored if it is here."""
        if peer not in self._peers and len(self._peers) < MAX_HOLDERS:
            holding = self._holdings.join(complete=complete)
            self._peers[peer] = PeerState(peer, Pace(self._limits.pace, now), holding)

    def remove_peer(self, peer: PeerId) -> None:
        """Forget `peer`, whose stream ended; what it owed is missing again."""
        found = self._peers.pop(peer, None)
        if found is not None:
            self._holdings.leave(found.holding)
            for ask in found.asks:
                self._forget(found, ask)

    def set_complete(self, peer: PeerId) -> None:
        """Note that `peer` holds every leaf."""
        if found := self._peers.get(peer):
            self._holdings.complete(found.holding)

    def add_have(self, peer: PeerId, first: int, flags: bytes) -> bool:
        """Note the leaves that `peer` says it holds: a byte of 0 or 1 each, from `first` on.

        Returns:
            Whether that is news.
        """
        found = self._peers.get(peer)
        return found is not None and self._holdings.gain(found.holding, first, flags)

    def extend(self, count: int) -> None:
        """Add `count` missing leaves at the end; every peer is taken to hold them."""
        self._holdings.extend(count)

    # --- asking

    def next_request(self, peer: PeerId, now: float) -> Ask | None:
        """Return the next thing to ask of `peer`, which then counts as asked; None: nothing now."""
        found = self._peers.get(peer)
        if found is None or found.stalled or found.paused_until:
            return None
        if len(found.asks) >= self._limits.requests:
            return None
        if self.budget is not None and (ready_at := self.budget.ready_at(peer, now)) > now:
            self._budget_at = min(self._budget_at, ready_at)
            return None
        run = self._next_run(found) or self._next_race(found, now)
        return self._ask(found, *run, now) if run else None

    def _ask(self, peer: PeerState, first: int, count: int, now: float) -> Ask:
        ask = Ask(next(self._ids), first, count, first)
        for leaf in range(first, first + count):
            if self._leaves.ask(leaf):
                self._doubtful.add(leaf)
        if not peer.asks:
            peer.pace.start(now)
            peer.lone_since = now
        peer.asks.append(ask)
        size = self._bytes(first, ask.end)
        peer.in_flight += size
        self._in_flight += size
        if self.budget is not None:
            self.budget.spend(peer.id, size, now)
        return ask

    def _next_run(self, peer: PeerState) -> tuple[int, int] | None:
        """The rarest missing leaves that `peer` holds, as many as one request may ask for."""
        first = self._holdings.rarest(peer.holding, self._place())
        if first < 0:
            return None
        level = self._leaves.rarity.level
        wanted, count = level(first), 0
        for leaf in self._fitting(peer, first):
            if level(leaf) != wanted or not peer.holding.holds(leaf):
                break
            count += 1
        return (first, count) if count else None

    def _place(self) -> int:
        """Where to look for equally rare leaves first."""
        if self._rng is None or not (self._holdings.partial or self.scattered):
            return 0
        count = max(1, len(self._leaves))
        step = max(1, min(_ALIGNED, count // _PLACES))
        return self._rng.randrange(count) // step * step

    def _fitting(self, peer: PeerState, first: int) -> Iterator[int]:
        """Leaves from `first` on, while they fit one request and the room that is left."""
        limits = self._limits
        window = max(peer.pace.window_bytes, 2 * self._size(first))
        # Four requests to a window, so that answers and new requests overlap, and whole ones: what
        # is asked for in crumbs is read and sent in crumbs.
        request = min(limits.request_bytes, window // 4)
        if self.budget is not None:
            request = min(request, self.budget.piece_bytes)
        room = min(window - peer.in_flight, limits.total_bytes - self._in_flight)
        if peer.asks and room < request:
            return
        room = min(room, request)
        for leaf in range(first, min(len(self._leaves), first + MAX_COUNT)):
            size = self._size(leaf)
            if leaf > first and size > room:  # the first goes through however large
                return
            yield leaf
            room -= size

    def _next_race(self, peer: PeerState, now: float) -> tuple[int, int] | None:
        """Leaves that the slowest peer owes and `peer`, with nothing to do, would bring sooner."""
        others = [other for other in self._peers.values() if other is not peer and other.asks]
        full = self._leaves.raced_bytes >= self._limits.race_bytes
        if self._leaves.missing or peer.asks or full or not others:
            return None
        slowest = max(others, key=lambda other: self._owes_seconds(other, now))
        for ask in reversed(slowest.asks):
            run = self._racing_run(peer, ask)
            if run is None:
                continue
            rate = peer.pace.rate
            needs = self._bytes(run[0], sum(run)) / rate if rate else self._limits.pace.patience
            if self._owes_seconds(slowest, now) > 1.5 * needs + 0.05:
                return run
            self._race_at = min(self._race_at, now + self._limits.pace.patience)
            return None
        return None

    def _racing_run(self, peer: PeerState, ask: Ask) -> tuple[int, int] | None:
        room = min(self._limits.race_bytes - self._leaves.raced_bytes, self._limits.request_bytes)
        first, count = ask.next, 0
        for leaf in ask.rest:
            if self._leaves.is_owed_by_one(leaf) and peer.holding.holds(leaf):
                room -= self._size(leaf)
                if room < 0 and count:
                    break
                count += 1
            elif count:
                break
            else:
                first = leaf + 1
        return (first, count) if count else None

    def _owes_seconds(self, peer: PeerState, now: float) -> float:
        """How long `peer` will need for what it owes, going by its rate or else its silence."""
        silence = now - peer.pace.last_heard
        if not peer.pace.rate:
            return 2 * silence
        return max(peer.in_flight / peer.pace.rate, silence)

    # --- what the peers did

    def receive_bytes(self, peer: PeerId, size: int, now: float) -> None:
        """Note that `size` bytes of answers came from `peer`."""
        found = self._peers.get(peer)
        if found is None:
            return
        if found.lone_since is not None:
            found.pace.receive_first(now - found.lone_since, now)
            found.lone_since = None
        found.pace.receive_bytes(size, now)

    def expected(self, peer: PeerId) -> Ask | None:
        """The request that the next answer of `peer` must be about, or None."""
        found = self._peers.get(peer)
        return found.asks[0] if found and found.asks else None

    def leaf_arrived(self, peer: PeerId) -> bool:
        """Note that the expected leaf came, whole. False: it is here already; let it go.

        A True is followed by `leaf_verified` or `leaf_wrong`.
        """
        found, _, leaf = self._advance(peer)
        found.pauses = 0
        found.pace.receive_leaf(self._size(leaf))
        return self._leaves.arrive(leaf)

    def leaf_refused(self, peer: PeerId) -> int:
        """Note that `peer` will not send the expected leaf: it is not asked for it again.

        Returns:
            The leaf.
        """
        found, ask, leaf = self._advance(peer)
        self._holdings.lack(found.holding, leaf, leaf + 1)
        if not ask.abandoned:
            self._release(leaf)
        return leaf

    def request_ended(self, peer: PeerId, status: Status, now: float) -> None:
        """Note that `peer` is through with the expected request; leaves it left out are missing.

        Who is busy or failed is not asked for a while; who does not hold them, not for these.
        """
        found = self._peers[peer]
        ask = found.asks.popleft()
        self._forget(found, ask)
        found.stalled = found.stalled and bool(found.asks)
        if ask.next == ask.end or ask.cancelled:
            return
        # CANCELLED that nobody asked for is a whim like FAILED: at once again would never end.
        if status in (Status.BUSY, Status.FAILED, Status.CANCELLED):
            found.pauses += 1
            found.paused_until = now + min(0.25 * 2**found.pauses, 30.0)
        else:
            self._holdings.lack(found.holding, ask.next, ask.end)

    def leaf_verified(self, leaf: int) -> None:
        """Note that `leaf` matched its hash and is in its place. Who else owes it is cancelled."""
        if self._leaves.verify(leaf) and leaf in self._doubtful:
            self._doubtful.discard(leaf)
            self._cancel_losers(leaf)

    def leaf_wrong(self, leaf: int) -> None:
        """Note that an arrived leaf did not match its hash: it is asked for again."""
        if self._leaves.reject(leaf, self._owing(leaf)):
            self._holdings.need(leaf)

    def mark_verified(self, first: int, count: int) -> None:
        """Take leaves that are here from before for verified. Before anything is asked."""
        self._leaves.mark_verified(first, count)

    def _advance(self, peer: PeerId) -> tuple[PeerState, Ask, int]:
        found = self._peers[peer]
        ask = found.asks[0]
        leaf = ask.next
        ask.next += 1
        size = self._size(leaf)
        found.in_flight -= size
        self._in_flight -= size
        return found, ask, leaf

    def _release(self, leaf: int) -> None:
        """One peer less owes `leaf`."""
        if self._leaves.release(leaf):
            self._holdings.need(leaf)

    def _forget(self, peer: PeerState, ask: Ask) -> None:
        """Give free what is left of a request that is not answered any more."""
        if not ask.abandoned:
            for leaf in ask.rest:
                self._release(leaf)
        size = self._bytes(ask.next, ask.end)
        peer.in_flight -= size
        self._in_flight -= size
        if self.budget is not None:
            self.budget.give_back(peer.id, size)

    def _owing(self, leaf: int) -> int:
        """How many peers owe `leaf`."""
        asks = (ask for peer in self._peers.values() for ask in peer.asks)
        return sum(ask.next <= leaf < ask.end and not ask.abandoned for ask in asks)

    def _cancel_losers(self, leaf: int) -> None:
        for peer in self._peers.values():
            for ask in peer.asks:
                if ask.cancelled or not ask.next <= leaf < ask.end:
                    continue
                ask.cancelled = all(map(self._leaves.is_here, ask.rest))
                if ask.cancelled:
                    self._events.append(CancelAsk(peer.id, ask.id))

    def _bytes(self, first: int, end: int) -> int:
        return sum(map(self._size, range(first, end)))

    # --- time

    def next_timeout(self) -> float:
        """When to call `handle_timeout`, on the clock of `now`; infinity: no need as things are."""
        deadlines = map(self._deadline, self._peers.values())
        return min(self._race_at, self._budget_at, *deadlines, math.inf)

    def _deadline(self, peer: PeerState) -> float:
        if peer.paused_until:
            return peer.paused_until
        if not peer.asks:
            return math.inf
        ask, pace = peer.asks[0], peer.pace
        awaited = self._size(ask.next) if ask.next < ask.end else 0
        if peer.stalled:
            return pace.last_heard + pace.silence(awaited)
        return pace.next_stall(awaited)

    def handle_timeout(self, now: float) -> None:
        """Look for silent, rested and idle peers. The verdicts come out of `next_event`."""
        if now >= min(self._race_at, self._budget_at):
            everybody = now >= self._budget_at
            self._race_at = math.inf if now >= self._race_at else self._race_at
            self._budget_at = math.inf if everybody else self._budget_at
            ready = [peer.id for peer in self._peers.values() if everybody or not peer.asks]
            self._events.extend(map(PeerReady, ready))
        for peer in list(self._peers.values()):
            if self._deadline(peer) > now:
                continue
            silence = now - peer.pace.last_heard
            if peer.paused_until:
                peer.paused_until = 0.0
                peer.pace.start(now)
                self._events.append(PeerReady(peer.id))
            elif peer.stalled:
                self.remove_peer(peer.id)
                self._events.append(PeerSilent(peer.id, silence))
            else:
                self._stall(peer)
                self._events.append(PeerStalled(peer.id, silence))

    def _stall(self, peer: PeerState) -> None:
        for ask in peer.asks:
            self._doubtful.update(ask.rest)
            if not ask.abandoned:
                for leaf in ask.rest:
                    self._release(leaf)
            ask.abandoned = True
        peer.stalled = True
        peer.pace.stall()

    def next_event(self) -> PlannerEvent | None:
        """Return the next thing to do or to tell, or None."""
        return self._events.popleft() if self._events else None
