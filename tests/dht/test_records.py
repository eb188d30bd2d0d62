"""Signed entries, the rules for them, the store, and the clock: pure, without a network."""

from __future__ import annotations

import itertools
import logging
import random
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lattica import codec
from lattica.dht import (
    ClockSkew,
    Entry,
    Namespaces,
    SignedEntries,
    SingleValues,
    ValueRefused,
    public_keys,
)
from lattica.dht._clock import Clock
from lattica.dht._keeper import (
    MAX_CROWDING,
    MAX_INVALID,
    MAX_PUT,
    PUT_BYTES,
    Keeper,
    requests_for,
)
from lattica.dht._messages import MAX_ANSWER, Message, MessageType, Record, decode, encode
from lattica.dht._namespaces import Item, Reason
from lattica.dht._own import OwnEntries
from lattica.dht._record_store import RecordStore, StoreLimits
from lattica.dht._records import (
    MAX_ENTRIES,
    MAX_HOLDING,
    MAX_SET,
    MAX_VALUE,
    _holding,
    encode_set,
    sign_entry,
)
from lattica.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCOPE = "/lattica/kad/1.0.0"
KEY = b"/lattica/greeting"
NOW = 1_800_000_000.0
WRITERS = [Identity(bytes([number]) * 32) for number in range(1, 9)]
FORGED = bytes(64)


def entry(
    value: codec.Value = "hello",
    *,
    writer: int = 0,
    key: bytes = KEY,
    subkey: bytes = b"",
    sequence: int = 1,
    created: float = NOW,
    ttl: float = 3600.0,
    scope: str = SCOPE,
) -> Entry:
    return sign_entry(
        WRITERS[writer],
        scope=scope,
        key=key,
        subkey=subkey,
        value=codec.pack(value),
        sequence=sequence,
        created_ms=int(created * 1000),
        expires_ms=int((created + ttl) * 1000),
    )


def keeper(**limits: int) -> Keeper:
    namespaces = Namespaces({}, scope=SCOPE)
    return Keeper(namespaces, RecordStore(namespaces, limits=StoreLimits(**limits)))


def put(*entries: Entry, key: bytes = KEY) -> Message:
    return Message(MessageType.PUT_VALUE, key, Record(key, encode_set(entries)))


def held(kept: Keeper, key: bytes = KEY, now: float = NOW) -> list[codec.Value]:
    items = kept.store.items(key, now=now)
    return [codec.unpack(item.entry.value, max_size=MAX_VALUE) for item in items if item.entry]


def forged(true: Entry) -> Entry:
    fields = codec.unpack(true.encoded, max_size=20_000)
    assert isinstance(fields, list)
    return Entry(
        true.author,
        true.subkey,
        true.value,
        true.sequence,
        true.created_ms,
        true.expires_ms,
        FORGED,
        codec.pack([*fields[:6], FORGED]),
    )


def test_entries_of_different_authors_and_subkeys_stand_side_by_side() -> None:
    kept = keeper()
    for writer, subkey in itertools.product(range(3), (b"", b"a")):
        one = entry([writer, subkey], writer=writer, subkey=subkey)
        answer = kept.put(put(one), now=NOW)
        assert answer.record == Record(KEY, encode_set([one]))
    assert len(held(kept)) == 6


def test_a_signature_that_held_once_says_nothing_of_other_bytes() -> None:
    true = entry()
    assert true.is_signed(SCOPE, KEY)
    assert true.is_signed(SCOPE, KEY), "remembered"
    assert not true.is_signed(SCOPE, KEY + b"x")
    assert not true.is_signed("/another", KEY)
    assert not replace(true, sequence=2).is_signed(SCOPE, KEY)
    assert not replace(true, signature=FORGED).is_signed(SCOPE, KEY)
    assert not replace(true, author=WRITERS[1].peer_id).is_signed(SCOPE, KEY)


def test_signatures_that_are_remembered_are_bounded() -> None:
    for number in range(MAX_HOLDING + 10):
        assert entry(sequence=number).is_signed(SCOPE, KEY)
    assert len(_holding) == MAX_HOLDING


