"""From where peers see us come. Pure, bounded.

One peer may say anything, so an address counts by how many peers reported it last. Behind a NAT it
shows our public IP address, though the port of a connection that we dialled is a passing one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from .multiaddr import Multiaddr

_MAX_WITNESSES = 32  # peers remembered per address; more do not make it truer


class ObservedAddresses:
    """Addresses of ours, and who reported each."""

    def __init__(self, limit: int) -> None:
        """Remember at most `limit` addresses, the ones reported last."""
        self._limit = limit
        self._witnesses: dict[Multiaddr, set[PeerId]] = {}

    def add(self, address: Multiaddr, peer: PeerId) -> None:
        """Note that `peer` sees us at `address`."""
        # What it said before counts no more, or one peer could push out what all others say.
        for earlier in [other for other, seen in self._witnesses.items() if peer in seen]:
            self._witnesses[earlier].discard(peer)
            if not self._witnesses[earlier]:
                del self._witnesses[earlier]
        witnesses = self._witnesses.pop(address, set())
        if len(witnesses) < _MAX_WITNESSES:
            witnesses.add(peer)
        self._witnesses[address] = witnesses
        while len(self._witnesses) > self._limit:
            del self._witnesses[next(iter(self._witnesses))]

    def counts(self) -> dict[Multiaddr, int]:
        """Return how many peers report each address, the best witnessed first."""
        found = {address: len(peers) for address, peers in self._witnesses.items()}
        return dict(sorted(found.items(), key=lambda entry: -entry[1]))
