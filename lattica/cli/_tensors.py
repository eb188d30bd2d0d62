"""`lattica tensor`: the tensors of a checkpoint, here or at a peer: list, print, compare."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica._control import Request
from lattica._progress import counted, size

from . import _show
from ._command import VISIT, command
from ._options import (
    FromOption,
    TimeoutOption,
)
from ._session import Session
from ._visit import visit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lattica.models import TensorReader

    from ._output import Output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

RefArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|REF",
        help="A safetensors file or folder, or a ticket, CID or name.",
        show_default=False,
    ),
]
FileOption = Annotated[
    str, typer.Option("--file", metavar="PATH", help="Of which file or folder in REF.")
]
_COMPARED_BYTES = 64 << 20  # of each side, at once


@app.command()
@command(*VISIT, "as_json", "quiet")
def ls(
    session: Session,
    ref: RefArgument,
    file: FileOption = "",
    from_peer: FromOption = None,
    timeout: TimeoutOption = 120.0,
) -> None:
    """List the tensors: name, dtype, shape and CID. No tensor is fetched."""
    found = _list(session, ref, file, from_peer, timeout)
    rows = [
        (one["name"], one["dtype"], _shape(one["shape"]), one["cid"] or "-")
        for one in found["tensors"]
    ]
    session.output.table(("NAME", "DTYPE", "SHAPE", "CID"), rows)
    total = sum(one["length"] for one in found["tensors"])
    session.output.say(f"{counted(len(rows), 'tensor')}, {size(total)}")
    session.output.result(found)


@app.command()
@command(*VISIT, "as_json", "quiet")
def cat(
    session: Session,
    ref: RefArgument,
    tensor: Annotated[
        str,
        typer.Argument(
            metavar="TENSOR", help="NAME, or rows of it: 'NAME[0:128]'.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Into a safetensors file instead."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the elements as bytes, little-endian.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    file: FileOption = "",
    from_peer: FromOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Print a tensor, or some rows of it.

    Only these are fetched, and verified.
    """
    params = {"tensors": [tensor], "path": file, "peers": from_peer, "timeout": timeout}
    if output is not None:
        fetched = get_tensors(session, ref, output.absolute(), params, overwrite=force)
        _show_fetched(session.output, fetched)
        return
    with tempfile.TemporaryDirectory(prefix="lattica-") as folder:
        path = Path(folder) / "tensor.safetensors"
        get_tensors(session, ref, path, params)
        _print(session.output, path, raw=raw)


@app.command()
@command(*VISIT, "as_json", "quiet")
def diff(
    session: Session,
    one: RefArgument,
    other: Annotated[
        str, typer.Argument(metavar="FILE|REF", help="What to hold it against.", show_default=False)
    ],
    every: Annotated[bool, typer.Option("--all", help="List what is equal, too.")] = False,
    from_peer: FromOption = None,
    timeout: TimeoutOption = 120.0,
) -> None:
    """Compare two checkpoints, tensor by tensor.

    They are compared by their identifiers, and none is fetched. Between two files that are here,
    the elements that differ are counted. Exits with 1 where anything differs.
    """
    sides = [
        {row["name"]: row for row in _list(session, ref, "", from_peer, timeout)["tensors"]}
        for ref in (one, other)
    ]
    local = os.path.exists(one) and os.path.exists(other)
    rows = _compare(*sides, files=(Path(one), Path(other)) if local else None)
    shown = [row for row in rows if every or row["state"] != "equal"]
    session.output.table(
        ("STATE", "NAME", "DTYPE", "SHAPE", "CHANGED"),
        [
            (row["state"], row["name"], row["dtype"], _shape(row["shape"]), _percent(row))
            for row in shown
        ],
    )
    differ = sum(row["state"] != "equal" for row in rows)
    session.output.say(f"{differ} of {len(rows)} tensors differ")
    session.output.result({"tensors": shown, "differ": differ, "of": len(rows)})
    if differ:
        raise SystemExit(1)


