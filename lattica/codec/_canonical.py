"""Canonical msgpack: one value, one encoding (spec/codec.md).

Shortest forms, map keys are strings sorted by their UTF-8 bytes, no duplicates, no ext types,
floats are float64 and never NaN, nesting at most 32. Whatever is signed or named by its hash is in
this form; bytes in any other form are refused, so that a signature covers exactly one spelling.
"""

from __future__ import annotations

import math

import msgpack

from lattica.errors import CodecError

from ._pickles import PICKLE, looks_like_pickle

MAX_DEPTH = 32
_PLAIN = {bytes, str, int, bool, type(None)}  # what needs no look: most of what is sent
Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]


def pack(value: Value) -> bytes:
    """Return the canonical encoding. Raises CodecError for what has none."""
    try:
        packed: bytes = msgpack.packb(_ordered(value, MAX_DEPTH), use_bin_type=True)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise CodecError(f"not a canonical value: {error}") from None
    return packed


def unpack(
    data: bytes | bytearray | memoryview, *, max_size: int, max_values: int | None = None
) -> Value:
    """Read one canonical value that is all of `data`.

    Args:
        data: the encoding.
        max_size: bytes; more is refused unread. Decoded, a value takes up to some 60 times more.
        max_values: elements of arrays and entries of maps, in all; more is refused while it
            is read: a crowd of empty arrays takes megabytes, and milliseconds.

    Raises:
        CodecError: too large, not msgpack, or not in canonical form.
    """
    if len(data) > max_size:
        raise CodecError(f"a value of {len(data)} bytes, limit {max_size}")
    # Each takes a byte or more, so what is short need not be counted.
    count = None if max_values is None or len(data) <= max_values else _Count(max_values)
    try:
        value: Value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            use_list=True,
            ext_hook=_refuse_ext,
            list_hook=count,
            object_hook=count,
        )
    except CodecError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        if looks_like_pickle(data):
            raise CodecError(PICKLE) from None
        raise CodecError(f"not msgpack: {error or type(error).__name__}") from None
    # Encoding what was read and comparing catches every other spelling at once: long forms,
    # unsorted or doubled keys, float32.
    if pack(value) != data:
        raise CodecError("not in canonical form")
    return value


def _ordered(value: Value, depth: int) -> Value:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        if not depth:
            raise CodecError(f"nested deeper than {MAX_DEPTH}")
        for key in value:
            if not isinstance(key, str):
                raise CodecError("map keys must be strings")
        # Text sorts by code points, which is how its UTF-8 sorts.
        return {key: _ordered(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, list):
        if not depth:
            raise CodecError(f"nested deeper than {MAX_DEPTH}")
        return [item if type(item) in _PLAIN else _ordered(item, depth - 1) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise CodecError("NaN has no canonical form")
    if not isinstance(value, (int, float, str, bytes)):
        raise CodecError(f"{type(value).__name__} has no canonical form")
    return value


class _Count:
    """Counts what arrays and maps hold as they are read, the inner ones first."""

    def __init__(self, most: int) -> None:
        self._most, self._values, self._containers = most, 0, -1  # the outermost is no element

    def __call__(self, container: list[Value] | dict[str, Value]) -> Value:
        self._values += len(container)
        self._containers += 1
        if max(self._values, self._containers) > self._most:
            raise CodecError(f"more than {self._most} elements and entries")
        return container


def _refuse_ext(code: int, _data: bytes) -> Value:
    raise CodecError(f"msgpack ext type {code}")
