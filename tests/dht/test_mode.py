"""Server or client: nodes that others cannot reach stand in nobody's table, all others do."""

from __future__ import annotations

import ipaddress
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from lattica.dht._mode import HOLD_SECONDS, VISITED_SECONDS, Evidence, Mode
from lattica.transport import Multiaddr

from .internet import Internet, open_internet_node

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.dht import Dht
    from lattica.transport import Mesh

OURS, THEIRS = ipaddress.ip_address("1.2.3.4"), ipaddress.ip_address("8.8.8.8")
PRIVATE = frozenset({ipaddress.ip_address("192.168.1.7")})
BEHIND_A_NAT = Evidence(
    listens=True, public_peers=True, public_ips={THEIRS: 3}, interface_ips=PRIVATE
)


def test_a_node_that_listens_is_a_server_until_it_is_known_to_be_out_of_reach() -> None:
    mode = Mode(listens=True)
    for evidence in (
        Evidence(listens=True),
        Evidence(listens=True, interface_ips=PRIVATE),
        Evidence(listens=True, public_peers=True, interface_ips=PRIVATE),
        Evidence(listens=True, public_peers=True, public_ips={THEIRS: 2}, interface_ips=PRIVATE),
        Evidence(
            listens=True, public_peers=True, public_ips={THEIRS: 3, OURS: 3}, interface_ips=PRIVATE
        ),
        Evidence(
            listens=True,
            public_peers=True,
            public_ips={OURS: 9},
            interface_ips=PRIVATE | {OURS},
        ),
        Evidence(
            listens=True,
            announces_public=True,
            public_peers=True,
            public_ips={THEIRS: 9},
            interface_ips=PRIVATE,
        ),
    ):
        assert not mode.choose(evidence, now=0.0)
        assert mode.is_server
    assert mode.choose(BEHIND_A_NAT, now=0.0)
    assert not mode.is_server
    assert mode.why == "it is behind a NAT: others see it at 8.8.8.8"


def test_a_node_that_does_not_listen_is_a_client() -> None:
    mode = Mode(listens=False)
    mode.note_visit(0.0)
    assert not mode.choose(Evidence(listens=False, announces_public=True), now=0.0)
    assert not mode.is_server


def test_a_visit_from_the_internet_makes_a_server_for_an_hour() -> None:
    mode = Mode(listens=True)
    mode.note_visit(0.0)
    assert not mode.choose(BEHIND_A_NAT, now=VISITED_SECONDS - 1)
    assert mode.next_look() == VISITED_SECONDS
    assert mode.choose(BEHIND_A_NAT, now=VISITED_SECONDS)
    assert not mode.is_server
    mode.note_visit(2 * VISITED_SECONDS)
    assert mode.choose(BEHIND_A_NAT, now=2 * VISITED_SECONDS)
    assert mode.is_server


def test_a_node_that_has_lost_the_internet_serves_those_around_it() -> None:
    mode = Mode(listens=True)
    assert mode.choose(BEHIND_A_NAT, now=0.0)
    alone = Evidence(listens=True, public_ips={THEIRS: 3}, interface_ips=PRIVATE)
    assert not mode.choose(alone, now=HOLD_SECONDS - 1)
    assert mode.next_look() == HOLD_SECONDS
    assert mode.choose(alone, now=HOLD_SECONDS)
    assert mode.is_server


# Whole nodes, on an internet in memory.


async def open_cloud(
    stack: AsyncExitStack, internet: Internet, count: int
) -> list[tuple[Mesh, Dht]]:
    """Servers in networks of their own."""
    nodes: list[tuple[Mesh, Dht]] = []
    for number in range(count):
        bootstrap = (nodes[0][0].addresses[0],) if nodes else ()
        node = open_internet_node(internet, 1 + number, f"20.{number}.1.1", bootstrap=bootstrap)
        nodes.append(await stack.enter_async_context(node))
    return nodes


async def test_a_node_behind_a_nat_becomes_a_client_and_leaves_the_tables_of_others(
    autojump_clock: MockClock,
) -> None:
    internet = Internet()
    async with AsyncExitStack() as stack:
        cloud = await open_cloud(stack, internet, 5)
        bootstrap = (cloud[0][0].addresses[0],)
        home = open_internet_node(
            internet, 50, "192.168.1.7", router="90.1.1.1", bootstrap=bootstrap
        )
        mesh, dht = await stack.enter_async_context(home)
        assert dht.server
        await trio.sleep(60.0)
        assert not dht.server
        assert dht.status().server_why == "it is behind a NAT: others see it at 90.1.1.1"
        for _, other in cloud:
            assert other.server
            assert mesh.peer_id not in [contact.peer for contact in other.peers()]
        assert await dht.provide(b"\x12\x20" + bytes(32)) == 5


async def test_a_node_whose_router_forwards_its_port_is_found_out_and_serves(
    autojump_clock: MockClock,
) -> None:
    internet = Internet()
    async with AsyncExitStack() as stack:
        cloud = await open_cloud(stack, internet, 5)
        bootstrap = (cloud[0][0].addresses[0],)
        home = open_internet_node(
            internet, 50, "10.0.0.7", router="90.1.1.1", forwards=True, bootstrap=bootstrap
        )
        mesh, dht = await stack.enter_async_context(home)
        await trio.sleep(60.0)
        outside = Multiaddr.parse("/ip4/90.1.1.1/tcp/4001")
        assert mesh.addresses[0] == outside, "several networks see it there"
        await cloud[3][0].disconnect(mesh.peer_id)
        await cloud[3][0].connect(mesh.peer_id, [outside])
        await trio.sleep(65.0)  # no mode is shorter than a minute
        assert dht.server
        assert dht.status().server_why == "a peer came in from the internet"
        assert mesh.peer_id in [contact.peer for contact in cloud[3][1].peers()]


async def test_two_nodes_on_a_local_network_serve_each_other_at_once(
    autojump_clock: MockClock,
) -> None:
    internet = Internet()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(open_internet_node(internet, 1, "192.168.1.1"))
        two = open_internet_node(internet, 2, "192.168.1.2", bootstrap=(one[0].addresses[0],))
        other = await stack.enter_async_context(two)
        with trio.fail_after(5.0):
            await other[1].wait_joined()
            await one[1].wait_joined()
        assert one[1].server
        assert other[1].server
