"""How one tensor is written as its difference from another, without loss. Pure.

Training moves most low-precision weights by nothing or by one unit in the last place, so a tensor
is taken as integers of its element's width and cut into *blocks* of 4 MiB. A block is written as

    sparse  how far apart the changed elements are, and by how much each moved (zigzag)
    xor     base XOR result: small where exponents and signs agree
    planes  the result alone
    raw     the bytes, where nothing makes them smaller

All but the last are arrays of integers, split into *byte planes* (all lowest bytes, then all second
ones, …), each compressed by itself with zstd: the high planes are nearly constant, and the low
ones, where they are noise, cost a bit over their entropy. A plane of zeros takes no bytes at all.

A payload is one codec byte, one width byte, then the blocks, each after its length. Everything that
is declared is held against what the tensor's size allows before memory is taken. spec/delta.md.
"""

from __future__ import annotations

import enum
import functools
import struct
from typing import TYPE_CHECKING

from lattica.errors import IntegrityError

from ._checkpoint import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    import numpy as np
    import zstandard

    Array = np.ndarray[Any, np.dtype[Any]]
    Read = Callable[[int, int], memoryview]  # (offset, length) within a tensor

PAYLOAD_HEAD = struct.Struct("<BB")  # codec, element width in bytes
LENGTH = struct.Struct("<I")  # of a block or a plane, and the number of changes
WIDTHS = (1, 2, 4, 8)
_LEVEL = 1  # what is left after the planes is mostly noise, which no level makes smaller
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
    """Return how many bytes a block that gives `length` bytes may take: a little over raw."""
    planes = 4 + width
    changes = length // width
    return LENGTH.size + planes * (LENGTH.size + 64) + 4 * changes + length + (length >> 6)


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
    reader = _Planes(block)
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


def _apply_sparse(reader: _Planes, result: Array, width: int) -> None:
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
    packed_gaps = _pack(gaps) if gaps is not None else [LENGTH.pack(0)] * 4
    return b"".join([LENGTH.pack(count), *packed_gaps, *_pack(zigzag)])


def _pack(values: Array) -> Iterator[bytes]:
    """Give unsigned integers as byte planes, lowest first, each after its length."""
    np = _numpy()
    rows = values.view(np.uint8).reshape(len(values), values.itemsize)
    compressor = _compressor()
    filled = (int(values.max()).bit_length() + 7) // 8
    for number in range(values.itemsize):
        frame = b""
        if number < filled:
            frame = compressor.compress(np.ascontiguousarray(rows[:, number]))
        yield LENGTH.pack(len(frame))
        yield frame


class _Planes:
    """Reads numbers and byte planes from one block, in order."""

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
        planes = [self._plane(count) for _ in range(width)]
        if not any(planes[1:]):
            low: Array = np.frombuffer(planes[0] or bytes(count), np.uint8).astype(_unsigned(width))
            return low
        rows = np.zeros((count, width), np.uint8)
        for number, plane in enumerate(planes):
            if plane:
                rows[:, number] = np.frombuffer(plane, np.uint8)
        array: Array = rows.reshape(-1).view(_unsigned(width))
        return array

    def _plane(self, count: int) -> bytes:
        length = self.number()
        if not length:
            return b""
        frame = self._block[self._position : self._position + length]
        if len(frame) < length:
            raise DeltaError("a block that ends early")
        self._position += length
        zstd = _zstandard()
        try:
            # What a frame declares is what would be allocated: it is looked at first.
            declared = zstd.frame_content_size(frame)
            if declared != count:
                raise DeltaError(f"a plane of {declared} bytes, expected {count}")
            plane: bytes = zstd.ZstdDecompressor().decompress(frame, max_output_size=count)
        except zstd.ZstdError as error:
            raise DeltaError(f"a plane that is not zstd: {error}") from None
        return plane

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


@functools.cache
def _zstandard() -> Any:
    import zstandard

    return zstandard


def _compressor() -> zstandard.ZstdCompressor:
    # One a call: they may not be shared by threads, and cost microseconds beside a block.
    compressor: zstandard.ZstdCompressor = _zstandard().ZstdCompressor(level=_LEVEL)
    return compressor
