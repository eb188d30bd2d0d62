"""Walking the whole DHT."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht._crawl import Crawl
from lattica.dht._keys import K, position, shared_bits
from lattica.identity import PeerId
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.dht.conftest import Swarm


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def infos(*numbers: int) -> list[PeerInfo]:
    return [PeerInfo(peer(number), ()) for number in numbers]


@pytest.mark.parametrize("count", [10, pytest.param(60, marks=pytest.mark.slow)])
async def test_a_crawl_finds_everybody_and_says_who_is_gone(
    autojump_clock: MockClock, swarm: Swarm, count: int
) -> None:
    nodes = await swarm.start_many(count)
    visitor = await swarm.start(200, bootstrap=(nodes[0].address,), server=False)
    await visitor.dht.wait_joined()
    gone = nodes[count // 2]
    swarm.network.crash(gone.host)
    swarm.stop(gone)
    found = await visitor.dht.crawl()
    assert {each.peer for each in found.peers} == {node.peer for node in nodes} | {gone.peer}
    assert [each.peer for each in found.peers if not each.reachable] == [gone.peer]
    assert (found.reachable, found.complete) == (count - 1, True)
    assert found.peers[-1].error
    answering = found.peers[0]
    assert answering.addresses
    assert answering.contacts >= min(count - 2, K)
    assert answering.agent.startswith("lattica-mesh/")
    assert found.to_json()["protocol"] == "/lattica/kad/1.0.0"


async def test_a_crawl_ends_in_time_with_what_it_has(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(6)
    found = await nodes[0].dht.crawl(seconds=0.0)
    assert not found.complete
    few = await nodes[0].dht.crawl(most=2)
    assert len(few.peers) == 2
    assert not few.complete


async def test_a_node_alone_crawls_nobody(autojump_clock: MockClock, swarm: Swarm) -> None:
    node = await swarm.start(1)
    found = await node.dht.crawl()
    assert (found.peers, found.reachable, found.complete) == ((), 0, True)


def test_a_liar_that_names_peers_without_end_is_bounded() -> None:
    walk = Crawl(peer(0), infos(1), most=100, rng=random.Random(1))
    named = 1
    for _ in range(50):
        visit = walk.next_visit()
        assert visit is not None
        walk.hear(infos(*range(named, named + 40)), visit)
        named += 40
    assert len(walk.visits) == 100
    assert not walk.complete


def test_each_bucket_of_a_large_table_is_asked_for() -> None:
    walk = Crawl(peer(0), infos(1), rng=random.Random(1))
    visit = walk.next_visit()
    assert visit is not None
    here = position(visit.peer.raw)
    near = sorted(
        (peer(number) for number in range(2, 400)),
        key=lambda each: -shared_bits(position(each.raw), here),
    )[:K]
    keys = walk.keys_of(visit, [PeerInfo(each, ()) for each in near])
    furthest = min(shared_bits(position(each.raw), here) for each in near)
    assert [shared_bits(position(key), here) for key in keys] == list(range(furthest + 1))
    assert walk.keys_of(visit, infos(5, 6, 7)) == [], "that was its whole table"


async def test_a_crawl_can_be_cancelled(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(4)
    with trio.move_on_after(0.005) as scope:
        await nodes[0].dht.crawl()
    assert scope.cancelled_caught
    assert (await nodes[0].dht.crawl()).reachable == 3
