"""The tensors of a checkpoint: a safetensors file, or a folder as Hugging Face has it. Pure.

A header says where tensors are; whether that is true of the file, and how many bytes each takes, is
checked here, and what is wrong is named. The cut of a file (`_safetensors`) is more lenient: it
decides identifiers and nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from lattica.cid import CID
from lattica.codec import PICKLE, WIDTHS, looks_like_pickle
from lattica.errors import InvalidInput

from ._safetensors import MAX_HEADER_BYTES, Header, SafetensorsError, Tensor, cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

INDEX_SUFFIX = ".safetensors.index.json"
SUFFIX = ".safetensors"
MAX_SHARDS = 4096  # files of one checkpoint
_BITS = {name: 8 * width for name, width in WIDTHS.items()} | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_MAX_BYTES = (1 << 63) - 1
_MAX_AXES = 64  # of a tensor: what numpy and torch have; the product of a million takes hours


class MalformedCheckpoint(SafetensorsError):
    """A file or folder is no checkpoint that can be read, and the message says why."""

    code = "checkpoint"
    hint = "write it again with `safetensors`; shared as it is, it can be fetched whole"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes:
        name: its name in the checkpoint.
        dtype: as safetensors spells it; it may be one that numpy does not have.
        shape: elements per axis, outermost first; () is a scalar.
        file: the file it is in, relative to the object with "/"; "" when that is the object.
        offset: of its first byte, from the start of the file.
        length: in bytes.
        cid: its own identifier, the same in every file that contains it; None while that is not
            known, and where the file was shared whole.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int
    cid: CID | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis; all of them for a scalar."""
        return self.length // self.shape[0] if self.shape and self.shape[0] else self.length


@dataclass(frozen=True, slots=True)
class FileView:
    """One safetensors file: its size, its header, and its tensors in the order of their data."""

    file: str
    size: int
    header: Header
    tensors: tuple[TensorInfo, ...]

    def segments(self) -> list[int]:
        """Return the lengths of the segments that the file is cut into."""
        return [segment.length for segment in cut(self.header, self.size)]

    def with_roots(self, roots: Sequence[CID]) -> FileView:
        """Return the view with identifiers, given the root of each segment."""
        found: dict[str, CID] = {}
        for segment, root in zip(cut(self.header, self.size), roots, strict=True):
            if segment.name:
                found[segment.name] = root
        empty = CID.of(b"", hash_function=roots[0].hash_function)
        tensors = tuple(replace(one, cid=found.get(one.name, empty)) for one in self.tensors)
        return replace(self, tensors=tensors)


def view_file(header: Header, size: int, file: str = "") -> FileView:
    """Return the tensors of a file of `size` bytes with this header, without identifiers.

    Raises:
        MalformedCheckpoint: the tensors do not fill the file, or their bytes not their shapes.
    """
    position, before = header.size, "the header"
    for tensor in header.tensors:
        _check_length(tensor)
        if tensor.start == tensor.stop:
            continue
        if tensor.start != position:
            gap = tensor.start - position
            raise MalformedCheckpoint(
                f"{gap} bytes between {before} and {tensor.name!r} belong to no tensor"
            )
        position, before = tensor.stop, repr(tensor.name)
    if position != size:
        raise MalformedCheckpoint(f"{size - position} bytes behind {before} belong to no tensor")
    tensors = (
        TensorInfo(one.name, one.dtype, one.shape, file, one.start, one.stop - one.start)
        for one in header.tensors
    )
    return FileView(file, size, header, tuple(tensors))


def refuse_pickle(start: bytes, file: str) -> None:
    """Name a checkpoint of `torch.save` for what it is. Raises MalformedCheckpoint."""
    if looks_like_pickle(start):
        raise MalformedCheckpoint(
            f"{file or 'the file'}: {PICKLE}",
            hint="convert it to safetensors where you trust it; it can still be fetched as a file",
        )