def test_who_asks_for_a_short_answer_is_told_in_a_word_that_it_is_kept() -> None:
    kept = keeper()
    one = entry("here")
    answer = kept.put(replace(put(one), brief=True), now=NOW)
    assert answer == Message(MessageType.PUT_VALUE, KEY, brief=True)
    assert held(kept) == ["here"]
    refused = kept.put(replace(put(forged(one)), brief=True), now=NOW)
    assert (refused.brief, refused.refusal) == (False, "invalid")


def test_own_entries_leave_when_they_are_over_and_name_the_keys_that_have_none_left() -> None:
    own, namespaces = OwnEntries(), Namespaces({}, scope=SCOPE)
    for key, subkey, ttl in ((KEY, b"a", 10), (KEY, b"b", 20), (b"/lattica/c", b"", 10)):
        encoded = entry(1, key=key, subkey=subkey, ttl=ttl).encoded
        own.add(key, namespaces.read(key, encoded, now=NOW))
    created = entry(1).created_ms / 1000
    assert own.expire(created + 9) == []
    assert own.expire(created + 10) == [b"/lattica/c"]
    assert len(own) == 1
    assert own.expire(created + 20) == [KEY]
    assert len(own) == 0


@given(st.permutations(range(12)))
@settings(max_examples=50)
def test_sets_merge_to_the_same_whatever_the_order(order: list[int]) -> None:
    entries = [
        entry(number, writer=number % 2, subkey=b"x" * (number % 3), sequence=number // 6 + 1)
        for number in range(12)
    ]
    straight, shuffled = keeper(), keeper()
    for number in range(12):
        straight.put(put(entries[number]), now=NOW)
        shuffled.put(put(entries[order[number]]), now=NOW)
    assert sorted(map(str, held(straight))) == sorted(map(str, held(shuffled)))


def test_of_the_same_sequence_every_node_keeps_the_same_entry() -> None:
    one, other = entry("one"), entry("other")
    there, back = keeper(), keeper()
    for kept, pair in ((there, (one, other)), (back, (other, one))):
        for each in pair:
            kept.put(put(each), now=NOW)
    assert held(there) == held(back)


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (lambda: put(forged(entry())), Reason.INVALID),
        (lambda: put(entry(key=b"/lattica/other")), Reason.INVALID),
        (lambda: put(entry(scope="/other/kad/1.0.0")), Reason.INVALID),
        (lambda: put(entry(created=NOW - 10, ttl=10)), Reason.EXPIRED),
        (lambda: put(entry(created=NOW + 601)), Reason.FUTURE),
        (lambda: put(entry("old", sequence=4)), Reason.STALE),
        (lambda: put(entry(key=b"/other/x"), key=b"/other/x"), Reason.NAMESPACE),
        (lambda: Message(MessageType.PUT_VALUE, KEY, Record(KEY, b"unsigned")), Reason.INVALID),
        (lambda: Message(MessageType.PUT_VALUE, KEY, Record(b"/lattica/x", b"")), Reason.INVALID),
        (lambda: Message(MessageType.PUT_VALUE, KEY), Reason.INVALID),
        (lambda: Message(MessageType.PUT_VALUE), Reason.INVALID),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else "",
)
def test_what_is_not_valid_is_refused_and_the_answer_says_why(
    refused: Callable[[], Message], why: Reason
) -> None:
    kept = keeper()
    newest = entry("new", sequence=5)
    kept.put(put(newest), now=NOW)
    answer = kept.put(refused(), now=NOW)
    assert answer.refusal == why.value
    if why is Reason.STALE:
        assert answer.record == Record(KEY, encode_set([newest]))
    else:
        assert answer.record is None
    assert held(kept) == ["new"]


def test_an_entry_is_gone_when_its_time_is_over() -> None:
    kept = keeper()
    kept.put(put(entry(ttl=60)), now=NOW)
    assert kept.get(KEY, now=NOW + 59.9) is not None
    assert kept.get(KEY, now=NOW + 60) is None
    assert len(kept.store) == 0


