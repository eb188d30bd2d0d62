"""Canonical msgpack: one value, one encoding (spec/codec.md).

Shortest forms, map keys are strings sorted by their UTF-8 bytes, no duplicates, no ext types,
floats are float64 and never NaN, nesting at most 32. Whatever is signed or named by its hash is in
this form; bytes in any other form are refused, so that a signature covers exactly one spelling.
"""

from __future__ import annotations

import math

import msgpack

from lattica.errors import CodecError

MAX_DEPTH = 32
Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]


def pack(value: Value) -> bytes:
    """Return the canonical encoding. Raises CodecError for what has none."""
    try:
        packed: bytes = msgpack.packb(_ordered(value, MAX_DEPTH), use_bin_type=True)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise CodecError(f"not a canonical value: {error}") from None
    return packed


def unpack(data: bytes | bytearray | memoryview, *, max_size: int) -> Value:
    """Read one canonical value that is all of `data`.

    Args:
        data: the encoding.
        max_size: bytes; more is refused unread. Decoded, a value takes up to some 60 times more.

    Raises:
        CodecError: too large, not msgpack, or not in canonical form.
    """
    if len(data) > max_size:
        raise CodecError(f"a value of {len(data)} bytes, limit {max_size}")
    try:
        value: Value = msgpack.unpackb(
            data, raw=False, strict_map_key=True, use_list=True, ext_hook=_refuse_ext
        )
    except CodecError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise CodecError(f"not msgpack: {error or type(error).__name__}") from None
    # Encoding what was read and comparing catches every other spelling at once: long forms,
    # unsorted or doubled keys, float32.
    if pack(value) != data:
        raise CodecError("not in canonical form")
    return value


def _ordered(value: Value, depth: int) -> Value:
    if isinstance(value, (list, dict)) and depth == 0:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise CodecError("map keys must be strings")
        ordered = sorted(value.items(), key=lambda item: item[0].encode())
        return {key: _ordered(item, depth - 1) for key, item in ordered}
    if isinstance(value, list):
        return [_ordered(item, depth - 1) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise CodecError("NaN has no canonical form")
    if value is not None and not isinstance(value, (int, float, str, bytes)):
        raise CodecError(f"{type(value).__name__} has no canonical form")
    return value


def _refuse_ext(code: int, _data: bytes) -> Value:
    raise CodecError(f"msgpack ext type {code}")
