"""The exchange's messages: round trips, any split, and nothing but typed errors."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from lattica.cid import CID, Codec
from lattica.codec._canonical import pack
from lattica.content import _messages as wire
from lattica.content._messages import (
    Answer,
    AnswerDecoder,
    AnswerHead,
    AnswerKind,
    BlocksRequest,
    CancelRequest,
    HaveRequest,
    LeavesRequest,
    MessageError,
    PeersRequest,
    Request,
    Status,
    UnknownRequest,
)
from lattica.errors import ProtocolError

ids = st.integers(0, wire.MAX_ID)
cids = st.builds(CID.of, st.binary(max_size=8), st.sampled_from([Codec.RAW, Codec.DAG_PB]))
hashes = cids.map(lambda cid: cid.multihash)
extras = st.dictionaries(st.sampled_from(["zzz", "x-new"]), st.integers(0, 9) | st.text(max_size=5))
requests = st.one_of(
    st.builds(
        LeavesRequest,
        ids,
        cids,
        st.integers(0, wire.MAX_ID - wire.MAX_COUNT),
        st.integers(1, wire.MAX_COUNT),
        st.lists(st.integers(0, 255), max_size=3).map(tuple),
        extras,
    ),
    st.builds(
        BlocksRequest,
        ids,
        st.lists(hashes, min_size=1, max_size=5).map(tuple),
        st.integers(0, wire.MAX_BLOCK),
        st.lists(st.integers(0, 255), max_size=3).map(tuple),
        extras,
    ),
    st.builds(HaveRequest, ids, cids, st.booleans(), extras),
    st.builds(
        PeersRequest, ids, cids, st.lists(st.binary(max_size=9), max_size=3).map(tuple), extras
    ),
    st.builds(CancelRequest, ids, extras),
    st.builds(UnknownRequest, ids, st.integers(6, 200), extras),
)


def take_any(head: AnswerHead) -> memoryview:
    if head.length > 1000:
        raise ProtocolError("more than the index vouches for")
    return memoryview(bytearray(head.length))


@given(requests)
def test_a_request_survives_the_wire_with_fields_nobody_knows_yet(request: Request) -> None:
    assert wire.decode_request(wire.encode_request(request)) == request


@settings(max_examples=400)
@given(st.binary(max_size=200) | requests.map(wire.encode_request), st.data())
@example(b"", None)
@example(b"\x93\x01\x01\x80", None)
def test_any_bytes_are_a_request_or_a_message_error(data: bytes, draw: Any) -> None:
    if draw is not None and data:
        at = draw.draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    with contextlib.suppress(MessageError):
        wire.decode_request(data)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"root": bytes(CID.of(b"")), "first": 0, "count": wire.MAX_COUNT + 1}, "count"),
        ({"root": bytes(CID.of(b"")), "first": wire.MAX_ID, "count": 2}, "leaves"),
        ({"root": bytes(CID.of(b"")), "first": 0, "count": True}, "count"),
        ({"root": b"", "first": 0, "count": 1}, "varint"),
    ],
)
def test_a_request_for_too_many_or_impossible_leaves_is_refused(
    fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(MessageError, match=what):
        wire.decode_request(pack([1, 7, fields]))


def test_a_request_over_its_size_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="limit"):
        wire.decode_request(b"\xc0" * (wire.MAX_REQUEST + 1))


def test_a_request_for_too_many_hashes_is_refused() -> None:
    data = pack([2, 7, {"hashes": [b"\x1e\x00"] * (wire.MAX_COUNT + 1)}])
    with pytest.raises(MessageError, match="limit"):
        wire.decode_request(data)


answers = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 9]),
        st.integers(0, 255),
        ids,
        st.binary(max_size=40),
    ),
    max_size=5,
)


@given(answers, st.lists(st.integers(0, 250), max_size=6))
def test_answers_survive_any_split(
    sent: list[tuple[int, int, int, bytes]], cuts: list[int]
) -> None:
    heads = [
        AnswerHead(kind, status, 0, 0, request, 3, len(payload))
        for kind, status, request, payload in sent
    ]
    data = b"".join(bytes(head) + item[3] for head, item in zip(heads, sent, strict=True))
    decoder = AnswerDecoder(take_any)
    got: list[Answer] = []
    for start, end in pairwise([0, *sorted(cuts), None]):
        got += decoder.receive(memoryview(data)[start:end])
    assert [(answer.head, bytes(answer.payload)) for answer in got] == [
        (head, item[3]) for head, item in zip(heads, sent, strict=True)
    ]
    assert not decoder.inside


@settings(max_examples=400)
@given(st.binary(max_size=300))
def test_any_bytes_are_answers_or_a_protocol_error(data: bytes) -> None:
    try:
        for answer in AnswerDecoder(take_any).receive(data):
            assert isinstance(answer.status, Status)
            if answer.head.kind == AnswerKind.END:
                wire.read_end_message(answer)
    except ProtocolError:
        pass


def test_a_leaf_is_written_where_it_belongs_and_nowhere_else() -> None:
    memory = bytearray(12)
    decoder = AnswerDecoder(lambda head: memoryview(memory)[4 : 4 + head.length])
    head = bytes(AnswerHead(AnswerKind.LEAF, 0, 0, 0, 1, 0, 5))
    assert not list(decoder.receive(head + b"he"))
    assert decoder.inside
    (answer,) = decoder.receive(b"llo")
    assert memory == b"\0\0\0\0hello\0\0\0"
    assert bytes(answer.payload) == b"hello"
    assert not decoder.inside


def test_a_leaf_is_placed_before_any_byte_of_it_is_taken() -> None:
    head = AnswerHead(AnswerKind.LEAF, 0, 0, 0, 1, 0, (1 << 32) - 1)
    with pytest.raises(ProtocolError, match="vouches"):
        list(AnswerDecoder(take_any).receive(bytes(head)))


def test_an_answer_that_is_no_leaf_is_bounded() -> None:
    head = AnswerHead(AnswerKind.HAVE, 0, 0, 0, 1, 0, wire.MAX_CONTROL + 1)
    with pytest.raises(MessageError, match="limit"):
        list(AnswerDecoder(take_any).receive(bytes(head)))


def test_what_an_end_says_is_short_and_printable() -> None:
    (answer,) = AnswerDecoder(take_any).receive(
        wire.encode_end(5, Status.REFUSED, "no\x1b[31m" + "x" * 500)
    )
    assert answer.status is Status.REFUSED
    assert wire.read_end_message(answer) == "no[31m" + "x" * 193
    (silent,) = AnswerDecoder(take_any).receive(wire.encode_end(5, Status.OK))
    assert wire.read_end_message(silent) == ""


def test_a_status_of_a_later_version_counts_as_failed() -> None:
    assert wire.read_status(200) is Status.FAILED


@given(st.binary(max_size=300).map(lambda data: bytes(byte & 1 for byte in data)))
def test_bitmaps_keep_every_flag(flags: bytes) -> None:
    packed = wire.pack_bitmap(flags)
    assert len(packed) == (len(flags) + 7) // 8
    assert wire.unpack_bitmap(packed, len(flags)) == flags


@given(st.binary(max_size=40), st.integers(0, 400))
def test_a_bitmap_of_any_length_gives_the_flags_asked_for(bitmap: bytes, count: int) -> None:
    flags = wire.unpack_bitmap(bitmap, count)
    assert len(flags) == count
    assert set(flags) <= {0, 1}


def test_a_large_bitmap_travels_in_bounded_answers() -> None:
    bitmap = b"\xff" * (wire.MAX_CONTROL + 5)
    data = wire.encode_have(9, 16, bitmap)
    heads = [answer.head for answer in AnswerDecoder(take_any).receive(data)]
    assert [(head.number, head.length) for head in heads] == [
        (16, wire.MAX_CONTROL),
        (16 + 8 * wire.MAX_CONTROL, 5),
    ]


@pytest.mark.parametrize(
    "values", [[None] * 4093, [[]] * 4093, [[None]] * 2047, [{"": None}] * 2047]
)
def test_a_request_of_too_many_values_is_refused_while_it_is_read(values: list[Any]) -> None:
    with pytest.raises(MessageError, match="4096 elements"):
        wire.decode_request(pack([77, 8, {"x": values}]))
    assert wire.decode_request(pack([77, 8, {"x": values[:2046]}])).extra == {"x": values[:2046]}
