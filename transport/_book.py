"""What we know of peers: where they were last reached, what they speak. Pure, in memory, bounded.

Addresses come from strangers and grow stale, so each has a time to live, and a peer that fills the
book only pushes out what has not been heard of for longest. What others say of a peer is hearsay
and has pages of its own, so that no liar can push out what the peer itself said, or where it was
reached. Time is whatever the latest call said: `add` and `advance` move it, and between them it
stands still.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lattica.identity import PeerId

    from .multiaddr import Multiaddr

_MAX_DISTRUSTED = 8192


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer and where it may be reached; the addresses end without `/p2p/…`."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]


@dataclass(slots=True)
class _Entry:
    expires_at: dict[Multiaddr, float] = field(default_factory=dict)
    worked: Multiaddr | None = None
    protocols: frozenset[str] = frozenset()
    agent: str = ""
    protocol_version: str = ""


class AddressBook:
    """Addresses and protocols by peer."""

    def __init__(self, *, peers: int = 4096, addresses_per_peer: int = 16) -> None:
        """Make an empty book that holds at most `peers` peers of `addresses_per_peer` each.

        Hearsay has room for a quarter as many, besides.
        """
        self._max_peers, self._max_addresses = peers, addresses_per_peer
        self._max_hearsay = max(1, peers // 4)
        self._entries: dict[PeerId, _Entry] = {}  # in the order in which we heard of them
        self._hearsay: dict[PeerId, dict[Multiaddr, float]] = {}  # likewise
        self._distrusted: dict[Multiaddr, None] = {}  # names; the latest at the end
        self._protectors: list[Callable[[PeerId], bool]] = []
        self._kept: set[PeerId] = set()
        self._now = 0.0

    def add(
        self,
        peer: PeerId,
        addresses: Iterable[Multiaddr],
        *,
        now: float,
        ttl: float,
        hearsay: bool = False,
    ) -> None:
        """Note that `peer` may be reached at `addresses` until `now + ttl` (seconds).

        A `/p2p/…` at the end is dropped, an address of another peer ignored. What is known already
        is only ever extended; of more addresses than fit, those that lapse first go.

        Args:
            peer: whose addresses.
            addresses: where.
            now: the time.
            ttl: for how long.
            hearsay: somebody else says so. It takes no room from anything else.
        """
        self.advance(now)
        usable = [
            bare for address in addresses if (bare := bare_address(address, peer)) is not None
        ]
        if not usable:
            return
        known = self._touch_hearsay(peer) if hearsay else self._touch(peer).expires_at
        for address in usable:
            known[address] = max(known.get(address, 0.0), now + ttl)
        self._drop_expired(peer, known)
        while len(known) > self._max_addresses:
            del known[min(known, key=known.__getitem__)]

    def distrust(self, addresses: Iterable[Multiaddr]) -> None:
        """Note that somebody on the internet told these: names among them may lead anywhere.

        They are dialled only where they lead back to the internet, and not to machines around us
        that are closed to whoever told them.
        """
        for address in addresses:
            if address.is_name:
                self._distrusted.pop(address, None)
                self._distrusted[address] = None
        while len(self._distrusted) > _MAX_DISTRUSTED:
            del self._distrusted[next(iter(self._distrusted))]

    def is_distrusted(self, address: Multiaddr) -> bool:
        """Say whether `address` is a name that somebody on the internet told."""
        return address in self._distrusted

    def addresses(self, peer: PeerId, *, hearsay: bool = True) -> list[Multiaddr]:
        """Return where `peer` may be reached: where it was last, then its own word, then others'.

        Args:
            peer: who.
            hearsay: whether to include what others say. Leave it out of what is told to others.
        """
        entry, said = self._entries.get(peer), self._hearsay.get(peer)
        found: list[Multiaddr] = []
        if entry is not None:
            self._drop_expired(peer, entry.expires_at)
            found = sorted(entry.expires_at, key=lambda address: address != entry.worked)
        if hearsay and said is not None:
            self._drop_expired(peer, said)
            found += [address for address in said if address not in found]
        return found

    def worked(self, peer: PeerId) -> Multiaddr | None:
        """Return where `peer` was reached last, if that is known."""
        entry = self._entries.get(peer)
        return entry.worked if entry is not None else None

    def info(self, peer: PeerId) -> PeerInfo:
        """Return `addresses(peer)` as one value."""
        return PeerInfo(peer, tuple(self.addresses(peer)))

    def note_success(self, peer: PeerId, address: Multiaddr, *, now: float, ttl: float) -> None:
        """Note that `peer` was reached at `address`, which is tried first from now on."""
        self.add(peer, [address], now=now, ttl=ttl)
        entry = self._entries.get(peer)
        if entry is not None:
            entry.worked = bare_address(address, peer)

    def forget_address(self, peer: PeerId, address: Multiaddr) -> None:
        """Drop an address that is known to be wrong: somebody else answered there."""
        entry = self._entries.get(peer)
        bare = bare_address(address, peer)
        if bare is None:
            return
        self._hearsay.get(peer, {}).pop(bare, None)
        if entry is not None:
            entry.expires_at.pop(bare, None)
            if entry.worked == bare:
                entry.worked = None

    def protocols(self, peer: PeerId) -> frozenset[str]:
        """Return what `peer` says it speaks; empty while it is not connected and identified."""
        entry = self._entries.get(peer)
        return entry.protocols if entry is not None else frozenset()

    def agent(self, peer: PeerId) -> str:
        """Return the software `peer` says it runs; empty while unknown."""
        entry = self._entries.get(peer)
        return entry.agent if entry is not None else ""

    def protocol_version(self, peer: PeerId) -> str:
        """Return the protocol family `peer` says it belongs to; empty while unknown."""
        entry = self._entries.get(peer)
        return entry.protocol_version if entry is not None else ""

    def set_identified(
        self, peer: PeerId, *, protocols: Iterable[str], agent: str, protocol_version: str = ""
    ) -> None:
        """Note what a connected peer said of itself."""
        entry = self._touch(peer)
        entry.protocols, entry.agent = frozenset(protocols), agent
        entry.protocol_version = protocol_version

    def keep(self, peer: PeerId) -> None:
        """Let nothing push `peer` out until `release`: it is connected."""
        self._kept.add(peer)

    def release(self, peer: PeerId) -> None:
        """Undo `keep`, and forget what it speaks: the next connection tells anew."""
        self._kept.discard(peer)
        entry = self._entries.get(peer)
        if entry is not None:
            entry.protocols, entry.agent, entry.protocol_version = frozenset(), "", ""
            if not entry.expires_at:
                del self._entries[peer]

    def protect(self, wanted: Callable[[PeerId], bool]) -> None:
        """Keep the addresses of peers for which `wanted` is true, which must be few.

        They neither give way to others nor lapse, until `unprotect`: a node that was without a
        network for a day should find back.
        """
        self._protectors.append(wanted)

    def unprotect(self, wanted: Callable[[PeerId], bool]) -> None:
        """Undo `protect`."""
        self._protectors.remove(wanted)

    def peers(self) -> list[PeerId]:
        """Return every peer known at first hand, the one heard of longest ago first."""
        return list(self._entries)

    def advance(self, now: float) -> None:
        """Move the book's time to `now` (seconds); it never goes back."""
        self._now = max(self._now, now)

    def __len__(self) -> int:
        return len(self._entries)

    def _touch(self, peer: PeerId) -> _Entry:
        entry = self._entries.pop(peer, None)
        if entry is None:
            entry = _Entry()
            self._make_room()
        self._entries[peer] = entry
        return entry

    def _touch_hearsay(self, peer: PeerId) -> dict[Multiaddr, float]:
        known = self._hearsay.pop(peer, None)
        if known is None:
            known = {}
            if len(self._hearsay) >= self._max_hearsay:
                del self._hearsay[next(iter(self._hearsay))]
        self._hearsay[peer] = known
        return known

    def _make_room(self) -> None:
        # Connected and protected peers that come up first move to the end. They are fewer than the
        # book holds; should they not be, it grows by them, and the limit on connections bounds it.
        for _ in range(len(self._entries)):
            if len(self._entries) < self._max_peers:
                return
            oldest = next(iter(self._entries))
            entry = self._entries.pop(oldest)
            if oldest in self._kept or self._protected(oldest):
                self._entries[oldest] = entry

    def _drop_expired(self, peer: PeerId, known: dict[Multiaddr, float]) -> None:
        lapsed = [address for address, until in known.items() if until <= self._now]
        if lapsed and not self._protected(peer):
            for address in lapsed:
                del known[address]

    def _protected(self, peer: PeerId) -> bool:
        return any(wanted(peer) for wanted in self._protectors)


def bare_address(address: Multiaddr, peer: PeerId | None) -> Multiaddr | None:
    """Return `address` without `/p2p/…`, or None if it names another peer, or nothing else."""
    named = address.peer_id
    if named is None:
        return address
    return address.without_peer() if named == peer and len(address.parts) > 1 else None
