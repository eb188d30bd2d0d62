from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lattica import _protobuf
from lattica.identity import Identity
from lattica.transport._records import (
    MAX_ENVELOPE,
    MAX_RECORD_ADDRESSES,
    Envelope,
    PeerRecord,
    RecordError,
    read_addresses,
    seal,
)
from lattica.transport.multiaddr import Multiaddr

ALICE, BOB = Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)
HOME = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
RECORD = PeerRecord(ALICE.peer_id, 7, (HOME, Multiaddr.parse("/dns4/a.example/tcp/1")))


def test_a_record_survives_its_envelope() -> None:
    assert PeerRecord.open(RECORD.sign(ALICE)) == RECORD


def test_an_envelope_counts_only_where_it_was_meant_for() -> None:
    data = seal(ALICE, "here", b"\x01", b"payload")
    assert Envelope.open(data, "here") == Envelope(ALICE.public_key, b"\x01", b"payload")
    with pytest.raises(RecordError, match="signature"):
        Envelope.open(data, "there")


def test_nobody_signs_for_another() -> None:
    with pytest.raises(RecordError, match="signed by"):
        PeerRecord.open(RECORD.sign(BOB))


def test_another_payload_is_no_peer_record() -> None:
    with pytest.raises(RecordError, match="type"):
        PeerRecord.open(seal(ALICE, "libp2p-peer-record", b"\x09", b""))


@given(st.integers(0, len(RECORD.sign(ALICE)) * 8 - 1))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    data = bytearray(RECORD.sign(ALICE))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordError):
        PeerRecord.open(bytes(data))


@given(st.binary(max_size=200))
def test_bytes_are_a_record_or_a_typed_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        PeerRecord.open(data)
    with pytest.raises(RecordError):
        PeerRecord.open(seal(ALICE, "libp2p-peer-record", b"\x03\x01", data))


def test_size_and_count_are_bounded() -> None:
    with pytest.raises(RecordError, match="limit"):
        PeerRecord.open(bytes(MAX_ENVELOPE + 1))
    many = tuple(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 200))
    record = PeerRecord.open(PeerRecord(ALICE.peer_id, 1, many).sign(ALICE))
    assert record.addresses == many[:MAX_RECORD_ADDRESSES]


def test_addresses_that_mean_nothing_are_skipped() -> None:
    encoded = [
        bytes(HOME.with_peer(ALICE.peer_id)),
        bytes(HOME),
        bytes(HOME.with_peer(BOB.peer_id)),
        bytes(Multiaddr.parse("/ip4/0.0.0.0/tcp/1")),
        bytes(Multiaddr.parse(f"/p2p/{ALICE.peer_id}")),
        b"\xff\x7f\x01",
        b"",
    ]
    assert read_addresses(encoded, ALICE.peer_id) == [HOME]


def test_the_encoding_is_that_of_the_specification() -> None:
    """Field by field: envelope {1 key, 2 type, 3 payload, 5 signature}, record {1 id, 2 seq, 3}."""
    envelope = _protobuf.decode(RECORD.sign(ALICE))
    assert envelope.blob(1) == ALICE.public_key.to_protobuf()
    assert envelope.blob(2) == bytes.fromhex("0301")
    payload = envelope.blob(3)
    signature = envelope.blob(5)
    assert payload is not None
    assert signature is not None
    record = _protobuf.decode(payload)
    assert record.blob(1) == ALICE.peer_id.raw
    assert record.integer(2) == 7
    assert [_protobuf.decode(entry).blob(1) for entry in record.blobs(3)] == [
        bytes(address) for address in RECORD.addresses
    ]
    domain = b"libp2p-peer-record"
    signed = bytes([len(domain)]) + domain + b"\x02\x03\x01" + bytes([len(payload)]) + payload
    assert ALICE.public_key.verify(signed, signature)
