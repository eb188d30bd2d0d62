from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from lattica.errors import LimitExceeded
from lattica.transport import _buffers
from lattica.transport._channel import KeyExhausted
from lattica.transport.noise import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    CIPHERS,
    MAX_PLAINTEXT,
    Cipher,
    NoiseError,
    Opener,
    Sealer,
)

VECTORS = json.loads(
    Path(__file__, "../../../spec/vectors/noise.json").resolve().read_text(encoding="utf-8")
)
FRAMES = [case for case in VECTORS["cases"] if case["kind"] == "frames"]
KEY = bytes(range(32))
either = pytest.mark.parametrize("cipher", [CHACHA20_POLY1305, AES_256_GCM], ids=lambda it: it.name)
# Sizes around every border that sealing knows: joined buffers, full frames, full batches.
sizes = st.one_of(
    st.integers(0, 100),
    st.sampled_from([4095, 4096, 4097, 65_518, 65_519, 65_520, 65_536, 131_039, 600_000]),
)


def _seal(*buffers: bytes, sealer: Sealer | None = None) -> bytes:
    return b"".join(map(bytes, (sealer or Sealer(KEY)).seal(buffers)))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("case", FRAMES, ids=lambda case: case["id"])
def test_frame_vectors_open_or_fail_however_they_are_split(case: dict[str, Any], size: int) -> None:
    key, received = bytes.fromhex(case["setup"]["key"]), case["setup"]["received"]
    cipher = CIPHERS[case["setup"].get("cipher", "chacha20-poly1305")]
    wire, opener = bytes.fromhex(case["wire"]), Opener(key, cipher, received=received)
    plaintexts: list[str] = []

    def receive_all() -> None:
        for at in range(0, len(wire), size):
            plaintexts.extend(bytes(piece).hex() for piece in opener.receive(wire[at : at + size]))

    if case["result"] == "invalid":
        with pytest.raises((NoiseError, KeyExhausted)):
            receive_all()
    else:
        receive_all()
        assert plaintexts == case["result"]["plaintexts"]


@either
@given(st.lists(sizes, max_size=5), st.lists(st.integers(0, 2_000_000), max_size=8))
def test_what_is_sealed_opens_again_however_it_is_split(
    cipher: Cipher, lengths: list[int], cuts: list[int]
) -> None:
    buffers = [bytes([index + 1]) * length for index, length in enumerate(lengths)]
    wire, opener = _seal(*buffers, sealer=Sealer(KEY, cipher)), Opener(KEY, cipher)
    opened = b""
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in pairwise(edges):
        opened += b"".join(opener.receive(wire[start:end]))
    assert opened == b"".join(buffers)
    opener.finish()


@given(st.lists(sizes, min_size=1, max_size=5))
def test_batches_are_bounded_and_frames_are_never_cut_between_them(lengths: list[int]) -> None:
    opener = Opener(KEY)
    for batch in Sealer(KEY).seal([bytes(length) for length in lengths]):
        assert len(batch) <= _buffers.BATCH_BYTES
        for piece in opener.receive(batch):
            assert len(piece) <= MAX_PLAINTEXT
        opener.finish()


def test_small_buffers_share_a_frame_and_large_ones_have_their_own() -> None:
    wire = _seal(b"head", b"er", bytes(10_000), b"tail")
    assert [len(piece) for piece in Opener(KEY).receive(wire)] == [6, 10_000, 4]


def test_sealing_borrows_a_large_buffer_and_gives_it_back() -> None:
    _buffers._spares.clear()
    _seal(bytes(200_000))
    assert len(_buffers._spares) == 1
    buffer = _buffers._spares[0].obj
    batches = Sealer(KEY).seal([bytes(200_000)])
    next(batches)
    assert not _buffers._spares
    batches.close()  # as when the send fails
    assert _buffers._spares[0].obj is buffer
    _seal(b"little")
    assert len(_buffers._spares) == 1


