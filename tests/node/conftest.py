"""Whole nodes in one process: real homes and files, links in memory."""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

import lattica
from lattica.transport.memory import MemoryNetwork

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path


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
