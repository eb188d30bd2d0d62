"""Which leaves to ask of whom. Pure: answers and `now` in, requests and advice out.

Every leaf is missing, asked for, arrived (here, being hashed) or verified. A peer that has room is
given the next run of missing leaves it holds, lowest numbers first, so that files fill from the
front however many peers help. Its room is a window of bytes in flight that follows its measured
rate: enough to cover the way there and back and a quarter of a second, so that a fast peer is never
idle and a slow one never sits on much. A peer that is silent for longer than its own history
explains loses its leaves to others; it may still deliver them. When nothing is missing any more,
idle peers race what the slowest still owe, each leaf at most twice, and who comes second is
cancelled.

What a peer refuses it is not asked for again; one that sent a wrong leaf is banned for good.
A leaf costs one byte here, and one more for each peer that does not hold everything.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ._leaf_states import LeafStates
from ._messages import MAX_COUNT, Status
from ._pace import Pace, PaceLimits
from ._peer_state import Ask, PeerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lattica.identity import PeerId


@dataclass(frozen=True, slots=True)
class PlannerLimits:
    """The bounds of one fetch.

    Attributes:
        request_bytes: most that one request asks for, unless one leaf alone is larger.
        total_bytes: most on the way from all peers; a peer with nothing else still gets one leaf.
        race_bytes: most that is asked of a second peer while the first still owes it.
        requests: unanswered requests per peer; a provider refuses more than 64.
        pace: the bounds of each peer's pace.
    """

    request_bytes: int = 4 << 20
    total_bytes: int = 256 << 20
    race_bytes: int = 16 << 20
    requests: int = 32
    pace: PaceLimits = field(default_factory=PaceLimits)


@dataclass(frozen=True, slots=True)
class CancelAsk:
    """Tell `peer` to stop answering request `id`: its leaves came from elsewhere."""

    peer: PeerId
    id: int


@dataclass(frozen=True, slots=True)
class PeerStalled:
    """`peer` was silent for `seconds`, longer than usual: its leaves were given to others."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """`peer` was silent for `seconds`: close its stream. It has been removed."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerReady:
    """Ask `peer` again: its pause after being busy is over, or it could race a slower one now."""

    peer: PeerId


PlannerEvent: TypeAlias = CancelAsk | PeerStalled | PeerSilent | PeerReady


