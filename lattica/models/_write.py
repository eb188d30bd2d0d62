"""Tensors in memory as a safetensors file: planned first, then written tensor by tensor.

The same tensors give the same file, whatever order they come in: the widest first, so that each is
aligned, then by name. Nothing is copied but tensors that are strided or big-endian, one at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lattica.codec import WIDTHS, tensor_bytes
from lattica.errors import InvalidInput

from ._safetensors import LENGTH_BYTES, MAX_HEADER_BYTES, cut, parse_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import BinaryIO

    from lattica.codec import TensorBytes
    from lattica.content import Segment

_ALIGNMENT = 8  # bytes: where the data begins


@dataclass(frozen=True, slots=True)
class StatePlan:
    """A safetensors file that is yet to be written.

    Attributes:
        header: its first bytes, all but the tensors' own.
        names: of the tensors in the order of their data.
        size: of the whole file, in bytes.
    """

    header: bytes
    names: tuple[str, ...]
    size: int

    def segments(self) -> list[Segment]:
        """Return how the file is cut."""
        return cut(parse_header(self.header, self.size), self.size)

    def write(self, file: BinaryIO, state: Mapping[str, Any]) -> None:
        """Write the file. Raises InvalidInput when a tensor is no longer as it was planned."""
        file.write(self.header)
        written = len(self.header)
        for name in self.names:
            data = _tensor(name, state[name]).data
            file.write(data)
            written += data.nbytes
        if written != self.size:
            raise InvalidInput("the tensors changed while they were written")


def plan_file(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]],
    metadata: Mapping[str, str] | None = None,
) -> StatePlan:
    """Plan a file of tensors, each given as name, dtype, shape and bytes.

    Raises:
        InvalidInput: too many of them, or a name that JSON cannot hold.
    """
    ordered = sorted(tensors, key=lambda one: (-WIDTHS.get(one[1], 1), one[0]))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape, length in ordered:
        if name == "__metadata__":
            raise InvalidInput("a tensor cannot be called __metadata__")
        span = [offset, offset + length]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
        offset += length
    try:
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput("the name of a tensor is not Unicode") from None
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidInput(f"a header of {len(text)} bytes, limit {MAX_HEADER_BYTES}")
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return StatePlan(header, tuple(one[0] for one in ordered), len(header) + offset)


def plan_state(state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> StatePlan:
    """Plan the file of a state: names to tensors (numpy, torch, or what has `__array__`).

    Raises:
        InvalidInput: a name is no text, a value no tensor, or (UnsupportedDType) of another dtype.
    """
    described = []
    for name, value in state.items():
        if not isinstance(name, str):
            raise InvalidInput(f"{name!r} is not the name of a tensor: names are text")
        found = _tensor(name, value)
        described.append((name, found.dtype, found.shape, found.data.nbytes))
    return plan_file(described, metadata)


def _tensor(name: str, value: object) -> TensorBytes:
    found = tensor_bytes(value)
    if found is None:
        raise InvalidInput(
            f"{name!r} is {type(value).__name__}, not a tensor",
            hint="pass numpy or torch tensors; numbers and text go into `meta`",
        )
    return found
