"""How many bytes may pass in a second, in all and for each peer. Pure: `now` is passed in.

What passes is counted when it is let through, and may overdraw what there is: then nothing passes
until the debt is paid. So a leaf larger than a second's allowance passes, too, and the mean is the
rate all the same. What is saved up while nothing passes is a tenth of a second's worth.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.identity import PeerId

_SAVED_SECONDS = 0.1
_REQUEST_SECONDS = 0.1  # one request, or one read, is for about so long
_LEAST_REQUEST_BYTES = 16 << 10
_MAX_PEERS = 1024  # whose allowance is remembered; who is forgotten begins with a new one


class TokenBucket:
    """Lets `rate` bytes a second through."""

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self._at, self._level = rate, now, rate * _SAVED_SECONDS

    def ready_at(self, now: float) -> float:
        """Return when something may pass: `now`, or when the debt is paid."""
        self._fill(now)
        return now if self._level > -1 else now - self._level / self.rate

    def spend(self, size: int, now: float) -> None:
        """Count bytes that pass."""
        self._fill(now)
        self._level -= size

    def give_back(self, size: int) -> None:
        """Count bytes that were let through and did not come."""
        self._level += size

    def _fill(self, now: float) -> None:
        most = self.rate * _SAVED_SECONDS
        self._level = min(most, self._level + (now - self._at) * self.rate)
        self._at = now


class Budget:
    """What may pass in one direction, in all and for each peer."""

    def __init__(self, total: float | None, per_peer: float | None) -> None:
        """Let so many bytes a second through; None is no limit."""
        self.total_rate, self.per_peer_rate = total, per_peer
        self._total: TokenBucket | None = None
        self._peers: OrderedDict[PeerId, TokenBucket] = OrderedDict()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.total_rate is not None or self.per_peer_rate is not None

    @property
    def piece_bytes(self) -> int:
        """How much to ask for, or to read, at once, so that it flows and does not come in gulps."""
        rates = [rate for rate in (self.total_rate, self.per_peer_rate) if rate is not None]
        return max(_LEAST_REQUEST_BYTES, int(min(rates) * _REQUEST_SECONDS))

    def total_ready_at(self, now: float) -> float:
        """Return when something may pass, for whomever."""
        if self.total_rate is None:
            return now
        if self._total is None:
            self._total = TokenBucket(self.total_rate, now)
        return self._total.ready_at(now)

    def ready_at(self, peer: PeerId, now: float) -> float:
        """Return when something may pass for `peer`: `now`, or later."""
        total = self.total_ready_at(now)
        bucket = self._bucket(peer, now)
        return total if bucket is None else max(total, bucket.ready_at(now))

    def spend(self, peer: PeerId, size: int, now: float) -> None:
        """Count bytes that pass for `peer`."""
        self.total_ready_at(now)
        if self._total is not None:
            self._total.spend(size, now)
        if (bucket := self._bucket(peer, now)) is not None:
            bucket.spend(size, now)

    def give_back(self, peer: PeerId, size: int) -> None:
        """Count bytes that were let through for `peer` and did not come."""
        if self._total is not None:
            self._total.give_back(size)
        if (bucket := self._peers.get(peer)) is not None:
            bucket.give_back(size)

    def _bucket(self, peer: PeerId, now: float) -> TokenBucket | None:
        if self.per_peer_rate is None:
            return None
        bucket = self._peers.get(peer)
        if bucket is None:
            bucket = self._peers[peer] = TokenBucket(self.per_peer_rate, now)
            if len(self._peers) > _MAX_PEERS:
                self._peers.popitem(last=False)
        self._peers.move_to_end(peer)
        return bucket


@dataclass(slots=True, eq=False)
class Turn:
    """A place in the line of those who want to send.

    Attributes:
        granted: whether it may be sent; `wake` is called then.
    """

    peer: PeerId
    size: int
    start: float
    wake: Callable[[], object]
    granted: bool = False


class Turns:
    """Who sends next under a budget: peers take turns, of the same bytes each.

    This is start-time fair queuing (Goyal, Vin and Cheng, 1996). A peer on many streams gets no
    more than one on a single stream, and who asks for little waits for little.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._waiting: dict[PeerId, deque[Turn]] = {}
        self._sent: OrderedDict[PeerId, float] = OrderedDict()  # where each peer's next turn begins
        self._clock = 0.0  # where the latest turn began, in bytes

    def join(self, peer: PeerId, size: int, wake: Callable[[], object]) -> Turn:
        """Wait in line to send `size` bytes to `peer`."""
        start = max(self._clock, self._sent.get(peer, 0.0))
        self._sent[peer] = start + size
        self._sent.move_to_end(peer)
        if len(self._sent) > _MAX_PEERS:
            self._sent.popitem(last=False)
        turn = Turn(peer, size, start, wake)
        self._waiting.setdefault(peer, deque()).append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Wait no more. Does nothing once it is granted, or for the second time."""
        if turn in self._waiting.get(turn.peer, ()):
            self._remove(turn)

    def grant(self, now: float) -> None:
        """Let all through that may be sent by now."""
        while (turn := self._next(now)) is not None:
            self._remove(turn)
            self._clock = turn.start
            self._budget.spend(turn.peer, turn.size, now)
            turn.granted = True
            turn.wake()

    def next_time(self, now: float) -> float:
        """Return when to call `grant` again."""
        return min((self._budget.ready_at(peer, now) for peer in self._waiting), default=now)

    def _next(self, now: float) -> Turn | None:
        ready = [
            turns[0]
            for peer, turns in self._waiting.items()
            if self._budget.ready_at(peer, now) <= now
        ]
        return min(ready, key=lambda turn: turn.start, default=None)

    def _remove(self, turn: Turn) -> None:
        turns = self._waiting[turn.peer]
        turns.remove(turn)
        if not turns:
            del self._waiting[turn.peer]
