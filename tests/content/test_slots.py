"""Slots for who is served: bounded, fair, and no refuge for those who read slowly."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings, strategies as st

from lattica.content import ExchangeLimits, build
from lattica.content._messages import PROTOCOL, BlocksRequest, encode_request
from lattica.content._slots import GRACE_SECONDS, SNUBBED_SECONDS, WAITING_SECONDS, Slots
from lattica.errors import LatticaError
from lattica.testing import sample_identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.transport import Mesh

LEAF = 256 << 10
PEERS = [sample_identity(number).peer_id for number in range(80)]


class Crowd:
    """Slots, and who has lost one."""

    def __init__(self, count: int) -> None:
        self.lost: list[int] = []
        self.slots: Slots[int] = Slots(count, self.lost.append)

    def take(self, who: int, now: float, *, peer: int | None = None) -> bool:
        return self.slots.take(who, PEERS[who if peer is None else peer], now)


def test_who_takes_least_gives_way_once_it_has_had_its_chance() -> None:
    crowd = Crowd(3)
    assert all(crowd.take(who, 0.0) for who in range(3))
    for now in range(1, 6):
        crowd.slots.sent(0, 1000, now)
        crowd.slots.sent(1, 10, now)
        crowd.slots.sent(2, 1000, now)
    assert not crowd.take(3, GRACE_SECONDS - 0.1)
    assert crowd.take(3, GRACE_SECONDS)
    assert crowd.lost == [1]
    assert 1 not in crowd.slots


def test_a_slot_that_is_free_drives_nobody_out() -> None:
    crowd = Crowd(2)
    assert crowd.take(0, 0.0)
    assert crowd.take(1, 100.0)
    assert crowd.take(1, 100.0)
    crowd.slots.leave(0)
    assert crowd.take(2, 200.0)
    assert not crowd.lost


def test_who_has_lost_a_slot_drives_nobody_out_for_a_while() -> None:
    crowd = Crowd(1)
    assert crowd.take(0, 0.0)
    assert crowd.take(1, 10.0)
    assert not crowd.take(0, 20.0)
    assert crowd.take(0, 10.0 + SNUBBED_SECONDS)
    assert crowd.lost == [0, 1]


def test_who_was_snubbed_may_have_a_slot_that_is_free() -> None:
    crowd = Crowd(1)
    assert crowd.take(0, 0.0)
    assert crowd.take(1, 10.0)
    crowd.slots.leave(1)
    assert crowd.take(0, 11.0)


def test_a_peer_with_many_streams_gives_one_to_a_peer_with_none_at_once() -> None:
    crowd = Crowd(4)
    assert all(crowd.take(who, 0.0, peer=0) for who in range(4))
    assert crowd.take(10, 0.0, peer=1)
    assert crowd.take(11, 0.0, peer=1)
    assert crowd.lost == [3, 2]
    assert not crowd.take(12, 0.0, peer=1)  # two each is fair


def test_who_takes_more_than_its_share_keeps_its_slot_though_all_others_are_new() -> None:
    crowd = Crowd(4)
    assert crowd.take(0, 0.0)
    for now in range(1, 31):
        crowd.slots.sent(0, 1000, now)
    assert all(crowd.take(who, 30.0) for who in (1, 2, 3))
    assert not crowd.take(4, 31.0)
    assert not crowd.lost


def test_among_equals_everybody_gets_a_turn() -> None:
    crowd, served = Crowd(8), set[int]()
    for now in range(120):
        for who in range(24):
            crowd.take(who, float(now))
        for who in range(24):
            if who in crowd.slots:
                served.add(who)
                crowd.slots.sent(who, 1000, float(now))
    assert served == set(range(24))


def test_who_waits_for_longest_is_next() -> None:
    crowd = Crowd(1)
    assert crowd.take(0, 0.0)
    assert not crowd.take(1, 1.0)
    assert not crowd.take(2, 2.0)
    assert not crowd.take(2, 6.0)
    assert crowd.take(1, 6.1)


def test_who_does_not_come_back_holds_up_the_line_no_longer() -> None:
    crowd = Crowd(1)
    assert crowd.take(0, 0.0)
    assert not crowd.take(1, 1.0)
    assert not crowd.take(2, 2.0)
    assert not crowd.take(2, 1.0 + WAITING_SECONDS - 0.1)
    assert crowd.take(2, 1.0 + WAITING_SECONDS)


def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.content._slots._MAX_WAITING", 3)
    crowd = Crowd(1)
    for who in range(10):
        crowd.take(who, 0.0)
    assert len(crowd.slots._line) == 3
    assert not crowd.take(9, 6.0)
    assert crowd.take(1, 6.0)


def test_snubbed_peers_are_remembered_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.content._slots._MAX_SNUBBED", 2)
    crowd = Crowd(1)
    for number in range(6):
        assert crowd.take(number, 10.0 * number)
    assert len(crowd.slots._snubbed) == 2


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2), st.integers(0, 5000))),
)
def test_slots_are_bounded_and_each_is_lost_or_left_once(
    count: int, moves: list[tuple[int, int, int]]
) -> None:
    crowd, held, now = Crowd(count), set[int](), 0.0
    for who, move, size in moves:
        now += size / 1000
        if move == 0:
            before = len(crowd.lost)
            granted = crowd.take(who, now, peer=who // 3)
            lost = crowd.lost[before:]
            assert len(lost) <= granted  # nobody is driven out for nothing
            assert set(lost) <= held - {who}
            held = (held - set(lost)) | ({who} if granted else set())
        elif move == 1:
            crowd.slots.sent(who, size, now)
        else:
            crowd.slots.leave(who)
            held.discard(who)
        assert {each for each in range(12) if each in crowd.slots} == held
        assert len(crowd.slots) == len(held) <= count


@settings(max_examples=15)
@given(st.integers(0, 1 << 30), st.integers(1, 16), st.floats(0, 0.2))
def test_honest_readers_have_the_link_whatever_slow_ones_do(
    seed: int, honest: int, trickle: float
) -> None:
    """A link shared by who holds a slot: the honest take all they get, 64 others hardly any."""
    rng = random.Random(seed)
    crowd, sent = Crowd(64), 0.0
    slow = range(honest, honest + 64)
    now, step, link = 0.0, 0.25, 10e6
    for who in slow:
        crowd.take(who, now)
    asks_at = dict.fromkeys(range(honest), 0.0)
    while now < 120:
        for who in rng.sample(list(slow), 64):  # each asks again as soon as it is refused
            crowd.take(who, now)
        for who, at in asks_at.items():
            if who not in crowd.slots and now >= at and not crowd.take(who, now):
                asks_at[who] = now + rng.uniform(0.5, 4)
        served = [who for who in range(honest) if who in crowd.slots]
        for who in slow:
            if who in crowd.slots:
                crowd.slots.sent(who, int(trickle * 1000 * step), now)
        for who in served:
            crowd.slots.sent(who, int(link * step / len(served)), now)
            sent += link * step / len(served)
        now += step
    assert sent > 0.8 * link * 120


async def _read_slowly(mesh: Mesh, seed: Any, hashes: list[bytes]) -> None:
    """Ask for much, take a kilobyte a second, and come back when sent away."""
    number = 0
    while True:
        try:
            async with await mesh.open_stream(seed.mesh.peer_id, PROTOCOL) as stream:
                for _ in range(40):
                    number += 1
                    request = BlocksRequest(number, tuple(hashes))
                    await stream.send_message(encode_request(request))
                async for _ in _ticks():
                    if not await stream.receive_some(1000):
                        break
        except (trio.BrokenResourceError, LatticaError):
            await trio.sleep(0.1)


async def _ticks() -> AsyncIterator[None]:
    for _ in range(1000):
        await trio.sleep(1)
        yield


@pytest.mark.parametrize("identities", [8, 64])
async def test_64_slow_readers_do_not_keep_honest_ones_from_the_link(
    swarm: Any, autojump_clock: MockClock, identities: int
) -> None:
    up, honest = 8e6, 4
    limits = ExchangeLimits(max_up=up)
    async with (
        swarm.peers(1 + honest + identities, limits=limits) as (seed, *others),
        trio.open_nursery() as nursery,
    ):
        shared = seed.share(seed.file("model.bin", 80 * LEAF))
        path: Path = shared.path
        hashes = hashes_of(path)
        for number in range(64):
            slow = others[honest + number % identities]
            nursery.start_soon(_read_slowly, slow.mesh, seed, hashes)
        await trio.sleep(20)  # they hold every slot
        began = trio.current_time()
        async with trio.open_nursery() as fetches:
            for other in others[:honest]:
                fetches.start_soon(other.fetch, shared.root, seed)
        seconds = trio.current_time() - began
        nursery.cancel_scope.cancel()
    assert honest * shared.size / seconds > 0.8 * up


def hashes_of(path: Path) -> list[bytes]:
    return [leaf.multihash for file in build(path).files for leaf in file.leaves]
