"""py-libp2p's services on our mesh, against a stock py-libp2p host. Needs the extra `libp2p`."""

from __future__ import annotations

import contextlib
import logging
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from lattica.private_swarm import KeyRing
from lattica.testing import sample_identity
from lattica.transport import Multiaddr, open_mesh
from lattica.transport.libp2p import Libp2pMissing, open_libp2p_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.transport import Mesh
    from lattica.transport._libp2p_host import MeshHost

LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
DEADLINE_S = 20.0


async def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "libp2p.abc", None)
    monkeypatch.setitem(sys.modules, "libp2p", None)
    monkeypatch.delitem(sys.modules, "lattica.transport._libp2p_host", raising=False)
    async with open_mesh(sample_identity(0)) as mesh:
        with pytest.raises(Libp2pMissing) as caught:
            async with open_libp2p_host(mesh):
                pytest.fail("it runs without py-libp2p")
        assert "pip install" in caught.value.hint


@pytest.fixture(scope="module")
def libp2p() -> Any:
    handlers = list(logging.getLogger().handlers)
    module = pytest.importorskip("libp2p")
    yield module
    logging.getLogger().handlers[:] = handlers  # importing it changes the root logger


@asynccontextmanager
async def bridged(number: int = 0) -> AsyncIterator[tuple[Mesh, MeshHost]]:
    async with open_mesh(sample_identity(number), listen=[LOOPBACK]) as mesh:
        async with open_libp2p_host(mesh) as host:
            with trio.fail_after(DEADLINE_S):
                yield mesh, host


@asynccontextmanager
async def stock(libp2p: Any) -> AsyncIterator[Any]:
    """A py-libp2p host as it ships: its own swarm, Noise and yamux."""
    import multiaddr
    from libp2p.crypto.ed25519 import create_new_key_pair

    listen = [multiaddr.Multiaddr(str(LOOPBACK))]
    host = libp2p.new_host(key_pair=create_new_key_pair(), listen_addrs=listen)

    async def no_dials() -> None:
        """Stands in for what would dial every peer it hears of."""

    host.get_network().auto_connector.maybe_connect = no_dials
    async with host.run(listen):
        yield host


def info(host: Any) -> Any:
    from libp2p.peer.peerinfo import PeerInfo

    return PeerInfo(host.get_id(), host.get_addrs())


async def test_their_ping_service_runs_on_our_mesh_in_both_directions(libp2p: Any) -> None:
    from libp2p.host.ping import ID as PING, PingService

    async with stock(libp2p) as theirs, bridged() as (mesh, ours):
        service = PingService(ours)
        ours.set_stream_handler(PING, service.handle_ping)
        await ours.connect(info(theirs))
        assert len(await service.ping(theirs.get_id(), 3)) == 3
        assert len(await PingService(theirs).ping(ours.get_id(), 3)) == 3
        assert await mesh.ping(mesh.connections()[0].peer) > 0


async def test_their_identify_runs_on_our_mesh_in_both_directions(libp2p: Any) -> None:
    from libp2p.identity.identify import ID as IDENTIFY, identify_handler_for
    from libp2p.identity.identify.identify import parse_identify_response

    async with stock(libp2p) as theirs, bridged() as (_, ours):
        ours.set_stream_handler(IDENTIFY, identify_handler_for(ours))
        await theirs.connect(info(ours))
        for asks, answers in ((theirs, ours), (ours, theirs)):
            stream = await asks.new_stream(answers.get_id(), [IDENTIFY])
            answer = b""
            while True:
                try:
                    answer += await stream.read(4096)
                except EOFError:
                    break
            message = parse_identify_response(answer)
            assert message.public_key == answers.get_public_key().serialize()
            assert "/ipfs/ping/1.0.0" in message.protocols
            assert message.listen_addrs


async def test_our_identify_reaches_their_peer_store_and_theirs_ours(libp2p: Any) -> None:
    async with stock(libp2p) as theirs, bridged() as (mesh, ours):
        async with mesh.events() as events:
            await ours.connect(info(theirs))
            while not mesh.book.protocols(mesh.connections()[0].peer):
                await events.receive()
            peer_id = theirs.get_id()
            while not ours.get_peerstore().get_protocols(peer_id):
                await trio.lowlevel.checkpoint()
            assert "/ipfs/ping/1.0.0" in ours.get_peerstore().get_protocols(peer_id)
            assert "py-libp2p" in mesh.book.agent(mesh.connections()[0].peer)


