"""Fixtures of the transport's tests: meshes on an in-memory network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lattica.testing import open_memory_meshes
from lattica.transport import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.transport import Mesh


@pytest.fixture
def network() -> MemoryNetwork:
    """A network without delays or faults."""
    return MemoryNetwork()


@pytest.fixture
async def mesh_pair(network: MemoryNetwork) -> AsyncIterator[list[Mesh]]:
    """Two meshes that know each other's address and are not connected yet."""
    async with open_memory_meshes(2, network=network) as meshes:
        yield meshes
