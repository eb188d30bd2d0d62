"""Who is served while more ask than can be: so many at a time, and who reads slowly gives way.

Pure: `now` is passed in, in seconds. A slot is held as long as something is asked for. Where all
are taken and another comes, whoever takes least loses its slot, if it takes less than its share of
what all take together and has had some seconds to show otherwise; so a stranger who reads next to
nothing keeps nobody out, and among equals everybody gets a turn. Before that, a peer that holds
several gives one to a peer that would hold fewer. Those who wait get slots in the order in which
they came; who has lost one drives nobody out for a while (BitTorrent calls such peers choked and
snubbed), but may have a slot that is free at once.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from lattica.identity import PeerId

GRACE_SECONDS = 5.0  # that a slot is held at least
SNUBBED_SECONDS = 30.0  # that whoever lost a slot drives nobody out
_MEMORY_SECONDS = 5.0  # over which a rate is an average
WAITING_SECONDS = 30.0  # that a place in the line is kept: a fetcher comes back sooner
_SLOW = 1.5  # times an equal share of all, that a reader may take and still lose its slot
_MAX_SNUBBED = 1024  # remembered; more only means that some come back sooner
_MAX_WAITING = 256  # in the line; who comes then has no place, and may be lucky later

Holder = TypeVar("Holder", bound="Hashable")


@dataclass(slots=True)
class _Slot:
    """A slot that is held: by which peer, since when, and what it takes, as a decaying average."""

    peer: PeerId
    since: float
    amount: float = 0.0  # bytes, as of `at`
    at: float = 0.0

    def took(self, size: int, now: float) -> None:
        self.amount, self.at = self.rate(now) * _MEMORY_SECONDS + size, now

    def rate(self, now: float) -> float:
        return self.amount * math.exp((self.at - now) / _MEMORY_SECONDS) / _MEMORY_SECONDS


class Slots(Generic[Holder]):
    """The slots of one node."""

    def __init__(self, count: int, lose: Callable[[Holder], object]) -> None:
        """Let `count` be served at a time; call `lose` with a holder that has to stop."""
        self._count, self._lose = count, lose
        self._held: dict[Holder, _Slot] = {}
        self._by_peer: Counter[PeerId] = Counter()
        self._snubbed: OrderedDict[PeerId, float] = OrderedDict()  # until when
        self._line: dict[PeerId, float] = {}  # who was refused, the first first; when it asked last

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, holder: Holder) -> bool:
        return holder in self._held

    def take(self, holder: Holder, peer: PeerId, now: float) -> bool:
        """Give `holder` a slot, unless it has one. False: all are held by those who deserve them.

        Args:
            holder: a stream, say.
            peer: whose it is.
            now: seconds.
        """
        if holder in self._held:
            return True
        if len(self._held) >= self._count:
            victim = self._greediest(peer)
            if victim is None and now >= self._snubbed.get(peer, -math.inf):
                victim = self._for_the_next(peer, now)
                if victim is not None:
                    self._snub(self._held[victim].peer, now)
            if victim is None:
                return False
            self.leave(victim)
            self._lose(victim)
        self._line.pop(peer, None)
        self._held[holder] = _Slot(peer, now, at=now)
        self._by_peer[peer] += 1
        return True

    def sent(self, holder: Holder, size: int, now: float) -> None:
        """Note that `holder` took `size` bytes."""
        if (slot := self._held.get(holder)) is not None:
            slot.took(size, now)

    def leave(self, holder: Holder) -> None:
        """Take back the slot of `holder`, if it has one."""
        if (slot := self._held.pop(holder, None)) is not None:
            self._by_peer[slot.peer] -= 1
            if not self._by_peer[slot.peer]:
                del self._by_peer[slot.peer]

    def _greediest(self, peer: PeerId) -> Holder | None:
        """The newest slot of the peer with the most, if `peer` would then not have as many."""
        other, most = max(self._by_peer.items(), key=lambda item: item[1])
        if most <= self._by_peer[peer] + 1:
            return None
        return next(holder for holder in reversed(self._held) if self._held[holder].peer == other)

    def _for_the_next(self, peer: PeerId, now: float) -> Holder | None:
        """Whose slot goes to `peer`, if it is its turn; else it waits."""
        self._line = {
            each: asked for each, asked in self._line.items() if now - asked < WAITING_SECONDS
        }
        if peer in self._line or len(self._line) < _MAX_WAITING:
            self._line[peer] = now
        ahead = next((place for place, each in enumerate(self._line) if each == peer), _MAX_WAITING)
        slow = self._slow(now)
        return slow[0] if ahead < len(slow) else None

    def _slow(self, now: float) -> list[Holder]:
        """Who has had a chance and takes too little, the slowest first."""
        rates = {holder: slot.rate(now) for holder, slot in self._held.items()}
        bound = _SLOW * sum(rates.values()) / len(rates)
        slow = [
            holder
            for holder, slot in self._held.items()
            if now - slot.since >= GRACE_SECONDS and rates[holder] <= bound
        ]
        return sorted(slow, key=rates.__getitem__)

    def _snub(self, peer: PeerId, now: float) -> None:
        self._snubbed[peer] = now + SNUBBED_SECONDS
        self._snubbed.move_to_end(peer)
        if len(self._snubbed) > _MAX_SNUBBED:
            self._snubbed.popitem(last=False)
