"""The planner over simulated peers and time: it ends, never asks in vain, and stays in bounds."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lattica.content._messages import Status
from lattica.content._pace import PaceLimits
from lattica.content._plan import (
    CancelAsk,
    PeerReady,
    PeerSilent,
    PeerStalled,
    PlannerLimits,
)
from lattica.content._planner import Planner
from lattica.identity import PeerId

if TYPE_CHECKING:
    from lattica.content._peer_state import Ask

KIB = 1024
LEAF = 256 * KIB
USUAL = PlannerLimits()
Size = Callable[[int], int]


def peer_id(number: int) -> PeerId:
    return PeerId(bytes((0, 2, 0, number)))


@dataclass
class SimulatedPeer:
    """A provider: how fast, what it holds, and what is wrong with it."""

    rate: float = 10e6
    latency: float = 0.01
    holds: frozenset[int] | None = None  # None: everything
    lies_at: int | None = None
    silent_after: int | None = None  # leaves
    leaves_after: int | None = None
    busy_until: float = 0.0
    sent: int = 0


class Simulation:
    """Drives one planner against peers under virtual time, checking bounds at every step."""

    def __init__(
        self, count: int, size: Size, peers: dict[PeerId, SimulatedPeer], limits: PlannerLimits
    ) -> None:
        self.planner = planner = Planner(count, size, limits=limits)
        self.size, self.peers, self.limits = size, peers, limits
        self.now, self.order = 0.0, itertools.count()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.asked_bytes = self.received_bytes = 0
        self.stalled: list[PeerId] = []
        self.silent: list[PeerId] = []
        self.cancelled = 0
        for name, peer in peers.items():
            planner.add_peer(name, 0.0, complete=peer.holds is None)
            if peer.holds is not None:
                flags = bytes(leaf in peer.holds for leaf in range(len(planner.verified_flags())))
                planner.add_have(name, 0, flags)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (when, next(self.order), action))

    def ask_all(self) -> None:
        for name in self.planner.peers:
            while (ask := self.planner.next_request(name, self.now)) is not None:
                leaves = range(ask.first, ask.end)
                assert len(leaves) > 0
                assert not any(map(self.planner.is_verified, leaves))
                self.asked_bytes += sum(map(self.size, leaves))
                peer = self.peers[name]
                assert peer.holds is None or peer.holds.issuperset(leaves)
                start = max(self.now + peer.latency, peer.busy_until)
                self.serve(name, start, ask.id, leaves)
        largest = max(map(self.size, range(len(self.planner.verified_flags()))), default=0)
        bound = self.limits.total_bytes + len(self.peers) * largest
        assert 0 <= self.planner.in_flight_bytes <= bound

    def serve(self, name: PeerId, start: float, ask: int, leaves: range) -> None:
        peer = self.peers[name]
        for leaf in leaves:
            start += self.size(leaf) / peer.rate
            self.at(start + peer.latency, partial(self.deliver, name, ask, leaf))
        peer.busy_until = start
        self.at(start + peer.latency, partial(self.end, name, ask))

    def expected(self, name: PeerId, number: int) -> Ask | None:
        peer = self.peers[name]
        if peer.silent_after is not None and peer.sent >= peer.silent_after:
            return None
        ask = self.planner.expected(name)
        return ask if ask is not None and ask.id == number else None

    def deliver(self, name: PeerId, ask: int, leaf: int) -> None:
        peer = self.peers[name]
        if peer.leaves_after is not None and peer.sent >= peer.leaves_after:
            self.planner.remove_peer(name)
            return
        expected = self.expected(name, ask)
        if expected is None or expected.cancelled:
            return
        assert expected.next == leaf
        peer.sent += 1
        self.received_bytes += self.size(leaf)
        self.planner.receive_bytes(name, self.size(leaf) + 16, self.now)
        if not self.planner.leaf_arrived(name):
            return
        if peer.lies_at == leaf:
            self.planner.remove_peer(name)
            self.planner.leaf_wrong(leaf)
        else:
            self.planner.leaf_verified(leaf)

    def end(self, name: PeerId, ask: int) -> None:
        if expected := self.expected(name, ask):
            status = Status.CANCELLED if expected.cancelled else Status.OK
            self.planner.request_ended(name, status, self.now)

    def run(self, until: float = math.inf) -> None:
        for _ in range(100_000):
            self.ask_all()
            while (event := self.planner.next_event()) is not None:
                if isinstance(event, PeerStalled):
                    self.stalled.append(event.peer)
                elif isinstance(event, PeerSilent):
                    self.silent.append(event.peer)
                self.cancelled += isinstance(event, CancelAsk)
                self.ask_all()
            timeout = self.planner.next_timeout()
            when = min(self.agenda[0][0] if self.agenda else math.inf, timeout)
            if self.planner.done or when > until or when == math.inf:
                return
            self.now = max(self.now, when)
            if timeout <= self.now:
                self.planner.handle_timeout(self.now)
            else:
                heapq.heappop(self.agenda)[2]()
        raise AssertionError("the plan does not end")


def simulate(
    count: int, *peers: SimulatedPeer, limits: PlannerLimits = USUAL, size: Size = lambda _: LEAF
) -> Simulation:
    named = {peer_id(number): peer for number, peer in enumerate(peers)}
    return Simulation(count, size, named, limits)


some_peer = st.builds(
    SimulatedPeer,
    rate=st.floats(1e4, 1e9),
    latency=st.floats(0, 0.5),
    holds=st.none() | st.frozensets(st.integers(0, 59)),
    lies_at=st.none() | st.integers(0, 59),
    silent_after=st.none() | st.integers(0, 60),
    leaves_after=st.none() | st.integers(0, 60),
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 60),
    st.lists(some_peer, max_size=4),
    st.sampled_from([0, 1, 1000, LEAF, 5 << 20]),
    st.sampled_from([PlannerLimits(), PlannerLimits(total_bytes=LEAF, requests=1)]),
)
def test_a_plan_ends_done_whatever_peers_do_if_one_is_honest(
    count: int, peers: list[SimulatedPeer], size: int, limits: PlannerLimits
) -> None:
    honest = SimulatedPeer(rate=1e6, latency=0.1)
    run = simulate(count, *peers, honest, limits=limits, size=lambda _: size)
    run.run()
    assert run.planner.done


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.lists(some_peer, min_size=1, max_size=4))
def test_a_plan_without_honest_peers_comes_to_rest(count: int, peers: list[SimulatedPeer]) -> None:
    run = simulate(count, *peers)
    run.run()
    assert run.planner.done or run.planner.idle()


def test_one_steady_peer_is_asked_for_every_leaf_once_and_in_order() -> None:
    run = simulate(400, SimulatedPeer(rate=50e6))
    run.run()
    assert run.asked_bytes == run.received_bytes == 400 * LEAF
    assert not run.stalled
    assert run.cancelled == 0


def test_four_peers_are_all_kept_busy() -> None:
    run = simulate(1000, *(SimulatedPeer(rate=10e6, latency=0.02) for _ in range(4)))
    run.run()
    assert run.planner.done
    assert run.now < 1.15 * 1000 * LEAF / 40e6
    assert run.received_bytes < 1.05 * 1000 * LEAF


def test_a_slow_peer_beside_a_fast_one_does_not_hold_up_the_end() -> None:
    run = simulate(400, SimulatedPeer(rate=100e6), SimulatedPeer(rate=50e3))
    run.run()
    assert run.now < 3
    assert run.received_bytes < 1.05 * 400 * LEAF


def test_the_leaves_of_a_silent_peer_go_to_another_within_its_patience() -> None:
    run = simulate(400, SimulatedPeer(rate=10e6), SimulatedPeer(rate=10e6, silent_after=80))
    run.run()
    assert run.planner.done
    assert peer_id(1) in run.stalled
    assert run.now < 400 * LEAF / 10e6 + 3


def test_a_peer_that_stays_silent_is_given_up() -> None:
    run = simulate(40, SimulatedPeer(silent_after=3))
    run.run(until=100)
    assert run.silent == [peer_id(0)]
    assert run.planner.idle()


def test_a_peer_slower_than_its_patience_still_delivers_alone() -> None:
    # 256 KiB at 10 kB/s: 26 s for each leaf, with nothing heard in between.
    limits = PlannerLimits(pace=PaceLimits(silence=60.0))
    run = simulate(5, SimulatedPeer(rate=10e3), limits=limits)
    run.run()
    assert run.planner.done
    assert run.received_bytes == 5 * LEAF


def test_a_long_way_is_filled_by_a_growing_window() -> None:
    run = simulate(2000, SimulatedPeer(rate=100e6, latency=0.1))
    run.run()
    assert run.now < 1.5 * 2000 * LEAF / 100e6 + 1


def test_what_a_peer_refuses_it_is_not_asked_for_again() -> None:
    planner = Planner(4, lambda _: 1000)
    planner.add_peer(peer_id(0), 0.0, complete=True)
    assert planner.next_request(peer_id(0), 0.0) is not None
    assert planner.leaf_refused(peer_id(0)) == 0
    for _ in range(3):
        planner.leaf_arrived(peer_id(0))
    for leaf in (1, 2, 3):
        planner.leaf_verified(leaf)
    planner.request_ended(peer_id(0), Status.OK, 0.1)
    assert planner.next_request(peer_id(0), 0.2) is None
    assert planner.idle()
    planner.add_peer(peer_id(1), 0.3, complete=True)
    ask = planner.next_request(peer_id(1), 0.3)
    assert ask is not None
    assert (ask.first, ask.count) == (0, 1)


def test_a_busy_peer_is_left_alone_for_a_while() -> None:
    planner = Planner(4, lambda _: LEAF)
    planner.add_peer(peer_id(0), 0.0, complete=True)
    planner.next_request(peer_id(0), 0.0)
    planner.request_ended(peer_id(0), Status.BUSY, 0.1)
    assert planner.next_request(peer_id(0), 0.2) is None
    assert not planner.idle()
    planner.handle_timeout(planner.next_timeout())
    assert planner.next_event() == PeerReady(peer_id(0))
    assert planner.next_request(peer_id(0), 1.0) is not None


def test_leaves_that_a_peer_gains_are_asked_of_it() -> None:
    planner = Planner(20, lambda _: 1000)
    planner.add_peer(peer_id(0), 0.0)
    assert planner.next_request(peer_id(0), 0.0) is None
    planner.add_have(peer_id(0), 8, b"\0\1\1\0")
    ask = planner.next_request(peer_id(0), 0.0)
    assert ask is not None
    assert (ask.first, ask.count) == (9, 2)
    planner.add_have(peer_id(0), 16, b"\1" * 80)  # more than there are
    ask = planner.next_request(peer_id(0), 0.0)
    assert ask is not None
    assert (ask.first, ask.count) == (16, 4)
    planner.add_have(peer_id(0), 20, b"\1")
    assert planner.next_request(peer_id(0), 0.0) is None
    planner.set_complete(peer_id(0))
    ask = planner.next_request(peer_id(0), 0.0)
    assert ask is not None
    assert (ask.first, ask.count) == (0, 9)


def test_what_is_here_from_before_is_not_asked_for() -> None:
    planner = Planner(10, lambda _: 1000)
    planner.mark_verified(0, 4)
    planner.mark_verified(3, 3)
    assert planner.verified == 6
    planner.add_peer(peer_id(0), 0.0, complete=True)
    ask = planner.next_request(peer_id(0), 0.0)
    assert ask is not None
    assert (ask.first, ask.count) == (6, 4)
    assert planner.verified_flags() == b"\1" * 6 + b"\0" * 4


@pytest.mark.parametrize("race_bytes", [0, LEAF, 3 * LEAF])
def test_the_race_at_the_end_stays_in_its_bound(race_bytes: int) -> None:
    pace = PaceLimits(first_window_bytes=8 * LEAF)
    planner = Planner(8, lambda _: LEAF, limits=PlannerLimits(race_bytes=race_bytes, pace=pace))
    for number in range(3):
        planner.add_peer(peer_id(number), 0.0, complete=True)
    owed = 0
    while (ask := planner.next_request(peer_id(0), 0.0)) is not None:
        owed += ask.count
    assert owed == 8
    raced = 0
    for number in (1, 2):
        while (ask := planner.next_request(peer_id(number), 60.0)) is not None:
            raced += ask.count
    assert raced * LEAF <= race_bytes + 4 * LEAF * (race_bytes > 0)
    assert (raced > 0) == (race_bytes > 0)


def test_who_loses_the_race_is_cancelled() -> None:
    planner = Planner(1, lambda _: LEAF)
    for number in (0, 1):
        planner.add_peer(peer_id(number), 0.0, complete=True)
    first = planner.next_request(peer_id(0), 0.0)
    assert planner.next_request(peer_id(1), 0.1) is None  # too early to tell that it is slow
    assert planner.next_request(peer_id(1), 3.0) is not None
    assert planner.leaf_arrived(peer_id(1))
    planner.leaf_verified(0)
    assert first is not None
    assert planner.next_event() == CancelAsk(peer_id(0), first.id)
    assert planner.next_event() is None
    assert not planner.leaf_arrived(peer_id(0))  # it was on its way already
    assert planner.done


def test_a_wrong_leaf_that_another_peer_owes_too_is_waited_for_not_asked_again() -> None:
    planner = Planner(1, lambda _: LEAF)
    for number in (0, 1, 2):
        planner.add_peer(peer_id(number), 0.0, complete=True)
    planner.next_request(peer_id(0), 0.0)
    planner.next_request(peer_id(1), 3.0)
    planner.leaf_arrived(peer_id(1))
    planner.remove_peer(peer_id(1))
    planner.leaf_wrong(0)
    assert planner.next_request(peer_id(2), 3.0) is not None  # as a race: it is late already
    planner.remove_peer(peer_id(2))
    planner.remove_peer(peer_id(0))
    planner.add_peer(peer_id(3), 4.0, complete=True)
    assert planner.next_request(peer_id(3), 4.0) is not None


def test_index_blocks_become_known_while_they_are_fetched() -> None:
    planner = Planner(1, lambda _: 64 * KIB)
    planner.add_peer(peer_id(0), 0.0, complete=True)
    planner.add_peer(peer_id(1), 0.0, complete=True)
    planner.next_request(peer_id(0), 0.0)
    planner.leaf_refused(peer_id(0))
    planner.extend(3)
    planner.request_ended(peer_id(0), Status.OK, 0.0)
    ask = planner.next_request(peer_id(0), 0.0)
    assert ask is not None
    assert (ask.first, ask.count) == (1, 3)
    ask = planner.next_request(peer_id(1), 0.0)
    assert ask is not None
    assert (ask.first, ask.count) == (0, 1)


def test_what_a_stalled_peer_owes_comes_first_again() -> None:
    planner = Planner(100, lambda _: LEAF)
    for number in (0, 1):
        planner.add_peer(peer_id(number), 0.0, complete=True)
    first = planner.next_request(peer_id(0), 0.0)
    other = planner.next_request(peer_id(1), 0.0)
    assert first is not None
    assert other is not None
    assert other.first > first.first
    planner.receive_bytes(peer_id(1), 1, 3.0)
    planner.handle_timeout(planner.next_timeout())
    assert isinstance(planner.next_event(), PeerStalled)
    assert planner.next_request(peer_id(0), 4.0) is None
    again = planner.next_request(peer_id(1), 4.0)
    assert again is not None
    assert again.first == first.first
    for _ in range(first.count):  # late, but good
        assert planner.leaf_arrived(peer_id(0))
    planner.request_ended(peer_id(0), Status.OK, 5.0)
    assert planner.next_request(peer_id(0), 5.0) is not None


def test_files_fill_from_the_front_until_others_are_known_to_fetch_them_too() -> None:
    planner = Planner(10_000, lambda _: LEAF, rng=random.Random(1))
    planner.add_peer(peer_id(0), 0.0, complete=True)
    first = planner.next_request(peer_id(0), 0.0)
    second = planner.next_request(peer_id(0), 0.0)
    assert first is not None
    assert second is not None
    assert (first.first, second.first) == (0, 1)
    planner.add_peer(peer_id(1), 0.0)  # holds nothing yet
    third = planner.next_request(peer_id(0), 0.0)
    assert third is not None
    assert third.first > 100


def test_what_few_hold_is_asked_for_before_what_many_hold() -> None:
    planner = Planner(100, lambda _: LEAF, rng=random.Random(1))
    planner.add_peer(peer_id(0), 0.0, complete=True)
    for number, flags in enumerate((b"\1" * 99, b"\1" * 98, b"\1" * 97), 1):
        planner.add_peer(peer_id(number), 0.0)
        planner.add_have(peer_id(number), 0, flags)
    order = []
    for _ in range(3):
        ask = planner.next_request(peer_id(0), 0.0)
        assert ask is not None
        order += list(range(ask.first, ask.end))
    assert order == [99, 98, 97]
