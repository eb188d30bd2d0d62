"""Unsigned varints as multiformats define them: at most nine bytes, shortest form only.

Source: https://github.com/multiformats/unsigned-varint. Protobuf's own integers are read by
`_protobuf`, which allows ten bytes.
"""

from __future__ import annotations

from lattica.errors import CodecError

MAX_BYTES = 9


def encode(value: int) -> bytes:
    """Return `value` (0 up to 2**63 - 1) as a varint."""
    if not 0 <= value < 1 << 63:
        raise ValueError(f"{value} does not fit an unsigned varint")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """Read the varint at `offset`: `(value, offset after it)`, or None when it is cut short.

    Raises:
        CodecError: longer than nine bytes, or not in the shortest form.
    """
    value = shift = 0
    for position in range(offset, min(len(data), offset + MAX_BYTES)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise CodecError("varint is not in its shortest form")
            return value, position + 1
        shift += 7
    if len(data) - offset >= MAX_BYTES:
        raise CodecError(f"varint is longer than {MAX_BYTES} bytes")
    return None


def decode_whole(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int]:
    """Read the varint at `offset` of a complete message. Raises CodecError, also when cut short."""
    found = decode(data, offset)
    if found is None:
        raise CodecError("message ends inside a varint")
    return found
