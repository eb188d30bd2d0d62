"""Kademlia messages: what is read, what is skipped, what is refused."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from lattica import _protobuf, _varint
from lattica.dht._messages import (
    MAX_ADDRESSES,
    MAX_ANSWER,
    MAX_KEY,
    MAX_MESSAGE,
    MAX_PEERS,
    MAX_VALUE,
    ConnectionType,
    Message,
    MessageError,
    MessageType,
    Peer,
    Record,
    decode,
    encode,
    fit,
    frame,
)
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

peer_ids = st.binary(min_size=32, max_size=32).map(lambda raw: PeerId(b"\x12\x20" + raw))
addresses = st.integers(1, 65535).map(lambda port: Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}"))
peers = st.builds(
    Peer,
    st.builds(
        PeerInfo,
        peer_ids,
        st.lists(addresses, max_size=MAX_ADDRESSES, unique=True).map(tuple),
    ),
    st.sampled_from(ConnectionType),
)
records = st.builds(
    Record, st.binary(max_size=40), st.binary(max_size=200), st.text("0123456789-:TZ", max_size=30)
)
messages = st.builds(
    Message,
    st.sampled_from(MessageType),
    st.binary(max_size=100),
    st.none() | records,
    st.lists(peers, max_size=5).map(tuple),
    st.lists(peers, max_size=5).map(tuple),
)


def some_peer(number: int, *, addresses: int = 1) -> Peer:
    where = tuple(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{n + 1}") for n in range(addresses))
    return Peer(PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), where))


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@given(messages, st.integers(0, 2**32))
def test_a_damaged_message_is_a_value_or_a_message_error(message: Message, seed: int) -> None:
    rng, wire = random.Random(seed), bytearray(encode(message))
    for _ in range(rng.randint(1, 4)):
        if wire and rng.random() < 0.5:
            wire[rng.randrange(len(wire))] = rng.randrange(256)
        elif wire:
            del wire[rng.randrange(len(wire)) :]
        else:
            wire += rng.randbytes(rng.randrange(9))
    with suppress(MessageError):
        decode(wire)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_or_a_message_error(data: bytes) -> None:
    with suppress(MessageError):
        decode(data)


def test_a_message_above_the_limit_is_refused() -> None:
    padding = _protobuf.encode([(1, 5), (15, bytes(MAX_MESSAGE - 6))])
    assert len(padding) == MAX_MESSAGE
    assert decode(padding) == Message(MessageType.PING)
    with pytest.raises(MessageError, match=f"limit {MAX_MESSAGE}"):
        decode(padding + b"\x08\x05")


@pytest.mark.parametrize(
    "record",
    [
        Record(bytes(MAX_KEY + 1), b""),
        Record(b"", bytes(MAX_VALUE + 1)),
        Record(b"", b"", "2" * 65),
    ],
)
def test_a_record_above_a_limit_is_refused(record: Record) -> None:
    with pytest.raises(MessageError, match="limits"):
        decode(encode(Message(MessageType.PUT_VALUE, b"key", record)))


def test_a_message_of_many_tiny_fields_is_refused() -> None:
    with pytest.raises(MessageError, match="fields"):
        decode(b"\x78\x00" * (MAX_MESSAGE // 2))


def test_peers_and_addresses_beyond_the_bounds_are_left_out() -> None:
    crowd = tuple(some_peer(n) for n in range(MAX_PEERS + 5))
    message = Message(MessageType.GET_PROVIDERS, b"key", closer=crowd, providers=crowd)
    got = decode(encode(message))
    assert got.closer == got.providers == crowd[:MAX_PEERS]
    (talker,) = decode(
        encode(Message(MessageType.FIND_NODE, b"key", closer=(some_peer(1, addresses=99),)))
    ).closer
    assert len(talker.info.addresses) == MAX_ADDRESSES


def test_nothing_is_kept_of_peer_ids_and_addresses_that_are_too_long() -> None:
    peer = some_peer(1).info.peer

    def read(number: int) -> None:
        long = number.to_bytes(4, "big") + bytes(100_000)
        peers = ([(1, long)], [(1, peer.raw), (2, long)])
        for fields in peers:
            told = _protobuf.encode([(1, 4), (2, b"key"), (8, _protobuf.encode(fields))])
            assert all(not found.info.addresses for found in decode(told).closer)

    read(0)
    tracemalloc.start()
    try:
        for number in range(1, 21):
            read(number)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 200_000


def test_an_answer_is_cut_to_what_every_implementation_reads() -> None:
    crowd = tuple(some_peer(n, addresses=MAX_ADDRESSES) for n in range(MAX_PEERS))
    message = fit(Message(MessageType.GET_PROVIDERS, b"key", closer=crowd, providers=crowd))
    assert MAX_ANSWER * 0.9 < len(encode(message)) <= MAX_ANSWER
    # Both lists keep their first entries, and about as many.
    assert message.closer == crowd[: len(message.closer)]
    assert message.providers == crowd[: len(message.providers)]
    assert abs(len(message.closer) - len(message.providers)) <= 1


def test_an_answer_that_fits_stays_as_it_is() -> None:
    crowd = tuple(some_peer(n) for n in range(20))
    message = Message(MessageType.GET_PROVIDERS, b"key", closer=crowd, providers=crowd[:3])
    assert fit(message) is message


@given(messages)
def test_what_fits_is_never_longer_than_allowed(message: Message) -> None:
    assert len(encode(fit(message, 600))) <= max(600, len(encode(fit(message, 0))))


def test_a_frame_is_a_length_and_a_message() -> None:
    encoded = encode(Message(MessageType.FIND_NODE, bytes(200)))
    size, start = _varint.decode_whole(frame(encoded))
    assert (size, frame(encoded)[start:]) == (len(encoded), encoded)
