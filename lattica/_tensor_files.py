"""Chosen tensors of a checkpoint, written into a safetensors file of their own."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from lattica._new_file import open_new
from lattica.codec import array_view, numpy_dtype
from lattica.content import DestinationTaken, StorageError
from lattica.errors import InvalidInput
from lattica.models import (
    Portion,
    TensorInfo,
    parse_tensor,
    plan_file,
    portion,
)
from lattica.results import TensorsFetched

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.models import TensorReader


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tensors, and which parts of them. What `tensors` names comes beside the rest.

    Attributes:
        layers: as `lattica.models.select`.
        include: as there.
        exclude: as there.
        rank: as there.
        tensors: `NAME` or `NAME[0:128, 5]`.
    """

    layers: tuple[int, int] | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rank: tuple[int, int] | None = None
    tensors: tuple[str, ...] = ()

    @property
    def by_rule(self) -> bool:
        """Whether tensors are chosen otherwise than by their names alone."""
        rules = (self.layers, self.rank, self.include, self.exclude)
        return any(rules) or not self.tensors


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tensor of the new file: what to read, and what to take of that."""

    portion: Portion
    shape: tuple[int, ...]
    length: int
    index: tuple[int | slice, ...] | None


async def write_tensors(
    model: TensorReader,
    choice: Choice,
    destination: Path | str,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> TensorsFetched:
    """Write what was chosen into a file, which appears when it is whole.

    One tensor at a time is in memory. The free-form strings of the checkpoint's headers come along.

    Raises:
        InvalidInput: a choice that is none, or of nothing.
        DestinationTaken: something stands there, and is not to be overwritten.
        StorageError: the disk refuses.
    """
    pieces = _pieces(model, choice)
    plan = plan_file(
        ((name, one.portion.tensor.dtype, one.shape, one.length) for name, one in pieces.items()),
        model.metadata,
    )
    path = _absolute(destination)
    if not overwrite and await trio.to_thread.run_sync(os.path.lexists, path):
        raise DestinationTaken(f"{path} exists")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    received = 0
    try:
        async with trio.wrap_file(await trio.to_thread.run_sync(open_new, part)) as file:
            await file.write(plan.header)
            for name in plan.names:
                data = await _read(model, pieces[name], progress)
                received += pieces[name].portion.length
                await file.write(data)
        await trio.to_thread.run_sync(os.replace, part, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return TensorsFetched(path, len(pieces), plan.size, received)


def _pieces(model: TensorReader, choice: Choice) -> dict[str, _Piece]:
    found: dict[str, _Piece] = {}
    if choice.by_rule:
        for one in model.select(
            layers=choice.layers,
            include=choice.include,
            exclude=choice.exclude,
            rank=choice.rank,
        ):
            found[one.tensor.name] = _Piece(one, one.shape, one.length, None)
    for text in choice.tensors:
        name, key = parse_tensor(text, model.tensors)
        found[name] = _sliced(model[name].info, key)
    if not found:
        raise InvalidInput(
            "no tensor was chosen", hint="`lattica tensor ls REF` lists the names that there are"
        )
    return found


def _sliced(tensor: TensorInfo, key: Any) -> _Piece:
    wanted, cover = portion(tensor, key)
    if cover.index is None:
        return _Piece(wanted, wanted.shape, wanted.length, None)
    import numpy as np

    # Of an array without memory: only its shape is asked for.
    dtype = numpy_dtype(tensor.dtype)
    shape = np.broadcast_to(np.empty((), dtype), wanted.shape)[cover.index].shape
    length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return _Piece(wanted, shape, length, cover.index)


async def _read(
    model: TensorReader, piece: _Piece, progress: Callable[[int], object] | None
) -> memoryview:
    data = memoryview(bytearray(piece.portion.length))
    await model.read_portions([(piece.portion, data)], progress)
    if piece.index is None:
        return data
    import numpy as np

    dtype = numpy_dtype(piece.portion.tensor.dtype)
    whole = np.ndarray(piece.portion.shape, dtype, buffer=data)
    return array_view(np.ascontiguousarray(whole[piece.index]))


def _absolute(path: Path | str) -> Path:
    return Path(path).expanduser().absolute()
