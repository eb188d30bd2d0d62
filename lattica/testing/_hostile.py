"""Peers that mean harm, for simulations: what an attacker can run in a DHT.

Each stands in the tables of others like any node, and answers in its own way. They know each other
(`Gang`), as machines of one attacker do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lattica import codec
from lattica.dht._keys import K, position
from lattica.dht._messages import MAX_PEERS, Message, MessageType, Peer, Record
from lattica.dht._records import decode_entry, decode_set, encode_set
from lattica.transport import PeerInfo

from ._dht_node import SimulatedDht
from ._dht_world import random_peer

if TYPE_CHECKING:
    from collections.abc import Hashable

    from lattica.identity import PeerId


@dataclass(slots=True)
class Gang:
    """Who the hostile nodes of one attacker are."""

    members: list[PeerId] = field(default_factory=list)

    def nearest(self, key: bytes) -> list[PeerId]:
        """Return the members nearest to `key`."""
        target = position(key)
        return sorted(self.members, key=lambda peer: position(peer.raw) ^ target)[:K]


class Silent(SimulatedDht):
    """Takes whatever is sent, and answers nothing."""

    def receive(self, sender: Hashable, message: Any) -> None:
        """Take it."""


class Hostile(SimulatedDht):
    """Answers as it likes; see the kinds below."""

    def __init__(self, *arguments: Any, gang: Gang, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "upkeep": False})
        self.gang = gang
        if self.peer not in gang.members:
            gang.members.append(self.peer)


class Withholder(Hostile):
    """Leads on like an honest node, and keeps quiet about what it was told."""

    def answer(self, request: Message, sender: PeerId) -> Message | None:
        """Answer without records and providers."""
        honest = super().answer(request, sender)
        if honest is None:
            return None
        return Message(honest.type, honest.key, closer=honest.closer)


class Stale(Hostile):
    """Says that it keeps each value it is told, and goes on telling the first it saw."""

    def answer(self, request: Message, sender: PeerId) -> Message | None:
        """Take a first value; pretend to take all others."""
        told = request.record
        if request.type is MessageType.PUT_VALUE and self.keeper.get(
            request.key, now=self.clock.now()
        ):
            return Message(request.type, request.key, told)
        return super().answer(request, sender)


class Forger(Hostile):
    """Leads on like an honest node, and makes up records and providers."""

    def answer(self, request: Message, sender: PeerId) -> Message | None:
        """Answer with forged values, and with providers that are not there."""
        honest = super().answer(request, sender)
        if honest is None:
            return None
        if request.type is MessageType.PUT_VALUE:
            return Message(request.type, request.key, request.record)
        if request.type is MessageType.GET_VALUE and honest.record is not None:
            return replace(honest, record=self._forged(honest.record))
        if request.type is not MessageType.GET_PROVIDERS:
            return honest
        address = self.world.addresses(self.peer)
        made_up = tuple(
            Peer(PeerInfo(random_peer(self.host.rng), address)) for _ in range(MAX_PEERS)
        )
        return Message(honest.type, honest.key, closer=honest.closer, providers=made_up)

    def _forged(self, record: Record) -> Record:
        """Return a record like `record`, each entry newer and with a value of our own."""
        entries = []
        for encoded in decode_set(record.value):
            entry = decode_entry(encoded)
            fields: list[codec.Value] = [
                entry.author.raw,
                entry.subkey,
                codec.pack("forged"),
                entry.sequence + 1000,
                entry.created_ms,
                entry.expires_ms,
                entry.signature,
            ]
            entries.append(decode_entry(codec.pack(fields)))
        return Record(record.key, encode_set(entries))


class Eclipser(Hostile):
    """Names only its own gang, so that who asks it never meets anybody else."""

    def answer(self, request: Message, sender: PeerId) -> Message | None:
        """Answer with the members nearest to the key."""
        if super().answer(request, sender) is None:
            return None
        gang = (peer for peer in self.gang.nearest(request.key) if peer != self.peer)
        closer = tuple(Peer(PeerInfo(peer, self.world.addresses(peer))) for peer in gang)
        return Message(request.type, request.key, closer=closer)
