"""The connections that are open: how many may be, and which of several to one peer is used. Pure.

Two peers that dial each other at the same moment end up with two connections. Neither end closes
one, because the other may be using it; both choose the same one for what they open from then on:
the one dialled by the peer whose ID is smaller, and of those the oldest.

A node that refuses whoever comes when it is full is lost to a network that grows: peers that need
nothing would keep out those that do. So before it is full, connections without streams give way.
Peer IDs cost nothing; what bounds how much of the node one stranger takes is its IP address.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lattica.errors import LimitExceeded

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from .limits import Limits
    from .multiaddr import Multiaddr


class ConnectionLimit(LimitExceeded):
    """No more connections are accepted or made: in all, to this peer, or from this IP address."""

    code = "connection-limit"


class Entry(Protocol):
    """What the table needs to know of a connection."""

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""

    @property
    def inbound(self) -> bool:
        """Whether the other end dialled."""

    @property
    def remote_address(self) -> Multiaddr:
        """The other end."""

    @property
    def opened_at(self) -> float:
        """When it was opened, in seconds of our clock."""

    @property
    def stream_count(self) -> int:
        """How many streams are open on it."""

    @property
    def closing(self) -> bool:
        """Whether it is ending already."""


_E = TypeVar("_E", bound=Entry)


class ConnectionTable(Generic[_E]):
    """Open connections by peer. An entry is removed as soon as its connection ends."""

    def __init__(self, own: PeerId, limits: Limits) -> None:
        self._own, self._limits = own, limits
        self._by_peer: dict[PeerId, list[_E]] = {}
        self._from: Counter[str] = Counter()  # inbound, by source
        self._count = 0

    def check_room(self, peer: PeerId | None = None) -> None:
        """Raise ConnectionLimit if one more connection, to `peer`, is one too many."""
        if self._count >= self._limits.connections:
            raise ConnectionLimit(
                f"{self._count} connections are open, limit `connections`", peer=peer
            )
        open_to_peer = len(self._by_peer.get(peer, ())) if peer is not None else 0
        if open_to_peer >= self._limits.connections_per_peer:
            raise ConnectionLimit(
                f"{open_to_peer} connections to {peer} are open, limit `connections_per_peer`",
                peer=peer,
            )

    def check_source(self, address: Multiaddr) -> None:
        """Raise ConnectionLimit if one more connection opened from there is one too many."""
        source = source_of(address)
        if self._from[source] >= self._limits.connections_per_ip and not _is_relayed(address):
            raise ConnectionLimit(
                f"{self._from[source]} connections from {source}, limit `connections_per_ip`"
            )

    def add(self, connection: _E) -> bool:
        """Take in a connection; say whether it is the first to its peer. Raises ConnectionLimit."""
        self.check_room(connection.peer)
        if _is_counted(connection):
            self.check_source(connection.remote_address)
            self._from[source_of(connection.remote_address)] += 1
        known = self._by_peer.setdefault(connection.peer, [])
        known.append(connection)
        known.sort(key=self._rank)
        self._count += 1
        return len(known) == 1

    def remove(self, connection: _E) -> bool:
        """Let go of a connection; say whether it was the last to its peer."""
        known = self._by_peer[connection.peer]
        known.remove(connection)
        self._count -= 1
        if _is_counted(connection):
            source = source_of(connection.remote_address)
            self._from[source] -= 1
            if not self._from[source]:
                del self._from[source]
        if known:
            return False
        del self._by_peer[connection.peer]
        return True

    def idle(self, now: float) -> _E | None:
        """Return what to close to make room: the oldest idle connection, if it is crowded here."""
        if self._count <= self._limits.crowded_at:
            return None
        before = now - self._limits.idle_after_s
        idle = [
            connection
            for connection in self.all()
            if not (connection.stream_count or connection.closing)
            and connection.opened_at <= before
        ]
        return min(idle, key=lambda connection: connection.opened_at, default=None)

    def best(self, peer: PeerId) -> _E | None:
        """Return the connection to `peer` that both ends prefer."""
        known = self._by_peer.get(peer)
        return known[0] if known else None

    def to(self, peer: PeerId) -> list[_E]:
        """Return all connections to `peer`, the preferred one first."""
        return list(self._by_peer.get(peer, ()))

    def all(self) -> list[_E]:
        """Return all connections."""
        return [connection for known in self._by_peer.values() for connection in known]

    def __len__(self) -> int:
        return self._count

    def _rank(self, connection: _E) -> tuple[bool, float]:
        dialer = connection.peer if connection.inbound else self._own
        return dialer != min(self._own, connection.peer), connection.opened_at


def source_of(address: Multiaddr) -> str:
    """Return whom to count a link to: the IP address, of IPv6 the /64 that one host may fill."""
    ip = address.ip
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return address.parts[0][1]


def _is_counted(connection: Entry) -> bool:
    return connection.inbound and not _is_relayed(connection.remote_address)


def _is_relayed(address: Multiaddr) -> bool:
    # Many peers may come through one relay, and all under its address.
    return any(name == "p2p-circuit" for name, _ in address.parts)