def test_a_forger_costs_a_reader_few_verifications() -> None:
    kept = keeper()
    lies = [forged(entry(number, subkey=b"%d" % number)) for number in range(64)]
    valid, invalid = kept.read(KEY, encode_set(lies), now=NOW)
    assert (valid, invalid) == ([], MAX_INVALID)


def test_a_check_that_fails_refuses_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def check(key: bytes, entry: Entry, value: codec.Value) -> None:
        raise ZeroDivisionError

    namespaces = Namespaces({"broken": SignedEntries(check)}, scope=SCOPE)
    key = b"/broken/x"
    with pytest.raises(ValueRefused, match="ZeroDivisionError") as caught:
        namespaces.read(key, entry(key=key).encoded, now=NOW)
    assert caught.value.reason is Reason.INVALID
    assert "the check of" in caplog.text


def test_a_namespace_of_ones_own_says_what_is_valid() -> None:
    def check(key: bytes, entry: Entry, value: codec.Value) -> None:
        if not isinstance(value, int):
            raise ValueRefused("a number is wanted")

    namespaces = Namespaces({"numbers": SignedEntries(check)}, scope=SCOPE)
    key = b"/numbers/x"
    assert namespaces.read(key, entry(5, key=key).encoded, now=NOW).entry is not None
    with pytest.raises(ValueRefused, match="a number is wanted"):
        namespaces.read(key, entry("5", key=key).encoded, now=NOW)


def test_single_values_replace_each_other_as_their_rules_say() -> None:
    def validate(key: bytes, value: bytes) -> None:
        if not value.isdigit():
            raise ValueError

    def select(key: bytes, values: Sequence[bytes]) -> int:
        return int(int(values[1]) > int(values[0]))

    namespaces = Namespaces({"count": SingleValues(validate, select)}, scope=SCOPE)
    kept = Keeper(namespaces)
    key = b"/count/x"
    for value, refusal in ((b"5", ""), (b"4", "stale"), (b"7", ""), (b"x", "invalid")):
        request = Message(MessageType.PUT_VALUE, key, Record(key, value))
        assert kept.put(request, now=NOW).refusal == refusal
    assert kept.get(key, now=NOW) == Record(key, b"7")


def test_under_a_peer_id_only_its_own_public_key_is_kept() -> None:
    kept = Keeper(Namespaces({"pk": public_keys()}, scope=SCOPE))
    one, other = WRITERS[:2]
    key = b"/pk/" + one.peer_id.raw
    for identity, refusal in ((other, "invalid"), (one, "")):
        record = Record(key, identity.public_key.to_protobuf())
        assert kept.put(Message(MessageType.PUT_VALUE, key, record), now=NOW).refusal == refusal


def test_a_large_set_comes_whole_to_who_reads_it_and_in_part_to_others() -> None:
    kept = keeper()
    entries = [entry(bytes(512), subkey=b"%03d" % number) for number in range(120)]
    for each in entries:
        kept.put(put(each), now=NOW)
    whole = kept.get(KEY, now=NOW, room=1 << 20)
    assert whole is not None
    assert len(kept.read(KEY, whole.value, now=NOW)[0]) == 120
    part = kept.get(KEY, now=NOW)
    assert part is not None
    assert len(encode(Message(MessageType.GET_VALUE, KEY, part))) <= MAX_ANSWER
    latest = {item.encoded for item in kept.read(KEY, part.value, now=NOW)[0]}
    assert entries[-1].encoded in latest
    assert entries[0].encoded not in latest


def test_one_entry_always_fits_whatever_its_size() -> None:
    kept = keeper()
    key = b"/lattica/" + b"k" * 1015
    largest = entry("v" * (MAX_VALUE - 3), key=key, subkey=bytes(256))
    assert kept.put(put(largest, key=key), now=NOW).refusal == ""
    record = kept.get(key, now=NOW)
    assert len(encode(Message(MessageType.GET_VALUE, key, record))) <= MAX_ANSWER


