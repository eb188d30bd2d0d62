from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, strategies as st

from lattica.errors import LatticaError
from lattica.identity import Identity
from lattica.transport._channel import NoCommonMuxer, PeerIdMismatch
from lattica.transport.noise import (
    CIPHERS,
    MAX_HANDSHAKE_MESSAGE,
    NoiseError,
    NoiseHandshake,
    Opener,
    Sealer,
    XXHandshake,
    _ciphers,
    make_payload,
    read_payload,
)

VECTORS = json.loads(
    Path(__file__, "../../../spec/vectors/noise.json").resolve().read_text(encoding="utf-8")
)
ALICE, BOB, EVE = (Identity(bytes([seed]) * 32) for seed in (1, 2, 3))


def cases(kind: str) -> pytest.MarkDecorator:
    chosen = [case for case in VECTORS["cases"] if case["kind"] == kind]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case["id"])


def test_each_vector_has_a_test_of_its_kind() -> None:
    kinds = {case["kind"] for case in VECTORS["cases"]}
    assert kinds == {"transcript", "payload", "first-message", "frames"}


def _key(case: dict[str, Any], name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(case["setup"][name]))


@cases("transcript")
def test_published_transcripts_are_reproduced_byte_for_byte(case: dict[str, Any]) -> None:
    prologue = bytes.fromhex(case["setup"]["prologue"])
    sides = [
        XXHandshake(
            initiator=role == "initiator",
            static=_key(case, f"{role}_static"),
            ephemeral=_key(case, f"{role}_ephemeral"),
            prologue=prologue,
        )
        for role in ("initiator", "responder")
    ]
    messages = [
        (bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"]))
        for message in case["result"]["messages"]
    ]
    for turn, (payload, ciphertext) in enumerate(messages[:3]):
        assert sides[turn % 2].write(payload) == ciphertext
        assert sides[1 - turn % 2].read(ciphertext) == payload
    assert all(side.complete for side in sides)
    assert sides[0].hash == sides[1].hash
    assert case["result"].get("handshake_hash", sides[0].hash.hex()) == sides[0].hash.hex()
    assert sides[0].remote_static == _key(case, "responder_static").public_key().public_bytes_raw()

    sealers = [Sealer(side.split()[0]) for side in sides]
    openers = [Opener(side.split()[1]) for side in sides]
    for turn, (payload, ciphertext) in enumerate(messages[3:], start=3):
        (frame,) = map(bytes, sealers[turn % 2].seal([payload]))
        assert frame[2:] == ciphertext
        assert openers[1 - turn % 2].receive(frame) == [payload]


@cases("payload")
def test_payload_vectors_are_believed_or_refused(case: dict[str, Any]) -> None:
    static_key, wire = bytes.fromhex(case["setup"]["static_key"]), bytes.fromhex(case["wire"])
    if case["result"] == "invalid":
        with pytest.raises(NoiseError):
            read_payload(wire, static_key)
    else:
        payload = read_payload(wire, static_key)
        assert str(payload.key.peer_id) == case["result"]["peer"]
        assert list(payload.muxers) == case["result"]["muxers"]
        assert list(payload.ciphers) == case["result"].get("ciphers", [])


@cases("first-message")
def test_hostile_first_messages_are_refused_at_once(case: dict[str, Any]) -> None:
    with pytest.raises(NoiseError):
        NoiseHandshake(BOB, initiator=False).receive(bytes.fromhex(case["wire"]))


def _exchange(first: NoiseHandshake, second: NoiseHandshake) -> None:
    """Carry flights back and forth until nobody has anything to say."""
    flight = first.start()
    while flight:
        flight = second.receive(flight)
        first, second = second, first


def test_both_sides_know_each_other_and_read_what_the_other_writes() -> None:
    dialer = NoiseHandshake(ALICE, initiator=True, expected=BOB.peer_id)
    listener = NoiseHandshake(BOB, initiator=False)
    _exchange(dialer, listener)
    ours, theirs = dialer.established, listener.established
    assert ours is not None
    assert theirs is not None
    assert ours.remote_key == BOB.public_key
    assert theirs.remote_key == ALICE.public_key
    assert ours.muxer is theirs.muxer is None
    assert theirs.opener.receive(b"".join(ours.sealer.seal([b"ping"]))) == [b"ping"]
    assert ours.opener.receive(b"".join(theirs.sealer.seal([b"pong"]))) == [b"pong"]


@given(st.lists(st.integers(0, 400), max_size=6))
def test_a_handshake_survives_any_split_and_bytes_that_follow_it(cuts: list[int]) -> None:
    dialer = NoiseHandshake(ALICE, initiator=True)
    listener = NoiseHandshake(BOB, initiator=False)
    last = dialer.receive(listener.receive(dialer.start()))
    assert dialer.established is not None
    wire = last + b"".join(dialer.established.sealer.seal([b"at once"]))
    for start, end in pairwise([0, *sorted(min(cut, len(last) - 1) for cut in cuts), len(wire)]):
        assert listener.receive(wire[start:end]) == b""
    assert listener.established is not None
    assert listener.established.pieces == [b"at once"]


@pytest.mark.parametrize(
    ("dialled", "listened", "agreed"),
    [
        (["/yamux/1.0.0"], ["/yamux/1.0.0"], "/yamux/1.0.0"),
        (["/a", "/b"], ["/b", "/a"], "/a"),
        (["/yamux/1.0.0"], [], None),
        ([], ["/yamux/1.0.0"], None),
    ],
)
def test_the_muxer_is_agreed_inside_when_both_offer_one(
    dialled: list[str], listened: list[str], agreed: str | None
) -> None:
    dialer = NoiseHandshake(ALICE, initiator=True, muxers=dialled)
    listener = NoiseHandshake(BOB, initiator=False, muxers=listened)
    _exchange(dialer, listener)
    assert dialer.established is not None
    assert listener.established is not None
    assert dialer.established.muxer == listener.established.muxer == agreed


AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"


@pytest.mark.parametrize(
    ("dialled", "listened", "agreed"),
    [
        ([], [], CHACHA),
        ([AES], [], CHACHA),
        ([], [AES], CHACHA),
        ([AES], [AES], AES),
        ([AES, CHACHA], [CHACHA, AES], AES),
        ([CHACHA, AES], [AES, CHACHA], CHACHA),
        (["rot13", AES], [AES, "rot13"], AES),
        (["rot13"], ["rot13"], CHACHA),
    ],
)
def test_frames_are_sealed_with_what_both_name_else_with_what_libp2p_has(
    dialled: list[str], listened: list[str], agreed: str
) -> None:
    dialer = NoiseHandshake(ALICE, initiator=True, ciphers=dialled)
    listener = NoiseHandshake(BOB, initiator=False, ciphers=listened)
    _exchange(dialer, listener)
    ours, theirs = dialer.established, listener.established
    assert ours is not None
    assert theirs is not None
    assert theirs.opener.receive(b"".join(ours.sealer.seal([b"ping"]))) == [b"ping"]
    assert ours.opener.receive(b"".join(theirs.sealer.seal([b"pong"]))) == [b"pong"]
    assert isinstance(ours.sealer, Sealer)
    assert isinstance(ours.sealer._keys.aead, CIPHERS[agreed].aead)


def test_a_cipher_is_named_where_the_processor_is_made_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for aes, chacha, named in ((1.0, 2.0, (AES,)), (2.0, 1.0, ())):
        seconds = {AES: aes, CHACHA: chacha}
        monkeypatch.setattr(_ciphers, "_seconds", lambda cipher, of=seconds: of[cipher.name])
        assert _ciphers.preferred.__wrapped__() == named


def test_no_muxer_in_common_ends_the_handshake() -> None:
    dialer = NoiseHandshake(ALICE, initiator=True, muxers=["/a"])
    listener = NoiseHandshake(BOB, initiator=False, muxers=["/b"])
    with pytest.raises(NoCommonMuxer) as caught:
        dialer.receive(listener.receive(dialer.start()))
    assert caught.value.offered == ("/b",)
    with pytest.raises(NoCommonMuxer) as caught:  # and who waits learns it, too
        listener.receive(dialer.last_words())
    assert caught.value.offered == ("/a",)


def test_a_dialer_that_meets_somebody_else_says_nothing_about_itself() -> None:
    dialer = NoiseHandshake(ALICE, initiator=True, expected=EVE.peer_id)
    listener = NoiseHandshake(BOB, initiator=False)
    with pytest.raises(PeerIdMismatch) as caught:
        dialer.receive(listener.receive(dialer.start()))
    assert caught.value.peer == EVE.peer_id
    assert caught.value.found == BOB.peer_id
    assert not caught.value.retryable
    assert dialer.established is None


def test_a_listener_can_expect_somebody_too() -> None:
    dialer = NoiseHandshake(ALICE, initiator=True)
    listener = NoiseHandshake(BOB, initiator=False, expected=EVE.peer_id)
    with pytest.raises(PeerIdMismatch):
        _exchange(dialer, listener)


def test_a_handshake_message_is_bounded_before_it_is_buffered() -> None:
    oversized = (MAX_HANDSHAKE_MESSAGE + 1).to_bytes(2, "big")
    with pytest.raises(NoiseError, match="limit"):
        NoiseHandshake(BOB, initiator=False).receive(oversized)
    fits = MAX_HANDSHAKE_MESSAGE.to_bytes(2, "big")
    assert NoiseHandshake(BOB, initiator=False).receive(fits) == b""


def test_a_replayed_answer_of_another_handshake_is_refused() -> None:
    listener = NoiseHandshake(BOB, initiator=False)
    recorded = listener.receive(NoiseHandshake(ALICE, initiator=True).start())
    victim = NoiseHandshake(ALICE, initiator=True)
    victim.start()
    with pytest.raises(NoiseError, match="forged"):
        victim.receive(recorded)


def test_a_payload_signed_for_another_link_is_refused() -> None:
    # Eve runs the handshake with keys of her own, but shows a proof that she got from Bob.
    eve = XXHandshake(initiator=False, static=X25519PrivateKey.generate())
    dialer = NoiseHandshake(ALICE, initiator=True)
    eve.read(dialer.start()[2:])
    message = eve.write(make_payload(BOB, bytes(32), ()))
    with pytest.raises(NoiseError, match="cannot prove"):
        dialer.receive(len(message).to_bytes(2, "big") + message)


@given(st.integers(0, 2), st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_anywhere_never_ends_in_an_accepted_link(
    message: int, position: int, flip: int
) -> None:
    sides = NoiseHandshake(ALICE, initiator=True), NoiseHandshake(BOB, initiator=False)
    flight = sides[0].start()
    with pytest.raises(NoiseError):
        for turn in range(3):
            if turn == message:
                # Behind the length: a changed length may leave the reader waiting instead.
                at = 2 + position % (len(flight) - 2)
                flight = flight[:at] + bytes([flight[at] ^ flip]) + flight[at + 1 :]
            flight = sides[1 - turn % 2].receive(flight)
    assert sides[1].established is None


@given(st.binary(max_size=200), st.booleans())
def test_whatever_a_stranger_sends_ends_in_an_answer_or_a_typed_error(
    data: bytes, initiator: bool
) -> None:
    handshake = NoiseHandshake(ALICE, initiator=initiator)
    handshake.start()
    try:
        handshake.receive(data)
    except LatticaError:
        return
    assert handshake.established is None


@given(st.binary(max_size=300))
def test_any_payload_is_a_proof_or_a_typed_error(data: bytes) -> None:
    with pytest.raises(NoiseError):
        read_payload(data, bytes(32))


def test_no_key_shows_in_a_repr() -> None:
    static = X25519PrivateKey.generate()
    secrets = [bytes([1]) * 32, static.private_bytes_raw()]
    noise = XXHandshake(initiator=True, static=static)
    handshake = NoiseHandshake(ALICE, initiator=True)
    shown = "".join(map(repr, (noise, handshake, Sealer(secrets[0]), Opener(secrets[0]))))
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret) not in shown
