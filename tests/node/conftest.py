"""Whole nodes in one process: real homes and files, links in memory."""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio

import lattica
from lattica.transport.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

_T = TypeVar("_T")


class Lab:
    """Opens nodes that reach each other and nobody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = MemoryNetwork()
        self._count = 0

    def node(
        self, name: str, *bootstrap: object, **options: Any
    ) -> AbstractAsyncContextManager[lattica.AsyncNode]:
        """Run a node with the home `name`, which joins through the addresses in `bootstrap`."""
        self._count += 1
        return lattica.open_node(
            self.folder / name,
            listen=[f"/memory/{self._count}"],
            bootstrap=[str(address) for address in bootstrap],
            mdns=False,
            transports=[self.network.transport(name)],
            **options,
        )

    def file(self, name: str, size: int) -> Path:
        """Make a file of seeded noise."""
        path = self.folder / name
        path.write_bytes(random.Random(name).randbytes(size))
        return path

    def safetensors(self, name: str, *lengths: int) -> Path:
        """Make a safetensors file with one tensor of uint8 for each length."""
        header, offset = {}, 0
        for number, length in enumerate(lengths):
            span = [offset, offset + length]
            header[f"t{number}"] = {"dtype": "U8", "shape": [length], "data_offsets": span}
            offset += length
        text = json.dumps(header).encode()
        path = self.folder / name
        path.write_bytes(
            struct.pack("<Q", len(text)) + text + random.Random(name).randbytes(offset)
        )
        return path


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def instant_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker threads take no time: a virtual clock jumps ahead while a real one works."""
    monkeypatch.setattr(trio.to_thread, "run_sync", _run_at_once)
    monkeypatch.setattr(trio.from_thread, "check_cancelled", lambda: None)
    monkeypatch.setattr(trio.from_thread, "run_sync", lambda work, *args: work(*args))


async def _run_at_once(work: Callable[..., _T], *args: object, **_options: object) -> _T:
    await trio.lowlevel.checkpoint_if_cancelled()
    result = work(*args)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return result
