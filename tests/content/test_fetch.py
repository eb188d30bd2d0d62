"""Fetching over whole meshes on an in-memory network: files, directories, several providers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lattica.content import FetchDone, FetchProgress, FetchStarted

if TYPE_CHECKING:
    from trio.testing import MockClock

MIB = 1 << 20
LEAF = 256 << 10


@pytest.mark.parametrize("size", [0, 1, LEAF, LEAF + 1, 5 * MIB + 123])
async def test_a_file_arrives_as_it_was(swarm, size: int, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", size))
        fetched = await receiver.fetch(shared.root, seed)
        assert fetched.stored.path.read_bytes() == shared.path.read_bytes()
        assert fetched.received_bytes == size
        assert receiver.events[-1].received_bytes == size
