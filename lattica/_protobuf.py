"""The part of protobuf that libp2p messages use: varints and length-delimited fields.

libp2p's messages are small and few, so they are written down next to the code that speaks them,
as field numbers, and read through this one bounded decoder. Unknown fields are kept in the result
and ignored by their readers, as the protobuf encoding asks; fixed-width fields are skipped.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

from lattica.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterable

_Value = int | bytes
_T = TypeVar("_T")
MAX_FIELDS = 65_536  # per message: bounds what a small hostile message makes us allocate
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SINGLE_BYTES = [bytes((value,)) for value in range(0x80)]


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SINGLE_BYTES[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@functools.lru_cache(maxsize=256)  # every message is made of the same few
def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def encode(fields: Iterable[tuple[int, int | bytes | str | None]]) -> bytes:
    """Return the message of `(field number, value)` pairs, in the order given.

    An int is a varint (negative ones as 64-bit two's complement), bytes and str are
    length-delimited, None leaves the field out.
    """
    out = bytearray()
    for number, value in fields:
        if value is None:
            continue
        if isinstance(value, int):
            out += _tag(number, _VARINT) + _varint(value & 0xFFFFFFFFFFFFFFFF)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _tag(number, _BYTES) + _varint(len(data)) + data
    return bytes(out)


class Message:
    """A decoded message: every field's values, in order, by field number."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[int, list[_Value]]) -> None:
        self._fields = fields

    def integers(self, number: int) -> list[int]:
        """All values of a varint field. Raises CodecError if one was length-delimited."""
        return [_expect(value, int, number) for value in self._fields.get(number, ())]

    def blobs(self, number: int) -> list[bytes]:
        """All values of a length-delimited field. Raises CodecError if one was a varint."""
        return [_expect(value, bytes, number) for value in self._fields.get(number, ())]

    def integer(self, number: int, default: int = 0) -> int:
        """The last value of a varint field, or `default`."""
        values = self._fields.get(number)
        if values is None:
            return default
        return _expect(values[0], int, number) if len(values) == 1 else self.integers(number)[-1]

    def blob(self, number: int) -> bytes | None:
        """The last value of a length-delimited field, or None."""
        values = self._fields.get(number)
        if values is None:
            return None
        return _expect(values[0], bytes, number) if len(values) == 1 else self.blobs(number)[-1]

    def text(self, number: int) -> str | None:
        """The last value of a string field, or None. Raises CodecError if it is not UTF-8."""
        value = self.blob(number)
        return None if value is None else _utf8(value, number)

    def texts(self, number: int) -> list[str]:
        """All values of a string field. Raises CodecError if one is not UTF-8."""
        return [_utf8(value, number) for value in self.blobs(number)]

    def __contains__(self, number: int) -> bool:
        return number in self._fields


def decode(data: bytes | bytearray | memoryview) -> Message:
    """Read a whole message. Raises CodecError for anything that is not one."""
    view = bytes(data)  # slices of bytes are what the result is made of
    end = len(view)
    fields: dict[int, list[_Value]] = {}
    offset = count = 0
    while offset < end:
        count += 1
        if count > MAX_FIELDS:
            raise CodecError(f"protobuf message with more than {MAX_FIELDS} fields")
        key, offset = view[offset], offset + 1
        if key >= 0x80:
            key, offset = _read_varint(view, offset - 1)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise CodecError("protobuf field number 0")
        size = 0
        value: _Value
        if wire_type in (_VARINT, _BYTES):
            if offset < end and view[offset] < 0x80:  # nearly all: small numbers, short lengths
                value, offset = view[offset], offset + 1
            else:
                value, offset = _read_varint(view, offset)
            if wire_type == _BYTES:
                size = value
                value = view[offset : offset + size]
            if number in fields:
                fields[number].append(value)
            else:
                fields[number] = [value]
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise CodecError(f"protobuf wire type {wire_type}")
        offset += size
        if offset > end:
            raise CodecError(f"protobuf field {number} of {size} bytes is cut short")
    return Message(fields)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    for position in range(offset, min(len(data), offset + 10)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + 1
        shift += 7
    raise CodecError("protobuf varint is cut short or longer than ten bytes")


def _utf8(value: bytes, number: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CodecError(f"protobuf field {number} is not UTF-8") from None


def _expect(value: _Value, kind: type[_T], number: int) -> _T:
    if not isinstance(value, kind):
        raise CodecError(f"protobuf field {number} has the wrong wire type")
    return value
