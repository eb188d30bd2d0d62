"""Byte planes: what goes in comes out, numbers shrink, and nothing larger than asked is made."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard
from hypothesis import given, strategies as st

from lattica.codec import PlanesError, pack_planes, unpack_planes

if TYPE_CHECKING:
    from collections.abc import Callable

LEAF = 256 << 10


def unpacked(packed: bytes, size: int) -> bytes:
    target = bytearray(size)
    unpack_planes(packed, target)
    return bytes(target)


def weights(seed: int = 1) -> np.ndarray:
    """Numbers spread as those of a trained layer are: normal, and small."""
    return np.random.default_rng(seed).standard_normal(LEAF // 4).astype("<f4") * np.float32(0.02)


def bfloat16(numbers: np.ndarray) -> bytes:
    return (numbers.view("<u4") >> 16).astype("<u2").tobytes()


@given(st.binary(max_size=300), st.sampled_from([1, 2, 4, 8]), st.integers(1, 40))
def test_what_is_packed_comes_out_again(data: bytes, width: int, times: int) -> None:
    content = data * times  # so that some of it shrinks
    packed = pack_planes(content, width)
    if packed is not None:
        assert len(packed) < len(content)
        assert unpacked(packed, len(content)) == content


@pytest.mark.parametrize(
    ("content", "width", "ratio"),
    [
        pytest.param(bfloat16(weights()), 2, 1.4, id="bfloat16"),
        # 23 bits of noise and a sign in 32: nobody gets 1.21 out of these without loss.
        pytest.param(weights().tobytes(), 4, 1.17, id="float32"),
        pytest.param(weights().astype("<f2").astype("<f4").tobytes(), 4, 1.6, id="float16-as-32"),
        pytest.param(np.arange(LEAF // 8, dtype="<i8").tobytes(), 8, 3.5, id="indices"),
    ],
)
def test_numbers_shrink(content: bytes, width: int, ratio: float) -> None:
    packed = pack_planes(content, width)
    assert packed is not None
    assert len(content) / len(packed) > ratio
    assert unpacked(packed, len(content)) == content


def test_noise_is_left_as_it_is() -> None:
    noise = random.Random(1).randbytes(LEAF)
    assert [pack_planes(noise, width) for width in (1, 2, 4, 8)] == [None] * 4


def _bomb(_content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(256 << 20))


def _bomb_that_lies(content: bytes) -> bytes:
    """Declares what is expected, and holds a thousand times that."""
    frame = bytearray(_bomb(content))
    declared = zstandard.get_frame_parameters(bytes(frame)).content_size.to_bytes(4, "little")
    at = frame.index(declared)
    frame[at : at + 4] = LEAF.to_bytes(4, "little")
    return bytes(frame)


@pytest.mark.parametrize("make", [_bomb, _bomb_that_lies])
def test_a_bomb_costs_no_more_than_the_leaf_that_it_claims_to_be(
    make: Callable[[bytes], bytes],
) -> None:
    frame = make(b"")
    packed = b"\1" + len(frame).to_bytes(4, "big") + frame
    target = bytearray(LEAF)
    unpack_planes(pack_planes(bytes(LEAF), 1) or b"", target)  # contexts are made once
    tracemalloc.start()
    try:
        with pytest.raises(PlanesError):
            unpack_planes(packed, target)
        assert tracemalloc.get_traced_memory()[1] < 2 * LEAF
    finally:
        tracemalloc.stop()


def test_planes_of_another_size_are_refused() -> None:
    packed = pack_planes(bytes(1000), 2)
    assert packed is not None
    for size in (0, 1, 998, 999, 1001, 1002, 2000):
        with pytest.raises(PlanesError):
            unpacked(packed, size)


@given(st.data())
def test_a_spoiled_payload_ends_in_an_error_or_in_bytes(data: st.DataObject) -> None:
    packed = bytearray(pack_planes(bfloat16(weights())[:2000], 2) or b"")
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    del packed[data.draw(st.integers(0, len(packed))) :]
    with contextlib.suppress(PlanesError):
        unpacked(bytes(packed), 2000)
