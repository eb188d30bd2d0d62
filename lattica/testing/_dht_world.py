"""A simulation whose hosts are DHT nodes: who they are, where they are, what messages weigh.

`DhtWorld` makes nodes by the thousand, and can fill their tables as years of company would have.
"""

from __future__ import annotations

import bisect
from functools import partial
from typing import TYPE_CHECKING, Any

from lattica.dht._keys import KEY_BITS, K, position
from lattica.dht._messages import Message, MessageType, Peer, encode
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo, ip_group

from ._dht_node import SimulatedDht
from ._simulation import EPOCH

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from ._simulation import Actor, Clock, Simulation

_KEY_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))  # of the peer ID of an Ed25519 key
_EMPTY_BYTES = len(encode(Message(MessageType.PING)))
_CLOCK_BYTES = len(encode(Message(MessageType.PING, clock=int(EPOCH * 1000)))) - _EMPTY_BYTES


def random_peer(rng: random.Random) -> PeerId:
    """Return a peer ID as of an Ed25519 key that nobody has."""
    return PeerId(_KEY_PREFIX + rng.randbytes(32))


def peer_near(key: bytes, bits: int, rng: random.Random) -> PeerId:
    """Return a peer ID that shares at least `bits` leading bits with `key`: what an attacker mines.

    It takes 2**bits tries or so.
    """
    shift = KEY_BITS - bits
    wanted = position(key) >> shift
    while True:
        peer = random_peer(rng)
        if position(peer.raw) >> shift == wanted:
            return peer


class DhtWorld:
    """A simulation whose hosts are DHT nodes.

    Attributes:
        simulation: time, network, faults. A host's name is its peer ID.
        wire: encode and decode each message on its way. Without, sizes are computed alone.
    """

    def __init__(self, simulation: Simulation, *, wire: bool = True) -> None:
        self.simulation, self.wire = simulation, wire
        self._addresses: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._groups: dict[PeerId, bytes | None] = {}
        self._sizes: dict[PeerId, int] = {}  # of a peer in a message, with its addresses

    def add(
        self,
        *,
        bootstrap: Sequence[PeerId] = (),
        peer: PeerId | None = None,
        network: str | None = None,
        kind: Callable[..., Actor] | None = None,
        start: bool = True,
        clock: Clock | None = None,
        **options: Any,
    ) -> PeerId:
        """Add a node, and return its peer ID.

        Args:
            bootstrap: whom it joins through. Without any it waits to be found.
            peer: who it is.
            network: the first three numbers of its address, `"50.60.70"`; its own if not given.
            kind: what makes it, instead of `SimulatedDht`; is handed the same.
            start: False: it is down until `Simulation.restart`.
            clock: how wrong its clock is; right if not given.
            options: for whatever makes it.
        """
        rng = self.simulation.rng
        peer = peer if peer is not None else random_peer(rng)
        if network is None:
            network = f"{rng.randint(20, 99)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}"
        address = Multiaddr.parse(f"/ip4/{network}.{rng.randint(1, 250)}/tcp/4001")
        self._addresses[peer], self._groups[peer] = (address,), ip_group(address)
        self._sizes[peer] = len(encode(_about(peer, (address,)))) - _EMPTY_BYTES
        build = partial(kind or SimulatedDht, world=self, bootstrap=tuple(bootstrap), **options)
        self.simulation.add(peer, build, start=start, clock=clock)
        return peer

    def node(self, peer: PeerId) -> SimulatedDht:
        """Return the running node of `peer`."""
        actor = self.simulation.hosts[peer].actor
        if not isinstance(actor, SimulatedDht):
            raise TypeError(f"{peer} is no running DHT node")
        return actor

    def nodes(self) -> list[SimulatedDht]:
        """Return all running nodes, in the order added."""
        running = (host.actor for host in self.simulation.running())
        return [actor for actor in running if isinstance(actor, SimulatedDht)]

    def addresses(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Return where `peer` is."""
        return self._addresses.get(peer, ())

    def group(self, peer: PeerId) -> bytes | None:
        """Return the network that `peer` is in; see `transport.ip_group`."""
        return self._groups[peer]

    def nearest(self, key: bytes, count: int = K) -> list[PeerId]:
        """Return the running nodes nearest to `key`: what a perfect lookup finds."""
        target = position(key)
        peers = (node.peer for node in self.nodes())
        return sorted(peers, key=lambda peer: position(peer.raw) ^ target)[:count]

    def warm(self) -> None:
        """Fill the tables of all running nodes as if each had met everybody, in some order."""
        rng, now = self.simulation.rng, self.simulation.now
        nodes = self.nodes()
        places = sorted((position(node.peer.raw), node.peer) for node in nodes)
        positions = [place for place, _ in places]
        for node in nodes:
            own = node.table.position
            for bits in range(KEY_BITS):
                # The region of bucket `bits`: the same leading bits as ours, but for the last.
                shift = KEY_BITS - bits - 1
                least = ((own >> shift) ^ 1) << shift
                first = bisect.bisect_left(positions, least)
                last = bisect.bisect_left(positions, least + (1 << shift))
                for _, peer in _some(places, first, last, rng):
                    node.meet(peer)
                own_first = bisect.bisect_left(positions, (own >> shift) << shift)
                own_last = bisect.bisect_left(positions, ((own >> shift) + 1) << shift)
                if own_last - own_first <= 1:
                    break  # we are alone on our side: all deeper buckets are empty
            node.table.looked_up_everywhere(now=now)

    def size_of(self, message: Message) -> int:
        """Return how many bytes `message` takes on a stream."""
        if self.wire or message.record is not None or message.room or message.refusal:
            return _framed(len(encode(message)))
        size = _EMPTY_BYTES + (_CLOCK_BYTES if message.clock else 0)
        if message.key:
            size += len(message.key) + (2 if len(message.key) < 128 else 3)
        for peers in (message.closer, message.providers):
            for peer in peers:
                known = self._sizes.get(peer.info.peer)
                if known is None or peer.info.addresses != self._addresses[peer.info.peer]:
                    known = len(encode(Message(MessageType.PING, closer=(peer,)))) - _EMPTY_BYTES
                size += known
        return _framed(size)


def _about(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> Message:
    return Message(MessageType.PING, closer=(Peer(PeerInfo(peer, addresses)),))


def _framed(size: int) -> int:
    return size + (1 if size < 128 else 2)  # answers stay below 16 KiB


def _some(
    places: list[tuple[int, PeerId]], first: int, last: int, rng: random.Random
) -> list[tuple[int, PeerId]]:
    """Return up to 2 K of `places[first:last]`, picked at random: contacts, and their spares."""
    if last - first <= 2 * K:
        return places[first:last]
    return [places[index] for index in rng.sample(range(first, last), 2 * K)]
