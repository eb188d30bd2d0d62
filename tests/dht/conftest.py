"""Whole DHT nodes on an in-memory network."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.dht import Dht, open_dht
from lattica.identity import Identity, PeerId
from lattica.transport import MemoryNetwork, Mesh, Multiaddr, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EPOCH = 1_800_000_000.0  # what the wall clock says when a test begins


@dataclass
class Node:
    mesh: Mesh
    dht: Dht
    host: str
    ended: trio.CancelScope
    gone: trio.Event

    @property
    def peer(self) -> PeerId:
        return self.mesh.peer_id

    @property
    def address(self) -> Multiaddr:
        return self.mesh.addresses[0].with_peer(self.peer)


@dataclass
class Swarm:
    """Nodes that one nursery runs; each has its own host, so that it can be cut off or crash."""

    nursery: trio.Nursery
    network: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(latency=0.01))
    nodes: list[Node] = field(default_factory=list)

    def identity(self, number: int) -> Identity:
        return Identity(number.to_bytes(32, "big"))

    async def start(
        self,
        number: int,
        *,
        bootstrap: tuple[Multiaddr, ...] = (),
        server: bool = True,
        protocol: str = "/lattica/kad/1.0.0",
        listen: str = "/memory/0",
        host: str | None = None,
        skew: float = 0.0,
        **options: Any,
    ) -> Node:
        """Start the node of that number (its identity), and return it running.

        `skew` says by how many seconds its clock is ahead; `options` are more for `open_dht`.
        """
        options |= {"server": server, "protocol": protocol, "bootstrap": bootstrap}
        options["wall_clock"] = lambda: EPOCH + trio.current_time() + skew
        node: Node = await self.nursery.start(self._run, number, listen, host, options)
        self.nodes.append(node)
        return node

    async def start_many(self, count: int) -> list[Node]:
        """Start nodes that join through the first, and let them get to know each other."""
        first = await self.start(1)
        others = [await self.start(n + 2, bootstrap=(first.address,)) for n in range(count - 1)]
        for node in others:
            await node.dht.wait_joined()
        await trio.sleep(5.0)
        return [first, *others]

    def stop(self, node: Node) -> None:
        """End a node as if its process had been told to."""
        node.ended.cancel()
        self.nodes.remove(node)

    async def _run(
        self,
        number: int,
        listen: str,
        host: str | None,
        options: dict[str, Any],
        *,
        task_status: trio.TaskStatus[Node],
    ) -> None:
        transport = self.network.transport(host)
        gone = trio.Event()
        with trio.CancelScope() as scope:
            async with AsyncExitStack() as stack:
                mesh = await stack.enter_async_context(
                    open_mesh(
                        self.identity(number),
                        listen=[Multiaddr.parse(listen)],
                        transports=[transport],
                    )
                )
                dht = await stack.enter_async_context(
                    open_dht(mesh, rng=random.Random(number), **options)
                )
                task_status.started(Node(mesh, dht, transport.host, scope, gone))
                await trio.sleep_forever()
        gone.set()


@asynccontextmanager
async def open_swarm() -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    async with open_swarm() as opened:
        yield opened
