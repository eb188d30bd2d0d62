"""Limits on how much passes in a second: the mean is the rate, and everybody gets a turn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, strategies as st

from lattica.content import ExchangeLimits
from lattica.content._budget import Budget, TokenBucket, Turn, Turns
from lattica.content._messages import Status
from lattica.content._planner import Planner
from lattica.identity import PeerId

if TYPE_CHECKING:
    from trio.testing import MockClock

LEAF = 256 << 10


def peer(number: int) -> PeerId:
    return PeerId(bytes((0, 2)) + number.to_bytes(2, "big"))


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=30), st.floats(1e3, 1e8))
def test_the_mean_is_the_rate_however_large_the_pieces(sizes: list[int], rate: float) -> None:
    bucket, now = TokenBucket(rate, 0.0), 0.0
    for size in sizes:
        ready_at = bucket.ready_at(now)
        assert ready_at >= now
        now = ready_at
        assert bucket.ready_at(now) == pytest.approx(now, rel=1e-6, abs=1e-6)
        bucket.spend(size, now)
    passed = sum(sizes[:-1])
    assert now >= (passed - 0.1 * rate) / rate - 1e-3
    assert now <= passed / rate + 1e-3


def test_what_is_saved_up_is_a_tenth_of_a_second() -> None:
    bucket = TokenBucket(1000.0, 0.0)
    bucket.ready_at(500.0)
    bucket.spend(1100, 500.0)
    assert bucket.ready_at(500.0) == pytest.approx(501.0)


def test_a_limit_for_each_peer_holds_beside_the_one_for_all() -> None:
    budget = Budget(1000.0, 400.0)
    budget.spend(peer(1), 840, 0.0)
    assert budget.ready_at(peer(1), 0.0) == pytest.approx(2.0)
    assert budget.ready_at(peer(2), 0.0) == pytest.approx(0.74)
    budget.give_back(peer(1), 840)
    assert budget.ready_at(peer(1), 0.0) == 0.0
    for number in range(3000):
        budget.spend(peer(number), 1, 0.0)
    assert len(budget._peers) == 1024
    assert not Budget(None, None).is_limited


def simulate(turns: Turns, demand: dict[PeerId, int], size: int, until: float) -> dict[PeerId, int]:
    """Keep so many pieces of each peer in line; returns how many bytes of each passed."""
    passed = dict.fromkeys(demand, 0)
    now = 0.0

    def join(name: PeerId) -> None:
        def wake() -> None:
            passed[name] += size
            join(name)

        turns.join(name, size, wake)

    for name, count in demand.items():
        for _ in range(count):
            join(name)
    while now < until:
        turns.grant(now)
        later = turns.next_time(now)
        assert later > now
        now = later
    return passed


def test_peers_get_the_same_however_many_pieces_they_have_in_line() -> None:
    demand = {peer(1): 1, peer(2): 16, peer(3): 3}
    passed = simulate(Turns(Budget(1e6, None)), demand, 10_000, 30.0)
    assert sum(passed.values()) == pytest.approx(30e6, rel=0.01)
    assert min(passed.values()) > 0.97 * max(passed.values())


def test_a_peer_that_comes_later_gets_its_share_and_no_more_than_that() -> None:
    turns = Turns(Budget(1e6, None))
    simulate(turns, {peer(1): 4}, 10_000, 10.0)
    order: list[int] = []
    first = [turns.join(peer(2), 10_000, lambda: order.append(2)) for _ in range(50)]
    assert not any(turn.granted for turn in first)
    turns.grant(10.5)
    assert order.count(2) <= 10  # not all that it missed


def test_who_leaves_the_line_lets_others_pass() -> None:
    turns = Turns(Budget(1000.0, None))
    granted: list[str] = []
    turns.join(peer(1), 5000, lambda: granted.append("large"))
    turns.grant(0.0)
    gone: Turn = turns.join(peer(2), 10, lambda: granted.append("gone"))
    turns.join(peer(3), 10, lambda: granted.append("last"))
    turns.leave(gone)
    turns.grant(10.0)
    assert granted == ["large", "last"]
    turns.leave(gone)
    assert not turns._waiting


def test_a_planner_with_a_budget_asks_for_no_more_than_that() -> None:
    planner = Planner(4000, lambda _: LEAF)
    planner.budget = Budget(5e6, None)
    for number in range(3):
        planner.add_peer(peer(number), 0.0, complete=True)
    now, asked = 0.0, 0
    for _ in range(10_000):
        for name in planner.peers:
            while (ask := planner.next_request(name, now)) is not None:
                assert ask.count * LEAF <= max(LEAF, 5e6 / 10)
                asked += ask.count
                for leaf in range(ask.first, ask.end):
                    planner.receive_bytes(name, LEAF, now)
                    planner.leaf_arrived(name)
                    planner.leaf_verified(leaf)
                planner.request_ended(name, Status.OK, now)
        now = planner.next_timeout()
        assert not planner.idle()
        if now > 20:
            break
        planner.handle_timeout(now)
        assert planner.next_event() is not None
    assert asked * LEAF == pytest.approx(20 * 5e6, rel=0.03)


def test_what_did_not_come_is_not_counted() -> None:
    planner = Planner(10, lambda _: LEAF)
    planner.budget = Budget(LEAF, None)
    planner.add_peer(peer(1), 0.0, complete=True)
    planner.add_peer(peer(2), 0.0, complete=True)
    assert planner.next_request(peer(1), 0.0) is not None
    assert planner.next_request(peer(2), 0.0) is None
    planner.remove_peer(peer(1))
    assert planner.next_request(peer(2), 0.0) is not None


@pytest.mark.parametrize("where", ["up", "down", "up_per_peer", "down_per_peer"])
async def test_a_limited_transfer_runs_at_its_limit(
    swarm: Any, where: str, autojump_clock: MockClock
) -> None:
    limit: dict[str, Any] = {f"max_{where}": 5e6}
    limits = ExchangeLimits(**limit)
    async with swarm.peers(2, limits=limits) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 200 * LEAF))
        started = trio.current_time()
        await receiver.fetch(shared.root, seed)
        taken = trio.current_time() - started
    assert taken == pytest.approx(200 * LEAF / 5e6, rel=0.05)
    assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_two_receivers_share_a_limited_upload_alike_and_pings_pass(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 10e6
    trips: list[float] = []

    async def ping(receiver: Any, seed: Any) -> None:
        while True:
            trips.append(await receiver.mesh.ping(seed.mesh.peer_id))
            await trio.sleep(0.1)

    limits = ExchangeLimits(max_up=4e6)
    async with (
        swarm.peers(3, limits=limits, introduce=False) as (seed, *receivers),
        trio.open_nursery() as nursery,
    ):
        shared = [
            seed.share(seed.file(f"model-{number}.bin", 100 * LEAF, seed=number))
            for number in range(2)
        ]
        ends = []

        async def fetch(receiver: Any, root: Any) -> None:
            await receiver.fetch(root, seed)
            ends.append(trio.current_time())

        started = trio.current_time()
        async with trio.open_nursery() as fetching:
            for receiver, each in zip(receivers, shared, strict=True):
                fetching.start_soon(fetch, receiver, each.root)
            await trio.sleep(1)
            nursery.start_soon(ping, receivers[0], seed)
        nursery.cancel_scope.cancel()
    assert ends[1] - ends[0] < 0.5
    assert ends[1] - started == pytest.approx(200 * LEAF / 4e6, rel=0.05)
    assert len(trips) > 50
    assert sorted(trips)[int(0.99 * len(trips))] < 0.1


async def test_a_limited_upload_does_not_make_its_receiver_give_it_up(
    swarm: Any, autojump_clock: MockClock
) -> None:
    limits = ExchangeLimits(max_up=20e3)  # a leaf takes 13 seconds
    async with swarm.peers(2, limits=limits) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 4 * LEAF))
        fetched = await receiver.fetch(shared.root, seed)
    assert fetched.received_bytes == 4 * LEAF
    assert math.isclose(trio.current_time(), 4 * LEAF / 20e3, rel_tol=0.2)