async def test_their_rendezvous_runs_on_our_mesh_as_server_and_client(libp2p: Any) -> None:
    from libp2p.discovery.rendezvous.discovery import RendezvousDiscovery
    from libp2p.discovery.rendezvous.service import RendezvousService

    async with stock(libp2p) as theirs, bridged() as (_, ours):
        await theirs.connect(info(ours))
        for server, client in ((ours, theirs), (theirs, ours)):
            RendezvousService(server)
            discovery = RendezvousDiscovery(client, server.get_id())
            assert await discovery.advertise("swarm", 7200) == 7200
            (found,) = await discovery.find_all_peers("swarm")
            assert found.peer_id == client.get_id()
            assert found.addrs


async def test_what_a_peer_does_not_speak_is_refused_when_the_stream_is_opened(libp2p: Any) -> None:
    from libp2p.host.exceptions import ConnectionFailure, StreamFailure
    from libp2p.peer.id import ID
    from libp2p.peer.peerinfo import PeerInfo

    async with stock(libp2p) as theirs, bridged() as (mesh, ours):
        await ours.connect(info(theirs))
        for protocols in (["/nobody/1"], ["/nobody/1", "/nobody/2"]):
            with pytest.raises(StreamFailure):
                await ours.new_stream(theirs.get_id(), protocols)
        assert mesh.connections()
        with pytest.raises(ConnectionFailure):
            await ours.connect(PeerInfo(ID(sample_identity(9).peer_id.raw), []))


async def test_their_handlers_cannot_take_the_node_down(
    libp2p: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from libp2p.network.stream.exceptions import StreamError

    async with bridged(0) as (_, alice), bridged(1) as (mesh, bob):

        async def faulty(stream: Any) -> None:
            raise KeyError("bug")

        async def strict(stream: Any) -> None:
            await stream.read(1)
            raise StreamError("the peer sent nonsense")

        alice.set_stream_handler("/faulty/1", faulty)
        alice.set_stream_handler("/strict/1", strict)
        await bob.connect(info(alice))
        for protocol in ("/faulty/1", "/strict/1"):
            stream = await bob.new_stream(alice.get_id(), [protocol])
            with pytest.raises(StreamError):
                await stream.write(b"x")
                await stream.read(1)
        assert mesh.connections()
    errors = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert len(errors) == 1


async def test_notifees_hear_of_peers_that_come_and_go(libp2p: Any) -> None:
    heard: list[str] = []

    class Notifee:
        async def connected(self, network: Any, conn: Any) -> None:
            heard.append(f"+{conn.muxed_conn.peer_id}")

        async def disconnected(self, network: Any, conn: Any) -> None:
            heard.append(f"-{conn.muxed_conn.peer_id}")
            raise KeyError("their bug")

    async with bridged(0) as (_, alice), bridged(1) as (mesh, bob):
        bob.get_network().register_notifee(Notifee())
        await bob.connect(info(alice))
        assert bob.get_connected_peers() == [alice.get_id()]
        (conn,) = bob.get_network().get_connections(alice.get_id())
        assert conn is bob.get_network().get_connection(alice.get_id())
        assert conn is not None
        assert conn.get_remote_address() == ("127.0.0.1", int(alice.mesh.addresses[0].parts[1][1]))
        await bob.disconnect(alice.get_id())
        while len(heard) < 2:
            await trio.lowlevel.checkpoint()
        assert heard == [f"+{alice.get_id()}", f"-{alice.get_id()}"]
        assert mesh.connections() == []


async def test_the_mesh_serves_as_before_when_the_host_is_gone(libp2p: Any) -> None:
    async with open_mesh(sample_identity(0), listen=[LOOPBACK]) as mesh:
        before = mesh.protocols
        async with open_libp2p_host(mesh) as host:

            async def serve(stream: Any) -> None: ...

            host.set_stream_handler("/ipfs/ping/1.0.0", serve)
            host.set_stream_handler("/theirs/1", serve)
            host.set_stream_handler("/theirs/1", serve)
            assert "/theirs/1" in host.get_mux().get_protocols()
        assert mesh.protocols == before
        async with open_mesh(sample_identity(1)) as other:
            await other.connect(mesh.peer_id, mesh.addresses)
            assert await other.ping(mesh.peer_id) > 0


async def test_the_private_key_is_not_handed_over(libp2p: Any) -> None:
    async with bridged() as (mesh, host):
        key = host.get_private_key()
        assert mesh.identity.public_key.verify(b"x", key.sign(b"x"))
        with pytest.raises(TypeError):
            key.to_bytes()


async def test_a_relayed_connection_is_one_of_the_mesh(libp2p: Any) -> None:
    """Their raw connections over a stream of a third node: what a relay client asks of us."""
    from libp2p.connection_types import ConnectionType
    from libp2p.network.connection.raw_connection import RawConnection

    async with bridged(0) as (_, alice), bridged(1) as (_, relay), bridged(2) as (mesh, bob):
        await alice.connect(info(relay))
        await bob.connect(info(relay))
        accepted = trio.Event()

        async def splice(stream: Any) -> None:
            onward = await relay.new_stream(alice.get_id(), ["/stop/1"])

            async def copy(source: Any, sink: Any) -> None:
                while True:
                    try:
                        await sink.write(await source.read(4096))
                    except EOFError:
                        return

            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, stream, onward)
                nursery.start_soon(copy, onward, stream)

        async def stop(stream: Any) -> None:
            raw = RawConnection(stream, False, ConnectionType.RELAYED, info(relay).addrs)
            conn = await alice.upgrade_inbound_connection(raw, info(relay).addrs[0])
            assert conn.get_connection_type() is ConnectionType.RELAYED
            accepted.set()
            await conn.connection.closed.wait()

        relay.set_stream_handler("/hop/1", splice)
        alice.set_stream_handler("/stop/1", stop)
        stream = await bob.new_stream(relay.get_id(), ["/hop/1"])
        raw = RawConnection(stream, True, ConnectionType.RELAYED, info(relay).addrs)
        conn = await bob.upgrade_outbound_connection(raw, alice.get_id())
        assert conn.get_connection_type() is ConnectionType.RELAYED
        await accepted.wait()
        assert await mesh.ping(alice.mesh.peer_id) > 0
        assert len(mesh.connections()) == 2
        await bob.disconnect(alice.get_id())
        assert len(mesh.connections()) == 1


