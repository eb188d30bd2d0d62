"""Walking the whole DHT: whom to ask for which part of their table, until nobody is new. Pure.

A peer is first asked for the peers nearest to itself, then for each bucket further out, with a key
that falls into it. Where one answer holds fewer than k peers it was the whole table. Everybody who
is named is asked in turn, so in the end everybody was who can be reached from here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._keys import MAX_AIMED_BITS, K, key_sharing, position, shared_bits

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from lattica.identity import PeerId
    from lattica.transport import Multiaddr, PeerInfo

MAX_PEERS = 10_000  # found in one walk; each costs a few KiB
_MAX_ADDRESSES = 16


@dataclass(slots=True)
class Visit:
    """What is known of one peer.

    Attributes:
        peer: which.
        addresses: where it is, as others and it itself say.
        named: peers that it has named.
        error: why it could not be asked; None: it answered, or was not asked.
        answered: whether it has answered anything.
    """

    peer: PeerId
    addresses: dict[Multiaddr, None] = field(default_factory=dict)
    named: set[PeerId] = field(default_factory=set)
    error: str | None = None
    answered: bool = False


class Crawl:
    """One walk.

    Args:
        local: ourselves; never asked.
        seeds: whom to begin with.
        most: peers to find at most.
        rng: chooses keys.
    """

    def __init__(
        self,
        local: PeerId,
        seeds: Iterable[PeerInfo],
        *,
        most: int = MAX_PEERS,
        rng: random.Random,
    ) -> None:
        self._local, self._most, self._rng = local, most, rng
        self.visits: dict[PeerId, Visit] = {}
        self._waiting: deque[PeerId] = deque()
        self._left_out = 0
        self.hear(seeds)

    @property
    def complete(self) -> bool:
        """Whether everybody who was named was asked."""
        return not self._waiting and not self._left_out

    def hear(self, named: Iterable[PeerInfo], by: Visit | None = None) -> None:
        """Take in peers, as one peer named them."""
        for info in named:
            if info.peer == self._local:
                continue
            known = self.visits.get(info.peer)
            if known is None:
                if len(self.visits) >= self._most:
                    self._left_out += 1
                    continue
                known = self.visits[info.peer] = Visit(info.peer)
                self._waiting.append(info.peer)
            for address in info.addresses[: _MAX_ADDRESSES - len(known.addresses)]:
                known.addresses.setdefault(address)
            if by is not None:
                by.named.add(info.peer)

    def next_visit(self) -> Visit | None:
        """Return whom to ask next; None: nobody, unless an answer names somebody."""
        return self.visits[self._waiting.popleft()] if self._waiting else None

    def keys_of(self, visit: Visit, nearest: Iterable[PeerInfo]) -> list[bytes]:
        """Return the keys to ask `visit` for besides itself, whose answer was `nearest`."""
        here = position(visit.peer.raw)
        shared = [shared_bits(position(info.peer.raw), here) for info in nearest]
        if len(shared) < K - 1:  # one may be ourselves, whom nobody names to us
            return []
        furthest = min(min(shared), MAX_AIMED_BITS)
        return [key_sharing(here, bits, self._rng) for bits in range(furthest + 1)]