def test_what_is_put_is_cut_into_requests_that_every_peer_reads() -> None:
    namespaces = Namespaces({}, scope=SCOPE)
    items = [
        namespaces.read(KEY, entry(bytes(900), subkey=b"%d" % number).encoded, now=NOW)
        for number in range(40)
    ]
    requests = requests_for(namespaces, KEY, items)
    assert len(requests) > 2
    assert all(len(encode(request)) <= PUT_BYTES + 1024 <= MAX_ANSWER for request in requests)
    kept = keeper()
    for request in requests:
        assert kept.put(decode(encode(request)), now=NOW).refusal == ""
    assert len(held(kept)) == 40


# Bounds.


def item(key: bytes, place: str, owner: str, size: int = 100, expires: float = NOW + 60) -> Item:
    return Item(place.encode(), owner.encode(), expires, bytes(size))


def places(store: RecordStore, key: bytes = KEY) -> set[str]:
    return {each.place.decode() for each in store.items(key, now=NOW)}


def new_store(**limits: int) -> RecordStore:
    rules = SingleValues(lambda _key, _value: None, lambda _key, _values: 1)
    namespaces = Namespaces({"lattica": rules}, scope=SCOPE)
    return RecordStore(namespaces, limits=StoreLimits(**limits))


def test_an_author_over_its_quota_loses_its_own_oldest() -> None:
    store = new_store(items_per_owner=3)
    store.add(KEY, item(KEY, "other", "other"), now=NOW)
    for number in range(5):
        store.add(b"/lattica/%d" % number, item(KEY, "x", "greedy"), now=NOW)
    assert len(store) == 4
    assert places(store) == {"other"}
    assert not store.items(b"/lattica/1", now=NOW)
    by_size = new_store(size_per_owner=5000)
    for number in range(5):
        by_size.add(KEY, item(KEY, str(number), "greedy", size=1000), now=NOW)
    assert places(by_size) == {"3", "4"}


def test_a_full_key_takes_from_the_author_with_most_entries_there() -> None:
    store = new_store(items_per_key=10)
    for number in range(9):
        store.add(KEY, item(KEY, f"flood-{number}", "greedy"), now=NOW)
    for author in "abcde":
        store.add(KEY, item(KEY, author, author), now=NOW)
    assert {"a", "b", "c", "d", "e"} <= places(store)
    assert len(places(store)) == 10
    with pytest.raises(ValueRefused) as caught:
        for number in range(10):
            store.add(KEY, item(KEY, f"newcomer-{number}", f"newcomer-{number}"), now=NOW)
    assert caught.value.reason is Reason.FULL
    assert {"a", "b", "c", "d", "e"} <= places(store), "one each: nobody gives way to a newcomer"


def test_a_value_that_grows_makes_its_own_author_pay() -> None:
    store = new_store(size_per_key=1000)
    for number in range(4):
        store.add(KEY, item(KEY, f"mine-{number}", "me", size=150), now=NOW)
    store.add(KEY, item(KEY, "yours", "you", size=150), now=NOW)
    store.add(KEY, item(KEY, "mine-3", "me", size=500), now=NOW)
    assert "yours" in places(store)
    assert "mine-3" in places(store)
    assert sum(len(each.encoded) + 8 for each in store.items(KEY, now=NOW)) <= 1000
    with pytest.raises(ValueRefused):
        store.add(KEY, item(KEY, "mine-3", "me", size=2000), now=NOW)
    assert "yours" in places(store)


def test_a_full_store_takes_from_who_holds_more_than_its_share() -> None:
    store = new_store(items=20)
    for number in range(3):
        store.add(b"/lattica/early/%d" % number, item(KEY, "x", f"early-{number}"), now=NOW)
    for number in range(100):
        store.add(b"/lattica/flood/%d" % number, item(KEY, "x", "greedy"), now=NOW)
    assert len(store) == 20
    for number in range(3):
        assert store.items(b"/lattica/early/%d" % number, now=NOW)


def test_authors_that_one_network_invents_neither_fill_a_key_nor_empty_it() -> None:
    store = new_store(items_per_key=10, size_per_key=10 * 108)
    store.add(KEY, item(KEY, "early", "early", size=200), now=NOW, source=b"home")
    for number in range(100):
        small = item(KEY, f"sybil-{number}", f"sybil-{number}", size=50)
        with suppress(ValueRefused):
            store.add(KEY, small, now=NOW, source=b"evil")
    assert len(places(store)) == 10
    store.add(KEY, item(KEY, "late", "late", size=200), now=NOW, source=b"elsewhere")
    assert {"early", "late"} <= places(store)


