"""A mesh among its peers: connecting, streams, events, the end."""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica._nursery import private_nursery
from lattica.errors import DeadlineExceeded, InvalidInput, Refused, Unreachable
from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import (
    AddressInUse,
    ConnectionLost,
    HandlerTaken,
    Limits,
    MemoryNetwork,
    MeshClosed,
    Multiaddr,
    NoTransport,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
    ProtocolNotSupported,
    SelfDial,
    StreamReset,
    UnknownSecurity,
    open_mesh,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.transport import Mesh, RawLink, Stream

LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
ANY = Multiaddr.parse("/memory/0")


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def say(stream: Stream, data: bytes) -> bytes:
    answer = bytearray()

    async def send() -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with stream, private_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await stream.receive_some():
            answer += piece
    return bytes(answer)


@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_streams_run_both_ways_over_memory(security: str) -> None:
    async with open_memory_meshes(2, security=[security]) as (alice, bob):
        alice.handle("/echo/1", echo)
        bob.handle("/echo/1", echo)
        assert (
            await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"from alice")
            == b"from alice"
        )
        assert (
            await say(await bob.open_stream(alice.peer_id, "/echo/1"), b"from bob") == b"from bob"
        )
        (connection,) = alice.connections()
        assert (connection.peer, connection.inbound, connection.security) == (
            bob.peer_id,
            False,
            security,
        )


@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_streams_run_over_tcp(security: str) -> None:
    async with (
        open_mesh(sample_identity(0), listen=[LOOPBACK], security=[security]) as alice,
        open_mesh(sample_identity(1), security=[security]) as bob,
    ):
        alice.handle("/echo/1", echo)
        (address,) = alice.listen_addresses
        connection = await bob.dial(address.with_peer(alice.peer_id))
        assert connection.security == security
        data = bytes(range(256)) * 4096
        assert await say(await bob.open_stream(alice.peer_id, "/echo/1"), data) == data
        assert bob.listen_addresses == []
        assert 0 < await bob.ping(alice.peer_id) < 1


async def test_the_security_both_have_is_found(network: MemoryNetwork) -> None:
    async with (
        open_memory_meshes(1, network=network, security=["/tls/1.0.0"]) as (alice,),
        open_memory_meshes(1, network=network, seed=1, security=["/noise", "/tls/1.0.0"]) as (bob,),
    ):
        assert (await bob.connect(alice.peer_id, alice.addresses)).security == "/tls/1.0.0"


async def test_a_live_connection_is_used_again(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    connection = await alice.connect(bob.peer_id)
    assert await alice.connect(bob.peer_id) is connection
    assert alice.connected(bob.peer_id) is connection
    assert await alice.dial(bob.addresses[0]) is not connection
    assert alice.connected(bob.peer_id) is connection
    assert len(alice.connections()) == 2


async def test_the_answerer_needs_no_address_of_the_dialer(network: MemoryNetwork) -> None:
    async with open_memory_meshes(2, network=network, introduce=False) as (alice, bob):
        alice.handle("/echo/1", echo)
        await alice.connect(bob.peer_id, bob.addresses)
        await wait_all_tasks_blocked()
        assert await say(await bob.open_stream(alice.peer_id, "/echo/1"), b"hi") == b"hi"
        assert network.open_links == 2


async def test_both_ends_of_a_double_dial_prefer_the_same_connection(
    autojump_clock: MockClock,
) -> None:
    for seed in range(4):
        network = MemoryNetwork(latency=0.01)
        async with open_memory_meshes(2, network=network, seed=seed) as (alice, bob):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.connect, bob.peer_id)
                nursery.start_soon(bob.connect, alice.peer_id)
            await trio.sleep(1)
            ours, theirs = alice.connected(bob.peer_id), bob.connected(alice.peer_id)
            assert ours is not None
            assert theirs is not None
            assert len(alice.connections()) == len(bob.connections()) == 2
            assert ours.inbound != theirs.inbound
            assert ours.local_address == theirs.remote_address
            alice.handle("/echo/1", echo)
            assert await say(await bob.open_stream(alice.peer_id, "/echo/1"), b"x") == b"x"


