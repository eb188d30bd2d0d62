"""Tensors to bytes and back, in memory, beside safetensors, pickle and msgpack-numpy."""

from __future__ import annotations

import pickle  # what others do; nothing here reads what it has not written
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import safetensors.numpy

from lattica import codec

from ._report import Report
from ._rounds import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.codec import Array

KIB = 1 << 10
SIZES = (4 * KIB, 256 * KIB, 16 << 20, 256 << 20, 1 << 30)
BUDGET_S = 1.0  # of one contender at one size in one round
ROUNDS = 3


def run(*, quick: bool, peers: bool) -> Report:
    """Measure a map with one tensor, from its memory into a send buffer, and back into an array."""
    report = Report("codec")
    contenders: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "lattica": (codec.encode, _lattica_into),
        "safetensors": (_safetensors, _safetensors_into),
        "pickle5": (_pickle, _pickle_into),
        "msgpack-numpy": (_msgpack, _msgpack_into),
    }
    for size in SIZES[:4] if quick else SIZES:
        value: dict[str, Any] = {
            "step": 7,
            "grad": np.frombuffer(np.random.default_rng(0).bytes(size), np.uint8),
        }
        mine = np.empty(size, np.uint8)
        sink = memoryview(bytearray(size + (64 << 10)))
        figures: dict[str, list[float]] = {}
        for number in range(ROUNDS):
            tell(f"{_name(size)}, round {number + 1} of {ROUNDS}")
            for name, (encode, decode) in contenders.items():
                pieces = _place(encode(value), sink)
                message = pieces if name == "pickle5" else [sink[: sum(map(len, pieces))]]
                calls: dict[str, Callable[[], Any]] = {
                    "encode": partial(_encode_into, encode, value, sink),
                    "decode": partial(decode, message, mine),
                }
                for what, call in calls.items():
                    seconds = _seconds(call, BUDGET_S / (10 if quick else 1))
                    figure = f"{name} {what} {_name(size)}"
                    figures.setdefault(figure, []).append(size / seconds / 1e6)
                assert np.array_equal(mine, value["grad"])
                mine[:] = 0
        for name, runs in figures.items():
            report.add(name, "MB/s", runs)
        for what in ("encode", "decode"):
            for other in list(contenders)[1:]:
                key = f"{what}_vs_{other}_{_name(size)}".replace(" ", "")
                ours, theirs = f"lattica {what} {_name(size)}", f"{other} {what} {_name(size)}"
                report.compare(key, ours, theirs)
    report.notes.append("encode: from the tensor into a send buffer; decode: into an array")
    report.notes.append("msgpack-numpy: as it writes arrays, by hand; pickle5: buffers out of band")
    return report


def _place(pieces: Sequence[Any], sink: memoryview) -> list[memoryview]:
    """Copy pieces into a buffer, as sending does; return where each is."""
    position, places = 0, []
    for piece in pieces:
        view = memoryview(piece).cast("B")
        place = sink[position : position + view.nbytes]
        place[:] = view
        places.append(place)
        position += view.nbytes
    return places


def _encode_into(encode: Callable[..., Any], value: dict[str, Any], sink: memoryview) -> None:
    _place(encode(value), sink)


def _lattica_into(message: list[memoryview], mine: Array) -> None:
    codec.decode(message, out={"grad": mine})


def _safetensors(value: dict[str, Any]) -> list[bytes]:
    return [safetensors.numpy.save({"grad": value["grad"]})]


def _safetensors_into(message: list[memoryview], mine: Array) -> None:
    mine[:] = safetensors.numpy.load(bytes(message[0]))["grad"]  # it takes bytes, nothing else


def _pickle(value: dict[str, Any]) -> list[Any]:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [head, *(buffer.raw() for buffer in buffers)]


def _pickle_into(message: list[memoryview], mine: Array) -> None:
    mine[:] = pickle.loads(message[0], buffers=message[1:])["grad"]


def _msgpack(value: dict[str, Any]) -> list[bytes]:
    # As msgpack-numpy 0.4 writes an array: a map with its type, shape and bytes.
    def default(array: Array) -> dict[bytes, Any]:
        about = {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape}
        return {**about, b"data": array.data}

    return [msgpack.packb(value, default=default)]


def _msgpack_into(message: list[memoryview], mine: Array) -> None:
    def hook(found: dict[Any, Any]) -> Any:
        if b"nd" not in found:
            return found
        return np.ndarray(found[b"shape"], np.dtype(found[b"type"]), buffer=found[b"data"])

    read = partial(msgpack.unpackb, raw=False, strict_map_key=False, object_hook=hook)
    mine[:] = read(message[0], max_bin_len=1 << 31)["grad"]


def _seconds(call: Callable[[], object], budget: float) -> float:
    """Return the seconds of one call: the least of as many as fit the budget, and at least two."""
    best, spent = float("inf"), 0.0
    runs = 0
    while runs < 2 or (spent < budget and runs < 2000):
        started = time.perf_counter()
        call()
        took = time.perf_counter() - started
        best, spent, runs = min(best, took), spent + took, runs + 1
    return best


def _name(size: int) -> str:
    for unit, width in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= width:
            return f"{size // width} {unit}"
    return f"{size // KIB} KiB"
