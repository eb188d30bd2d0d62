"""What a node tells the swarms it joined, and when."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from lattica._swarm import Swarms
from lattica.cid import CID
from lattica.identity import Identity
from lattica.pubsub import Pubsub, open_pubsub
from lattica.transport import MemoryNetwork, Multiaddr, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from lattica.transport import Mesh

SHARED = cast(
    "Any", SimpleNamespace(root=CID.of(b"a model"), name="model.safetensors", size=1 << 30)
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without worker threads: they take real time, and the clock would jump meanwhile."""

    async def run_at_once(work: Callable[[], object]) -> object:
        await trio.lowlevel.checkpoint()
        return work()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)


@asynccontextmanager
async def open_node(network: MemoryNetwork, number: int) -> AsyncIterator[tuple[Mesh, Pubsub]]:
    identity, where = Identity(bytes([number]) * 32), Multiaddr.parse(f"/memory/{number}")
    async with (
        open_mesh(identity, listen=[where], transports=[network.transport()]) as mesh,
        open_pubsub(mesh) as pubsub,
    ):
        yield mesh, pubsub


async def test_who_joins_a_little_later_hears_soon_what_is_shared(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork(latency=0.01)
    async with (
        open_node(network, 1) as (sharing, its_pubsub),
        open_node(network, 2) as (late, late_pubsub),
        trio.open_nursery() as nursery,
    ):
        await Swarms(sharing.peer_id, its_pubsub, lambda: [SHARED], nursery).join("public")
        await trio.sleep(60.0)
        newcomer = Swarms(late.peer_id, late_pubsub, list, nursery)
        await newcomer.join("public")
        await late.connect(sharing.peer_id, sharing.addresses)
        await trio.sleep(60.0)
        assert [each.cid for each in newcomer.heard.all()] == [SHARED.root]
        nursery.cancel_scope.cancel()


async def test_in_the_long_run_objects_are_announced_every_ten_minutes(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork()
    async with open_node(network, 1) as (mesh, pubsub), trio.open_nursery() as nursery:
        await Swarms(mesh.peer_id, pubsub, lambda: [SHARED], nursery).join("public")
        await trio.sleep(3600.0)
        before = pubsub.statistics.published
        await trio.sleep(6000.0)
        assert pubsub.statistics.published - before == 10
        nursery.cancel_scope.cancel()