class PipedConn:
    """A raw connection of theirs over an in-memory pipe, as a relay would bring one."""

    def __init__(self, stream: trio.abc.Stream, addresses: list[Any]) -> None:
        self._stream, self._addresses = stream, addresses

    async def read(self, size: int) -> bytes:
        return bytes(await self._stream.receive_some(size))

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()

    def get_transport_addresses(self) -> list[Any]:
        return self._addresses


async def test_a_private_node_takes_no_stranger_in_that_their_services_bring(libp2p: Any) -> None:
    """Whatever carries a link, membership is proven inside it: there is no way around."""
    from libp2p.network.exceptions import SwarmException

    ring = KeyRing.generate()
    keys = SimpleNamespace(live=lambda: ring.keys)
    async with (
        bridged(0) as (public, stranger),
        open_mesh(sample_identity(1), listen=[LOOPBACK], swarm=keys) as private,
        open_libp2p_host(private) as member,
    ):
        with trio.fail_after(DEADLINE_S):
            for inbound in (True, False):
                ours, theirs = trio.testing.memory_stream_pair()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_is_refused, stranger, theirs, private, not inbound)
                    with pytest.raises(SwarmException, match="private swarm"):
                        await member.get_network().adopt(
                            PipedConn(ours, info(stranger).addrs), inbound=inbound, expected=None
                        )
        assert not private.connections()
        assert not public.connections()


async def _is_refused(host: Any, stream: trio.abc.Stream, other: Mesh, inbound: bool) -> None:
    from libp2p.network.exceptions import SwarmException

    with contextlib.suppress(SwarmException):
        await host.get_network().adopt(PipedConn(stream, []), inbound=inbound, expected=None)
        raise AssertionError(f"{other.peer_id} was let in")


async def test_a_stream_read_to_its_end_is_bounded(
    libp2p: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from libp2p.network.stream.exceptions import StreamReset

    from lattica.transport import _libp2p_parts

    monkeypatch.setattr(_libp2p_parts, "MAX_WHOLE_BYTES", 1000)
    outcome: list[Exception] = []
    async with bridged(0) as (_, alice), bridged(1) as (_, bob):

        async def read_all(stream: Any) -> None:
            try:
                await stream.read()
            except StreamReset as error:
                outcome.append(error)

        alice.set_stream_handler("/whole/1", read_all)
        await bob.connect(info(alice))
        stream = await bob.new_stream(alice.get_id(), ["/whole/1"])
        await stream.write(bytes(5000))
        with pytest.raises(StreamReset):
            await stream.read(1)
    assert len(outcome) == 1
