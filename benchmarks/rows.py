"""Rows of one tensor of a remote checkpoint, beside fetching the file: bytes and waiting."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lattica.models import plan_file

from ._content import MIB, getting, sharing, workspace
from ._report import Report
from ._rounds import tell
from ._worker import role, worker

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS = 128, 1024  # of F32: a slice of 512 KiB
TENSOR_BYTES = 128 * MIB
SLACK = 256 << 10  # bytes: the last leaf is fetched whole


def run(*, quick: bool, peers: bool) -> Report:
    """Measure rows 0:128 of one tensor, from nothing, and then with the checkpoint open."""
    report = Report("rows")
    size, rounds, gets = (512 * MIB, 5, 1) if quick else (3072 * MIB, 9, 3)
    figures: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(workspace())
        path = folder / "model.safetensors"
        _make(path, size // TENSOR_BYTES)
        seed = stack.enter_context(sharing(path, folder / "seed"))
        name = f"layers.{size // TENSOR_BYTES // 2}.weight"
        command = role("rows", seed.ready, folder / "reader", name, ROWS)
        reader = stack.enter_context(worker(command))
        getter = stack.enter_context(getting(seed.ready, folder / "getter"))
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}: rows")
            for figure, value in reader.run().items():
                figures.setdefault(figure, []).append(value)
        for number in range(gets):
            tell(f"round {number + 1} of {gets}: the file")
            rate = getter.run()["mb_per_s"]
            figures.setdefault("file_ms", []).append(path.stat().st_size / rate / 1e3)
    report.add("rows", "ms", figures["cold_ms"])
    report.add("rows, checkpoint open", "ms", figures["warm_ms"])
    report.add("the file", "ms", figures["file_ms"])
    report.add("slice", "bytes", figures["slice_bytes"])
    report.add("wire", "bytes", figures["wire_bytes"])
    report.compare("wire_vs_slice", "wire", "slice")
    slice_bytes = figures["slice_bytes"][0]
    report.targets = {
        "wire": ("<=", 1.1 * slice_bytes + SLACK),
        "wire_vs_slice": ("<=", 1.1 + SLACK / slice_bytes),
    }
    report.notes.append(
        f"a checkpoint of {size // MIB} MiB; from nothing: dial, handshake, header, index, rows"
    )
    return report


def _make(path: Path, count: int) -> None:
    """Write a checkpoint of `count` tensors that neither repeat nor compress."""
    shape = (TENSOR_BYTES // COLUMNS // 4, COLUMNS)
    plan = plan_file(
        (f"layers.{number}.weight", "F32", shape, TENSOR_BYTES) for number in range(count)
    )
    with path.open("wb") as file:
        file.write(plan.header)
        for _ in range(count * TENSOR_BYTES // (4 * MIB)):
            file.write(os.urandom(4 * MIB))
