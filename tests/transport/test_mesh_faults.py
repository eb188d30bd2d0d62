"""A node among peers that misbehave, and handlers that fail badly: it lives on, and stays open."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from lattica import _protobuf
from lattica.errors import LatticaError
from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import Limits
from lattica.transport._events import PeerConnected
from lattica.transport.identify import (
    PUSH_PROTOCOL,
    IdentifyInfo,
    decode_identify,
    encode_identify,
)

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock

    from lattica.transport import MemoryNetwork, Mesh, Stream


async def fail_when_cancelled(stream: Stream) -> None:
    """Two tasks, of which one answers its cancellation with an error: they leave as a group."""

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("a bug in cleaning up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(fail)


async def test_a_handler_that_fails_as_its_connection_is_wound_up_ends_nothing_else(
    autojump_clock: MockClock, mesh_pair: list[Mesh], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = mesh_pair
    one.handle("/bad/1", fail_when_cancelled)
    stream = await other.open_stream(one.peer_id, "/bad/1")
    await stream.send_all(b"x")
    await wait_all_tasks_blocked()
    await other.disconnect(one.peer_id)
    await trio.sleep(2 * one.limits.handler_grace_s)
    assert not one._handlers.running
    assert "a bug in cleaning up" in caplog.text
    await other.connect(one.peer_id)  # it is still there


async def test_a_handler_that_fails_as_the_mesh_is_closed_is_logged_and_not_raised(
    network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_meshes(1, network=network, seed=1) as (other,):
        async with open_memory_meshes(1, network=network) as (one,):
            one.handle("/bad/1", fail_when_cancelled)
            stream = await other.open_stream(one.peer_id, "/bad/1", addresses=one.addresses)
            await stream.send_all(b"x")
            await wait_all_tasks_blocked()
        assert "a bug in cleaning up" in caplog.text


async def test_a_node_filled_in_a_moment_lets_idle_peers_go_once_they_are_idle(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    limits = Limits(connections=5, crowded_at=4, idle_after_s=10)
    async with (
        open_memory_meshes(1, network=network, limits=limits) as (node,),
        open_memory_meshes(6, network=network, seed=1) as (newcomer, *crowd),
    ):
        for other in crowd:
            await other.connect(node.peer_id, node.addresses)
        assert len(node.connections()) == 5
        await trio.sleep(11)
        with suppress(LatticaError):  # this one finds it full, and makes it look
            await newcomer.connect(node.peer_id, node.addresses)
        await trio.sleep(1)
        await newcomer.connect(node.peer_id, node.addresses)
        await wait_all_tasks_blocked()
        assert node.connected(newcomer.peer_id) is not None


async def test_a_peer_that_stalls_in_a_push_writes_no_traceback_into_the_log(
    autojump_clock: MockClock, mesh_pair: list[Mesh], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = mesh_pair
    caplog.set_level(logging.WARNING)
    stream = await other.open_stream(one.peer_id, PUSH_PROTOCOL)
    await stream.send_all(b"\x7f")
    await trio.sleep(2 * one.limits.identify_timeout_s)
    assert not one._handlers.running
    assert not caplog.records


async def test_a_peer_that_pushes_without_end_pushes_no_event_of_others_out(
    mesh_pair: list[Mesh], network: MemoryNetwork
) -> None:
    one, other = mesh_pair
    connection = await other.connect(one.peer_id)
    await wait_all_tasks_blocked()
    (message,) = encode_identify(other.identity, IdentifyInfo(), sequence=1, record=False)
    async with one.events() as events:
        async with open_memory_meshes(1, network=network, seed=1) as (third,):
            await third.connect(one.peer_id, one.addresses)
            for _ in range(3):
                # Ended, not closed: so that as many as can be arrive in one moment.
                for _ in range(200):
                    stream = await connection.open_stream(PUSH_PROTOCOL)
                    await stream.send_message(message)
                    connection._session.finish(stream._substream)
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            found = []
            with suppress(trio.WouldBlock):
                while True:
                    found.append(events.receive_nowait())
        assert any(
            isinstance(event, PeerConnected) and event.peer == third.peer_id for event in found
        )


async def test_a_machine_that_cannot_list_its_interfaces_keeps_its_node(
    mesh_pair: list[Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(24, "Too many open files")

    one, other = mesh_pair
    await other.connect(one.peer_id)
    monkeypatch.setattr("lattica.transport._own_addresses.expand", fail)
    one._where._expanded = None
    one.handle("/new/1", fail_when_cancelled)
    await wait_all_tasks_blocked(0.1)
    assert one.connected(other.peer_id) is not None


async def test_of_pushes_in_quick_succession_the_last_one_counts(
    autojump_clock: MockClock, mesh_pair: list[Mesh]
) -> None:
    one, other = mesh_pair
    connection = await other.connect(one.peer_id)
    await trio.sleep(1)
    async with one.events() as events:
        for number in range(5):
            info = IdentifyInfo(frozenset([f"/said/{number}"]))
            (message,) = encode_identify(other.identity, info, sequence=1, record=False)
            stream = await connection.open_stream(PUSH_PROTOCOL)
            await stream.send_message(message)
            await stream.send_eof()
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert one.book.protocols(other.peer_id) == {"/said/4"}
        assert events.statistics().current_buffer_used == 2


def test_nothing_that_a_peer_says_of_itself_steers_a_terminal() -> None:
    said = _protobuf.encode([(3, "/fine/1"), (3, "/bad\x1b[2J"), (2, b"\x90\x03\x05/\x1b[2J")])
    info = decode_identify(said, sample_identity(1).peer_id)
    assert info.protocols == {"/fine/1"}
    assert not info.addresses
