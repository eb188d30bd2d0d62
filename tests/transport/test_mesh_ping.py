from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.errors import DeadlineExceeded, Refused
from lattica.testing import open_memory_meshes
from lattica.transport import Limits, MemoryNetwork, PingMismatch, StreamReset
from lattica.transport.ping import PING_PROTOCOL

if TYPE_CHECKING:
    from lattica.transport import Mesh, Stream


async def hold(stream: Stream) -> None:
    await trio.sleep_forever()


async def test_a_ping_is_the_round_trip_in_seconds(autojump_clock: MockClock) -> None:
    async with open_memory_meshes(2, network=MemoryNetwork(latency=0.0312)) as (alice, bob):
        assert await alice.ping(bob.peer_id) == pytest.approx(0.0624)
        assert await bob.ping(alice.peer_id) == pytest.approx(0.0624)
        await trio.sleep(1)
        assert alice.connections()[0].stream_count == 0


async def test_any_number_of_pings_fit_one_stream_however_they_are_cut(
    mesh_pair: list[Mesh],
) -> None:
    alice, bob = mesh_pair
    async with await alice.open_stream(bob.peer_id, PING_PROTOCOL) as stream:
        for number in range(3):
            payload = bytes([number]) * 32
            await stream.send_all(payload[:7])
            await wait_all_tasks_blocked()
            await stream.send_all(payload[7:] + payload)
            assert await stream.receive_exactly(64) == payload * 2
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_a_wrong_echo_is_a_typed_error(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair

    async def wrong(stream: Stream) -> None:
        await stream.receive_exactly(32)
        await stream.send_all(bytes(32))

    bob.unhandle(PING_PROTOCOL)
    with pytest.raises(Refused):
        await alice.ping(bob.peer_id)
    bob.handle(PING_PROTOCOL, wrong)
    with pytest.raises(PingMismatch):
        await alice.ping(bob.peer_id)


async def test_a_ping_has_a_deadline_and_leaves_no_stream(autojump_clock: MockClock) -> None:
    limits = Limits(ping_timeout_s=2)
    async with open_memory_meshes(2, limits=limits) as (alice, bob):
        bob.unhandle(PING_PROTOCOL)
        bob.handle(PING_PROTOCOL, hold)
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded, match="2 s"):
            await alice.ping(bob.peer_id)
        assert trio.current_time() - start == pytest.approx(2)
        await trio.sleep(1)
        assert alice.connections()[0].stream_count == 0


async def test_a_silent_ping_stream_is_given_up(autojump_clock: MockClock) -> None:
    async with open_memory_meshes(2) as (alice, bob):
        stream = await alice.open_stream(bob.peer_id, PING_PROTOCOL)
        start = trio.current_time()
        await stream.send_all(b"half")
        with pytest.raises(StreamReset):
            await stream.receive_exactly(32)
        assert trio.current_time() - start == pytest.approx(bob.limits.ping_idle_s)
        assert not bob._pings.running
