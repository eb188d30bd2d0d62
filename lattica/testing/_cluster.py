"""Whole nodes on a `MemoryNetwork`, with the same faults as simulated ones.

A `Cluster` runs what a scenario gives it, on hosts of one in-memory network, under Trio's clock
(`trio.testing.MockClock`, so that time costs nothing). It understands the faults of `_faults`, so
one list of them can be played among pure state machines by the thousand and among whole nodes by
the dozen.

    async with open_cluster(run_node, network=MemoryNetwork(latency=0.02)) as cluster:
        for number in range(12):
            await cluster.start(f"node-{number}")
        await cluster.play(churn(names, rng, seconds=600, up_seconds=300, down_seconds=30))

`run_node(host)` is an asynchronous context manager: what it yields is the node, while it runs.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from lattica._nursery import private_nursery
from lattica.transport import MemoryNetwork

from ._faults import apply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica.transport import MemoryTransport

    from ._faults import Fault

Node = TypeVar("Node")


class ClusterHost(Generic[Node]):
    """Where a node runs.

    Attributes:
        name: as the scenario named it; its host on the network is `str(name)`.
        number: how many were there before it.
        network: where its links are.
        disk: survives crashes: whatever the node puts there, a folder's path for example.
        node: what runs here; None while it does not.
    """

    def __init__(self, name: Hashable, number: int, network: MemoryNetwork) -> None:
        self.name, self.number, self.network = name, number, network
        self.disk: dict[str, Any] = {}
        self.node: Node | None = None
        self._ended: trio.CancelScope | None = None
        self._gone = trio.Event()

    @property
    def transport(self) -> MemoryTransport:
        """A way into the network, for `open_mesh`."""
        return self.network.transport(str(self.name))


class Cluster(Generic[Node]):
    """Hosts of one network. Made by `open_cluster`."""

    def __init__(
        self,
        run: Callable[[ClusterHost[Node]], AbstractAsyncContextManager[Node]],
        network: MemoryNetwork,
        nursery: trio.Nursery,
    ) -> None:
        self.network = network
        self.hosts: dict[Hashable, ClusterHost[Node]] = {}
        self._run, self._nursery = run, nursery
        self._latency = network.latency
        self._groups: dict[str, int] | None = None
        self._cuts: set[frozenset[str]] = set()

    async def start(self, name: Hashable) -> Node:
        """Start a new host, or one that has crashed, and return its node once it runs."""
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = ClusterHost(name, len(self.hosts), self.network)
            self._cut_off(host)
        if host._ended is not None:
            await host._gone.wait()
        await self._nursery.start(self._serve, host)
        assert host.node is not None
        return host.node

    def nodes(self) -> list[Node]:
        """Return the nodes that run, in the order their hosts were added."""
        return [host.node for host in self.hosts.values() if host.node is not None]

    async def play(self, faults: Iterable[Fault]) -> None:
        """Carry out faults, each in its time from now; returns after the last."""
        began_at = trio.current_time()
        for fault in faults:
            await trio.sleep_until(began_at + fault.at)
            apply(fault, self)

    # What goes wrong; see `_faults.Faults`.

    def partition(self, groups: Sequence[Sequence[Hashable]]) -> None:
        """Let only hosts of one group reach each other; those in no group are one more."""
        self.heal()
        self._groups = {
            str(name): number for number, group in enumerate(groups, 1) for name in group
        }
        for host in self.hosts.values():
            self._cut_off(host)

    def heal(self) -> None:
        """Let everybody reach everybody. What was sent meanwhile arrives now."""
        self._groups = None
        for one, other in sorted(map(sorted, self._cuts)):
            self.network.heal(one, other)
        self._cuts.clear()

    def crash(self, host: Hashable) -> None:
        """Break all links of a host at once, and end what runs there."""
        crashed = self.hosts[host]
        if crashed._ended is not None:
            self.network.crash(str(host))
            crashed.node = None
            crashed._ended.cancel()

    def restart(self, host: Hashable) -> None:
        """Start a host that has crashed again, in the background. One that runs goes on."""
        if self.hosts[host].node is None:
            self._nursery.start_soon(self._start_again, host)

    def degrade(self, *, loss: float, slowdown: float) -> None:
        """Make all links slow. Streams lose nothing: a lost piece comes later, on average by half.

        So loss shows as latency, which is what it is above TCP.
        """
        self.network.latency = self._latency * slowdown * (1 + loss / max(1e-9, 1 - loss))

    async def _start_again(self, name: Hashable) -> None:
        if self.hosts[name].node is None:
            await self.start(name)

    def _cut_off(self, host: ClusterHost[Node]) -> None:
        if self._groups is None:
            return
        name = str(host.name)
        for other in map(str, self.hosts):
            pair = frozenset((name, other))
            if self._groups.get(name, 0) != self._groups.get(other, 0) and pair not in self._cuts:
                self.network.cut(name, other)
                self._cuts.add(pair)

    async def _serve(self, host: ClusterHost[Node], *, task_status: trio.TaskStatus[None]) -> None:
        host._gone = trio.Event()
        try:
            with trio.CancelScope() as host._ended:
                async with self._run(host) as host.node:
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            host.node = host._ended = None
            host._gone.set()


@asynccontextmanager
async def open_cluster(
    run: Callable[[ClusterHost[Node]], AbstractAsyncContextManager[Node]],
    *,
    network: MemoryNetwork | None = None,
) -> AsyncIterator[Cluster[Node]]:
    """Run whole nodes until the block ends.

    Args:
        run: makes the node of a host, and is its lifetime; entered again after each restart.
        network: where the hosts are; a perfect one of their own if not given.
    """
    async with private_nursery() as nursery:
        yield Cluster(run, network if network is not None else MemoryNetwork(), nursery)
        nursery.cancel_scope.cancel()