def parse_shard_index(data: bytes) -> dict[str, str]:
    """Read a `model.safetensors.index.json`: which file beside it each tensor is in.

    Raises:
        MalformedCheckpoint: not JSON, names twice, or files outside the folder.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise MalformedCheckpoint(f"an index of {len(data)} bytes, limit {MAX_HEADER_BYTES}")
    try:
        found = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedCheckpoint(f"the index of the shards is not JSON: {error}") from None
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise MalformedCheckpoint("the index of the shards has no `weight_map` of names to files")
    files = {file: _inside(file) for file in set(names.values())}
    if len(files) > MAX_SHARDS:
        raise MalformedCheckpoint(f"{len(files)} shards, limit {MAX_SHARDS}")
    return {name: files[file] for name, file in names.items()}


def checkpoint_files(names: Sequence[str]) -> tuple[str | None, list[str]]:
    """Of the names in a folder, return the index of the shards, or else the safetensors files.

    Raises:
        MalformedCheckpoint: no safetensors file, or several indexes.
    """
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise MalformedCheckpoint(
            f"several checkpoints: {', '.join(indexes)}", hint="name one of their files"
        )
    if indexes:
        return indexes[0], []
    files = sorted(name for name in names if name.endswith(SUFFIX))
    if not files or len(files) > MAX_SHARDS:
        raise MalformedCheckpoint(
            f"{len(files)} safetensors files" if files else "there is no safetensors file",
            hint="name the folder or the file in the object that is a checkpoint",
        )
    return None, files


def join_views(
    views: Iterable[FileView], weight_map: Mapping[str, str] | None
) -> dict[str, TensorInfo]:
    """Return the tensors of all files by name: those of the index, or all where there is none.

    Raises:
        MalformedCheckpoint: a name is in two files, or the index names what is not there.
    """
    found: dict[str, TensorInfo] = {}
    for view in views:
        for tensor in view.tensors:
            if weight_map is not None and weight_map.get(tensor.name) != view.file:
                continue
            if tensor.name in found:
                raise MalformedCheckpoint(
                    f"{tensor.name!r} is in {found[tensor.name].file} and in {view.file}",
                    hint="name the file, or the folder, that is meant",
                )
            found[tensor.name] = tensor
    if weight_map is not None and len(found) < len(weight_map):
        name = next(name for name in weight_map if name not in found)
        raise MalformedCheckpoint(f"{weight_map[name]} does not hold {name!r}, the index says so")
    return found


def _check_length(tensor: Tensor) -> None:
    if len(tensor.shape) > _MAX_AXES:
        raise MalformedCheckpoint(
            f"{tensor.name!r} has {len(tensor.shape)} axes, limit {_MAX_AXES}"
        )
    bits = _BITS.get(tensor.dtype)
    count = math.prod(tensor.shape)
    if math.prod(axis or 1 for axis in tensor.shape) > _MAX_BYTES:
        raise MalformedCheckpoint(f"{tensor.name!r} has the shape {list(tensor.shape)[:8]}")
    if bits is None:
        return  # a dtype of tomorrow: it can be listed, and read as bytes
    length = tensor.stop - tensor.start
    if count * bits != 8 * length:
        raise MalformedCheckpoint(
            f"{tensor.name!r} is {tensor.dtype} {list(tensor.shape)}, which takes"
            f" {(count * bits + 7) // 8} bytes, and has {length}"
        )


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts or not path.name.endswith(SUFFIX):
        raise MalformedCheckpoint(f"the index of the shards names the file {file[:200]!r}")
    return str(path)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedCheckpoint("the index of the shards has a name twice")
    return found


def tensor_named(tensors: Mapping[str, TensorInfo], name: str) -> TensorInfo:
    """Return a tensor. Raises InvalidInput, with names that are like it."""
    found = tensors.get(name)
    if found is None:
        near = list(_alike(name, tensors))
        hint = f"there is {', '.join(near)}" if near else "`lattica tensor ls` lists what there is"
        raise InvalidInput(f"there is no tensor {name!r}", hint=hint)
    return found


def _alike(name: str, names: Iterable[str]) -> Iterator[str]:
    import difflib

    yield from difflib.get_close_matches(name, names, n=3)