def get_tensors(
    session: Session,
    ref: str,
    destination: Path,
    params: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Any:
    """Write chosen tensors into a safetensors file; returns what `TensorsFetched` has."""
    if os.path.exists(ref):
        import trio

        return trio.run(_write_local, Path(ref), destination, params, overwrite)
    request = Request(
        "get_tensors",
        {
            **params,
            "ref": ref,
            "destination": str(destination),
            "overwrite": overwrite,
            "peers": list(params.get("peers") or ()),
        },
    )
    return visit(session, request, f"get {_show.short(ref)}")


def get_selection(
    session: Session,
    ref: str,
    output: Path | None,
    params: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """`lattica get` of tensors: print where they are."""
    destination = (output or Path("tensors.safetensors")).absolute()
    if destination.is_dir():
        destination /= "tensors.safetensors"
    fetched = get_tensors(session, ref, destination, params, overwrite=overwrite)
    _show_fetched(session.output, fetched)


async def _write_local(
    source: Path, destination: Path, params: Mapping[str, Any], overwrite: bool
) -> Any:
    from lattica._model_requests import choice_of
    from lattica._tensor_files import write_tensors

    model = await _open_local(source, params.get("path") or "", cids=False)
    choice = choice_of(params)
    return (await write_tensors(model, choice, destination, overwrite=overwrite)).to_json()


async def _open_local(source: Path, inside: str, *, cids: bool) -> TensorReader:
    from lattica.models import LocalReader, open_tensors

    return await open_tensors(LocalReader(source / inside if inside else source), cids=cids)


def _list(
    session: Session,
    ref: str,
    file: str,
    from_peer: list[str] | None,
    timeout: float | None,
) -> Any:
    if not os.path.exists(ref):
        params = {"ref": ref, "path": file, "peers": list(from_peer or ()), "timeout": timeout}
        return visit(session, Request("tensors", params))
    import trio

    from lattica._model_requests import tensor_rows

    async def look() -> Any:
        model = await _open_local(Path(ref), file, cids=True)
        return {"cid": None, "tensors": tensor_rows(model.tensors)}

    return trio.run(look)


def _compare(
    one: Mapping[str, Any], other: Mapping[str, Any], *, files: tuple[Path, Path] | None
) -> list[dict[str, Any]]:
    rows = []
    for name in sorted({*one, *other}):
        mine, theirs = one.get(name), other.get(name)
        about = other.get(name) or one[name]
        if mine is None or theirs is None:
            state = "added" if mine is None else "removed"
        elif (mine["dtype"], mine["shape"]) != (theirs["dtype"], theirs["shape"]):
            state = "reshaped"
        elif mine["cid"] is None or theirs["cid"] is None:
            state = "unknown"
        else:
            state = "equal" if mine["cid"] == theirs["cid"] else "changed"
        row = {"state": state, "name": name, "dtype": about["dtype"], "shape": about["shape"]}
        if state == "changed" and files is not None and mine and theirs:
            row["changed"] = _changed(files, mine, theirs)
        rows.append(row)
    return rows


def _changed(files: tuple[Path, Path], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Return which part of the elements differ, from 0 to 1."""
    import math

    import numpy as np

    count: int = math.prod(mine["shape"])
    width = max(1, mine["length"] // count) if count else 1
    different: int = 0
    paths = [
        path / row["file"] if row["file"] else path
        for path, row in zip(files, (mine, theirs), strict=True)
    ]
    with paths[0].open("rb") as a, paths[1].open("rb") as b:
        a.seek(mine["offset"])
        b.seek(theirs["offset"])
        left = mine["length"]
        step = _COMPARED_BYTES - _COMPARED_BYTES % width
        while left:
            sides = [np.frombuffer(f.read(min(step, left)), np.uint8) for f in (a, b)]
            unequal = sides[0] != sides[1]
            different += int(unequal.reshape(-1, width).any(axis=1).sum())
            left -= len(unequal)
    return different / count


def _print(output: Output, path: Path, *, raw: bool) -> None:
    import trio

    async def load() -> Any:
        model = await _open_local(path, "", cids=False)
        ((_, array),) = (await model.load()).items()
        return array

    array = trio.run(load)
    if raw:
        from lattica.codec import array_view

        sys.stdout.buffer.write(array_view(array))
        sys.stdout.buffer.flush()
        return
    import numpy as np

    # Small floats have no way of their own to be printed with a threshold.
    shown = array.astype(np.float32) if array.dtype.kind == "V" else array
    output.data(np.array2string(shown, threshold=1000, separator=", "))
    output.result({"dtype": str(array.dtype), "shape": list(array.shape), "values": shown.tolist()})


def _show_fetched(output: Output, fetched: Mapping[str, Any]) -> None:
    tensors = counted(fetched["tensors"], "tensor")
    output.say(f"{tensors}, {size(fetched['size'])}; every byte was verified")
    output.data(fetched["path"])
    output.result(fetched)


def _shape(shape: list[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['changed']:.3g} %" if "changed" in row else "-"
