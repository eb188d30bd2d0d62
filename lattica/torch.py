"""Checkpoints of the mesh as torch's state dicts.

    import lattica.torch

    state = lattica.torch.load("team/model-ref…", layers=(0, 14))
    lattica.torch.load_into(model, ref)                     # in place, no second copy
    lattica.torch.publish("team/model", model, node=node, licence="Apache-2.0")

Each call takes a running `lattica.Node`, or starts one for its own duration with `home=` and what
else `Node` takes. Needs torch: `pip install 'lattica-mesh[torch]'`. Nothing else in this library
imports it, and nothing here unpickles: what is read are numbers of declared types and shapes.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lattica.codec import UnsupportedDType, torch_dtype_name
from lattica.sync import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lattica.results import Published

    State = Mapping[str, torch.Tensor]


def load(
    ref: Any,
    *,
    node: Node | None = None,
    device: torch.device | str | None = None,
    layers: tuple[int, int] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rank: tuple[int, int] | None = None,
    base: State | None = None,
    progress: Any = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint, wherever it is, every byte verified.

    Args:
        ref: a ticket, a CID, or a name.
        node: whose connections and store are used.
        device: where the tensors go; main memory by default.
        layers: the first layer, and the one after the last.
        include: patterns of names; only these are read.
        exclude: patterns of names that are not.
        rank: (r, n): the part of rank r of n, by tensor parallelism.
        base: a state whose equal tensors need not be read.
        progress: a callable, or True for a display on stderr.
        options: what `lattica.Node` takes, where no `node` is given.

    Raises:
        NoTensors: it is no checkpoint.
        UnsupportedDType: it has a tensor of a dtype that this torch does not know.
        NoProvider, Unreachable, IntegrityError, InvalidInput: as `Node.open`.
    """
    with _running(node, options) as running, running.open(ref) as model:
        arrays = model.load(
            layers=layers,
            include=include,
            exclude=exclude,
            rank=rank,
            base=base,
            progress=progress,
        )
        return {name: _as_tensor(value, device) for name, value in arrays.items()}


def load_into(
    module: torch.nn.Module | State,
    ref: Any,
    *,
    node: Node | None = None,
    strict: bool = True,
    progress: Any = None,
    **options: Any,
) -> list[str]:
    """Read a checkpoint into the tensors of a module, in place; returns the names that were read.

    What is in main memory is read into directly. What is on a device goes there once all of it has
    been read; until then it takes as much main memory.

    Args:
        module: a module, or its state dict. Dtypes and shapes must be those of the checkpoint.
        ref: as `load`.
        node: as `load`.
        strict: refuse names that only one side has, before anything is read.
        progress: as `load`.
        options: as `load`.

    Raises:
        InvalidInput: a tensor does not fit; with `strict`, a name is missing on one side.
        Else as `load`.
    """
    state = module.state_dict() if isinstance(module, torch.nn.Module) else module
    staged = {
        name: torch.empty(value.shape, dtype=value.dtype) for name, value in _elsewhere(state)
    }
    with _running(node, options) as running, running.open(ref) as model, torch.no_grad():
        names: list[str] = model.load_into({**state, **staged}, strict=strict, progress=progress)
        for name in names:
            if name in staged:
                state[name].copy_(staged.pop(name))
    return names


def publish(
    name: str, module: torch.nn.Module | State, *, node: Node, **manifest: Any
) -> Published:
    """Publish a version of a model from memory; `manifest` as `Node.publish` takes it."""
    state = module.state_dict() if isinstance(module, torch.nn.Module) else module
    return node.publish(name, dict(state), **manifest)


@contextmanager
def _running(node: Node | None, options: dict[str, Any]) -> Iterator[Node]:
    """Give the node, or one of its own for the block."""
    if node is not None:
        yield node
        return
    with Node(**options) as started:
        yield started


def _elsewhere(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the tensors that cannot be read into as they are: on a device, or strided."""
    for name, value in state.items():
        if value.device.type != "cpu" or not value.is_contiguous():
            yield name, value


def _as_tensor(array: Any, device: torch.device | str | None) -> torch.Tensor:
    """Return an array as a tensor over the same memory, moved to `device` where one is named."""
    if isinstance(array, torch.Tensor):
        return array if device is None else array.to(device)
    import numpy as np

    from lattica.codec import dtype_name

    kind = dtype_name(array.dtype)
    if kind not in _dtypes():
        raise UnsupportedDType(f"this torch has no dtype for {kind}")
    flat = torch.from_numpy(array.reshape(-1).view(np.uint8))
    tensor = flat.view(_dtypes()[kind]).reshape(array.shape)
    return tensor if device is None else tensor.to(device)


@functools.cache
def _dtypes() -> dict[str, torch.dtype]:
    """Return torch's dtypes by the names that checkpoints give them."""
    found: dict[str, torch.dtype] = {}
    for value in vars(torch).values():
        if isinstance(value, torch.dtype):
            try:
                found[torch_dtype_name(value)] = value
            except UnsupportedDType:
                continue
    return found