class Planner:
    """Decides over the leaves of one object.

    Whoever does the I/O reports what happened, asks `next_request` for each peer after every
    report, and carries out what `next_event` says. The index blocks of an object are planned in
    the same way, each of them as a leaf: they become known while they are fetched (`extend`).
    """

    def __init__(
        self,
        count: int,
        size: Callable[[int], int],
        *,
        ids: Iterator[int] | None = None,
        limits: PlannerLimits | None = None,
    ) -> None:
        """Make a planner with every leaf missing and no peer.

        Args:
            count: leaves of the object.
            size: bytes of a leaf, from the verified index (or an estimate, for index blocks).
            ids: where request ids come from; shared by planners whose requests share a stream.
            limits: bounds other than the usual.
        """
        self._leaves, self._size = LeafStates(count, size), size
        self._ids = ids if ids is not None else itertools.count(1)
        self._limits = limits or PlannerLimits()
        self._peers: dict[PeerId, PeerState] = {}
        self._banned: dict[PeerId, str] = {}
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

    @property
    def banned(self) -> dict[PeerId, str]:
        """Peers that may not come back, and why."""
        return dict(self._banned)

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
            peer.asks or peer.paused_until or self._next_run(peer) for peer in self._peers.values()
        )

    # --- peers come and go

    def add_peer(self, peer: PeerId, now: float, *, complete: bool = False) -> None:
        """Take up `peer`, which holds every leaf or, so far, none. Ignored if here or banned."""
        if peer not in self._peers and peer not in self._banned:
            have = None if complete else bytearray(len(self._leaves))
            self._peers[peer] = PeerState(peer, Pace(self._limits.pace, now), have)

    def remove_peer(self, peer: PeerId) -> None:
        """Forget `peer`, whose stream ended; what it owed is missing again."""
        found = self._peers.pop(peer, None)
        if found is not None:
            for ask in found.asks:
                self._forget(found, ask)

    def ban(self, peer: PeerId, reason: str) -> None:
        """Remove `peer` and never take it up again in this fetch."""
        self.remove_peer(peer)
        self._banned.setdefault(peer, reason)

    def set_complete(self, peer: PeerId) -> None:
        """Note that `peer` holds every leaf."""
        if found := self._peers.get(peer):
            found.note_all()

    def add_have(self, peer: PeerId, first: int, flags: bytes) -> bool:
        """Note the leaves that `peer` says it holds: a byte of 0 or 1 each, from `first` on.

        Returns:
            Whether that is news.
        """
        found = self._peers.get(peer)
        return found is not None and found.note_held(first, flags)

    def extend(self, count: int) -> None:
        """Add `count` missing leaves at the end; every peer is taken to hold them."""
        self._leaves.extend(count)
        for peer in self._peers.values():
            peer.extend(count)

    # --- asking

    def next_request(self, peer: PeerId, now: float) -> Ask | None:
        """Return the next thing to ask of `peer`, which then counts as asked; None: nothing now."""
        found = self._peers.get(peer)
        if found is None or found.stalled or found.paused_until:
            return None
        if len(found.asks) >= self._limits.requests:
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
        return ask

    def _next_run(self, peer: PeerState) -> tuple[int, int] | None:
        """The first missing leaves that `peer` holds, as many as one request may ask for."""
        first = peer.next_wanted(self._leaves)
        if first < 0:
            return None
        count = 0
        for leaf in self._fitting(peer, first):
            if not self._leaves.is_missing(leaf) or not peer.holds(leaf):
                break
            count += 1
        return (first, count) if count else None

    def _fitting(self, peer: PeerState, first: int) -> Iterator[int]:
        """Leaves from `first` on, while they fit one request and the room that is left."""
        limits = self._limits
        window = max(peer.pace.window_bytes, 2 * self._size(first))
        # Four requests to a window, so that answers and new requests overlap, and whole ones: what
        # is asked for in crumbs is read and sent in crumbs.
        request = min(limits.request_bytes, window // 4)
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
        if peer.asks or full or not others:
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
            if self._leaves.is_owed_by_one(leaf) and peer.holds(leaf):
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
        found.note_lacking(leaf, leaf + 1, len(self._leaves))
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
            found.note_lacking(ask.next, ask.end, len(self._leaves))

    def leaf_verified(self, leaf: int) -> None:
        """Note that `leaf` matched its hash and is in its place. Who else owes it is cancelled."""
        if self._leaves.verify(leaf) and leaf in self._doubtful:
            self._doubtful.discard(leaf)
            self._cancel_losers(leaf)

    def leaf_wrong(self, leaf: int) -> None:
        """Note that an arrived leaf did not match its hash: it is asked for again."""
        if self._leaves.reject(leaf, self._owing(leaf)):
            self._note_missing(leaf)

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
            self._note_missing(leaf)

    def _note_missing(self, leaf: int) -> None:
        for peer in self._peers.values():
            peer.cursor = min(peer.cursor, leaf)

    def _forget(self, peer: PeerState, ask: Ask) -> None:
        """Give free what is left of a request that is not answered any more."""
        if not ask.abandoned:
            for leaf in ask.rest:
                self._release(leaf)
        size = self._bytes(ask.next, ask.end)
        peer.in_flight -= size
        self._in_flight -= size

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
        return min(self._race_at, *map(self._deadline, self._peers.values()), math.inf)

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
        if now >= self._race_at:
            self._race_at = math.inf
            idle = [peer.id for peer in self._peers.values() if not peer.asks]
            self._events.extend(map(PeerReady, idle))
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
