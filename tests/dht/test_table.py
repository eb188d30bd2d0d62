"""The routing table: who is kept, who is nearest, what is due."""

from __future__ import annotations

import random

from hypothesis import given, strategies as st

from lattica.dht._keys import K, key_sharing, position, shared_bits
from lattica.dht._table import (
    CHECK_SECONDS,
    FRESH_SECONDS,
    GROUP_IN_BUCKET,
    GROUP_IN_SEEDS,
    GROUP_IN_TABLE,
    MAX_FAILURES,
    RECHECK_SECONDS,
    REFRESH_SECONDS,
    WIDER_GROUP_IN_BUCKET,
    RoutingTable,
)
from lattica.identity import PeerId

LOCAL = PeerId(b"\x12\x20" + bytes(32))
positions = st.integers(0, 2**256 - 1)


def peers(count: int, *, seed: int = 0) -> list[PeerId]:
    rng = random.Random(seed)
    return [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(count)]


def peers_in_bucket(bucket: int, count: int, *, seed: int = 0) -> list[PeerId]:
    rng = random.Random(seed)
    return [PeerId(key_sharing(position(LOCAL.raw), bucket, rng)) for _ in range(count)]


def full_table(*, now: float = 0.0) -> tuple[RoutingTable, list[PeerId]]:
    """A table whose bucket 0 is full."""
    table, members = RoutingTable(LOCAL), peers_in_bucket(0, K)
    for peer in members:
        table.add(peer, now=now)
    return table, members


@given(positions, positions, positions)
def test_distance_is_a_metric_in_which_prefixes_are_neighbourhoods(a: int, b: int, c: int) -> None:
    assert (a ^ c) <= (a ^ b) + (b ^ c)
    assert shared_bits(a, a) == 256
    if shared_bits(a, b) > shared_bits(a, c):
        assert (a ^ b) < (a ^ c)


@given(st.integers(0, 12), st.integers(0, 2**32))
def test_a_key_can_be_made_for_every_region_that_is_refreshed(bits: int, seed: int) -> None:
    origin = position(LOCAL.raw)
    key = key_sharing(origin, bits, random.Random(seed))
    assert shared_bits(position(key), origin) == bits
    assert PeerId.from_bytes(key).raw == key


@given(st.integers(0, 200), st.integers(0, 2**32), st.integers(1, 40), positions)
def test_the_closest_contacts_are_those_a_full_sort_would_give(
    size: int, seed: int, count: int, target: int
) -> None:
    table = RoutingTable(LOCAL)
    for peer in peers(size, seed=seed):
        table.add(peer, now=0.0)
    everyone = sorted((position(contact.peer.raw) ^ target, contact.peer) for contact in table)
    assert table.closest(target, count) == [peer for _, peer in everyone[:count]]


def test_a_table_holds_at_most_k_contacts_a_bucket_however_many_peers_come() -> None:
    table = RoutingTable(LOCAL)
    for peer in peers(5000):
        table.add(peer, now=0.0)
    assert max(table.bucket_sizes().values()) == K
    assert len(table) == sum(table.bucket_sizes().values()) == len(list(table))
    assert len(table) < K * 13
    assert all(len(bucket.spares) <= K for bucket in table._buckets.values())


def test_we_are_not_our_own_contact() -> None:
    table = RoutingTable(LOCAL)
    assert not table.wants(LOCAL)
    table.add(LOCAL, now=0.0)
    assert len(table) == 0
    assert LOCAL not in table


def test_old_contacts_stay_and_a_newcomer_waits() -> None:
    table, members = full_table()
    newcomer = peers_in_bucket(0, 1, seed=1)[0]
    assert table.wants(newcomer)
    table.add(members[0], now=1.0)  # heard from again, so the second is now the longest silent
    assert table.add(newcomer, now=1.0 + FRESH_SECONDS) == members[1]
    assert newcomer not in table
    assert not table.wants(newcomer)


def test_contacts_heard_from_lately_are_not_checked_for_a_newcomer() -> None:
    table, _ = full_table()
    assert table.add(peers_in_bucket(0, 1, seed=1)[0], now=FRESH_SECONDS - 1) is None


def test_a_waiting_peer_takes_the_place_of_one_that_fails_and_is_checked_soon() -> None:
    table, members = full_table()
    newcomer = peers_in_bucket(0, 1, seed=1)[0]
    table.add(newcomer, now=5.0)
    table.failed(members[3], now=6.0)
    assert newcomer in table
    assert members[3] not in table
    assert table.due_checks(6.0) == [newcomer]


