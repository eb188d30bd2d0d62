"""Joining, and staying one network: at the same instant, after a split, without bootstrap nodes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht import BootstrapPhase
from lattica.dht._contacts import ContactFile, Remembered
from lattica.dht._upkeep import GREETED
from lattica.transport import MemoryNetwork, Multiaddr, PeerInfo, RawLink

from .conftest import EPOCH, Swarm, open_swarm

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.identity import PeerId

    from .conftest import Node

KEY = b"\x12\x20" + bytes(32)


def where(swarm: Swarm, number: int) -> Multiaddr:
    """The address of the node of that number, when it listens on `/memory/<number>`."""
    return Multiaddr.parse(f"/memory/{number}").with_peer(swarm.identity(number).peer_id)


async def providers(node: Node, key: bytes) -> list[PeerId]:
    return [info.peer async for info in node.dht.find_providers(key)]


def pieces(nodes: list[Node]) -> int:
    """Count the networks that do not know of each other."""
    known = {node.peer: {contact.peer for contact in node.dht.peers()} for node in nodes}
    left, count = set(known), 0
    while left:
        count += 1
        reached = [left.pop()]
        for peer in reached:
            beside = {each for each in left if each in known[peer] or peer in known[each]}
            left -= beside
            reached += beside
    return count


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 101))]
)
async def test_twenty_nodes_that_start_at_one_instant_are_one_network_within_ten_seconds(
    autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    async with open_swarm() as swarm:
        swarm.network = MemoryNetwork(latency=rng.uniform(0.001, 0.1), jitter=0.1, rng=rng)
        numbers = rng.sample(range(1, 1 << 20), 20)
        bootstrap = (where(swarm, numbers[0]), where(swarm, numbers[1]))
        began = trio.current_time()
        async with trio.open_nursery() as starting:
            for number in rng.sample(numbers, 20):

                @starting.start_soon
                async def start(number: int = number) -> None:
                    await swarm.start(number, listen=f"/memory/{number}", bootstrap=bootstrap)

        await trio.sleep_until(began + 10.0)
        assert pieces(swarm.nodes) == 1
        # All know all but for a few that met at the last moment: who runs first is chance.
        assert min(len(node.dht.peers()) for node in swarm.nodes) >= 16


async def test_two_halves_become_one_network_when_a_bootstrap_node_is_back_in_sight(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    bootstrap = (where(swarm, 1), where(swarm, 2))
    here, there = ["a1", "a2", "a3", "a4"], ["b1", "b2", "b3", "b4"]
    for one in here:
        for other in there:
            swarm.network.cut(one, other)
    for number, host in ((1, "a1"), (2, "b1"), *enumerate(here[1:] + there[1:], 3)):
        await swarm.start(number, listen=f"/memory/{number}", host=host, bootstrap=bootstrap)
    await trio.sleep(3600.0)  # long enough for all intervals to have grown
    assert pieces(swarm.nodes) == 2
    for one in here:
        for other in there:
            swarm.network.heal(one, other)
    await trio.sleep(310.0)  # a bootstrap node is dialled again after five minutes at most
    assert {len(node.dht.peers()) for node in swarm.nodes} == {7}


async def test_without_bootstrap_nodes_a_swarm_lives_on_and_takes_back_who_restarts(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    bootstrap = (where(swarm, 1), where(swarm, 2))
    for number in range(1, 13):
        await swarm.start(
            number,
            listen=f"/memory/{number}",
            bootstrap=bootstrap,
            contacts=tmp_path / str(number),
        )
    await trio.sleep(30.0)
    for node in swarm.nodes[:2]:
        swarm.network.crash(node.host)
        swarm.stop(node)
    await trio.sleep(60.0)
    assert await swarm.nodes[0].dht.provide(KEY) >= 8
    assert await providers(swarm.nodes[-1], KEY) == [swarm.nodes[0].peer]

    mover = swarm.nodes[4]
    swarm.network.crash(mover.host)
    swarm.stop(mover)
    await trio.sleep(600.0)
    began = trio.current_time()
    again = await swarm.start(7, listen="/memory/707", bootstrap=bootstrap, contacts=tmp_path / "7")
    with trio.fail_after(30.0):
        await again.dht.wait_joined()
        assert await providers(again, KEY) == [swarm.nodes[0].peer]
        for node in swarm.nodes[:-1]:
            found = await node.dht.find_peer(mover.peer)
            assert found is not None
            assert Multiaddr.parse("/memory/707") in found.addresses
    assert trio.current_time() - began < 30.0
    assert {status.phase for status in again.dht.status().bootstrap} == {BootstrapPhase.FAILED}


async def test_a_node_whose_contacts_are_all_gone_looks_for_those_it_remembers_until_one_is_back(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    one = await swarm.start(1, listen="/memory/1")
    other = await swarm.start(2, bootstrap=(one.address,), contacts=tmp_path / "2")
    await other.dht.wait_joined()
    swarm.stop(other)
    swarm.network.crash(one.host)
    swarm.stop(one)
    other = await swarm.start(2, contacts=tmp_path / "2")
    assert await other.dht.closest_peers(KEY) == []
    await trio.sleep(3600.0)
    assert other.dht.peers() == []
    one = await swarm.start(1, listen="/memory/1")
    with trio.fail_after(130.0):
        await other.dht.wait_joined()
    assert await other.dht.closest_peers(KEY) == [PeerInfo(one.peer, tuple(one.mesh.addresses))]


async def test_a_search_waits_for_those_remembered_as_for_bootstrap_nodes(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    one = await swarm.start(1, listen="/memory/1")
    other = await swarm.start(2, bootstrap=(one.address,), contacts=tmp_path / "2")
    await other.dht.wait_joined()
    await one.dht.provide(KEY)
    swarm.stop(other)
    other = await swarm.start(2, contacts=tmp_path / "2")
    assert await providers(other, KEY) == [one.peer]


async def test_of_many_that_are_remembered_a_node_asks_a_few_at_a_time(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    path = tmp_path / "contacts"
    file = ContactFile(path, protocol="/lattica/kad/1.0.0", now=EPOCH)
    gone = [
        PeerInfo(swarm.identity(1000 + number).peer_id, (Multiaddr.parse(f"/memory/{number}"),))
        for number in range(1, 101)
    ]
    file.note([Remembered(info, EPOCH - 60.0) for info in gone], now=EPOCH)
    file.save()
    node = await swarm.start(1, contacts=path)
    knocks: list[Multiaddr] = []
    transport = node.mesh._transports[0]
    dial = transport.dial

    async def note(address: Multiaddr) -> RawLink:
        knocks.append(address)
        return await dial(address)

    transport.dial = note  # type: ignore[method-assign]
    await trio.sleep(0.4)
    assert 0 < len(knocks) <= 2 * GREETED
    await trio.sleep(600.0)
    assert len(set(knocks)) > 2 * GREETED, "others have their turn later"
