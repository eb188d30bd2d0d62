"""What strangers can make a node hold: each bound, reached."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import DialError, Limits, Multiaddr, StreamReset, open_mesh
from lattica.transport._connections import source_of
from lattica.transport.tcp import TcpListener, TcpTransport

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.transport import MemoryNetwork, Stream
    from lattica.transport.memory import MemoryLink

TINY = Limits(
    connections=3,
    connections_per_peer=2,
    pending_inbound=4,
    pending_inbound_per_ip=2,
    handshake_timeout_s=5,
    handlers_per_peer=3,
    pings_per_peer=1,
)


async def is_closed(link: MemoryLink) -> bool:
    """Say whether the other end has closed `link`, without waiting."""
    await wait_all_tasks_blocked()
    with trio.move_on_after(0.01) as scope:
        try:
            return await link.receive_into(memoryview(bytearray(1))) == 0
        except trio.BrokenResourceError:
            return True
    return not scope.cancelled_caught


async def test_handshakes_under_way_are_bounded_per_address_and_in_all(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_memory_meshes(1, network=network, limits=TINY) as (node,):
        attackers = []
        for host in ("a", "b", "c"):
            transport = network.transport(host)
            # A host that listens is seen under one address, whatever it dials from.
            await transport.listen(Multiaddr.parse(f"/memory/{ord(host)}"))
            attackers += [await transport.dial(node.addresses[0]) for _ in range(3)]
            await wait_all_tasks_blocked()
        closed = [await is_closed(link) for link in attackers]
        assert closed == [False, False, True, False, False, True, True, True, True]
        assert node._inbound.pending == 4
        assert node.refused == {"connection-limit": 5}
        # The others are sent away at the deadline, and their places are free again.
        await trio.sleep(5)
        assert all([await is_closed(link) for link in attackers])
        assert node._inbound.pending == 0
        assert node.refused["deadline"] == 4
        async with open_memory_meshes(1, network=network, seed=1) as (friend,):
            await friend.connect(node.peer_id, node.addresses)


async def test_connections_are_bounded_per_peer_and_in_all(network: MemoryNetwork) -> None:
    async with (
        open_memory_meshes(1, network=network, limits=TINY) as (node,),
        open_memory_meshes(3, network=network, seed=1) as peers,
    ):
        for peer, expected in zip(peers, (2, 1, 0), strict=True):
            for _ in range(3):
                # In all, the refusal comes before the handshake; per peer, it comes after.
                with suppress(DialError):
                    await peer.dial(node.addresses[0])
            await wait_all_tasks_blocked()
            assert len(peer.connections()) == expected
            assert len(node._table.to(peer.peer_id)) == expected
        assert len(node.connections()) == 3
        assert node.refused["connection-limit"] > 0
        await peers[0].disconnect(node.peer_id)
        await wait_all_tasks_blocked()
        await peers[2].connect(node.peer_id, node.addresses)
        assert len(node.connections()) == 2


async def test_a_crowded_node_lets_idle_peers_go_and_keeps_busy_ones(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    limits = Limits(connections=5, crowded_at=4, idle_after_s=10)
    async with (
        open_memory_meshes(1, network=network, limits=limits) as (node,),
        open_memory_meshes(12, network=network, seed=1) as (busy, *others),
    ):

        async def hold(stream: Stream) -> None:
            await stream.send_all(b"x")
            await trio.sleep_forever()

        node.handle("/hold/1", hold)
        stream = await busy.open_stream(node.peer_id, "/hold/1", addresses=node.addresses)
        assert await stream.receive_some() == b"x"
        for other in others:
            await other.connect(node.peer_id, node.addresses)
            await trio.sleep(11)
            assert node.connected(other.peer_id) is not None
        assert node.connected(busy.peer_id) is not None
        assert len(node.connections()) == 4


async def test_handlers_are_bounded_per_peer(network: MemoryNetwork) -> None:
    async with (
        open_memory_meshes(1, network=network, limits=TINY) as (node,),
        open_memory_meshes(2, network=network, seed=1) as (alice, bob),
    ):
        leave = trio.Event()

        async def hold(stream: Stream) -> None:
            await stream.send_all(b"x")
            await leave.wait()

        node.handle("/hold/1", hold)
        await alice.connect(node.peer_id, node.addresses)
        await bob.connect(node.peer_id, node.addresses)
        await wait_all_tasks_blocked()
        for peer in (alice, bob):
            for _ in range(3):
                stream = await peer.open_stream(node.peer_id, "/hold/1")
                assert await stream.receive_some() == b"x"
            stream = await peer.open_stream(node.peer_id, "/hold/1")
            with pytest.raises(StreamReset):
                await stream.receive_some()
        assert node.refused["handler-limit"] == 2
        leave.set()
        await wait_all_tasks_blocked()
        stream = await alice.open_stream(node.peer_id, "/hold/1")
        assert await stream.receive_some() == b"x"


async def test_handlers_are_bounded_in_all_and_the_last_ones_are_for_peers_with_few(
    network: MemoryNetwork,
) -> None:
    limits = Limits(handlers=16, handlers_per_peer=99)
    async with (
        open_memory_meshes(1, network=network, limits=limits) as (node,),
        open_memory_meshes(2, network=network, seed=1) as (greedy, modest),
    ):

        async def hold(stream: Stream) -> None:
            await stream.send_all(b"x")
            await trio.sleep_forever()

        node.handle("/hold/1", hold)
        for peer, expected in ((greedy, 12), (modest, 4)):
            await peer.connect(node.peer_id, node.addresses)
            await wait_all_tasks_blocked()
            served = 0
            with suppress(StreamReset):
                for _ in range(20):
                    stream = await peer.open_stream(node.peer_id, "/hold/1")
                    assert await stream.receive_some() == b"x"
                    served += 1
            assert served == expected
        assert node._handlers.running == 16


async def test_ping_streams_are_bounded(network: MemoryNetwork) -> None:
    async with (
        open_memory_meshes(1, network=network, limits=TINY) as (node,),
        open_memory_meshes(1, network=network, seed=1) as (alice,),
    ):
        await alice.connect(node.peer_id, node.addresses)
        held = await alice.open_stream(node.peer_id, "/ipfs/ping/1.0.0")
        await held.send_all(bytes(32))
        assert await held.receive_exactly(32) == bytes(32)
        with pytest.raises(StreamReset):
            await alice.ping(node.peer_id)
        assert node.refused["ping-limit"] == 1
        await held.aclose()
        await wait_all_tasks_blocked()
        assert await alice.ping(node.peer_id) >= 0


@pytest.mark.parametrize("seed", range(20))
async def test_garbage_from_strangers_is_survived(
    seed: int, autojump_clock: MockClock, network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    greeting = b"\x13/multistream/1.0.0\n"
    openings = [
        b"",
        greeting,
        greeting + b"\x07/noise\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
    ]
    async with open_memory_meshes(2, network=network) as (node, friend):
        for opening in openings:
            link = await network.transport().dial(node.addresses[0])
            await link.send_some(memoryview(opening + rng.randbytes(rng.randint(1, 200))))
            if rng.random() < 0.5:
                link.close()
            await trio.sleep(0.1)
        await trio.sleep(30)
        assert node._inbound.pending == 0
        assert node.connections() == []
        await friend.connect(node.peer_id)
        assert "unexpected" not in caplog.text


async def test_a_bug_in_a_handshake_is_logged_and_ends_it_alone(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(*_: object, **__: object) -> None:
        raise IndexError("bug")

    async with open_memory_meshes(2, network=network) as (node, friend):
        with monkeypatch.context() as patch:
            patch.setattr("lattica.transport._inbound.upgrade", buggy)
            link = await network.transport().dial(node.addresses[0])
            assert await is_closed(link)
        assert "IndexError: bug" in caplog.text
        await friend.connect(node.peer_id)


async def test_a_node_out_of_descriptors_goes_on_accepting_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = TcpListener.accept
    failures = iter([trio.BusyResourceError("too many open files")])

    async def sometimes(listener: TcpListener) -> object:
        for failure in failures:
            raise failure
        return await accept(listener)

    monkeypatch.setattr(TcpListener, "accept", sometimes)
    address = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
    async with open_mesh(sample_identity(0), listen=[address]) as node:
        async with open_mesh(sample_identity(1)) as friend:
            await friend.connect(node.peer_id, node.addresses)
    assert "too many open files" in caplog.text


def test_one_ipv6_network_counts_as_one_source() -> None:
    near, far = "/ip6/2001:db8:1:2::1/tcp/1", "/ip6/2001:db8:1:2:ffff::9/tcp/7"
    assert source_of(Multiaddr.parse(near)) == source_of(Multiaddr.parse(far))
    assert source_of(Multiaddr.parse(near)) != source_of(
        Multiaddr.parse("/ip6/2001:db8:1:3::1/tcp/1")
    )
    assert source_of(Multiaddr.parse("/ip4/192.0.2.1/tcp/1")) == "192.0.2.1"


async def test_a_mute_tcp_client_is_sent_away() -> None:
    limits = Limits(handshake_timeout_s=0.05)
    address = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
    async with open_mesh(sample_identity(0), listen=[address], limits=limits) as node:
        link = await TcpTransport().dial(node.listen_addresses[0])
        with trio.fail_after(5):
            assert await link.receive_into(memoryview(bytearray(9))) == 0
        link.close()
        assert node.refused == {"deadline": 1}