def test_a_newcomer_takes_the_place_of_a_contact_that_is_failing() -> None:
    table, members = full_table()
    table.failed(members[3], now=6.0)
    assert members[3] in table
    newcomer = peers_in_bucket(0, 1, seed=1)[0]
    assert table.add(newcomer, now=7.0) is None
    assert newcomer in table
    assert members[3] not in table


def test_a_contact_that_nobody_can_replace_is_asked_again_before_it_is_dropped() -> None:
    table = RoutingTable(LOCAL)
    (peer,) = peers(1)
    table.add(peer, now=0.0)
    now = 10.0
    for failure in range(MAX_FAILURES - 1):
        table.failed(peer, now=now)
        again = now + RECHECK_SECONDS * 4**failure
        assert table.next_check() == again
        assert table.due_checks(again - 1) == []
        assert table.due_checks(again) == [peer]
        now = again
    table.failed(peer, now=now)
    assert peer not in table
    assert len(table) == 0


def test_failures_that_come_together_count_once() -> None:
    table = RoutingTable(LOCAL)
    (peer,) = peers(1)
    table.add(peer, now=0.0)
    for _ in range(10):
        table.failed(peer, now=10.0)
    assert [contact.failures for contact in table] == [1]
    assert table.next_check() == 10.0 + RECHECK_SECONDS


def test_a_contact_that_could_not_be_asked_is_asked_later_and_not_blamed() -> None:
    table = RoutingTable(LOCAL)
    one, two = peers(2)
    table.add(one, now=0.0)
    for round_ in range(10):
        now = CHECK_SECONDS + round_ * RECHECK_SECONDS
        assert table.due_checks(now) == [one]
        table.put_off(one, now=now)
        assert table.next_check() == now + RECHECK_SECONDS
    table.put_off(two, now=0.0)
    assert [contact.failures for contact in table] == [0]


def test_when_all_are_lost_those_heard_from_last_are_asked_at_once() -> None:
    table = RoutingTable(LOCAL)
    for when, peer in enumerate(peers(40)):
        table.add(peer, now=float(when))
    table.doubt(now=50.0)
    latest = sorted(table, key=lambda each: each.seen_at)[-K:]
    assert set(table.due_checks(50.0)) == {each.peer for each in latest}


def test_an_answer_clears_earlier_failures() -> None:
    table = RoutingTable(LOCAL)
    (peer,) = peers(1)
    table.add(peer, now=0.0)
    table.failed(peer, now=1.0)
    assert table.closest(0) == []
    assert table.seeds(0) == [peer]
    table.add(peer, now=2.0)
    assert table.closest(0) == [peer]
    assert table.next_check() == 2.0 + CHECK_SECONDS


def test_failing_contacts_come_after_all_others() -> None:
    table = RoutingTable(LOCAL)
    one, two = peers(2)
    table.add(one, now=0.0)
    table.add(two, now=0.0)
    table.failed(one, now=1.0)
    assert table.seeds(position(one.raw)) == [two, one]


def test_a_lookup_begins_with_a_few_of_each_network_while_there_are_others() -> None:
    table = RoutingTable(LOCAL, group_in_bucket=K, group_in_table=K)
    everybody = peers(60)
    everybody.sort(key=lambda peer: position(peer.raw))  # the nearest to 0 first
    gang, others = everybody[:12], everybody[12:]
    for peer in gang:
        table.add(peer, now=0.0, group=b"one network")
    assert table.seeds(0) == [peer for peer in gang if peer in table], "there is nobody else"
    for peer in others:
        table.add(peer, now=0.0)
    seeds = table.seeds(0)
    assert len(seeds) == K
    assert [peer for peer in seeds if peer in gang] == table.closest(0)[:GROUP_IN_SEEDS]


def test_removed_and_unknown_peers_leave_no_trace() -> None:
    table = RoutingTable(LOCAL)
    one, two = peers(2)
    table.add(one, now=0.0)
    table.remove(one, now=1.0)
    table.remove(two, now=1.0)
    table.failed(two, now=1.0)
    assert len(table) == 0
    assert list(table) == []


def test_buckets_are_due_for_refresh_until_their_region_was_looked_up() -> None:
    table = RoutingTable(LOCAL)
    for peer in (*peers_in_bucket(0, 2), *peers_in_bucket(3, 1)):
        table.add(peer, now=0.0)
    assert table.due_refreshes(0.0) == [0, 1, 2, 3]
    for bucket in (0, 2, 3):
        table.looked_up(position(peers_in_bucket(bucket, 1, seed=9)[0].raw), now=5.0)
    table.looked_up(table.position, now=5.0)
    assert table.due_refreshes(6.0) == [1]
    assert table.due_refreshes(5.0 + REFRESH_SECONDS) == [0, 1, 2, 3]


