"""What this node answers to a request of another peer. Pure.

A `Responder` knows the routing table, the provider records and our own keys; for addresses it asks
a `Directory`, which stands for the mesh and its address book. `answer` takes one request and gives
the message to send back, or None where the protocol has no answer (spec/dht.md §4.2).

Two rules protect others from us, and us from being used. Only the sender of `ADD_PROVIDER` can be
its subject. And addresses are told, and believed, only where both ends mean the same by them: a
stranger on the internet can do nothing with our neighbours' private addresses, nor we with his.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lattica.errors import CodecError, Refused
from lattica.identity import PeerId
from lattica.transport import PeerInfo, ip_group

from ._keys import K, position
from ._messages import (
    MAX_ANSWER,
    MAX_PEERS,
    MAX_VALUE,
    ConnectionType,
    Message,
    MessageError,
    MessageType,
    Peer,
    fit,
)
from ._providers import MAX_PROVIDER_KEY
from ._reach import leads_there, needed_at, reach

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from lattica.transport import Multiaddr

    from ._keeper import Keeper
    from ._providers import ProviderStore, ProvideSchedule
    from ._reach import Reach
    from ._table import RoutingTable


MAX_DESCRIBED = 1024  # peers whose description is kept, to be told again
MAX_ROOM = MAX_VALUE + MAX_ANSWER  # bytes of an answer that carries a value, to who reads as many


class ValuesRefused(Refused):
    """A peer asks us to keep a value, and this node keeps none."""

    code = "dht-values-refused"
    hint = "this node keeps provider records only"


class Directory(Protocol):
    """Where peers are, as far as we know. Our own ID included."""

    def addresses(self, peer: PeerId) -> Sequence[Multiaddr]:
        """Return the known addresses of `peer`."""

    def is_connected(self, peer: PeerId) -> bool:
        """Say whether there is a connection to `peer` now."""

    def learn(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Remember what `peer` says of its own addresses."""


class Responder:
    """Answers requests from what this node knows. Without a keeper it keeps no values."""

    def __init__(
        self,
        *,
        table: RoutingTable,
        store: ProviderStore,
        schedule: ProvideSchedule,
        directory: Directory,
        rng: random.Random,
        keeper: Keeper | None = None,
    ) -> None:
        self._table, self._store, self._schedule = table, store, schedule
        self._directory, self._rng, self._keeper = directory, rng, keeper
        self._described: dict[tuple[PeerId, Reach], tuple[Sequence[Multiaddr], Peer]] = {}

    def answer(
        self,
        request: Message,
        *,
        sender: PeerId,
        address: Multiaddr,
        now: float,
        wall: float = 0.0,
    ) -> Message | None:
        """Return the answer to `request`, or None where there is none to give.

        Args:
            request: what the peer asks.
            sender: who asks, proven by the connection.
            address: from where, as we see it.
            now: the time, in seconds.
            wall: the wall clock, in seconds since 1970, which values expire by.

        Raises:
            MessageError: the request lacks what it needs.
            ValuesRefused: it wants a value kept by a node that keeps none.
        """
        match request.type:
            case MessageType.PING:
                return Message(MessageType.PING)
            case MessageType.PUT_VALUE:
                if self._keeper is None:
                    raise ValuesRefused(f"{sender} wants a value kept", peer=sender)
                source = ip_group(address) or sender.raw
                return self._keeper.put(request, now=wall, sender=sender, source=source)
            case MessageType.ADD_PROVIDER:
                self._add_provider(request, sender, address, now)
                return None
            case MessageType.FIND_NODE:
                peers = self._closer(request, sender, address, exact=True)
                return fit(Message(request.type, request.key, closer=tuple(peers)))
            case MessageType.GET_VALUE:
                peers = [] if request.brief else self._closer(request, sender, address)
                record = None
                if self._keeper is not None:
                    record = self._keeper.get(request.key, now=wall, room=request.room)
                message = Message(request.type, request.key, record, tuple(peers))
                return fit(message, max(MAX_ANSWER, min(request.room, MAX_ROOM)))
            case MessageType.GET_PROVIDERS:
                peers = self._closer(request, sender, address)
                providers = self._providers(request, sender, address, now)
                message = Message(
                    request.type, request.key, closer=tuple(peers), providers=tuple(providers)
                )
                return fit(message)

    def _closer(
        self, request: Message, sender: PeerId, address: Multiaddr, *, exact: bool = False
    ) -> list[Peer]:
        if not request.key:
            raise MessageError(f"{request.type.name} without a key", peer=sender)
        # One more than is sent: the sender may be among them, and knows itself.
        nearest = self._table.closest(position(request.key), K + 1)
        chosen = [peer for peer in nearest if peer != sender][:K]
        described = (self._describe(peer, address) for peer in chosen)
        peers = [peer for peer in described if peer.info.addresses]
        if exact and request.key != sender.raw:
            peers = self._put_first(request.key, peers, address)
        return peers

    def _put_first(self, key: bytes, peers: list[Peer], address: Multiaddr) -> list[Peer]:
        # A peer need not be in the table to be found: clients, and ourselves, are not.
        sought = next((peer for peer in peers if peer.info.peer.raw == key), None)
        if sought is None:
            known = self._known(key)
            sought = self._describe(known, address) if known is not None else None
        if sought is None or not sought.info.addresses:
            return peers
        return [sought, *(peer for peer in peers if peer is not sought)][:K]

    def _known(self, key: bytes) -> PeerId | None:
        try:
            return PeerId.from_bytes(key)
        except CodecError:
            return None

    def _providers(
        self, request: Message, sender: PeerId, address: Multiaddr, now: float
    ) -> Iterable[Peer]:
        found = [peer for peer in self._store.providers(request.key, now=now) if peer != sender]
        room = MAX_PEERS
        if request.key in self._schedule:
            yield self._describe(self._table.local, address)
            room -= 1
        if len(found) > room:
            # A different choice each time, so that many fetchers do not all meet at a few.
            found = self._rng.sample(found, room)
        for peer in found:
            yield self._describe(peer, address)

    def _add_provider(
        self, request: Message, sender: PeerId, address: Multiaddr, now: float
    ) -> None:
        if not 1 <= len(request.key) <= MAX_PROVIDER_KEY:
            raise MessageError(
                f"a provider key of {len(request.key)} bytes, expected 1 to {MAX_PROVIDER_KEY}",
                peer=sender,
            )
        for peer in request.providers:
            if peer.info.peer == sender:
                told = peer.info.addresses
                self._directory.learn(sender, [each for each in told if leads_there(each, address)])
                self._store.add(request.key, sender, now=now, group=ip_group(address))
                return

    def _describe(self, peer: PeerId, asker: Multiaddr) -> Peer:
        # The same contacts are told again and again, and rarely move.
        needed, known = needed_at(asker), tuple(self._directory.addresses(peer))
        connected = self._directory.is_connected(peer)
        kind = ConnectionType.CONNECTED if connected else ConnectionType.NOT_CONNECTED
        at, told = self._described.get((peer, needed), _NOT_DESCRIBED)
        if told is not None and at == known and told.connection is kind:
            return told
        told = Peer(PeerInfo(peer, tuple(each for each in known if reach(each) >= needed)), kind)
        if len(self._described) >= MAX_DESCRIBED:
            self._described.clear()
        self._described[peer, needed] = known, told
        return told


_NOT_DESCRIBED: tuple[tuple[Multiaddr, ...], None] = ((), None)
