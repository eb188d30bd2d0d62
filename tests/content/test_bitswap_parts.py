"""The pure parts of Bitswap: messages, and who wants what of whom."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, strategies as st

from lattica.cid import CID, Codec, HashFunction
from lattica.content.bitswap import (
    PROTOCOLS,
    Block,
    Entry,
    Ledger,
    Message,
    Presence,
    Room,
    WantType,
    decode,
    encode,
)
from lattica.content.bitswap._messages import (
    MAX_CID_BYTES,
    MAX_ENTRIES,
    block_for,
    multihash_of,
)
from lattica.content.bitswap._wants import MAX_WANTS, Asked
from lattica.errors import CodecError


def cid(number: int, codec: int = Codec.RAW) -> bytes:
    return bytes(CID.of(number.to_bytes(8, "big"), codec))


cids = st.builds(
    CID.of,
    st.binary(max_size=8),
    st.sampled_from([0x55, 0x70, 0x71]),
    st.sampled_from(HashFunction),
).map(bytes)
entries = st.builds(
    Entry,
    cids,
    st.sampled_from(WantType),
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
    st.booleans(),
)
messages = st.builds(
    Message,
    st.lists(entries, max_size=4).map(tuple),
    st.booleans(),
    st.lists(st.builds(block_for, cids, st.binary(max_size=9)), max_size=3).map(tuple),
    st.lists(st.builds(Presence, cids, st.booleans()), max_size=3).map(tuple),
    st.integers(0, 2**31 - 1),
)


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=80))
def test_a_block_is_what_its_bytes_hash_to(data: bytes) -> None:
    for function in HashFunction:
        named = CID.of(data, Codec.RAW, function)
        assert multihash_of(block_for(bytes(named), data)) == named.multihash


def test_a_version_0_cid_is_answered_as_one() -> None:
    digest = hashlib.sha256(b"node").digest()
    block = block_for(b"\x12\x20" + digest, b"node")
    assert block.prefix == bytes.fromhex("00701220")
    assert multihash_of(block) == b"\x12\x20" + digest
    wire = encode(Message(blocks=(block,)), PROTOCOLS[2])
    assert decode(wire).blocks == (block,)


def test_bitswap_1_0_carries_no_block_that_it_could_not_name() -> None:
    block = block_for(cid(1), b"x")
    assert decode(encode(Message(blocks=(block,)), PROTOCOLS[2])).blocks == ()
    assert decode(encode(Message(blocks=(block,)), PROTOCOLS[1])).blocks == (block,)


def test_a_message_of_too_many_entries_is_refused() -> None:
    many = Message(entries=tuple(Entry(cid(1)) for _ in range(MAX_ENTRIES + 1)))
    with pytest.raises(CodecError, match=str(MAX_ENTRIES)):
        decode(encode(many))
    assert len(decode(encode(Message(entries=many.entries[1:]))).entries) == MAX_ENTRIES


def test_a_block_over_2_mib_is_refused() -> None:
    whole = Block(b"\x01\x55\x1e\x20", bytes(2 << 20))
    assert decode(encode(Message(blocks=(whole,)))).blocks == (whole,)
    with pytest.raises(CodecError, match="limit"):
        decode(encode(Message(blocks=(Block(whole.prefix, whole.data + b"x"),))))


def test_a_long_cid_is_refused() -> None:
    with pytest.raises(CodecError, match=str(MAX_CID_BYTES)):
        decode(encode(Message(presences=(Presence(cid(1) + bytes(300), have=True),))))


# --- what a peer wants of us


def ledger(room: int = 10_000, limit: int = MAX_WANTS) -> tuple[Ledger, Room]:
    shared = Room(room)
    return Ledger(shared, limit=limit), shared


def test_what_is_here_is_sent_once_the_most_wanted_first() -> None:
    wants, room = ledger()
    asked = [Entry(cid(number), priority=number) for number in range(4)]
    wants.receive(asked, {entry.cid: 10 for entry in asked})
    assert (len(wants), room.left, wants.pending_bytes) == (4, 9_996, 40)
    answer = wants.next_answer(25)
    assert answer is not None
    assert answer.wants == (asked[3], asked[2])
    assert answer.pending_bytes == 20
    assert wants.next_answer(25) is not None
    assert wants.next_answer(25) is None
    assert room.left == 10_000


def test_a_block_larger_than_a_message_goes_alone() -> None:
    wants, _ = ledger()
    wants.receive([Entry(cid(1)), Entry(cid(2))], {cid(1): 100, cid(2): 100})
    answer = wants.next_answer(10)
    assert answer is not None
    assert len(answer.wants) == 1


def test_only_who_asks_for_it_is_told_what_is_not_here() -> None:
    wants, _ = ledger()
    wants.receive([Entry(cid(1), send_dont_have=True), Entry(cid(2))], {cid(1): None})
    answer = wants.next_answer(10)
    assert answer is not None
    assert answer.presences == (Presence(cid(1), have=False),)
    assert wants.waiting == [cid(1), cid(2)]


def test_a_want_have_is_answered_without_the_block() -> None:
    wants, _ = ledger()
    wants.receive([Entry(cid(1), WantType.HAVE)], {cid(1): 10})
    answer = wants.next_answer(10)
    assert answer is not None
    assert (answer.wants, answer.presences) == ((), (Presence(cid(1), have=True),))


def test_what_waited_is_answered_when_it_comes() -> None:
    wants, _ = ledger()
    wants.receive([Entry(cid(1)), Entry(cid(2), WantType.HAVE)], {})
    assert not wants.has_answer
    wants.look_again({cid(1): 5, cid(2): 5})
    answer = wants.next_answer(10)
    assert answer is not None
    assert [entry.cid for entry in answer.wants] == [cid(1)]
    assert answer.presences == (Presence(cid(2), have=True),)
    assert not wants.waiting


def test_a_cancellation_and_a_full_wantlist_undo_wants() -> None:
    wants, room = ledger()
    wants.receive([Entry(cid(n)) for n in range(3)], {cid(0): 1})
    wants.receive([Entry(cid(0), cancel=True)], {})
    assert (wants.has_answer, len(wants)) == (False, 2)
    wants.receive([Entry(cid(2))], {}, full=True)
    assert wants.waiting == [cid(2)]
    wants.receive([], {}, full=True)
    assert (len(wants), room.left) == (0, 10_000)


def test_a_wantlist_is_bounded_and_those_who_wait_give_way() -> None:
    wants, _ = ledger(limit=4)
    wants.receive([Entry(cid(n)) for n in range(10)], {})
    assert wants.waiting == [cid(n) for n in range(4)]
    wants.receive([Entry(cid(20 + n)) for n in range(3)], {cid(20 + n): 1 for n in range(3)})
    assert (len(wants), wants.waiting) == (4, [cid(3)])


def test_a_want_without_room_is_refused_to_who_wants_to_hear() -> None:
    wants, _ = ledger(limit=1)
    asked = [Entry(cid(1), send_dont_have=True), Entry(cid(2), send_dont_have=True)]
    wants.receive(asked, {cid(1): 1, cid(2): 1})
    answer = wants.next_answer(10)
    assert answer is not None
    assert answer.presences == (Presence(cid(2), have=False),)


def test_answers_that_nobody_takes_are_bounded() -> None:
    wants, _ = ledger(limit=8)
    asked = [Entry(cid(n), WantType.HAVE, send_dont_have=True) for n in range(100)]
    wants.receive(asked, {entry.cid: 1 for entry in asked})
    answer = wants.next_answer(10)
    assert answer is not None
    assert len(answer.presences) == 8


def test_all_peers_together_have_so_much_room_and_no_more() -> None:
    room = Room(3)
    one, other = Ledger(room), Ledger(room)
    one.receive([Entry(cid(n)) for n in range(3)], {})
    other.receive([Entry(cid(n)) for n in range(3)], {cid(n): 1 for n in range(3)})
    assert (len(one), len(other), room.left) == (3, 0, 0)
    one.close()
    other.receive([Entry(cid(1))], {cid(1): 1})
    assert (len(other), room.left) == (1, 2)


@given(
    st.lists(st.tuples(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3))), st.booleans()))
)
def test_room_is_always_given_back(steps: list[tuple[list[tuple[int, int]], bool]]) -> None:
    wants, room = ledger(room=6, limit=5)
    for lines, full in steps:
        asked = [
            Entry(cid(n), WantType(kind & 1), cancel=kind == 2, send_dont_have=True)
            for n, kind in lines
        ]
        wants.receive(asked, {cid(n): n for n in range(0, 9, 2)}, full=full)
        assert len(wants) <= 5
        assert room.left == 6 - len(wants)
        answer = wants.next_answer(7)
        if answer is not None and answer.wants and full:
            wants.lacks(answer.wants[0])
    wants.close()
    assert room.left == 6


# --- what we want of a peer


def test_a_want_of_two_fetches_is_told_once_and_cancelled_once() -> None:
    asked = Asked()
    assert asked.want([Entry(cid(1))]) == [Entry(cid(1))]
    assert asked.want([Entry(cid(1))]) == []
    assert asked.release([cid(1)], arrived=False) == []
    assert asked.release([cid(1)], arrived=False) == [Entry(cid(1), cancel=True)]
    assert len(asked) == 0


def test_what_has_come_is_not_cancelled() -> None:
    asked = Asked()
    asked.want([Entry(cid(1))])
    assert asked.release([cid(1)], arrived=True) == []
    assert len(asked) == 0


def test_what_was_wanted_lately_is_remembered_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.content.bitswap._wants._MAX_RECENT", 3)
    asked, blocks = Asked(), [CID.of(bytes([number])) for number in range(5)]
    for cid in blocks:
        asked.want([Entry(bytes(cid))])
        asked.release([bytes(cid)], arrived=True)
    assert [asked.was_wanted(cid.multihash) for cid in blocks] == [False, False, True, True, True]
