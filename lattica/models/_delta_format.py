"""What a delta file says of itself, and where its payloads are (spec/delta.md).

A delta is a valid safetensors file: a tensor of bytes for each tensor that changed, under its own
name, and metadata that says which version it starts from and which it gives.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.cid import CID
from lattica.errors import InvalidInput

from ._checkpoint import read_into
from ._delta_codec import LENGTH, DeltaCodec, DeltaError
from ._safetensors import (
    LENGTH_BYTES,
    Header,
    SafetensorsError,
    Tensor,
    header_size,
    parse_header,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

FORMAT = "1"
ANCHOR_EVERY = 20  # deltas in a row; then a reader far behind is better off with another way
_KEY = "lattica.delta"  # the format; every other key of ours begins with it
_HEADER_NAME = "__header__"  # of the payload with the result's header
_MAX_DEPTH = 1 << 20


class NotADelta(InvalidInput):
    """The file is no delta between checkpoints."""

    code = "not-a-delta"
    hint = "`lattica delta make BASE NEW` makes one"


@dataclass(frozen=True, slots=True)
class DeltaEntry:
    """What a delta says of one tensor.

    Attributes:
        name: of the tensor.
        codec: how it is written.
        size: bytes of the payload.
        full_size: bytes of the tensor; 0 where that is not known.
    """

    name: str
    codec: DeltaCodec
    size: int
    full_size: int

    def to_json(self) -> dict[str, str | int]:
        """Return plain values, as `lattica delta show --json` prints them."""
        return {
            "name": self.name,
            "codec": self.codec.name.lower(),
            "size": self.size,
            "full_size": self.full_size,
        }


@dataclass(frozen=True, slots=True)
class Delta:
    """What a delta file says of itself.

    Attributes:
        base: the version it starts from.
        result: the version it gives.
        anchor: the last version before `result` that is published whole; `base` if not another.
        depth: how many deltas lie between the anchor and `result`, this one included.
        result_size: bytes of the result.
        header: name of the payload with the result's header; None where it is the base's.
        payloads: where each payload is.
    """

    base: CID
    result: CID
    anchor: CID
    depth: int
    result_size: int
    header: str | None
    payloads: tuple[Tensor, ...]

    def to_json(self) -> dict[str, str | int]:
        """Return plain values, as `lattica delta show --json` prints them."""
        return {
            "base": str(self.base),
            "result": str(self.result),
            "anchor": str(self.anchor),
            "depth": self.depth,
            "result_size": self.result_size,
        }


def read_delta(path: Path) -> Delta:
    """Read what a delta file says of itself.

    Raises:
        NotADelta: it is none, or of a later format.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return read_delta_from(file, path)


def read_delta_from(file: BinaryIO, path: Path) -> Delta:
    size = os.fstat(file.fileno()).st_size
    try:
        start = file.read(LENGTH_BYTES)
        header = parse_header(start + file.read(header_size(start, size) - LENGTH_BYTES), size)
    except SafetensorsError as error:
        raise NotADelta(f"{path} is no delta: {error}") from error
    return parse_delta(header, str(path))


def parse_delta(header: Header, path: str) -> Delta:
    """Return what the header of a file says of it as a delta. Raises NotADelta."""
    said = header.metadata
    if said.get(_KEY) != FORMAT:
        raise NotADelta(f"{path} is no delta of format {FORMAT}")
    try:
        delta = Delta(
            base=CID.parse(said[f"{_KEY}.base"]),
            result=CID.parse(said[f"{_KEY}.result"]),
            anchor=CID.parse(said[f"{_KEY}.anchor"]),
            depth=_number(said[f"{_KEY}.depth"], 1, _MAX_DEPTH),
            result_size=_number(said[f"{_KEY}.size"], LENGTH_BYTES, (1 << 63) - 1),
            header=said.get(f"{_KEY}.header"),
            payloads=header.tensors,
        )
    except KeyError as error:
        raise NotADelta(f"{path} does not say its {error}") from None
    except (InvalidInput, ValueError) as error:
        raise NotADelta(f"{path}: {error}") from None
    if delta.header is not None and all(t.name != delta.header for t in delta.payloads):
        raise NotADelta(f"{path} lacks the header that it names")
    return delta


def delta_header(
    entries: list[DeltaEntry],
    base: CID,
    result: CID,
    anchor: CID,
    depth: int,
    size: int,
    header_name: str | None,
) -> bytes:
    metadata = {
        _KEY: FORMAT,
        f"{_KEY}.base": str(base),
        f"{_KEY}.result": str(result),
        f"{_KEY}.anchor": str(anchor),
        f"{_KEY}.depth": str(depth),
        f"{_KEY}.size": str(size),
    }
    if header_name is not None:
        metadata[f"{_KEY}.header"] = header_name
    fields: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for entry in entries:
        fields[entry.name] = {
            "dtype": "U8",
            "shape": [entry.size],
            "data_offsets": [position, position + entry.size],
        }
        position += entry.size
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def free_name(header: Header) -> str:
    names = {tensor.name for tensor in header.tensors}
    name = _HEADER_NAME
    while name in names:
        name += "_"
    return name


def write_header(header: bytes, spool: BinaryIO) -> int:
    import zstandard

    return spool.write(zstandard.ZstdCompressor(level=9).compress(header))


class PayloadReader:
    """Reads one payload of a delta file from front to back."""

    def __init__(self, file: BinaryIO, payload: Tensor) -> None:
        self._file, self._payload = file, payload
        self._position = payload.start

    def take(self, length: int) -> memoryview:
        if length > self._payload.stop - self._position:
            raise DeltaError(f"the payload of {self._payload.name!r} ends early")
        data = memoryview(bytearray(length))
        read_into(self._file, data, self._position, self._payload.name)
        self._position += length
        return data

    def block(self, limit: int) -> memoryview:
        (length,) = LENGTH.unpack(self.take(LENGTH.size))
        if length > limit:
            raise DeltaError(f"a block of {length} bytes, limit {limit}")
        return self.take(length)

    def finish(self) -> None:
        if self._position != self._payload.stop:
            raise DeltaError(f"bytes behind the payload of {self._payload.name!r}")


def _number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise ValueError(f"the number {text[:40]!r}, expected {low} to {high}")
    return int(text)
