"""Which bytes of which tensors: slices, layers, patterns and ranks as byte ranges. Pure.

Tensors are row-major, so a range of the leading axes is a range of bytes. What is sliced further in
costs the rows that cover it: they are read, and the rest of the slice is taken in memory.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._view import TensorInfo

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d{1,9})(?:\.|$)")
_SLICED = re.compile(r"(?P<name>.+?)\[(?P<key>[-0-9:,. ]*)\]", re.DOTALL)
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})")
_RANK = re.compile(r"(\d{1,6})/(\d{1,6})")
_PART = re.compile(r"(-?\d{1,18})?(?::(-?\d{1,18})?(?::(-?\d{1,18})?)?)?")


@dataclass(frozen=True, slots=True)
class Cover:
    """The contiguous part of a tensor that a slice lies in.

    Attributes:
        first: its first element, from the start of the tensor.
        shape: of the part.
        index: what is left to take from it; None when it is the part itself.
    """

    first: int
    shape: tuple[int, ...]
    index: tuple[int | slice, ...] | None = None


@dataclass(frozen=True, slots=True)
class Portion:
    """A part of a tensor that is to be read.

    Attributes:
        tensor: of which.
        offset: of its first byte, from the start of the file.
        length: in bytes.
        shape: what the bytes are.
    """

    tensor: TensorInfo
    offset: int
    length: int
    shape: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether it is all of the tensor."""
        return self.length == self.tensor.length


def cover(shape: Sequence[int], key: Any) -> Cover:
    """Return the contiguous part of a tensor of `shape` that holds `tensor[key]`.

    Args:
        shape: of the tensor.
        key: integers, slices and `...`, as numpy has them; no arrays, masks or new axes.

    Raises:
        InvalidInput: another kind of key, or one that leaves the tensor.
    """
    keys = _expanded(shape, key if isinstance(key, tuple) else (key,))
    first, left = 0, list(shape)
    while left and keys and not isinstance(keys[0], slice):
        first += keys.pop(0) * math.prod(left[1:])  # type: ignore[operator]  # it is an integer
        del left[0]
    if not keys or not left:
        return Cover(first, tuple(left))
    outer = keys[0]
    assert isinstance(outer, slice)
    taken = range(*outer.indices(left[0]))
    low, last = sorted((taken[0], taken[-1])) if taken else (0, -1)  # `min` would count through
    first += low * math.prod(left[1:])
    left[0] = last + 1 - low
    keys[0] = slice(None, None, taken.step)
    index = None if all(one == slice(None, None, None) for one in _plain(keys)) else tuple(keys)
    return Cover(first, tuple(left), index)


def portion(tensor: TensorInfo, key: Any = ...) -> tuple[Portion, Cover]:
    """Return what to read for `tensor[key]`, and how to take it from there. Raises InvalidInput."""
    found = cover(tensor.shape, key)
    count = math.prod(tensor.shape)
    width, odd = divmod(tensor.length, count) if count else (0, 0)
    if odd or (count and not width):  # several elements in a byte
        if found != Cover(0, tensor.shape):
            raise InvalidInput(f"{tensor.name!r} is {tensor.dtype}, which can be read whole only")
        return Portion(tensor, tensor.offset, tensor.length, tensor.shape), found
    offset = tensor.offset + found.first * width
    return Portion(tensor, offset, math.prod(found.shape) * width, found.shape), found


def select(
    tensors: Iterable[TensorInfo],
    *,
    layers: tuple[int, int] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rank: tuple[int, int] | None = None,
) -> list[Portion]:
    """Return what to read of a checkpoint. All conditions that are given must hold.

    Args:
        tensors: of the checkpoint.
        layers: (a, b): those of layers a to b - 1, by their names: `layers.N.`, `h.N.`,
            `blocks.N.` and the singular of these. What belongs to no layer is left out.
        include: patterns (`*.experts.3.*`), one of which a name must match.
        exclude: patterns, none of which a name may match.
        rank: (r, n): of each tensor, part r of n along its first axis, as even as can be. The parts
            of all ranks together are each tensor once; scalars are rank 0's.

    Raises:
        InvalidInput: no such layers or rank.
    """
    if layers is not None and not 0 <= layers[0] < layers[1]:
        raise InvalidInput(
            f"layers {layers[0]}:{layers[1]}, expected the first and one past the last"
        )
    if rank is not None and not 0 <= rank[0] < rank[1]:
        raise InvalidInput(f"rank {rank[0]} of {rank[1]}, expected 0 to {rank[1] - 1}")
    chosen = []
    for tensor in tensors:
        if layers is not None and not _in_layers(tensor.name, *layers):
            continue
        if include and not any(fnmatch.fnmatchcase(tensor.name, one) for one in include):
            continue
        if any(fnmatch.fnmatchcase(tensor.name, one) for one in exclude):
            continue
        if rank is None:
            chosen.append(Portion(tensor, tensor.offset, tensor.length, tensor.shape))
        elif (part := _share(tensor, *rank)) is not None:
            chosen.append(part)
    return chosen


