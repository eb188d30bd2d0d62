"""Malformed inputs from well-formed ones, reproducible from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

# Bytes that lengths, counts and offsets go wrong with: borders of varints, 16, 32 and 64 bits.
BORDERS = [
    bytes.fromhex(text)
    for text in (
        *("00", "01", "7f", "80", "ff", "8000", "8001", "ff7f", "ffff"),
        *("7fffffff", "80000000", "ffffffff", "ffffffff0f", "ffffffff7f"),
        *("7fffffffffffffff", "8000000000000000", "ffffffffffffffff"),
        *("ffffffffffffffff7f", "ffffffffffffffffff01"),
    )
]
MAX_INPUT = 1 << 16


def mutate(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return one input: usually a well-formed one with one to four faults in it."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        rng.choice(_FAULTS)(rng, data, corpus)
    return bytes(data[:MAX_INPUT])


def _flip(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _drop(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randrange(1, 9)]


def _border(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    piece = rng.choice(BORDERS)
    data[start : start + (len(piece) if rng.random() < 0.5 else 1)] = piece


def _insert(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.randrange(1, 17))


def _repeat(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    piece = bytes(data[start : start + rng.randrange(1, 33)])
    data[start:start] = piece * rng.choice((1, 2, 40, 400))


def _splice(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = rng.choice(corpus)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


_FAULTS = (_flip, _flip, _cut, _drop, _border, _border, _insert, _repeat, _splice)
