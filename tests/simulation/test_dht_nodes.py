"""DHT nodes under simulation: what they find, what it costs, what a seed decides."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

from lattica.dht._keys import K, position, shared_bits
from lattica.dht._messages import Message, MessageType, Peer, encode, frame
from lattica.testing import DhtWorld, Simulation, peer_near, random_peer
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from lattica.dht._lookup import Lookup


def warm_world(count: int, *, seed: int = 1, wire: bool = False) -> DhtWorld:
    world = DhtWorld(Simulation(seed), wire=wire)
    for _ in range(count):
        world.add(upkeep=False)
    world.warm()
    return world


def look(world: DhtWorld, key: bytes) -> Lookup:
    node = world.simulation.rng.choice(world.nodes())
    ended: list[Lookup] = []
    node.find_node(key, ended.append)
    assert world.simulation.run(90, until=lambda: bool(ended))
    return ended[0]


def test_lookups_among_three_hundred_nodes_find_the_nearest_of_all() -> None:
    world = warm_world(300)
    for _ in range(10):
        key = world.simulation.rng.randbytes(34)
        lookup = look(world, key)
        found = [info.peer for info in lookup.closest()]
        assert len(set(world.nearest(key)) & set(found)) >= K - 1  # one may be who asked
        assert lookup.report().asked < 60


def test_a_lookup_takes_few_steps_however_many_nodes_there_are() -> None:
    hops = {}
    for count in (50, 800):
        world = warm_world(count)
        reports = [look(world, world.simulation.rng.randbytes(34)).report() for _ in range(15)]
        hops[count] = statistics.mean(report.hops for report in reports)
    assert hops[800] < hops[50] + 4  # log2 of sixteen times as many


def test_warm_tables_hold_what_the_network_has() -> None:
    world = warm_world(200)
    for node in world.nodes()[:20]:
        regions: dict[int, int] = {}
        for other in world.nodes():
            if other is not node:
                bits = shared_bits(node.table.position, position(other.peer.raw))
                regions[bits] = regions.get(bits, 0) + 1
        assert node.table.bucket_sizes() == {
            bits: min(count, K) for bits, count in sorted(regions.items())
        }


def test_sizes_are_those_of_the_wire() -> None:
    world = warm_world(40)
    lookup = look(world, b"key")
    closer = tuple(
        Peer(PeerInfo(info.peer, world.addresses(info.peer))) for info in lookup.closest()
    )
    strange = Peer(PeerInfo(closer[0].info.peer, ()))
    for message in (
        Message(MessageType.FIND_NODE, bytes(34)),
        Message(MessageType.GET_PROVIDERS, bytes(200), closer=closer, providers=closer[:3]),
        Message(MessageType.FIND_NODE, b"key", closer=(strange,)),
        Message(MessageType.PING),
    ):
        assert world.size_of(message) == len(frame(encode(message)))


def test_the_real_codec_on_the_way_changes_nothing() -> None:
    def run(*, wire: bool) -> str:
        world = warm_world(60, wire=wire)
        look(world, b"key")
        return world.simulation.digest

    assert run(wire=True) == run(wire=False)


@pytest.mark.parametrize("seed", range(3))
def test_twenty_nodes_that_start_at_one_instant_become_one_network(seed: int) -> None:
    world = DhtWorld(Simulation(seed))
    both = [random_peer(world.simulation.rng) for _ in range(2)]
    for peer in both:
        world.add(peer=peer, bootstrap=both)
    for _ in range(18):
        world.add(bootstrap=both)
    world.simulation.run(10.0)
    for node in world.nodes():
        assert node.joined_at is not None
        assert len(node.table) == 19


def test_a_network_that_was_in_two_halves_becomes_one() -> None:
    world = DhtWorld(Simulation(5))
    first = world.add()
    peers = [first, *(world.add(bootstrap=(first,)) for _ in range(19))]
    world.simulation.partition((peers[:10],))
    world.simulation.run(30.0)
    assert all(len(node.table) < 19 for node in world.nodes())
    world.simulation.heal()
    world.simulation.run(900.0)
    assert all(len(node.table) == 19 for node in world.nodes())


def test_a_mined_peer_is_near() -> None:
    world = DhtWorld(Simulation(6))
    key = b"the victim"
    peer = peer_near(key, 10, world.simulation.rng)
    assert shared_bits(position(peer.raw), position(key)) >= 10