def parse_layers(text: str) -> tuple[int, int]:
    """Read `0:14`. Raises InvalidInput."""
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"layers {text!r}", hint="0:14 is the first 14 layers")
    return int(found[1]), int(found[2])


def parse_rank(text: str) -> tuple[int, int]:
    """Read `2/8`: rank 2 of 8, counted from 0. Raises InvalidInput."""
    found = _RANK.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"rank {text!r}", hint="2/8 is rank 2 of 8; the first is 0/8")
    return int(found[1]), int(found[2])


def parse_tensor(text: str, tensors: Mapping[str, object]) -> tuple[str, Any]:
    """Read `NAME` or `NAME[0:128, 5]`: the name, and the key. Raises InvalidInput.

    A name that is in `tensors` as it stands is that tensor, whatever it looks like.
    """
    found = None if text in tensors else _SLICED.fullmatch(text)
    if found is None:
        return text, ...
    return found["name"], tuple(_parse_part(part) for part in found["key"].split(","))


def _parse_part(text: str) -> Any:
    text = text.strip()
    if text == "...":
        return ...
    found = _PART.fullmatch(text)
    if found is None or not text:
        raise InvalidInput(f"{text!r} in a slice", hint="write it as numpy has it: NAME[0:128, 5]")
    if ":" not in text:
        return int(text)
    return slice(*(None if part is None else int(part) for part in found.groups()))


def _expanded(shape: Sequence[int], keys: tuple[Any, ...]) -> list[int | slice]:
    """Return one key for each axis: without `...`, integers counted from the front."""
    dots = sum(one is ... for one in keys)
    if dots > 1 or len(keys) - dots > len(shape):
        raise InvalidInput(f"a slice of {len(keys)} parts of a tensor of {len(shape)} axes")
    at = next((i for i, one in enumerate(keys) if one is ...), len(keys))
    fill = (slice(None),) * (len(shape) - len(keys) + dots)
    full = [*keys[:at], *fill, *keys[at + 1 :]]
    return [_checked(one, axis) for one, axis in zip(full, shape, strict=True)]


def _checked(one: Any, axis: int) -> int | slice:
    if isinstance(one, slice):
        try:
            one.indices(axis)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the slice {one}: {error}") from None
        return one
    if isinstance(one, bool) or not hasattr(one, "__index__"):
        raise InvalidInput(
            f"a tensor is read by integers and slices, not by {type(one).__name__}",
            hint="read the rows that hold it, then index the array",
        )
    try:
        position = operator.index(one)
    except TypeError as error:  # an array of one element has it, and is none
        raise InvalidInput(f"{one!r} is no position: {error}") from None
    if not -axis <= position < axis:
        raise InvalidInput(f"index {position} of an axis of {axis}")
    return position % axis


def _plain(keys: Sequence[int | slice]) -> list[object]:
    return [
        slice(None, None, None) if isinstance(one, slice) and one == slice(None, None, 1) else one
        for one in keys
    ]


def _in_layers(name: str, first: int, stop: int) -> bool:
    found = _LAYER.search(name)
    return found is not None and first <= int(found[1]) < stop


def _share(tensor: TensorInfo, rank: int, ranks: int) -> Portion | None:
    if not tensor.shape or (0 not in tensor.shape and tensor.length % tensor.shape[0]):
        whole = Portion(tensor, tensor.offset, tensor.length, tensor.shape)
        return whole if rank == 0 else None  # a scalar, or rows that begin inside a byte
    rows = tensor.shape[0]
    first, stop = rank * rows // ranks, (rank + 1) * rows // ranks
    size = tensor.row_bytes if rows else 0
    return Portion(
        tensor,
        tensor.offset + first * size,
        (stop - first) * size,
        (stop - first, *tensor.shape[1:]),
    )
