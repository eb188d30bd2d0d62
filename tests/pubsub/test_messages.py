"""The RPC codec and signed messages: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given, strategies as st

from lattica import _protobuf
from lattica.errors import CodecError, InvalidInput
from lattica.identity import Identity, KeyType, PublicKey
from lattica.pubsub import InvalidMessage, InvalidTopic, MessageTooLarge, RpcError
from lattica.pubsub._messages import (
    MAX_CONTROL,
    MAX_DATA,
    MAX_EXCHANGED_PEERS,
    MAX_ID,
    MAX_IDS,
    MAX_MESSAGE,
    MAX_PUBLISH,
    MAX_RPC,
    MAX_SUBSCRIPTIONS,
    MAX_TOPIC,
    Announcement,
    Prune,
    Rpc,
    SignedMessage,
    decode_rpc,
    encode_rpc,
    peek_id,
)

AUTHOR = Identity(bytes(range(32)))
Field = tuple[int, int | bytes | str | None]

topics = st.text(min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and len(text.encode("utf-8", "ignore")) > 0
)
ids = st.binary(min_size=1, max_size=60)
rpcs = st.builds(
    Rpc,
    subscriptions=st.lists(st.tuples(topics, st.booleans()), max_size=3).map(tuple),
    publish=st.lists(st.binary(max_size=80), max_size=3).map(tuple),
    ihave=st.lists(
        st.builds(Announcement, topics, st.lists(ids, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    iwant=st.lists(ids, max_size=3).map(tuple),
    graft=st.lists(topics, max_size=3).map(tuple),
    prune=st.lists(
        st.builds(
            Prune,
            topics,
            st.none() | st.integers(0, 2**64 - 1),
            st.lists(st.tuples(ids, st.binary(max_size=20)), max_size=2).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    idontwant=st.lists(ids, max_size=3).map(tuple),
)


def sign(data: bytes = b"hello", *, topic: str = "news", seqno: int = 7) -> SignedMessage:
    return SignedMessage.sign(AUTHOR, topic=topic, data=data, seqno=seqno)


@given(rpcs)
def test_an_rpc_survives_the_wire(rpc: Rpc) -> None:
    assert decode_rpc(encode_rpc(rpc)) == rpc


@given(st.binary(max_size=200))
def test_any_bytes_are_an_rpc_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(RpcError):
        decode_rpc(data)


@given(rpcs, st.data())
def test_a_damaged_rpc_is_an_rpc_or_a_typed_error(rpc: Rpc, data: st.DataObject) -> None:
    wire = bytearray(encode_rpc(rpc))
    for _ in range(data.draw(st.integers(1, 4))):
        if wire:
            wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RpcError):
        decode_rpc(bytes(wire))


def test_unknown_fields_of_an_rpc_are_passed_over() -> None:
    wire = encode_rpc(Rpc(graft=("news",))) + _protobuf.encode([(900, b"later"), (6, 1)])
    assert decode_rpc(wire) == Rpc(graft=("news",))


def test_control_in_two_parts_is_one_control_message() -> None:
    wire = encode_rpc(Rpc(graft=("a",))) + encode_rpc(Rpc(graft=("b",), iwant=(b"x",)))
    assert decode_rpc(wire) == Rpc(graft=("a", "b"), iwant=(b"x",))


@pytest.mark.parametrize(
    "rpc",
    [
        Rpc(subscriptions=(("t", True),) * (MAX_SUBSCRIPTIONS + 1)),
        Rpc(publish=(b"",) * (MAX_PUBLISH + 1)),
        Rpc(graft=("t",) * (MAX_CONTROL + 1)),
        Rpc(prune=(Prune("t"),) * (MAX_CONTROL + 1)),
        Rpc(ihave=(Announcement("t", ()),) * (MAX_CONTROL + 1)),
        Rpc(ihave=(Announcement("t", (b"x",) * MAX_IDS),), iwant=(b"y",)),
        Rpc(idontwant=(b"x",) * (MAX_IDS + 1)),
        Rpc(iwant=(b"x" * (MAX_ID + 1),)),
        Rpc(iwant=(b"",)),
        Rpc(graft=("t" * (MAX_TOPIC + 1),)),
        Rpc(graft=("",)),
        Rpc(prune=(Prune("t", None, ((b"p", b""),) * (MAX_EXCHANGED_PEERS + 1)),)),
        Rpc(publish=(b"x" * MAX_RPC,)),
    ],
    ids=lambda rpc: next(name for name in Rpc.__slots__ if getattr(rpc, name)),
)
def test_an_rpc_beyond_a_bound_is_refused(rpc: Rpc) -> None:
    with pytest.raises(RpcError):
        decode_rpc(encode_rpc(rpc))


def test_an_rpc_error_is_a_codec_error_with_a_hint() -> None:
    assert issubclass(RpcError, CodecError)
    assert RpcError.hint
    assert RpcError.code == "gossip-rpc"


@given(st.binary(max_size=100), topics, st.integers(0, 2**64 - 1))
def test_a_signed_message_survives_the_wire_and_verifies(
    data: bytes, topic: str, seqno: int
) -> None:
    message = sign(data, topic=topic, seqno=seqno)
    read = SignedMessage.decode(message.encode())
    assert read == message
    read.verify()


def test_the_signature_covers_the_prefix_and_the_message_without_it() -> None:
    message = sign(b"hello", topic="news", seqno=7)
    wire = message.encode()
    unsigned = wire[: wire.index(b"\x2a\x40")]  # field 5, 64 bytes: the signature
    assert AUTHOR.public_key.verify(b"libp2p-pubsub:" + unsigned, message.signature)
    assert message.id == AUTHOR.peer_id.raw + b"\0\0\0\0\0\0\0\x07"


@pytest.mark.parametrize("field", [1, 2, 3, 4, 5])
def test_a_message_with_one_field_changed_does_not_verify(field: int) -> None:
    fields: dict[int, bytes] = {
        1: AUTHOR.peer_id.raw,
        2: b"hello",
        3: (7).to_bytes(8, "big"),
        4: b"news",
        5: sign().signature,
    }
    others = {1: Identity(bytes(32)).peer_id.raw, 3: (8).to_bytes(8, "big"), 5: bytes(64)}
    fields[field] = others.get(field, b"forged")
    with pytest.raises(InvalidMessage):
        SignedMessage.decode(_protobuf.encode(fields.items())).verify()


def test_data_that_is_absent_signs_differently_from_data_that_is_empty() -> None:
    fields: list[Field] = [(1, AUTHOR.peer_id.raw), (3, bytes(8)), (4, "news")]
    signature = AUTHOR.sign(b"libp2p-pubsub:" + _protobuf.encode(fields))
    absent = SignedMessage.decode(_protobuf.encode([*fields, (5, signature)]))
    absent.verify()
    assert absent.data is None
    empty = SignedMessage.decode(_protobuf.encode([*fields, (2, b""), (5, signature)]))
    with pytest.raises(InvalidMessage):
        empty.verify()


def test_fields_out_of_order_verify_as_if_in_order() -> None:
    message = sign()
    assert message.data is not None
    shuffled = _protobuf.encode(
        [
            (4, "news"),
            (5, message.signature),
            (3, message.seqno),
            (2, message.data),
            (1, AUTHOR.peer_id.raw),
        ]
    )
    SignedMessage.decode(shuffled).verify()
    assert SignedMessage.decode(shuffled).encode() == message.encode()


@pytest.mark.parametrize("missing", [1, 3, 4, 5])
def test_a_message_that_lacks_a_field_is_invalid(missing: int) -> None:
    message = sign()
    fields = [
        (1, AUTHOR.peer_id.raw),
        (2, b"hello"),
        (3, message.seqno),
        (4, b"news"),
        (5, message.signature),
    ]
    with pytest.raises(InvalidMessage):
        SignedMessage.decode(_protobuf.encode([one for one in fields if one[0] != missing]))


@pytest.mark.parametrize(
    "changed",
    [
        (3, bytes(7)),
        (3, bytes(9)),
        (4, b""),
        (4, b"\xff"),
        (4, b"t" * (MAX_TOPIC + 1)),
        (5, bytes(1025)),
        (1, b"\x55\x01x"),
    ],
    ids=["short seqno", "long seqno", "no topic", "not UTF-8", "long topic", "signature", "author"],
)
def test_a_message_with_a_malformed_field_is_invalid(changed: tuple[int, bytes]) -> None:
    fields = dict(
        [
            (1, AUTHOR.peer_id.raw),
            (2, b"hello"),
            (3, bytes(8)),
            (4, b"news"),
            (5, bytes(64)),
            changed,
        ]
    )
    with pytest.raises(InvalidMessage):
        SignedMessage.decode(_protobuf.encode(fields.items()))


@pytest.mark.parametrize("field", [1, 2, 3, 4, 5])
def test_a_message_that_repeats_a_field_is_invalid(field: int) -> None:
    wire = sign().encode()
    again = _protobuf.encode([(field, b"again")])
    with pytest.raises(InvalidMessage, match="appears 2 times"):
        SignedMessage.decode(wire + again)


def test_a_message_that_would_not_fit_an_rpc_again_is_invalid() -> None:
    with pytest.raises(InvalidMessage, match="limit"):
        SignedMessage.decode(bytes(MAX_MESSAGE + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        SignedMessage.decode(data).verify()


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1))
def test_the_name_of_a_message_is_seen_without_reading_it(data: bytes, seqno: int) -> None:
    message = sign(data, seqno=seqno)
    assert peek_id(message.encode()) == message.id


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda rest: b"\x0a\x04abcd" + rest))
def test_looking_for_a_name_in_any_bytes_does_not_fail(data: bytes) -> None:
    name = peek_id(data)
    assert name is None or len(name) >= 8


def test_a_key_may_stand_beside_the_author_whose_it_is() -> None:
    message = sign()
    key = AUTHOR.public_key.to_protobuf()
    SignedMessage.decode(message.encode() + _protobuf.encode([(6, key)])).verify()


def test_a_key_of_somebody_else_is_invalid() -> None:
    key = Identity(bytes(32)).public_key.to_protobuf()
    wire = sign().encode() + _protobuf.encode([(6, key)])
    with pytest.raises(InvalidMessage, match="is not"):
        SignedMessage.decode(wire).verify()


@pytest.mark.parametrize("key", [b"\xff", bytes(3000)])
def test_a_key_that_is_none_is_invalid(key: bytes) -> None:
    wire = sign().encode() + _protobuf.encode([(6, key)])
    with pytest.raises(InvalidMessage, match="no usable key"):
        SignedMessage.decode(wire).verify()


def test_a_hashed_author_needs_the_key_beside_the_message() -> None:
    author = b"\x12\x20" + hashlib.sha256(b"some key").digest()
    fields: list[Field] = [(1, author), (2, b"x"), (3, bytes(8)), (4, "news"), (5, bytes(64))]
    with pytest.raises(InvalidMessage, match="no usable key"):
        SignedMessage.decode(_protobuf.encode(fields)).verify()


def test_a_message_signed_with_rsa_verifies_by_the_key_beside_it() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = rsa.generate_private_key(65537, 2048)
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = PublicKey(KeyType.RSA, der)
    fields: list[Field] = [(1, key.peer_id.raw), (2, b"x"), (3, bytes(8)), (4, "news")]
    signed = b"libp2p-pubsub:" + _protobuf.encode(fields)
    signature = private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    wire = _protobuf.encode([*fields, (5, signature), (6, key.to_protobuf())])
    SignedMessage.decode(wire).verify()


def test_a_payload_of_the_largest_size_fits_an_rpc() -> None:
    message = sign(bytes(MAX_DATA), topic="t" * MAX_TOPIC)
    wire = encode_rpc(Rpc(publish=(message.encode(),)))
    assert len(wire) <= MAX_RPC
    assert SignedMessage.decode(decode_rpc(wire).publish[0]) == message


def test_a_larger_payload_is_refused_with_the_way_around() -> None:
    with pytest.raises(MessageTooLarge, match=str(MAX_DATA)) as caught:
        sign(bytes(MAX_DATA + 1))
    assert "CID" in caught.value.hint
    assert isinstance(caught.value, InvalidInput)


@pytest.mark.parametrize("topic", ["", "t" * (MAX_TOPIC + 1), "\ud800"])
def test_a_topic_of_ours_that_is_no_topic_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        sign(topic=topic)
