"""Numbers made smaller: byte planes, each compressed by itself or left as it is. Pure.

The bytes of floating-point numbers differ in kind: those of the exponents repeat, those of the
mantissas are noise. Side by side no compressor finds much in them. So the first bytes of all
elements are put together, then the second ones, and so on: each such *plane* becomes one zstd frame
where that is smaller, and stays raw where not. Form: spec/exchange.md section 3.4.

What is read comes from strangers. Its size is known beforehand, and every length is held against
it before anything is decompressed; nothing larger is ever made.

    bytes  0      1 to 4w              then
           width  length of each plane  the planes, one after the other

Level 1 takes the exponents of bfloat16 at some 400 MB/s a core, and passes over noise at 5 GB/s.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, TypeAlias

from lattica.errors import CodecError

if TYPE_CHECKING:
    import zstandard

WIDTHS = (1, 2, 4, 8)  # bytes of an element; 1 is a single plane
LEVEL = 1  # of zstd: higher ones take twice the time and are no better at exponents
MAX_SIZE = 1 << 32  # bytes of content, excluded
_MAX_WINDOW = 8 << 20  # bytes: what RFC 8878 asks every decoder to have
_LENGTHS = {width: struct.Struct(f"!{width}I") for width in WIDTHS}

Buffer: TypeAlias = bytes | bytearray | memoryview


class PlanesError(CodecError):
    """The bytes are not planes of content of the size that was expected."""

    code = "planes"
    hint = "whoever sent them is broken or hostile: ask another peer"


def pack_planes(data: Buffer, width: int, *, level: int = LEVEL) -> bytes | None:
    """Return `data` as planes, or None where that would not be smaller.

    Args:
        data: less than 4 GiB, of elements of `width` bytes; the last may be cut.
        width: one of `WIDTHS`.
        level: of zstd.
    """
    if not data:
        return None
    compressor = _contexts.compressor(level)
    planes: list[Buffer] = []
    for plane in _split(data, width):
        packed = compressor.compress(plane)
        planes.append(packed if len(packed) < len(plane) else plane)
    head = bytes([width]) + _LENGTHS[width].pack(*map(len, planes))
    if len(head) + sum(map(len, planes)) >= len(data):
        return None
    return b"".join((head, *planes))


def unpack_planes(packed: Buffer, target: bytearray | memoryview) -> None:
    """Fill `target`, which has exactly the size of the content, from what `pack_planes` made.

    Raises:
        PlanesError: it is not that, or of another size; `target` then holds anything.
    """
    size, view = len(target), memoryview(packed)
    width, lengths = _read_head(view, size)
    at = 1 + 4 * width
    for number, length in enumerate(lengths):
        written = view[at : at + length]
        at += length
        plane_size = _plane_size(size, width, number)
        plane = written if length == plane_size else _decompress(written, plane_size)
        _merge(plane, target, width, number)


def _read_head(view: memoryview, size: int) -> tuple[int, tuple[int, ...]]:
    """Return the width and the length of each plane, all held against `size`."""
    width = view[0] if len(view) else 0
    if width not in _LENGTHS:
        raise PlanesError(f"planes of width {width}, expected one of {WIDTHS}")
    if len(view) < 1 + 4 * width:
        raise PlanesError(f"{len(view)} bytes, too few for the lengths of {width} planes")
    lengths = _LENGTHS[width].unpack_from(view, 1)
    if sum(lengths) != len(view) - 1 - 4 * width:
        raise PlanesError(f"planes of {sum(lengths)} bytes in all, in {len(view)} bytes")
    for number, length in enumerate(lengths):
        if length > (plane_size := _plane_size(size, width, number)):
            raise PlanesError(f"plane {number} of {length} bytes, expected {plane_size} at most")
    return width, lengths


def _plane_size(size: int, width: int, number: int) -> int:
    """How many of `size` bytes are in a plane: from `number` on every `width`-th."""
    return (size - number + width - 1) // width if number < size else 0


def _decompress(frame: memoryview, size: int) -> bytes:
    """Return the `size` bytes of one zstd frame."""
    import zstandard

    try:
        told = zstandard.get_frame_parameters(frame)
        if told.content_size != size or told.dict_id or told.window_size > _MAX_WINDOW:
            raise PlanesError(
                f"a frame of {told.content_size} bytes, window {told.window_size}, dictionary"
                f" {told.dict_id}; expected {size} bytes and no dictionary"
            )
        # It has been seen to declare `size`, which is all that is set aside for it.
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PlanesError(f"not a zstd frame of {size} bytes: {error}") from None


def _split(data: Buffer, width: int) -> list[Buffer]:
    if width == 1:
        return [data]
    import numpy as np

    flat = np.frombuffer(data, np.uint8)
    return [np.ascontiguousarray(flat[number::width]).data for number in range(width)]


def _merge(plane: Buffer, target: bytearray | memoryview, width: int, number: int) -> None:
    if width == 1:
        target[:] = plane
    elif len(plane):
        import numpy as np

        np.frombuffer(target, np.uint8)[number::width] = np.frombuffer(plane, np.uint8)


class _Contexts(threading.local):
    """What zstd needs to work, made once in each thread: a context is some hundred kilobytes."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressor: zstandard.ZstdDecompressor | None = None

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        import zstandard

        if level not in self._compressors:
            self._compressors[level] = zstandard.ZstdCompressor(level=level)
        return self._compressors[level]

    @property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        import zstandard

        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        return self._decompressor


_contexts = _Contexts()
