"""Whole nodes under the faults that simulated ones know."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.dht import Dht, open_dht
from lattica.testing import (
    ClusterHost,
    Crash,
    Degrade,
    Heal,
    Partition,
    Restart,
    open_cluster,
    sample_identity,
)
from lattica.transport import MemoryNetwork, Multiaddr, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

FIRST = Multiaddr.parse("/memory/7")


@asynccontextmanager
async def run_node(host: ClusterHost[Dht]) -> AsyncIterator[Dht]:
    listen = FIRST if host.number == 0 else Multiaddr.parse("/memory/0")
    identity = sample_identity(host.number)
    first = FIRST.with_peer(sample_identity(0).peer_id)
    bootstrap = [] if host.number == 0 else [first]
    host.disk["starts"] = host.disk.get("starts", 0) + 1
    async with open_mesh(identity, listen=[listen], transports=[host.transport]) as mesh:
        rng = random.Random(host.number)
        async with open_dht(mesh, bootstrap=bootstrap, rng=rng) as dht:
            yield dht


async def test_one_list_of_faults_is_played_among_whole_nodes(autojump_clock: MockClock) -> None:
    names = [f"node-{number}" for number in range(6)]
    async with open_cluster(run_node, network=MemoryNetwork(latency=0.01)) as cluster:
        for name in names:
            await cluster.start(name)
        for dht in cluster.nodes()[1:]:
            await dht.wait_joined()
        await cluster.play(
            [
                Crash(1.0, "node-3"),
                Partition(2.0, (tuple(names[:2]),)),
                Heal(40.0),
                Restart(41.0, "node-3"),
                Degrade(42.0, slowdown=10.0),
            ]
        )
        assert cluster.network.latency == 0.1
        await trio.sleep(60.0)
        assert cluster.hosts["node-3"].disk["starts"] == 2
        nodes = cluster.nodes()
        assert len(nodes) == 6
        await nodes[3].put("/lattica/key", "after it all")
        for dht in nodes:
            assert (await dht.get("/lattica/key")).value == "after it all"


async def test_a_crash_breaks_links_and_a_partition_holds_for_newcomers(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster(run_node) as cluster:
        await cluster.start("a")
        (await cluster.start("b")).status()
        cluster.partition([["c"]])
        late = await cluster.start("c")
        await trio.sleep(30.0)
        assert late.status().peers == 0
        cluster.heal()
        with trio.fail_after(60.0):
            await late.wait_joined()
        cluster.crash("b")
        cluster.crash("b")
        await trio.testing.wait_all_tasks_blocked()
        assert len(cluster.nodes()) == 2
        assert not any(link.host == "b" for link in cluster.network._links)
        assert await cluster.start("b") is cluster.hosts["b"].node


async def test_hosts_end_with_the_cluster(autojump_clock: MockClock) -> None:
    async with open_cluster(run_node) as cluster:
        await cluster.start("a")
        cluster.restart("a")
    assert cluster.nodes() == []
    assert cluster.network.open_links == 0
