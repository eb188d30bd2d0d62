"""Where the tensors of a safetensors file are, and the segments that this cuts it into. Pure.

The cut decides identifiers, so it is frozen (spec/content.md §5) and reads no more than it must:
the byte ranges. What a dtype is called and how wide it is, formats add to every year; the same file
must not get another identifier when a reader learns a new one. Widths are a hint beside the cut.

Format: https://github.com/huggingface/safetensors#format. Stricter than the format is only what
two readers could take differently: doubled keys, numbers that are no plain integers, unknown keys.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from lattica.content import Segment
from lattica.errors import InvalidInput

MAX_HEADER_BYTES = 32 << 20  # some 250 000 tensors; parsing takes about five times as much memory
LENGTH_BYTES = 8  # of the header's length, little-endian, at the start of the file
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_MAX_INTEGER = (1 << 63) - 1
_WIDTHS = {  # bytes per element; elements that share bytes count as one byte
    **dict.fromkeys(("BOOL", "U8", "I8", "F4", "F6_E2M3", "F6_E3M2"), 1),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


class SafetensorsError(InvalidInput):
    """A file is not safetensors, or not in the form that is cut. It can be shared whole."""

    code = "safetensors"
    hint = "the file is shared as one segment, without identifiers for its tensors"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: its key in the header.
        dtype: as the header spells it; it may be one that we do not know.
        shape: elements per axis, outermost first.
        start: its first byte, from the start of the file.
        stop: one past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def stride(self) -> int:
        """Element width in bytes; 1 for a dtype that we do not know."""
        return _WIDTHS.get(self.dtype, 1)


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors header says.

    Attributes:
        size: bytes of the header with its length field: where tensor data begins.
        tensors: in the order of their data; empty ones where they claim to be.
        metadata: the free-form strings.
    """

    size: int
    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]


def header_size(start: bytes, file_size: int) -> int:
    """Return how many bytes from the start of a file are its header, from its first eight.

    Raises:
        SafetensorsError: too short for one, or the header is too long for the file or for us.
    """
    if len(start) < LENGTH_BYTES:
        raise SafetensorsError(f"a file of {file_size} bytes has no header")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > file_size - LENGTH_BYTES:
        raise SafetensorsError(f"a header of {length} bytes in a file of {file_size}")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(f"a header of {length} bytes, limit {MAX_HEADER_BYTES}")
    return LENGTH_BYTES + length


def parse_header(header: bytes, file_size: int) -> Header:
    """Read a header: the first `header_size` bytes of a file of `file_size` bytes.

    Raises:
        SafetensorsError: it is not one that we cut by.
    """
    if header_size(header, file_size) != len(header):
        raise SafetensorsError("the header is not whole")
    if header[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise SafetensorsError("the header does not begin with `{`")
    entries = _parse_json(header[LENGTH_BYTES:])
    metadata = _metadata(entries.pop("__metadata__", {}))
    tensors: list[Tensor] = []
    while entries:  # taken out one by one: both forms of all of them need not be in memory
        tensors.append(_tensor(*entries.popitem(), len(header), file_size))
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    _refuse_overlaps(tensors)
    return Header(len(header), tuple(tensors), metadata)


def cut(header: Header, file_size: int) -> list[Segment]:
    """Return the segments of a file: its header, then tensors and what lies between, in order.

    An empty tensor has no segment. The segments cover the file.
    """
    segments = [Segment(header.size)]
    position = header.size
    for tensor in header.tensors:
        if tensor.start == tensor.stop:
            continue
        if tensor.start > position:
            segments.append(Segment(tensor.start - position))
        segments.append(Segment(tensor.stop - tensor.start, tensor.stride, tensor.name))
        position = tensor.stop
    if position < file_size:
        segments.append(Segment(file_size - position))
    return segments


def _parse_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except UnicodeDecodeError:
        raise SafetensorsError("the header is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"the header is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SafetensorsError("the header is not a JSON object")
    return value


class _Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Entry:
    """Take one JSON object; the entry of a tensor is packed at once, to a third of its size."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise SafetensorsError("the header has a key twice")
    if value.keys() == _ENTRY_KEYS:
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if _is_unicode(dtype) and _are_integers(shape) and _are_integers(offsets):
            return _Entry(sys.intern(dtype), tuple(shape), tuple(offsets))
    return value


def _integer(digits: str) -> int:
    # "-0" is an integer to some readers and a float to others.
    if digits.startswith("-") or len(digits) > 19 or int(digits) > _MAX_INTEGER:
        raise SafetensorsError(f"the header has the number {digits[:40]}")
    return int(digits)


def _refuse_number(text: str) -> NoReturn:
    raise SafetensorsError(f"the header has the number {text[:40]}")


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(map(_is_unicode, (*value, *value.values()))):
        raise SafetensorsError("the metadata is not a map of strings")
    return value


def _tensor(name: str, entry: Any, data_start: int, file_size: int) -> Tensor:
    if not _is_unicode(name):
        raise SafetensorsError(f"the tensor name {name!r} is not Unicode")
    if not isinstance(entry, _Entry):
        raise SafetensorsError(f"the entry of {name!r} is not dtype, shape and data_offsets")
    if (
        len(entry.offsets) != 2
        or not entry.offsets[0] <= entry.offsets[1] <= file_size - data_start
    ):
        raise SafetensorsError(
            f"{name!r} is at {entry.offsets}, the data has {file_size - data_start} bytes"
        )
    start, stop = entry.offsets
    return Tensor(name, entry.dtype, entry.shape, data_start + start, data_start + stop)


def _are_integers(value: Any) -> bool:
    # `type`, not isinstance: true and false are integers to Python.
    return isinstance(value, list) and all(type(item) is int for item in value)


def _is_unicode(value: Any) -> bool:
    """Whether a value is a string, without surrogates, which not all readers of JSON take."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _refuse_overlaps(tensors: list[Tensor]) -> None:
    position = 0
    for tensor in tensors:
        if tensor.start == tensor.stop:
            continue
        if tensor.start < position:
            raise SafetensorsError(f"{tensor.name!r} overlaps the tensor before it")
        position = tensor.stop
