"""Networks count as one party, but for the node's own: there each machine does."""

from __future__ import annotations

import ipaddress
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from lattica.dht._neighbours import group_beside
from lattica.transport import Multiaddr, ip_group

from .internet import Internet, open_internet_node

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.dht import Dht
    from lattica.transport import Mesh

OURS = frozenset(map(ipaddress.ip_address, ("1.2.3.4", "2a01:4f8:1::4", "192.168.1.7")))


def group(text: str) -> bytes | None:
    return group_beside(Multiaddr.parse(text), OURS)


def test_elsewhere_a_network_is_one_party() -> None:
    for text in ("/ip4/8.8.8.8/tcp/1", "/ip6/2a01:4f8:2::1/tcp/1", "/ip4/192.168.1.9/tcp/1"):
        assert group(text) == ip_group(Multiaddr.parse(text))
    assert group("/ip4/8.8.8.8/tcp/1") == group("/ip4/8.8.8.9/tcp/1")


def test_in_our_own_network_each_machine_is_one() -> None:
    assert group("/ip4/1.2.3.5/tcp/1") != group("/ip4/1.2.3.6/tcp/1")
    assert group("/ip4/1.2.3.5/tcp/1") == group("/ip4/1.2.3.5/tcp/2") is not None
    one, same, other = (f"/ip6/2a01:4f8:1:{net}::{host}/tcp/1" for net, host in ("17", "18", "27"))
    assert group(one) == group(same) is not None
    assert group(one) != group(other)


def test_nodes_on_our_own_machine_are_not_counted() -> None:
    assert group("/ip4/1.2.3.4/tcp/1") is None
    assert group("/ip6/2a01:4f8:1::4/tcp/1") is None


def test_who_comes_through_a_relay_on_our_own_machine_is_counted() -> None:
    relay = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
    assert group(f"/ip4/1.2.3.4/tcp/1/p2p/{relay}/p2p-circuit") is not None


async def test_a_cluster_in_one_public_network_is_a_whole_dht_also_for_those_outside(
    autojump_clock: MockClock,
) -> None:
    internet, outside = Internet(), 16
    nodes: list[tuple[Mesh, Dht]] = []
    async with AsyncExitStack() as stack:
        for number in range(outside + 1):
            ip = f"20.1.1.{1 + number}" if number < outside else "90.1.1.1"
            bootstrap = (nodes[0][0].addresses[0],) if nodes else ()
            node = open_internet_node(internet, 1 + number, ip, bootstrap=bootstrap)
            nodes.append(await stack.enter_async_context(node))
        await trio.sleep(60.0)
        assert {len(dht.peers()) for _, dht in nodes[:outside]} == {outside}
        for number in range(6):
            key = bytes([0x12, 0x20, number]) + bytes(31)
            provider = nodes[number]
            assert await provider[1].provide(key) >= outside - 1
            for asker in (nodes[12], nodes[outside]):
                found = [info.peer async for info in asker[1].find_providers(key)]
                assert found == [provider[0].peer_id]
