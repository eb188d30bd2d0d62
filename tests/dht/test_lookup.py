"""Lookups, on networks that exist only as routing tables: a thousand nodes and no I/O."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from lattica.dht._candidates import GROUP_ANSWERS, GROUP_FOUND, HEARSAY, MAX_CANDIDATES
from lattica.dht._keys import K, position, shared_bits
from lattica.dht._lookup import MAX_REQUESTS, PARALLELISM, Lookup
from lattica.dht._lookup_report import Outcome
from lattica.dht._patience import PEERS, Patience
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
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(peers), now=0.0, parallelism=K + 1, paths=1)
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


def test_a_peer_known_to_be_quick_is_left_aside_sooner_than_others() -> None:
    patience = Patience()
    quick, slow, stranger = some_peers(3)
    for _ in range(50):
        patience.observe(0.1, quick)
        patience.observe(1.2, slow)
    assert patience.deadlines(stranger) == (patience.soft, patience.hard)
    assert patience.deadlines(quick) == (Patience.SOFT_LEAST, patience.hard)
    assert patience.deadlines(slow)[0] < patience.soft
    assert patience.deadlines(slow)[1] <= patience.hard <= Patience.HARD_MOST


def test_only_the_latest_peers_have_an_estimate_of_their_own() -> None:
    patience = Patience()
    for peer in some_peers(PEERS + 50):
        patience.observe(0.1, peer)
    assert len(patience._peers) == PEERS


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


def where(number: int, port: int = 4001) -> tuple[Multiaddr, ...]:
    return (Multiaddr.parse(f"/ip4/8.8.{number}.8/tcp/{port}"),)


def test_a_peer_that_was_not_where_one_said_is_asked_once_more_where_another_says() -> None:
    liar, honest, liar_again, sought = some_peers(4)
    seeds = infos([liar, honest, liar_again])
    lookup = Lookup(b"key", local=LOCAL, seeds=seeds, now=0.0)
    lookup.next_requests(0.0)
    lookup.receive(liar, [PeerInfo(sought, where(1))], now=0.1, group=b"one")
    assert lookup.next_requests(0.1) == [PeerInfo(sought, where(1))]
    lookup.fail(sought, "unreachable", now=0.2)
    assert lookup.next_requests(0.2) == []
    lookup.receive(honest, [PeerInfo(sought, (*where(1), *where(2)))], now=0.3, group=b"two")
    assert lookup.next_requests(0.3) == [PeerInfo(sought, where(2))]
    lookup.fail(sought, "unreachable", now=0.4)
    lookup.receive(liar_again, [PeerInfo(sought, where(3))], now=0.5, group=b"three")
    assert lookup.next_requests(0.5) == [], "nobody keeps a lookup going with the same peer"
    assert lookup.finished


def test_liars_that_answer_first_and_name_peers_where_they_are_not_hide_nobody(
    thousand: Simulation,
) -> None:
    homes = {peer: where(number % 250, number + 1) for number, peer in enumerate(thousand.nodes)}
    rng, nowhere = random.Random(4), where(251, 1)
    liars = set(rng.sample(thousand.nodes, 200))
    found = wanted = failed = 0
    for _ in range(30):
        node, key = rng.choice(thousand.nodes), rng.randbytes(34)
        lookup, waiting = lookup_from(thousand, node, key), deque[PeerInfo]()
        while not lookup.finished:
            for info in lookup.next_requests(0.0):
                (waiting.appendleft if info.peer in liars else waiting.append)(info)
            info = waiting.popleft()
            if info.addresses and homes[info.peer][0] not in info.addresses:
                lookup.fail(info.peer, "unreachable", now=0.0)
                failed += 1
                continue
            named = [each.peer for each in thousand.answer(info.peer, key)]
            lies = info.peer in liars
            closer = [PeerInfo(each, nowhere if lies else homes[each]) for each in named]
            lookup.receive(info.peer, closer, now=0.0)
        nearest_others = nearest([each for each in thousand.nodes if each != node], key)[:K]
        wanted += K
        found += len({info.peer for info in lookup.closest()}.intersection(nearest_others))
    assert failed > 30
    assert found / wanted > 0.98


def test_of_one_answer_only_the_nearest_k_count() -> None:
    asked, *flood = some_peers(500)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([asked]), now=0.0)
    lookup.next_requests(0.0)
    lookup.receive(asked, infos(flood), now=0.1)
    assert len(lookup._candidates) == 1 + K
    assert all(lookup._candidates.get(peer) for peer in nearest(flood, b"key")[:K])


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


def test_one_answer_makes_us_knock_at_a_handful_of_doors_only() -> None:
    liar, *fakes = some_peers(200)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([liar]), now=0.0, parallelism=1000)
    lookup.next_requests(0.0)
    lookup.receive(liar, infos(fakes), now=0.1)
    knocked = lookup.next_requests(0.1)
    assert len(knocked) == HEARSAY
    for info in knocked:
        lookup.fail(info.peer, "unreachable", now=0.2)
    assert lookup.finished
    assert lookup.report().asked == 1 + HEARSAY


def test_who_names_living_peers_is_believed_without_end() -> None:
    honest, *living = some_peers(1 + K)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([honest]), now=0.0)
    lookup.next_requests(0.0)
    lookup.receive(honest, infos(living), now=0.1)
    while requests := lookup.next_requests(0.2):
        for info in requests:
            lookup.receive(info.peer, [], now=0.2)
    assert lookup.report().answered == 1 + K


def test_what_two_networks_have_named_is_no_hearsay_any_more() -> None:
    one, two, *named = some_peers(12)
    for group, asked in ((b"two", 10), (b"one", HEARSAY)):
        lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, two]), now=0.0, parallelism=1000)
        lookup.next_requests(0.0)
        lookup.receive(one, infos(named), now=0.1, group=b"one")
        lookup.receive(two, infos(named), now=0.1, group=group)
        assert len(lookup.next_requests(0.1)) == asked


def test_who_wants_certainty_alone_asks_no_more_until_some_are_late_or_fail() -> None:
    peers = nearest(some_peers(9), b"key")
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(peers), now=0.0, until_certain=True)
    first = [info.peer for info in lookup.next_requests(0.0)]
    assert len(first) == 5
    assert lookup.next_requests(0.0) == []
    assert not lookup.finished
    lookup.fail(first[0], "lost", now=0.1)
    (second,) = lookup.next_requests(0.1)
    assert second.peer not in first
    assert lookup.handle_timeout(lookup.next_timeout()) == []  # all five are slow
    assert len(lookup.next_requests(1.0)) == 3  # of the nine, one failed; these are all there are
    for peer in [*first[1:], second.peer]:
        assert not lookup.is_certain()
        lookup.receive(peer, [], now=1.1)
    assert lookup.is_certain()
    assert lookup.next_requests(1.1) == []


def test_of_one_network_only_a_few_answers_count() -> None:
    crowd = some_peers(30)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(crowd), now=0.0)
    while requests := lookup.next_requests(0.0):
        for info in requests:
            lookup.receive(info.peer, infos(some_peers(5, seed=1)), now=0.1, group=b"one")
    assert len(lookup.answered()) == GROUP_ANSWERS
    assert lookup.closest() == lookup.answered()[:GROUP_FOUND]
    assert lookup.report().failures == {"crowded": 30 - GROUP_ANSWERS + 5}
    everybody = [*crowd, *some_peers(5, seed=1)]
    assert sum(lookup.path_of(peer) is not None for peer in everybody) == GROUP_ANSWERS


def test_peers_of_one_network_have_one_voice_about_what_is_certain() -> None:
    def ask(networks: int) -> Lookup:
        peers = nearest(some_peers(10), b"key")
        lookup = Lookup(b"key", local=LOCAL, seeds=infos(peers), now=0.0, parallelism=10, k=10)
        for number, info in enumerate(lookup.next_requests(0.0)[:6]):
            lookup.receive(info.peer, [], now=1.0, group=b"%3d" % (number % networks))
        return lookup

    assert ask(networks=6).is_certain()
    assert not ask(networks=5).is_certain()


def test_of_one_network_only_a_few_peers_are_asked_by_the_addresses_they_are_said_to_have() -> None:
    def where(peer: PeerId, *hosts: str) -> PeerInfo:
        return PeerInfo(peer, tuple(Multiaddr.parse(f"/ip4/{host}/tcp/1") for host in hosts))

    crowd = some_peers(30)
    seeds = [where(peer, f"1.2.3.{number}") for number, peer in enumerate(crowd, 1)]
    assert len(crowd) > 2 * GROUP_ANSWERS
    lookup = Lookup(b"key", local=LOCAL, seeds=seeds, now=0.0, parallelism=1000)
    asked = lookup.next_requests(0.0)
    assert len(asked) == 2 * GROUP_ANSWERS
    # Who is said to be elsewhere as well is asked: or naming it there would hide it.
    left = next(info.peer for info in seeds if info not in asked)
    lookup.seed([where(left, "8.8.8.8")])
    assert [info.peer for info in lookup.next_requests(0.0)] == [left]


def test_a_lookup_has_not_arrived_before_it_knows_who_is_near_besides_one_network() -> None:
    crowd = nearest(some_peers(60), b"key")
    near, others = crowd[:8], crowd[8:40]  # the nearest are of one network, as if they were mined
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(crowd[:40]), now=0.0)
    while requests := lookup.next_requests(0.0):
        for info in requests:
            group = b"one" if info.peer in near else None
            lookup.receive(info.peer, [], now=0.1, group=group)
    found = [info.peer for info in lookup.closest()]
    assert found == [*near[:GROUP_FOUND], *others[: K - GROUP_FOUND]]


def test_no_peer_is_asked_on_two_paths_and_each_path_has_peers_of_its_own(
    thousand: Simulation,
) -> None:
    rng = random.Random(12)
    for _ in range(20):
        node, key = rng.choice(thousand.nodes), rng.randbytes(34)
        lookup = lookup_from(thousand, node, key)
        thousand.run(lookup)
        paths = Counter(lookup.path_of(info.peer) for info in lookup.answered())
        assert set(paths) == {0, 1, 2}
        assert min(paths.values()) >= 3
        assert lookup.report().paths == 3
        assert lookup.report().asked == sum(paths.values())


def test_a_lookup_that_begins_with_one_peer_walks_on_all_its_paths(thousand: Simulation) -> None:
    node, first = thousand.nodes[:2]
    lookup = Lookup(b"key", local=node, seeds=infos([first]), now=0.0)
    thousand.run(lookup)
    assert lookup.report().paths == 3


def test_a_path_that_was_led_astray_does_not_take_the_others_with_it() -> None:
    """Hostile nodes name each other and nobody else: whoever listens to them alone is lost."""
    simulation = Simulation(400, seed=13)
    rng = random.Random(14)
    hostile = simulation.nodes[::4]
    honest = [node for node in simulation.nodes if node not in set(hostile)]

    def answer(node: PeerId, key: bytes) -> list[PeerInfo]:
        if node in set(hostile):
            return infos(nearest(hostile, key)[:K])
        return simulation.answer(node, key)

    found = 0
    for _ in range(30):
        node, wanted = rng.sample(honest, 2)
        lookup = lookup_from(simulation, node, wanted.raw)
        simulation.run(lookup, answer)
        found += lookup.path_of(wanted) is not None
    assert found == 30


def test_a_report_says_why_it_ended() -> None:
    def outcome(lookup: Lookup) -> Outcome:
        return lookup.report().outcome

    (one,) = some_peers(1)
    assert outcome(Lookup(b"key", local=LOCAL, now=0.0)) is Outcome.NOBODY_KNOWN
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one]), now=0.0)
    lookup.next_requests(0.0)
    assert outcome(lookup) is Outcome.RUNNING
    assert lookup.handle_timeout(100.0) == [one]
    assert outcome(lookup) is Outcome.NO_ANSWER
    assert (lookup.report().failed, lookup.report().timed_out) == (1, 1)
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one]), now=0.0)
    lookup.next_requests(0.0)
    lookup.stop(5.0, Outcome.OUT_OF_TIME)
    assert outcome(lookup) is Outcome.OUT_OF_TIME
    assert str(lookup.report()) == "asked 1 peers, 0 answered; out of time"


def test_the_furthest_candidates_give_way_to_nearer_ones() -> None:
    crowd = nearest(some_peers(MAX_CANDIDATES + 40), b"key")
    lookup = Lookup(b"key", local=LOCAL, seeds=infos(crowd[40:]), now=0.0)
    lookup.seed(infos(crowd[:40]))
    assert len(lookup._candidates) == MAX_CANDIDATES
    assert {info.peer for info in lookup.next_requests(0.0)} == set(crowd[:PARALLELISM])
    lookup.seed(infos(crowd[-1:]))
    assert lookup._candidates.get(crowd[-1]) is None


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
    assert lookup.receive(liar, [], fakes, now=0.1) == fakes[:2]
    assert not lookup.finished
    assert lookup.receive(honest, [], [provider], now=0.2) == [provider]
    assert lookup.rest() == fakes[2:9]
    assert lookup.rest() == []


def test_a_search_stops_when_it_has_what_is_wanted() -> None:
    one, two, *others = some_peers(20)
    providers = infos(some_peers(10, seed=1))
    lookup = Lookup(b"key", local=LOCAL, seeds=infos([one, two, *others]), now=0.0, wanted=2)
    lookup.next_requests(0.0)
    asked = lookup.report().asked
    assert lookup.found(providers[:3]) == providers[:1]
    waiting = [each.peer for each in lookup._waiting.values()]
    assert lookup.receive(waiting[0], [], providers[4:8], now=0.1) == providers[4:5]
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
