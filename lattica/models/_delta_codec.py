"""How one tensor is written as its difference from another, without loss. Pure.

Training moves most low-precision weights by nothing or by one unit in the last place, so a tensor
is taken as integers of its element's width and cut into *blocks* of 4 MiB. A block is written as

    sparse  how far apart the changed elements are, and by how much each moved (zigzag)
    xor     base XOR result: small where exponents and signs agree
    planes  the result alone
    raw     the bytes, where nothing makes them smaller

All but the last are arrays of integers, written as byte planes (`lattica.codec`): the high planes
are nearly constant, and the low ones, where they are noise, cost a bit over their entropy.

A payload is one codec byte, one width byte, then the blocks, each after its length. Everything that
is declared is held against what the tensor's size allows before memory is taken. spec/delta.md.
"""

from __future__ import annotations

import enum
import functools
import struct
from typing import TYPE_CHECKING

from lattica.codec import PlanesError, pack_planes, unpack_planes
from lattica.errors import IntegrityError

from ._checkpoint import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Read = Callable[[int, int], memoryview]  # (offset, length) within a tensor

PAYLOAD_HEAD = struct.Struct("<BB")  # codec, element width in bytes
LENGTH = struct.Struct("<I")  # of a block or a plane, and the number of changes
WIDTHS = (1, 2, 4, 8)
_DENSE = 3  # where more than a third of the elements changed, saying which costs more than 0 moves
_SAMPLE_BYTES = 64 << 10  # of each stretch that is tried with every codec
_SAMPLES = 4


class DeltaError(IntegrityError):
    """A delta is not one, or does not fit what it is applied to. Nothing of it is kept."""

    code = "delta"
    retryable = False
    hint = "get the full version instead; it does not need the delta"


class DeltaCodec(enum.IntEnum):
    """How a tensor's payload is written."""

    RAW = 0
    SPARSE = 1
    XOR = 2
    PLANES = 3


def choose_codec(read_base: Read | None, read_new: Read, size: int, width: int) -> DeltaCodec:
    """Return the codec that writes samples of a tensor smallest; all of it, where it is small.

    Args:
        read_base: reads the base's bytes, or None where there is nothing of this size and width.
        read_new: reads the result's bytes.
        size: bytes of the tensor, a multiple of `width`.
        width: bytes per element.
    """
    candidates = [DeltaCodec.RAW, DeltaCodec.PLANES]
    if read_base is not None:
        candidates[:0] = [DeltaCodec.SPARSE, DeltaCodec.XOR]
    costs = dict.fromkeys(candidates, 0)
    samples = _samples(size, width)
    sampled = sum(length for _, length in samples)
    for codec in candidates:
        for offset, length in samples:
            base = read_base(offset, length) if read_base is not None else None
            costs[codec] += len(_encode_block(codec, base, read_new(offset, length), width))
        if codec is DeltaCodec.SPARSE and costs[codec] < sampled // 8:
            return codec  # few changes: nothing comes near, and trying it all would take longer
    return min(candidates, key=lambda codec: (costs[codec], codec))


def encode(
    codec: DeltaCodec, read_base: Read | None, read_new: Read, size: int, width: int
) -> Iterator[bytes]:
    """Give the payload of a tensor piece by piece. Arguments as in `choose_codec`."""
    yield PAYLOAD_HEAD.pack(codec, width)
    for offset in range(0, size, BLOCK_BYTES):
        length = min(BLOCK_BYTES, size - offset)
        base = read_base(offset, length) if read_base is not None else None
        block = _encode_block(codec, base, read_new(offset, length), width)
        yield LENGTH.pack(len(block))
        yield block


def read_head(head: bytes | memoryview, size: int) -> tuple[DeltaCodec, int]:
    """Return codec and element width of a payload, from its first `PAYLOAD_HEAD.size` bytes.

    Raises:
        DeltaError: no codec that we know, or elements that do not fill `size` bytes.
    """
    if len(head) < PAYLOAD_HEAD.size:
        raise DeltaError("a payload without a head")
    number, width = PAYLOAD_HEAD.unpack(head)
    try:
        codec = DeltaCodec(number)
    except ValueError:
        raise DeltaError(f"delta codec {number}, which this version does not know") from None
    if width not in WIDTHS or size % width:
        raise DeltaError(f"elements of {width} bytes in a tensor of {size}")
    return codec, width