async def test_events_tell_of_peers_that_come_and_go(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    async with alice.events() as events:
        connection = await alice.connect(bob.peer_id)
        second = await alice.dial(bob.addresses[0])
        connected = await events.receive()
        assert connected == PeerConnected(connection)
        assert connected.peer == bob.peer_id
        for _ in range(2):
            identified = await events.receive()
            assert isinstance(identified, PeerIdentified)
            assert identified.peer == bob.peer_id
            assert "/ipfs/ping/1.0.0" in identified.info.protocols
        await second.aclose()
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()
        await bob.disconnect(alice.peer_id)
        gone = await events.receive()
        assert isinstance(gone, PeerDisconnected)
        assert gone.peer == bob.peer_id
        assert isinstance(gone.reason, ConnectionLost)
    assert not alice.book.protocols(bob.peer_id)
    assert alice.book.addresses(bob.peer_id)


async def test_a_slow_reader_of_events_loses_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(events=2)
    async with open_memory_meshes(4, limits=limits) as (alice, *others):
        async with alice.events() as events:
            for other in others:
                await alice.connect(other.peer_id)
                await wait_all_tasks_blocked()
            last = [events.receive_nowait(), events.receive_nowait()]
            assert [type(event) for event in last] == [PeerConnected, PeerIdentified]
            assert [event.peer for event in last] == [others[2].peer_id] * 2
    assert "events lost" in caplog.text


async def test_a_reader_of_events_that_left_harms_nobody(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    async with alice.events() as events:
        await events.aclose()
        await alice.connect(bob.peer_id)


async def test_disconnecting_ends_streams_and_is_seen_at_once(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    bob.handle("/echo/1", echo)
    stream = await alice.open_stream(bob.peer_id, "/echo/1")
    await stream.send_all(b"x")
    assert await stream.receive_some() == b"x"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bob.disconnect, alice.peer_id)
        # Which of the two comes first, the reset by the handler or the goodbye, is left open.
        with pytest.raises((ConnectionLost, StreamReset)):
            await stream.receive_some()
    await wait_all_tasks_blocked()
    assert alice.connected(bob.peer_id) is None
    assert bob.connected(alice.peer_id) is None
    await alice.disconnect(bob.peer_id)


async def test_a_crash_is_noticed_and_a_restarted_peer_is_reached_at_once(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_memory_meshes(1, network=network) as (alice,):
        restarted = [Multiaddr.parse("/memory/77")]
        for _ in range(2):
            async with open_mesh(
                sample_identity(9), listen=restarted, transports=[network.transport("bob")]
            ) as bob:
                bob.handle("/echo/1", echo)
                stream = await alice.open_stream(bob.peer_id, "/echo/1", addresses=restarted)
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                network.crash("bob")
                with pytest.raises(ConnectionLost):
                    await stream.receive_some()
                assert trio.current_time() == autojump_clock.current_time()
            assert alice.connections() == []


async def test_a_silent_peer_is_given_up(autojump_clock: MockClock, network: MemoryNetwork) -> None:
    async with open_memory_meshes(2, network=network) as (alice, bob):
        connection = await alice.connect(bob.peer_id)
        await trio.sleep(1)
        network.cut("node-0", "node-1")
        start = trio.current_time()
        await connection.closed.wait()
        assert trio.current_time() - start <= 31
        assert alice.connections() == []


async def test_a_stream_is_opened_anew_when_the_connection_was_ending(
    mesh_pair: list[Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = mesh_pair
    bob.handle("/echo/1", echo)
    old = await alice.connect(bob.peer_id)
    await old.aclose()
    connect = alice.connect
    given = iter([old])

    async def connect_late(*args: object) -> object:
        return next(given, None) or await connect(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(alice, "connect", connect_late)
    assert await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"x") == b"x"


async def test_what_nobody_serves_is_refused(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    with pytest.raises(Refused):
        await say(await alice.open_stream(bob.peer_id, "/nobody/1"), b"x")
    with pytest.raises(ProtocolNotSupported):
        await alice.open_stream(bob.peer_id, "/nobody/1", "/nobody/2")
    bob.handle("/echo/1", echo)
    assert await say(await alice.open_stream(bob.peer_id, "/nobody/1", "/echo/1"), b"x") == b"x"
    bob.unhandle("/echo/1")
    bob.unhandle("/echo/1")
    with pytest.raises(Refused):
        await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"x")


async def test_a_protocol_has_one_handler(mesh_pair: list[Mesh]) -> None:
    alice, _ = mesh_pair
    alice.handle("/echo/1", echo)
    for protocol in ("/echo/1", "/ipfs/ping/1.0.0"):
        with pytest.raises(HandlerTaken):
            alice.handle(protocol, echo)
    for protocol in ("", "/a\nb", "/" + "a" * 300):
        with pytest.raises(InvalidInput):
            alice.handle(protocol, echo)
    alice.unhandle("/echo/1")
    alice.handle("/echo/1", echo)


async def test_a_node_does_not_dial_itself(network: MemoryNetwork) -> None:
    async with open_memory_meshes(1, network=network) as (alice,):
        own = alice.addresses[0]
        with pytest.raises(SelfDial):
            await alice.connect(alice.peer_id)
        with pytest.raises(SelfDial):
            await alice.dial(own.with_peer(alice.peer_id))
        # Reached in a way it does not know to be its own.
        async with open_mesh(
            sample_identity(0), transports=[network.transport("elsewhere")]
        ) as twin:
            with pytest.raises(SelfDial):
                await twin.dial(own)
        await wait_all_tasks_blocked()
        assert alice.connections() == []
    assert network.open_links == 0


async def test_the_end_of_a_mesh_closes_everything(network: MemoryNetwork) -> None:
    async with open_memory_meshes(1, network=network) as (alice,):
        async with open_memory_meshes(1, network=network, seed=1) as (bob,):
            bob.handle("/echo/1", echo)
            stream = await alice.open_stream(bob.peer_id, "/echo/1", addresses=bob.addresses)
            await stream.send_all(b"x")
            await stream.receive_some()
        with pytest.raises((ConnectionLost, StreamReset)):
            await stream.receive_some()
        assert bob.connections() == []
        with pytest.raises(MeshClosed):
            await bob.connect(alice.peer_id, alice.addresses)
        with pytest.raises(MeshClosed):
            await bob.dial(alice.addresses[0])
        assert alice.connections() == []
    assert network.open_links == 0


async def test_who_waits_for_a_dial_hears_of_the_end_of_the_mesh(network: MemoryNetwork) -> None:
    await network.transport("mute").listen(Multiaddr.parse("/memory/1"))
    outcomes = []

    async def connect(mesh: Mesh) -> None:
        with pytest.raises(MeshClosed):
            await mesh.connect(sample_identity(9).peer_id, [Multiaddr.parse("/memory/1")])
        outcomes.append("told")

    async with trio.open_nursery() as nursery:
        async with open_memory_meshes(1, network=network) as (alice,):
            nursery.start_soon(connect, alice)
            await wait_all_tasks_blocked()
    assert outcomes == ["told"]


async def test_an_error_in_the_block_leaves_as_itself(network: MemoryNetwork) -> None:
    with pytest.raises(KeyError):
        async with open_memory_meshes(2, network=network) as (alice, bob):
            await alice.connect(bob.peer_id)
            raise KeyError
    assert network.open_links == 0


async def test_a_cancelled_block_says_goodbye_within_its_time(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_memory_meshes(1, network=network) as (alice,):
        start = trio.current_time()
        with trio.move_on_after(5):
            async with open_memory_meshes(1, network=network, seed=1) as (bob,):
                connection = await alice.connect(bob.peer_id, bob.addresses)
                await trio.sleep_forever()
        assert trio.current_time() - start == 5
        await connection.closed.wait()
        assert trio.current_time() - start == 5


async def test_a_mesh_that_cannot_listen_leaves_nothing_behind(network: MemoryNetwork) -> None:
    taken = Multiaddr.parse("/memory/5")
    await network.transport().listen(taken)
    free = Multiaddr.parse("/memory/6")
    with pytest.raises(InvalidInput):
        async with open_mesh(
            sample_identity(0), listen=[free, taken], transports=[network.transport()]
        ):
            pytest.fail("it listens on a taken address")
    (await network.transport().listen(free)).close()
    async with open_mesh(sample_identity(0), listen=[LOOPBACK]) as mesh:
        with pytest.raises(AddressInUse):
            async with open_mesh(sample_identity(1), listen=mesh.listen_addresses):
                pytest.fail("it listens on a taken port")
    with pytest.raises(NoTransport):
        async with open_mesh(sample_identity(0), listen=[ANY]):
            pytest.fail("TCP does not listen there")


async def test_unknown_security_is_refused_at_once() -> None:
    for security in (["/plaintext/2.0.0"], []):
        with pytest.raises(UnknownSecurity):
            async with open_mesh(sample_identity(0), security=security):
                pytest.fail("it does without encryption")


async def test_what_is_announced_can_be_set() -> None:
    public = Multiaddr.parse("/dns4/node.example/tcp/4001")
    identity = sample_identity(0)
    announced = public.with_peer(identity.peer_id)
    async with open_mesh(identity, listen=[LOOPBACK], announce=[announced]) as mesh:
        assert mesh.addresses == [public]
        assert mesh.listen_addresses != [public]


async def test_listening_everywhere_announces_each_interface() -> None:
    everywhere = Multiaddr.parse("/ip4/0.0.0.0/tcp/0")
    async with open_mesh(sample_identity(0), listen=[everywhere]) as mesh:
        (bound,) = mesh.listen_addresses
        assert bound.is_unspecified
        assert Multiaddr((("ip4", "127.0.0.1"), bound.parts[1])) in mesh.addresses
        assert not any(address.is_unspecified for address in mesh.addresses)
        async with open_mesh(sample_identity(1)) as other:
            await other.connect(mesh.peer_id, mesh.addresses)


async def test_names_that_somebody_on_the_internet_told_lead_nobody_into_our_network() -> None:
    async with (
        open_mesh(sample_identity(0), listen=[LOOPBACK]) as mesh,
        open_mesh(sample_identity(1)) as other,
    ):
        port = mesh.listen_addresses[0].parts[1]
        name = Multiaddr((("dns4", "localhost"), port))
        other.book.distrust([name, mesh.listen_addresses[0]])
        with pytest.raises(Unreachable, match="leads to no public address"):
            await other.connect(mesh.peer_id, [name])
        await other.dial(name)  # but whoever runs this node may say so
        await other.disconnect(mesh.peer_id)
        await other.connect(mesh.peer_id, mesh.addresses)


async def test_many_connections_leave_nothing_behind(network: MemoryNetwork) -> None:
    async with open_memory_meshes(2, network=network) as (alice, bob):
        bob.handle("/echo/1", echo)
        await wait_all_tasks_blocked()
        tasks = [len(mesh._nursery.child_tasks) for mesh in (alice, bob)]
        for _ in range(50):
            assert await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"x") == b"x"
            await alice.disconnect(bob.peer_id)
        await wait_all_tasks_blocked()
        for mesh, count in zip((alice, bob), tasks, strict=True):
            assert len(mesh._nursery.child_tasks) == count
            assert len(mesh._table) == 0
            assert mesh._inbound.pending == 0
            assert not mesh._inbound._pending_by_ip
            assert mesh._dialer.pending == 0
            assert mesh._handlers.running == 0
            assert not mesh._handlers._scopes
            assert not mesh._pings.running
            assert mesh._ledger.used_bytes == 0
        assert len(bob.book) <= 1
        assert len(alice.observed_addresses) <= alice.limits.observed_addresses
        assert network.open_links == 0


async def test_a_handler_outlives_its_connection_for_a_while(autojump_clock: MockClock) -> None:
    got: list[bytes] = []
    left: list[float] = []

    async def slow(stream: Stream) -> None:
        await trio.sleep(1)
        got.append(await stream.receive_exactly(5))
        try:
            await trio.sleep_forever()
        finally:
            left.append(trio.current_time())

    async with open_memory_meshes(2) as (alice, bob):
        bob.handle("/slow/1", slow)
        stream = await alice.open_stream(bob.peer_id, "/slow/1")
        await stream.send_all(b"hello")
        await trio.sleep(0.5)
        start = trio.current_time()
        await alice.disconnect(bob.peer_id)
        await trio.sleep(60)
        assert got == [b"hello"]
        assert left == [pytest.approx(start + bob.limits.handler_grace_s)]
        assert bob._handlers.running == 0


class Fault(Exception):
    pass


async def test_whatever_a_handler_raises_ends_its_stream_alone(
    mesh_pair: list[Mesh], caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = mesh_pair

    async def faulty(stream: Stream) -> None:
        raise Fault("our bug")

    async def faulty_in_a_nursery(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(faulty, stream)
            nursery.start_soon(stream.receive_exactly, 99)

    bob.handle("/echo/1", echo)
    bob.handle("/faulty/1", faulty)
    bob.handle("/faulty/2", faulty_in_a_nursery)
    for protocol in ("/faulty/1", "/faulty/2"):
        caplog.clear()
        with pytest.raises(StreamReset):
            await say(await alice.open_stream(bob.peer_id, protocol), b"x")
        (record,) = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
        assert record.exc_info is not None
        assert "our bug" in caplog.text
        assert await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"x") == b"x"
    assert len(alice.connections()) == 1


async def test_faults_of_peers_in_handlers_are_no_alarm(
    mesh_pair: list[Mesh], caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = mesh_pair

    async def strict(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_exactly, 99)

    bob.handle("/strict/1", strict)
    with pytest.raises(StreamReset):
        await say(await alice.open_stream(bob.peer_id, "/strict/1"), b"short")
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


async def test_a_handler_that_returns_has_its_stream_closed(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair

    async def greet(stream: Stream) -> None:
        await stream.send_all(b"hello")

    bob.handle("/greet/1", greet)
    async with await alice.open_stream(bob.peer_id, "/greet/1") as stream:
        assert await stream.receive_exactly(5) == b"hello"
        assert await stream.receive_some() == b""


async def test_a_link_that_somebody_else_opened_is_taken_in(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_memory_meshes(2, network=network, introduce=False) as (alice, bob):
        bob.handle("/echo/1", echo)
        listener = await network.transport("relay").listen(ANY)
        for expected in (None, bob.peer_id):
            ours = await network.transport("relay").dial(listener.addresses[0])
            theirs = await listener.accept()
            async with trio.open_nursery() as nursery:

                async def accept(link: RawLink = theirs) -> None:
                    await bob.adopt(link, inbound=True)

                nursery.start_soon(accept)
                connection = await alice.adopt(ours, inbound=False, expected=expected)
            assert connection.peer == bob.peer_id
        assert await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"x") == b"x"
        ours = await network.transport("relay").dial(listener.addresses[0])
        with pytest.raises(DeadlineExceeded):
            await alice.adopt(ours, inbound=False)
        await alice.disconnect(bob.peer_id)
    (await listener.accept()).close()
    with pytest.raises(MeshClosed):
        await alice.adopt(
            await network.transport("relay").dial(listener.addresses[0]), inbound=True
        )
    (await listener.accept()).close()
    assert network.open_links == 0


async def test_twenty_meshes_talk_to_each_other(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=0.02, bandwidth=1e6)
    async with open_memory_meshes(20, network=network) as meshes:
        for mesh in meshes:
            mesh.handle("/echo/1", echo)
        async with trio.open_nursery() as nursery:
            for mesh in meshes:
                for other in meshes[:5]:
                    if other is not mesh:
                        nursery.start_soon(mesh.ping, other.peer_id)
        assert all(mesh.connections() for mesh in meshes)


async def test_a_request_to_a_stranger_takes_four_round_trips(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=0.5)
    async with open_memory_meshes(2, network=network) as (alice, bob):
        bob.handle("/echo/1", echo)
        start = trio.current_time()
        stream = await alice.open_stream(bob.peer_id, "/echo/1")
        await stream.send_all(b"x")
        assert await stream.receive_exactly(1) == b"x"
        # TCP's, the choice of the security protocol, the Noise handshake, the request.
        assert trio.current_time() - start == pytest.approx(4.0)
        start = trio.current_time()
        assert await say(await alice.open_stream(bob.peer_id, "/echo/1"), b"x") == b"x"
        assert trio.current_time() - start == pytest.approx(1.0)


async def test_addresses_of_a_mesh_that_knows_a_peer_last_while_it_runs() -> None:
    async with AsyncExitStack() as stack:
        alice, bob = await stack.enter_async_context(open_memory_meshes(2))
        assert alice.book.info(bob.peer_id).addresses == tuple(bob.addresses)
        alice.book.advance(math.inf)
        assert alice.book.addresses(bob.peer_id) == []
