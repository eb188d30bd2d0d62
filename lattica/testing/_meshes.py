"""Whole nodes in one process: an in-memory network under Trio's clock, for tests and simulations.

Under `trio.testing.MockClock` time costs nothing, and with a seeded random source on the network
its faults repeat. The encryption, the multiplexing and the protocols are the real ones.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.identity import Identity
from lattica.transport import Limits, MemoryNetwork, Multiaddr, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lattica.transport import Mesh

_ANY = Multiaddr.parse("/memory/0")


def sample_identity(number: int, *, seed: int = 0) -> Identity:
    """Return the same identity for the same numbers. Anybody can: never use it outside of tests."""
    return Identity(hashlib.sha256(f"lattica test identity {seed} {number}".encode()).digest())


@asynccontextmanager
async def open_memory_meshes(
    count: int,
    *,
    network: MemoryNetwork | None = None,
    limits: Limits | None = None,
    introduce: bool = True,
    security: Sequence[str] = ("/noise",),
    seed: int = 0,
) -> AsyncIterator[list[Mesh]]:
    """Run `count` meshes on one in-memory network until the block ends.

    Args:
        count: how many.
        network: where they live; a perfect one of their own if not given. The n-th mesh is on the
            host named `node-<n>`, counted from 0, for `cut`, `heal` and `crash`.
        limits: every bound, of each.
        introduce: put everybody's address into everybody's address book.
        security: protocols to offer and to accept.
        seed: the n-th identity is the same for the same seed.
    """
    network = network if network is not None else MemoryNetwork()
    async with AsyncExitStack() as stack:
        meshes = [
            await stack.enter_async_context(
                open_mesh(
                    sample_identity(number, seed=seed),
                    listen=[_ANY],
                    transports=[network.transport(f"node-{number}")],
                    limits=limits,
                    security=security,
                )
            )
            for number in range(count)
        ]
        if introduce:
            now = trio.current_time()
            for mesh in meshes:
                for other in meshes:
                    if other is not mesh:
                        mesh.book.add(other.peer_id, other.addresses, now=now, ttl=math.inf)
        yield meshes