def test_spare_buffers_are_bounded() -> None:
    _buffers._spares.clear()
    held = [Sealer(KEY).seal([bytes(200_000)]) for _ in range(9)]
    for batches in held:
        next(batches)
    for batches in held:
        batches.close()
    assert len(_buffers._spares) == _buffers._MAX_SPARES


def test_nothing_is_sealed_from_nothing() -> None:
    assert _seal() == _seal(b"", b"") == b""


@either
def test_a_replayed_frame_does_not_open(cipher: Cipher) -> None:
    opener, frame = Opener(KEY, cipher), _seal(b"once", sealer=Sealer(KEY, cipher))
    assert opener.receive(frame) == [b"once"]
    with pytest.raises(NoiseError, match="frame 1 is forged"):
        opener.receive(frame)


@given(st.integers(2, 2 + 50 + 15), st.integers(1, 255))
def test_a_changed_byte_does_not_open(position: int, flip: int) -> None:
    wire = bytearray(_seal(b"x" * 50))
    wire[position] ^= flip
    with pytest.raises(NoiseError):
        Opener(KEY).receive(bytes(wire))


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_whatever_a_stranger_sends_is_waited_for_or_refused(data: bytes, cuts: list[int]) -> None:
    opener = Opener(KEY)
    try:
        for start, end in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
            assert opener.receive(data[start:end]) == []
    except NoiseError:
        return
    assert len(opener._partial) == len(data)


@pytest.mark.parametrize("kept", [1, 2, 20])
def test_an_end_inside_a_frame_is_no_clean_end(kept: int) -> None:
    opener = Opener(KEY)
    opener.finish()
    opener.receive(_seal(b"hello")[:kept])
    with pytest.raises(NoiseError, match="ended inside a frame"):
        opener.finish()


def test_the_last_nonce_is_never_used() -> None:
    sealer = Sealer(KEY, sent=2**64 - 2)
    opener = Opener(KEY, received=2**64 - 2)
    assert opener.receive(_seal(b"the last", sealer=sealer)) == [b"the last"]
    with pytest.raises(KeyExhausted) as caught:
        _seal(b"one more", sealer=sealer)
    assert isinstance(caught.value, LimitExceeded)
    with pytest.raises(KeyExhausted):
        opener.receive(_seal(b"one more"))


def test_a_key_is_renewed_before_it_is_worn_out_and_says_nothing_of_the_next() -> None:
    cipher = dataclasses.replace(AES_256_GCM, frames_per_key=3)
    sealer, opener = Sealer(KEY, cipher), Opener(KEY, cipher)
    used = []
    for number in range(10):
        message = f"frame {number}".encode()
        frame = _seal(message, sealer=sealer)
        used.append(sealer._keys._secret)
        assert opener.receive(frame) == [message]
    assert [used.index(key) for key in used] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    assert KEY not in used, "the key of the handshake seals nothing itself"
    with pytest.raises(NoiseError):  # somebody who has learned the first key
        Opener(KEY, cipher).receive(frame)


def test_a_link_outlives_any_number_of_keys_but_not_its_nonces() -> None:
    cipher = dataclasses.replace(AES_256_GCM, frames_per_key=2**63)
    sealer, opener = Sealer(KEY, cipher), Opener(KEY, cipher)
    sealer._counter = opener._counter = 2**64 - 2
    sealer._keys.last = opener._keys.last = 2**64 - 2
    assert opener.receive(_seal(b"the last", sealer=sealer)) == [b"the last"]
    with pytest.raises(KeyExhausted):
        _seal(b"one more", sealer=sealer)


def test_an_opener_holds_at_most_one_frame() -> None:
    opener, wire = Opener(KEY), _seal(bytes(300_000))
    for at in range(0, len(wire), 1000):
        opener.receive(wire[at : at + 1000])
        assert len(opener._partial) <= MAX_PLAINTEXT + 18
