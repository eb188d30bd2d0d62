"""Lookups, on networks that exist only as routing tables: a thousand nodes and no I/O."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from lattica.dht._keys import K, position, shared_bits
from lattica.dht._lookup import MAX_CANDIDATES, MAX_REQUESTS, PARALLELISM, Lookup, Patience
from lattica.dht._table import RoutingTable
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

LOCAL = PeerId(b"\x12\x20" + bytes(32))


def some_peers(count: int, *, seed: int = 0) -> list[PeerId]:
    rng = random.Random(seed)
    return [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(count)]


def infos(peers: Iterable[PeerId]) -> list[PeerInfo]:
    return [PeerInfo(peer, ()) for peer in peers]


def nearest(peers: Iterable[PeerId], key: bytes) -> list[PeerId]:
    target = position(key)
    return sorted(peers, key=lambda peer: position(peer.raw) ^ target)


Answer = Callable[[PeerId, bytes], list[PeerInfo]]


@dataclass
class Simulation:
    """Nodes with warm tables; requests take a seeded time, dead nodes never answer."""

    size: int
    seed: int
    dead: frozenset[PeerId] = frozenset()
    nodes: list[PeerId] = field(init=False)
    tables: dict[PeerId, RoutingTable] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.nodes = some_peers(self.size, seed=self.seed)
        places = {node: position(node.raw) for node in self.nodes}
        self.tables = {}
        for node, place in places.items():
            table = self.tables[node] = RoutingTable(node)
            room = Counter[int]()
            for other in self.rng.sample(self.nodes, self.size):
                bucket = shared_bits(place, places[other])
                room[bucket] += 1
                if room[bucket] <= K:
                    table.add(other, now=0.0)

    def answer(self, node: PeerId, key: bytes) -> list[PeerInfo]:
        return infos(self.tables[node].closest(position(key), K))

    def run(self, lookup: Lookup, answer: Answer | None = None) -> float:
        """Drive `lookup` to its end; return how long it took."""
        now, events = 0.0, list[tuple[float, PeerId]]()
        while True:
            for info in lookup.next_requests(now):
                if info.peer not in self.dead and info.peer in self.tables:
                    heapq.heappush(events, (now + self.rng.uniform(0.02, 0.2), info.peer))
            if lookup.finished:
                return now
            upcoming = events[0][0] if events else math.inf
            now = min(upcoming, lookup.next_timeout())
            assert now < math.inf, "the lookup waits for nothing"
            if upcoming <= now:
                _, node = heapq.heappop(events)
                lookup.receive(node, (answer or self.answer)(node, lookup.key), now=now)
            lookup.handle_timeout(now)


@pytest.fixture(scope="module")
def thousand() -> Simulation:
    return Simulation(1000, seed=1)


def lookup_from(
    simulation: Simulation, node: PeerId, key: bytes, *, parallelism: int = PARALLELISM
) -> Lookup:
    seeds = infos(simulation.tables[node].closest(position(key), K))
    return Lookup(key, local=node, seeds=seeds, now=0.0, parallelism=parallelism)


def test_a_lookup_finds_the_nearest_of_a_thousand_in_a_few_steps(thousand: Simulation) -> None:
    rng = random.Random(2)
    hops, asked = [], []
    for _ in range(60):
        node, key = rng.choice(thousand.nodes), rng.randbytes(34)
        lookup = lookup_from(thousand, node, key)
        thousand.run(lookup)
        others = [peer for peer in thousand.nodes if peer != node]
        assert [info.peer for info in lookup.closest()] == nearest(others, key)[:K]
        report = lookup.report()
        assert report.complete
        hops.append(report.hops)
        asked.append(report.asked)
    assert max(hops) <= math.log2(1000) / 2
    assert sum(asked) / len(asked) < 2 * K


def test_every_node_can_be_found_by_its_peer_id(thousand: Simulation) -> None:
    rng = random.Random(3)
    for _ in range(40):
        node, wanted = rng.sample(thousand.nodes, 2)
        lookup = lookup_from(thousand, node, wanted.raw)
        thousand.run(lookup)
        assert lookup.closest()[0].peer == wanted


def test_lookups_find_the_nearest_living_peers_when_a_third_is_dead() -> None:
    simulation = Simulation(300, seed=4)
    simulation.dead = frozenset(simulation.nodes[::3])
    alive = [node for node in simulation.nodes if node not in simulation.dead]
    rng = random.Random(5)
    found = wanted = 0
    for _ in range(40):
        node, key = rng.choice(alive), rng.randbytes(34)
        lookup = lookup_from(simulation, node, key)
        seconds = simulation.run(lookup)
        # An answer names k peers and a third of them is dead, so it reaches less far.
        right = set(nearest((peer for peer in alive if peer != node), key)[: K // 2])
        found += len(right & {info.peer for info in lookup.closest()})
        wanted += K // 2
        # Dead peers are asked beside living ones: they do not queue up.
        assert seconds < 10.0
    assert found / wanted > 0.98


def test_steps_grow_with_the_logarithm_of_the_network() -> None:
    def mean_hops(size: int) -> float:
        simulation, rng = Simulation(size, seed=size), random.Random(6)
        total = 0
        for _ in range(30):
            lookup = lookup_from(simulation, rng.choice(simulation.nodes), rng.randbytes(34))
            simulation.run(lookup)
            total += lookup.report().hops
        return total / 30

    assert mean_hops(50) <= mean_hops(400) <= mean_hops(50) + math.log2(400 / 50)


def test_a_lookup_in_a_small_network_asks_everybody_once() -> None:
    simulation = Simulation(8, seed=7)
    node = simulation.nodes[0]
    lookup = lookup_from(simulation, node, b"key")
    simulation.run(lookup)
    report = lookup.report()
    assert (report.asked, report.answered, report.failures) == (7, 7, {})
    assert lookup.covered_bits() == 0
    assert str(report) == "asked 7 peers, 7 answered"


def test_a_lookup_without_contacts_ends_at_once_and_says_so() -> None:
    lookup = Lookup(b"key", local=LOCAL, seeds=[], now=0.0)
    assert lookup.next_requests(0.0) == []
    assert lookup.finished
    assert not lookup.report().complete
    assert str(lookup.report()) == "no peer could be asked: none is known"


def test_failures_are_counted_by_their_reason() -> None:
    one, two, three = some_peers(3)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, two, three]), now=0.0)
    assert len(lookup.next_requests(0.0)) == 3
    lookup.fail(one, "unreachable", now=0.1)
    lookup.fail(two, "unreachable", now=0.1)
    lookup.receive(three, [], now=0.2)
    assert lookup.finished
    assert str(lookup.report()) == "asked 3 peers, 1 answered (2 unreachable)"
    assert lookup.report().seconds == 0.2


def test_the_covered_region_holds_no_peer_that_the_lookup_does_not_know(
    thousand: Simulation,
) -> None:
    rng = random.Random(8)
    for _ in range(20):
        node, key = rng.choice(thousand.nodes), rng.randbytes(34)
        lookup = lookup_from(thousand, node, key)
        thousand.run(lookup)
        bits = lookup.covered_bits()
        assert bits > 0
        target = position(key)
        region = {
            peer
            for peer in thousand.nodes
            if shared_bits(position(peer.raw), target) >= bits and peer != node
        }
        assert region <= {info.peer for info in lookup.closest()}


def test_no_more_requests_are_in_flight_than_allowed(thousand: Simulation) -> None:
    lookup = lookup_from(thousand, thousand.nodes[0], b"key", parallelism=3)
    assert len(lookup.next_requests(0.0)) == 3
    assert lookup.next_requests(0.0) == []


def test_a_slow_peer_frees_its_place_and_may_still_answer() -> None:
    peers = nearest(some_peers(5), b"key")
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(peers), now=0.0, parallelism=1)
    assert [info.peer for info in lookup.next_requests(0.0)] == [peers[0]]
    assert lookup.next_timeout() == Patience().soft
    assert lookup.handle_timeout(lookup.next_timeout()) == []
    assert [info.peer for info in lookup.next_requests(1.0)] == [peers[1]]
    lookup.receive(peers[0], [], now=1.5)
    assert [info.peer for info in lookup.closest()] == [peers[0]]


def test_a_peer_that_never_answers_fails_at_the_hard_deadline() -> None:
    (peer,) = some_peers(1)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([peer]), now=0.0)
    lookup.next_requests(0.0)
    lookup.handle_timeout(lookup.next_timeout())
    assert not lookup.finished
    assert lookup.next_timeout() == Patience().hard
    assert lookup.handle_timeout(lookup.next_timeout()) == [peer]
    assert lookup.finished
    assert lookup.report().failures == {"timed out": 1}
    assert lookup.receive(peer, infos(some_peers(3)), now=20.0) == []
    assert lookup.closest() == []


def test_slow_peers_are_not_waited_for_once_enough_others_answered() -> None:
    peers = nearest(some_peers(K + 1), b"key")
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(peers), now=0.0, parallelism=K + 1)
    lookup.next_requests(0.0)
    for peer in peers[1:K]:
        lookup.receive(peer, [], now=0.1)
    assert lookup.next_requests(0.1) == []  # the nearest of all may answer any moment
    assert not lookup.finished
    lookup.handle_timeout(lookup.next_timeout())
    assert [info.peer for info in lookup.next_requests(1.0)] == [peers[K]]
    lookup.receive(peers[K], [], now=1.1)
    assert lookup.finished
    assert lookup.report().failures == {}


def test_patience_follows_what_answers_took_within_its_bounds() -> None:
    patience = Patience()
    for _ in range(50):
        patience.observe(0.001)
    assert (patience.soft, patience.hard) == (Patience.SOFT_LEAST, Patience.HARD_LEAST)
    for _ in range(50):
        patience.observe(0.4)
    assert 0.4 < patience.soft < 0.6
    for _ in range(50):
        patience.observe(60.0)
    assert (patience.soft, patience.hard) == (Patience.SOFT_MOST, Patience.HARD_MOST)


def test_an_answer_brings_neither_ourselves_nor_anybody_twice() -> None:
    one, two = some_peers(2)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, one, LOCAL]), now=0.0)
    assert [info.peer for info in lookup.next_requests(0.0)] == [one]
    lookup.receive(one, infos([LOCAL, one, two, two]), now=0.1)
    assert [info.peer for info in lookup.next_requests(0.1)] == [two]
    lookup.receive(two, infos([one]), now=0.2)
    assert lookup.finished


def test_a_peer_that_failed_cannot_be_brought_back() -> None:
    one, two = some_peers(2)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, two]), now=0.0)
    lookup.next_requests(0.0)
    lookup.fail(one, "unreachable", now=0.1)
    lookup.receive(two, infos([one]), now=0.2)
    assert lookup.next_requests(0.2) == []
    assert lookup.finished


def test_of_one_answer_only_the_nearest_k_count() -> None:
    asked, *flood = some_peers(500)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([asked]), now=0.0, parallelism=1000)
    lookup.next_requests(0.0)
    lookup.receive(asked, infos(flood), now=0.1)
    named = [info.peer for info in lookup.next_requests(0.1)]
    assert named == nearest(flood, b"key")[:K]


def test_liars_who_name_ever_nearer_peers_cannot_keep_a_lookup_going() -> None:
    rng = random.Random(9)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(some_peers(3)), now=0.0)
    target, asked = lookup.target, 0
    best = 2**256
    while not lookup.finished:
        for info in lookup.next_requests(0.0):
            asked += 1
            invented = [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(60)]
            invented = [peer for peer in invented if position(peer.raw) ^ target < best] or invented
            best = min(best, *(position(peer.raw) ^ target for peer in invented))
            lookup.receive(info.peer, infos(invented), now=0.0)
        assert len(lookup._candidates) <= MAX_CANDIDATES
    assert asked <= MAX_REQUESTS


def test_the_furthest_candidates_give_way_to_nearer_ones() -> None:
    crowd = nearest(some_peers(MAX_CANDIDATES + 40), b"key")
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(crowd[40:]), now=0.0)
    lookup.seed(infos(crowd[:40]))
    assert len(lookup._candidates) == MAX_CANDIDATES
    assert [info.peer for info in lookup.next_requests(0.0)] == crowd[:PARALLELISM]
    lookup.seed(infos(crowd[-1:]))
    assert crowd[-1] not in lookup._candidates


def test_a_third_of_hostile_nodes_does_not_hide_the_nearest_honest_ones() -> None:
    simulation = Simulation(200, seed=10)
    hostile = frozenset(simulation.nodes[::3])
    rng = random.Random(11)

    def answer(node: PeerId, key: bytes) -> list[PeerInfo]:
        if node not in hostile:
            return simulation.answer(node, key)
        return infos(PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(K))  # nobody is there

    honest = [node for node in simulation.nodes if node not in hostile]
    found = wanted = 0
    for _ in range(20):
        node, key = rng.choice(honest), rng.randbytes(34)
        lookup = lookup_from(simulation, node, key)
        simulation.run(lookup, answer)
        expected = set(nearest((peer for peer in simulation.nodes if peer != node), key)[:K])
        found += len(expected & {info.peer for info in lookup.closest()})
        wanted += K
    assert found / wanted > 0.95


def test_addresses_of_a_candidate_add_up_within_a_bound() -> None:
    asked, wanted = some_peers(2)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([asked]), now=0.0)
    lookup.next_requests(0.0)
    addresses = tuple(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 100))
    lookup.receive(asked, [PeerInfo(wanted, addresses[:3]), PeerInfo(wanted, addresses)], now=0.1)
    assert lookup.addresses_of(wanted) == addresses[:16]
    assert lookup.addresses_of(LOCAL) == ()
    assert lookup.next_requests(0.1) == [PeerInfo(wanted, addresses[:16])]


def test_providers_come_once_each_and_never_ourselves() -> None:
    one, two, provider = some_peers(3)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, two]), now=0.0, wanted=4)
    lookup.next_requests(0.0)
    news = lookup.receive(one, [], infos([provider, provider, LOCAL]), now=0.1)
    assert news == infos([provider])
    assert lookup.receive(two, [], infos([provider]), now=0.1) == []
    assert lookup.finished


def test_one_peer_cannot_end_a_search_with_providers_of_its_own_making() -> None:
    liar, honest = nearest(some_peers(2), b"key")
    fakes = infos(some_peers(30, seed=1))
    (provider,) = infos(some_peers(1, seed=2))
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([liar, honest]), now=0.0, wanted=10)
    lookup.next_requests(0.0)
    assert lookup.receive(liar, [], fakes, now=0.1) == fakes[:5]
    assert not lookup.finished
    assert lookup.receive(honest, [], [provider], now=0.2) == [provider]
    assert lookup.rest() == fakes[5:9]
    assert lookup.rest() == []


def test_a_search_stops_when_it_has_what_is_wanted() -> None:
    one, two, *others = some_peers(20)
    providers = infos(some_peers(10, seed=1))
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, two, *others]), now=0.0, wanted=4)
    lookup.next_requests(0.0)
    asked = lookup.report().asked
    assert lookup.found(providers[:3]) == providers[:2]
    waiting = list(lookup._waiting)
    assert lookup.receive(waiting[0], [], providers[4:8], now=0.1) == providers[4:6]
    assert lookup.finished
    assert lookup.next_requests(0.1) == []
    assert lookup.report().asked == asked
    assert not lookup.report().complete


@settings(max_examples=60)
@given(st.data())
def test_a_lookup_ends_whatever_its_peers_do(data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**16)))
    crowd = some_peers(data.draw(st.integers(1, 60)))
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(crowd[:5]), now=0.0)
    now, waiting = 0.0, list[PeerId]()
    for _ in range(10_000):
        requests = [info.peer for info in lookup.next_requests(now)]
        assert not set(requests) & set(waiting)
        waiting += requests
        if lookup.finished:
            break
        fate = rng.random()
        if not waiting or fate < 0.2:
            now = lookup.next_timeout()
            late = lookup.handle_timeout(now)
            waiting = [peer for peer in waiting if peer not in late]
            continue
        peer = waiting.pop(rng.randrange(len(waiting)))
        if fate < 0.4:
            lookup.fail(peer, "unreachable", now=now)
        else:
            named = rng.sample(crowd, min(len(crowd), rng.randrange(30)))
            lookup.receive(peer, infos(named), now=now)
    assert lookup.finished
    report = lookup.report()
    assert report.answered + sum(report.failures.values()) <= report.asked <= len(crowd)