def test_authors_that_one_network_invents_do_not_empty_a_store() -> None:
    store = new_store(items=20)
    for number in range(8):
        key = b"/lattica/honest/%d" % number
        store.add(key, item(KEY, "x", f"author-{number}"), now=NOW, source=b"net-%d" % number)
    for number in range(500):
        key = b"/lattica/flood/%d" % number
        store.add(key, item(KEY, "x", f"sybil-{number}"), now=NOW, source=b"evil")
    assert len(store) == 20
    assert all(b"/lattica/honest/%d" % number in store for number in range(8))


def test_what_an_author_brings_itself_is_not_counted_to_who_brought_it_before() -> None:
    kept = keeper(items_per_key=4)
    honest = entry("honest", writer=0)
    kept.put(put(honest), now=NOW, sender=WRITERS[7].peer_id, source=b"evil")
    kept.put(put(honest), now=NOW, sender=WRITERS[6].peer_id, source=b"evil")
    kept.put(put(honest), now=NOW, sender=WRITERS[0].peer_id, source=b"home")
    for number in range(1, 8):
        message = put(entry(number, writer=number))
        kept.put(message, now=NOW, sender=WRITERS[7].peer_id, source=b"evil")
    assert len(held(kept)) == 4
    assert "honest" in held(kept)


def test_more_entries_than_a_request_may_bring_are_not_looked_at() -> None:
    kept = keeper()
    few = [entry(1, subkey=b"%d" % number) for number in range(MAX_PUT)]
    assert kept.put(put(*few, entry(2)), now=NOW).refusal == "invalid"
    assert not held(kept)
    assert kept.put(put(*few), now=NOW).record is not None
    assert len(held(kept)) == MAX_PUT


def test_of_a_request_few_values_are_weighed_against_those_of_a_full_key() -> None:
    kept = keeper(items_per_key=4)
    for number in range(4):
        kept.put(put(entry(number, writer=number)), now=NOW, source=b"net-%d" % number)
    weighed = 0
    leaving = kept.store._crowding.leaving

    def count(*claims: object, **limits: object) -> list[bytes] | None:
        nonlocal weighed
        weighed += 1
        return leaving(*claims, **limits)  # type: ignore[arg-type]

    kept.store._crowding.leaving = count  # type: ignore[method-assign]
    many = [entry("evil", writer=5, subkey=b"%d" % number) for number in range(40)]
    assert kept.put(put(*many), now=NOW, source=b"evil").refusal == "full"
    assert weighed == MAX_CROWDING
    survivor = next(value for value in held(kept) if isinstance(value, int))
    newer = entry(survivor, writer=survivor, sequence=9)
    assert kept.put(put(newer), now=NOW, source=b"net-%d" % survivor).refusal == ""
    assert weighed == MAX_CROWDING, "what takes no more room than before is not weighed"


