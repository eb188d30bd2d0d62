"""Provider records and their quotas; the schedule of our own keys."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, strategies as st

from lattica.dht._keys import position
from lattica.dht._providers import (
    MAX_PROVIDER_KEY,
    PROVIDER_SECONDS,
    RENEW_FIRST_SECONDS,
    RENEW_SECONDS,
    RETRY_MOST_SECONDS,
    RETRY_SECONDS,
    ProviderStore,
    ProvideSchedule,
)
from lattica.identity import PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def key(number: int) -> bytes:
    return b"\x1e\x20" + number.to_bytes(32, "big")


def test_the_latest_provider_comes_first() -> None:
    store = ProviderStore()
    store.add(key(1), peer(1), now=0.0)
    store.add(key(1), peer(2), now=1.0)
    store.add(key(1), peer(1), now=2.0)
    assert store.providers(key(1), now=3.0) == [peer(1), peer(2)]
    assert store.providers(key(2), now=3.0) == []
    assert (len(store), store.keys) == (2, 1)


def test_a_record_lapses_unless_it_is_renewed() -> None:
    store = ProviderStore()
    store.add(key(1), peer(1), now=0.0)
    store.add(key(1), peer(2), now=0.0)
    store.add(key(1), peer(1), now=RENEW_SECONDS)
    assert store.providers(key(1), now=PROVIDER_SECONDS) == [peer(1)]
    store.expire(PROVIDER_SECONDS + RENEW_SECONDS)
    assert (len(store), store.keys) == (0, 0)


@pytest.mark.parametrize("size", [0, MAX_PROVIDER_KEY + 1])
def test_keys_that_no_multihash_has_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        ProviderStore().add(bytes(size), peer(1), now=0.0)


def test_a_peer_over_its_quota_loses_its_own_oldest() -> None:
    store = ProviderStore(per_peer=3)
    store.add(key(0), peer(2), now=0.0)
    for number in range(5):
        store.add(key(number), peer(1), now=1.0)
    assert [store.providers(key(number), now=2.0) for number in range(5)] == [
        [peer(2)],
        [],
        [peer(1)],
        [peer(1)],
        [peer(1)],
    ]


def test_a_key_keeps_its_latest_providers() -> None:
    store = ProviderStore(per_key=3)
    for number in range(5):
        store.add(key(1), peer(number), now=0.0)
    assert store.providers(key(1), now=0.0) == [peer(4), peer(3), peer(2)]


def test_peers_over_their_quota_cannot_exceed_that_of_a_key() -> None:
    store = ProviderStore(per_peer=1, per_key=2)
    for number in range(5):
        store.add(key(number), peer(number), now=0.0)
        store.add(b"wanted", peer(number), now=0.0)
    assert store.providers(b"wanted", now=0.0) == [peer(4), peer(3)]


def test_a_full_store_takes_from_those_above_their_share() -> None:
    store = ProviderStore(records=10)
    store.add(key(0), peer(1), now=0.0)
    for number in range(9):
        store.add(key(number), peer(2), now=1.0)
    store.add(key(20), peer(2), now=2.0)  # nine of ten: pays with its own
    assert store.providers(key(0), now=2.0) == [peer(1)]
    store.add(key(21), peer(3), now=2.0)  # has none yet: the oldest of all goes
    assert store.providers(key(0), now=2.0) == []
    assert len(store) == 10


def test_a_flood_from_one_peer_leaves_others_alone_and_memory_bounded() -> None:
    store = ProviderStore(per_peer=1000)
    store.add(key(0), peer(1), now=0.0)
    tracemalloc.start()
    try:
        for number in range(30_000):
            store.add(key(number), peer(2), now=1.0)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.providers(key(0), now=1.0) == [peer(1)]
    assert len(store) == 1001
    assert used < 1 << 20


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.0, 1.0, 60.0])),
        max_size=80,
    )
)
def test_the_indices_of_a_store_agree_after_anything(adds: list[tuple[int, int, float]]) -> None:
    store = ProviderStore(seconds=100.0, records=12, per_peer=4, per_key=5)
    now = 0.0
    for content, who, later in adds:
        now += later
        store.add(key(content), peer(who), now=now)
        assert peer(who) == store.providers(key(content), now=now)[0]
        assert len(store) <= 12
    pairs = {(content, who) for content, entry in store._by_key.items() for who in entry}
    assert pairs == set(store._expiry)
    assert pairs == {(content, who) for who, entry in store._by_peer.items() for content in entry}
    assert all(store._by_key.values())
    assert all(store._by_peer.values())
    assert list(store._expiry.values()) == sorted(store._expiry.values())


def test_new_keys_are_due_at_once_in_the_order_of_the_key_space() -> None:
    schedule = ProvideSchedule()
    keys = [key(number) for number in range(50)]
    for each in keys:
        schedule.add(each, now=0.0)
    batch = schedule.due(0.0, 100)
    assert batch == sorted(keys, key=position)
    assert schedule.due(0.0, 100) == []
    assert schedule.next_due() == float("inf")


def test_a_batch_is_bounded() -> None:
    schedule = ProvideSchedule()
    for number in range(50):
        schedule.add(key(number), now=0.0)
    assert [len(schedule.due(0.0, 20)) for _ in range(4)] == [20, 20, 10, 0]


def test_announcements_are_renewed_at_doubling_intervals_up_to_the_usual_one() -> None:
    schedule = ProvideSchedule()
    schedule.add(key(1), now=0.0)
    now, intervals = 0.0, []
    for _ in range(13):
        assert schedule.due(now, 1) == [key(1)]
        schedule.announced(key(1), now=now)
        intervals.append(schedule.next_due() - now)
        now = schedule.next_due()
    assert intervals[:3] == [RENEW_FIRST_SECONDS, 2 * RENEW_FIRST_SECONDS, 4 * RENEW_FIRST_SECONDS]
    assert intervals[-1] == intervals[-2] == RENEW_SECONDS


def test_an_announcement_that_reached_nobody_is_tried_again() -> None:
    schedule = ProvideSchedule()
    schedule.add(key(1), now=0.0)
    now, delays = 0.0, []
    for _ in range(9):
        assert schedule.due(now, 1) == [key(1)]
        schedule.postpone(key(1), now=now)
        delays.append(schedule.next_due() - now)
        now = schedule.next_due()
    assert delays[:2] == [RETRY_SECONDS, 2 * RETRY_SECONDS]
    assert delays[-1] == RETRY_MOST_SECONDS


def test_the_first_peer_makes_due_what_nobody_has_heard_yet() -> None:
    schedule = ProvideSchedule()
    for number in (1, 2, 3):
        schedule.add(key(number), now=0.0)
    schedule.due(0.0, 10)
    schedule.announced(key(1), now=0.0)
    schedule.postpone(key(2), now=0.0)
    schedule.hasten(now=1.0)  # the third is still being announced
    assert schedule.due(1.0, 10) == [key(2)]


def test_whoever_is_met_after_an_absence_is_told_all_that_was_not_just_announced() -> None:
    schedule = ProvideSchedule()
    for number, announced_at in ((1, 0.0), (2, 990.0)):
        schedule.add(key(number), now=announced_at)
        schedule.due(announced_at, 10)
        schedule.announced(key(number), now=announced_at)
    schedule.due(100.0, 10)
    schedule.announced(key(1), now=100.0)
    schedule.due(300.0, 10)
    schedule.announced(key(1), now=900.0)
    schedule.hasten(now=1000.0)
    assert schedule.due(1000.0, 10) == [key(1)]


def test_a_key_that_is_no_longer_provided_is_never_due() -> None:
    schedule = ProvideSchedule()
    schedule.add(key(1), now=0.0)
    schedule.add(key(2), now=0.0)
    schedule.remove(key(1))
    assert key(1) not in schedule
    assert schedule.due(0.0, 10) == [key(2)]
    schedule.remove(key(2))
    schedule.announced(key(2), now=1.0)
    schedule.postpone(key(2), now=1.0)
    assert schedule.next_due() == float("inf")
    assert len(schedule) == 0


def test_lag_says_how_late_the_most_overdue_key_is() -> None:
    schedule = ProvideSchedule()
    assert schedule.lag(9.0) == 0.0
    schedule.add(key(1), now=0.0)
    assert schedule.lag(7.0) == 7.0
    schedule.start([key(1)])
    schedule.announced(key(1), now=7.0)
    assert schedule.lag(8.0) == 0.0
    assert schedule.lag(7.0 + RENEW_FIRST_SECONDS + 5.0) == 5.0


def test_adding_a_key_again_changes_nothing() -> None:
    schedule = ProvideSchedule()
    rng = random.Random(1)
    keys = [rng.randbytes(34) for _ in range(5)]
    for each in (*keys, *keys):
        schedule.add(each, now=0.0)
    assert len(schedule.due(0.0, 100)) == 5


def test_a_key_that_comes_and_goes_leaves_nothing_in_the_schedule() -> None:
    schedule = ProvideSchedule()
    for number in range(2000):
        schedule.add(b"key", now=float(number))
        schedule.start([b"key"])
        schedule.announced(b"key", now=float(number))
        schedule.remove(b"key")
    assert len(schedule._heap) <= 200