def longest_block(length: int, width: int) -> int:
    """Return how many bytes a block that gives `length` bytes may take."""
    return 3 * LENGTH.size + 4 * (length // width) + length


def decode_block(
    codec: DeltaCodec, block: memoryview, base: memoryview | None, out: memoryview, width: int
) -> None:
    """Write one block of a tensor into `out`.

    Args:
        codec: from the payload's head.
        block: as it was written.
        base: the base's bytes at the same place; None where the base has no such tensor.
        out: where the result goes; a multiple of `width` long. May be the memory of `base`.
        width: bytes per element.

    Raises:
        DeltaError: the block is not one of this codec and length. `out` is then worthless.
    """
    if codec is DeltaCodec.RAW:
        if len(block) != len(out):
            raise DeltaError(f"a raw block of {len(block)} bytes, expected {len(out)}")
        out[:] = block
        return
    if codec is not DeltaCodec.PLANES and base is None:
        raise DeltaError(f"a payload written as {codec.name.lower()}, but the base has no tensor")
    np = _numpy()
    result = np.frombuffer(out, _unsigned(width))
    reader = _Arrays(block)
    if codec is DeltaCodec.SPARSE:
        before = np.frombuffer(base, _unsigned(width))
        if before.ctypes.data != result.ctypes.data:
            result[:] = before
        _apply_sparse(reader, result, width)
    else:
        values = reader.array(len(result), width)
        if codec is DeltaCodec.XOR:
            np.bitwise_xor(values, np.frombuffer(base, _unsigned(width)), out=result)
        else:
            result[:] = values
    reader.finish()


def _apply_sparse(reader: _Arrays, result: Array, width: int) -> None:
    np = _numpy()
    changes = reader.number()
    if changes > len(result):
        raise DeltaError(f"{changes} changes in {len(result)} elements")
    if not changes:
        return
    gaps, moves = reader.array(changes, 4), reader.array(changes, width)
    # Addition wraps, as the subtraction did: any integer can become any other.
    moves = (moves >> 1) ^ (0 - (moves & 1))
    if changes == len(result):
        if gaps.any():
            raise DeltaError("a change behind the end of its block")
        result += moves
        return
    places = np.cumsum(gaps, dtype=np.int64)
    places += np.arange(changes, dtype=np.int64)
    if places[-1] >= len(result):
        raise DeltaError("a change behind the end of its block")
    result[places] += moves


def _encode_block(codec: DeltaCodec, base: memoryview | None, new: memoryview, width: int) -> bytes:
    if codec is DeltaCodec.RAW:
        return bytes(new)
    np = _numpy()
    after = np.frombuffer(new, _unsigned(width))
    if codec is DeltaCodec.PLANES:
        return b"".join(_pack(after))
    before = np.frombuffer(base, _unsigned(width))
    if codec is DeltaCodec.XOR:
        return b"".join(_pack(before ^ after))
    changed = before != after
    count = int(np.count_nonzero(changed))
    if not count:
        return LENGTH.pack(0)
    if count > len(after) // _DENSE:  # all are listed: what did not change moves by 0
        count, moves, gaps = len(after), after - before, None
    else:
        places = np.flatnonzero(changed)
        moves = after[places] - before[places]
        gaps = (np.diff(places, prepend=-1) - 1).astype("<u4")
    signs = moves.view(f"<i{width}") >> (8 * width - 1)
    zigzag = (moves << 1) ^ signs.view(moves.dtype)
    packed_gaps = _pack(gaps) if gaps is not None else [LENGTH.pack(0)]
    return b"".join([LENGTH.pack(count), *packed_gaps, *_pack(zigzag)])


def _pack(values: Array) -> Iterator[bytes]:
    """Give an array after its length: byte planes, or raw where those are not smaller."""
    width = values.itemsize
    body: bytes = b""
    if values.any():
        body = pack_planes(values.data.cast("B"), width) or values.tobytes()
    yield LENGTH.pack(len(body))
    yield body


class _Arrays:
    """Reads numbers and arrays from one block, in order."""

    def __init__(self, block: memoryview) -> None:
        self._block, self._position = block, 0

    def number(self) -> int:
        """Return the next number."""
        if len(self._block) - self._position < LENGTH.size:
            raise DeltaError("a block that ends early")
        (value,) = LENGTH.unpack_from(self._block, self._position)
        self._position += LENGTH.size
        return int(value)

    def array(self, count: int, width: int) -> Array:
        """Return the next `count` integers of `width` bytes."""
        np = _numpy()
        length = self.number()
        body = self._block[self._position : self._position + length]
        if len(body) < length:
            raise DeltaError("a block that ends early")
        self._position += length
        values: Array
        if length == count * width:
            values = np.frombuffer(body, _unsigned(width))
            return values
        values = np.zeros(count, _unsigned(width))
        if length:
            try:
                unpack_planes(body, values.data.cast("B"))
            except PlanesError as error:
                raise DeltaError(str(error)) from error
        return values

    def finish(self) -> None:
        """Raise DeltaError where anything is left."""
        if self._position != len(self._block):
            raise DeltaError(f"{len(self._block) - self._position} bytes behind a block")


def _samples(size: int, width: int) -> Sequence[tuple[int, int]]:
    """Offset and length of stretches spread over a tensor; all of it, where that is no more."""
    if size <= _SAMPLES * _SAMPLE_BYTES:
        step = _SAMPLE_BYTES
        return [(offset, min(step, size - offset)) for offset in range(0, size, step)]
    step = (size - _SAMPLE_BYTES) // (_SAMPLES - 1) // width * width
    return [(number * step, _SAMPLE_BYTES) for number in range(_SAMPLES)]


def _unsigned(width: int) -> str:
    return f"<u{width}"


@functools.cache
def _numpy() -> Any:
    import numpy as np

    return np