NETWORK, OTHER = b"\x01\x02\x03", b"\x08\x08\x08"


def small_table() -> RoutingTable:
    table = RoutingTable(LOCAL)
    for bucket in range(3):
        for peer in peers_in_bucket(bucket, 4, seed=bucket):
            table.add(peer, now=0.0)
    table.looked_up_everywhere(now=0.0)
    return table


def test_a_table_without_a_full_bucket_holds_everybody_while_it_is_fresh() -> None:
    table = small_table()
    assert table.holds_everybody(1.0)
    assert not table.holds_everybody(REFRESH_SECONDS)
    assert not RoutingTable(LOCAL).holds_everybody(0.0)


def test_a_table_that_had_to_leave_anybody_out_does_not_hold_everybody() -> None:
    table, _ = full_table()
    table.looked_up_everywhere(now=0.0)
    assert not table.holds_everybody(1.0)
    crowded = small_table()
    for peer in peers_in_bucket(3, GROUP_IN_BUCKET + 1):
        assert crowded.holds_everybody(1.0)
        crowded.wants(peer, b"net")
        crowded.add(peer, now=1.0, group=b"net")
    assert not crowded.holds_everybody(1.0)


def test_a_table_with_a_failing_contact_does_not_hold_everybody() -> None:
    table = small_table()
    table.failed(next(iter(table)).peer, now=1.0)
    assert not table.holds_everybody(1.0)


def test_of_one_network_a_bucket_takes_two_and_a_table_eight() -> None:
    table = RoutingTable(LOCAL)
    for peer in peers(200):
        assert table.add(peer, now=0.0, group=NETWORK) is None
    assert max(table.bucket_sizes().values()) == GROUP_IN_BUCKET
    assert table.group_sizes() == {NETWORK: GROUP_IN_TABLE}
    newcomer = peers_in_bucket(0, 1, seed=5)[0]
    assert not table.wants(newcomer, NETWORK)
    assert table.wants(newcomer, OTHER)
    assert table.wants(newcomer)
    table.add(newcomer, now=1.0, group=OTHER)
    assert newcomer in table


def test_of_neighbouring_networks_a_bucket_takes_half_its_size() -> None:
    table = RoutingTable(LOCAL)
    for number, peer in enumerate(peers_in_bucket(0, K)):
        table.add(peer, now=0.0, group=bytes([1, 2, number]))
    assert len(table) == WIDER_GROUP_IN_BUCKET


def test_peers_of_one_network_cannot_fill_the_queue_before_a_bucket() -> None:
    table, _ = full_table()
    for peer in peers_in_bucket(0, 40, seed=3):
        table.add(peer, now=1.0, group=NETWORK)
    assert len(table._buckets[0].spares) == GROUP_IN_BUCKET


def test_a_contact_counts_where_it_last_answered_from() -> None:
    table = RoutingTable(LOCAL)
    one, two, mover = peers_in_bucket(0, 3)
    table.add(one, now=0.0, group=NETWORK)
    table.add(two, now=0.0, group=NETWORK)
    table.add(mover, now=0.0, group=OTHER)
    table.add(mover, now=1.0, group=OTHER)
    assert table.group_sizes() == {NETWORK: 2, OTHER: 1}
    table.add(mover, now=2.0, group=NETWORK)  # it came in from elsewhere to get around the bound
    assert mover not in table
    assert table.group_sizes() == {NETWORK: 2}
    table.add(one, now=3.0, group=OTHER)
    assert table.group_sizes() == {NETWORK: 1, OTHER: 1}


def test_who_takes_the_place_of_another_keeps_to_the_bound_of_its_network() -> None:
    table, (first, second, *_) = RoutingTable(LOCAL), peers_in_bucket(0, K)
    for number, peer in enumerate(peers_in_bucket(0, K)):
        table.add(peer, now=0.0, group=NETWORK if number < 2 else None)
    spare = peers_in_bucket(0, 1, seed=7)[0]
    table.add(spare, now=1.0, group=NETWORK)
    other = next(contact.peer for contact in table if contact.group is None)
    table.failed(other, now=2.0)
    assert spare not in table
    assert other in table, "nobody may take its place yet"
    table.failed(first, now=3.0)
    assert spare in table
    assert first not in table
    assert table.group_sizes() == {NETWORK: 2}
    table.remove(second, now=4.0)
    table.remove(spare, now=4.0)
    assert table.group_sizes() == {}