def test_a_flood_of_values_takes_no_more_memory_than_is_allowed() -> None:
    rng = random.Random(1)
    store = new_store(items=1000, size=2 << 20)
    tracemalloc.start()
    try:
        for number in range(20_000):
            key = b"/lattica/%d" % rng.randrange(1 << 32)
            owner = f"sybil-{number}"
            store.add(key, item(key, "x", owner, size=rng.randrange(4000)), now=NOW)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.size <= 2 << 20
    assert used <= 3 << 20


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_books_of_the_store_balance_whatever_comes(data: st.DataObject) -> None:
    gone: dict[tuple[bytes, bytes], Item | None] = {}
    rules = SingleValues(lambda _key, _value: None, lambda _key, _values: 1)
    store = RecordStore(
        Namespaces({"lattica": rules}, scope=SCOPE),
        limits=StoreLimits(
            items=12,
            size=20_000,
            items_per_owner=6,
            size_per_owner=12_000,
            items_per_key=4,
            size_per_key=3000,
        ),
    )
    store.changed = lambda key, place, each: gone.__setitem__((key, place), each)
    now = NOW
    for _ in range(data.draw(st.integers(1, 60))):
        key = b"/lattica/%d" % data.draw(st.integers(0, 3))
        place, owner = data.draw(st.sampled_from("abcdef")), data.draw(st.sampled_from("xyz"))
        one = Item(
            (place + owner).encode(),
            owner.encode(),
            now + data.draw(st.integers(-1, 9)),
            bytes(data.draw(st.integers(0, 2500))),
        )
        try:
            store.add(key, one, now=now, source=data.draw(st.sampled_from((b"", b"p", b"q"))))
        except ValueRefused:
            pass
        else:
            assert store.item(key, one.place) == one
        if data.draw(st.booleans()):
            store.vouch(key, one.place, b"q")
        now += data.draw(st.sampled_from((0.0, 0.0, 1.0)))
    everything = list(store)
    assert len(store) == len(everything) <= 12
    assert store.size <= 20_000
    assert {(key, each.place): each for key, each in everything} == {
        where: each for where, each in gone.items() if each is not None
    }
    for key in store.keys:
        under = store.items(key, now=now - 100)
        assert len(under) <= 4
        assert sum(len(each.encoded) + 8 for each in under) <= 3000
    store.expire(now + 1000)
    assert (len(store), store.size, store.keys) == (0, 0, [])
    for book in (store._owners, store._owner_sizes, store._sources, store._source_sizes):
        assert not book
    assert not store._source_of
    assert not store._key_sizes


def test_the_bounds_of_a_set_fit_the_largest_answer() -> None:
    smallest = len(entry(None).encoded)
    assert MAX_ENTRIES * smallest > MAX_SET // 2, "both bounds mean something"
    entries = [entry(bytes(60), subkey=b"%03d" % number) for number in range(MAX_ENTRIES)]
    kept = keeper()
    for each in entries:
        kept.put(put(each), now=NOW)
    record = kept.get(KEY, now=NOW, room=1 << 20)
    assert len(decode(encode(Message(MessageType.GET_VALUE, KEY, record))).record.value) > 100_000  # type: ignore[union-attr]


# The clock.


def clock_with(*ahead: float) -> Clock:
    clock = Clock(lambda: NOW)
    for number, seconds in enumerate(ahead):
        peer = Identity(number.to_bytes(32, "big")).peer_id
        clock.observe(peer, NOW + seconds, asked=NOW - 1, answered=NOW + 1)
    return clock


def test_a_clock_five_minutes_off_tells_the_time_of_the_others_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = clock_with(300, 300.2, 299.8)
    assert clock.now() == pytest.approx(NOW + 300, abs=1)
    clock.check()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "its user is told, once"
    assert "5.0 minutes behind" in warnings[0].getMessage()


def test_a_clock_eleven_minutes_off_is_an_error_that_names_the_difference() -> None:
    for seconds, words in ((-660.0, "11.0 minutes ahead"), (660.0, "11.0 minutes behind")):
        clock = clock_with(seconds, seconds)
        with pytest.raises(ClockSkew, match=words) as caught:
            clock.check()
        assert caught.value.seconds == -seconds


def test_a_minority_of_wrong_clocks_moves_nothing() -> None:
    clock = clock_with(0, 0.1, -0.1, 0, 9e9, 9e9, -9e9)
    assert clock.now() == pytest.approx(NOW, abs=1)
    clock.check()


def test_peers_of_one_network_however_many_do_not_say_what_time_it_is() -> None:
    clock = clock_with(*[0] * 8)
    for number in range(100, 300):
        peer = Identity(number.to_bytes(32, "big")).peer_id
        clock.observe(peer, NOW + 3600, asked=NOW, answered=NOW, group=b"\xc6\x33\x64")
    assert clock.now() == pytest.approx(NOW, abs=1)
    clock.check()


def test_two_nodes_alone_agree_on_the_time() -> None:
    here, there = clock_with(300), Clock(lambda: NOW + 300)
    there.observe(WRITERS[0].peer_id, NOW, asked=NOW + 300, answered=NOW + 300)
    assert here.now() == pytest.approx(there.now())
