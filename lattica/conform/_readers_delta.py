"""Reader of the vectors of deltas (delta.md)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattica.models import apply_delta
from lattica.models._delta_codec import DeltaCodec, decode_block

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Case = Mapping[str, Any]


def read_delta_case(case: Case) -> object:
    """A block, or a whole file."""
    return _read_file(case) if case["kind"] == "file" else _read_block(case)


def _read_block(case: Case) -> object:
    out = memoryview(bytearray(case["length"]))
    base = memoryview(bytes.fromhex(case["base"])) if "base" in case else None
    block = memoryview(bytes.fromhex(case["block"]))
    decode_block(DeltaCodec(case["codec"]), block, base, out, case["width"])
    return out.hex()


def _read_file(case: Case) -> object:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("base", "delta"):
            (folder / part).write_bytes(bytes.fromhex(case[part]))
        apply_delta(folder / "base", folder / "delta", folder / "result")
        return (folder / "result").read_bytes().hex()


READERS: dict[str, Callable[[Case], object]] = {"delta": read_delta_case}
