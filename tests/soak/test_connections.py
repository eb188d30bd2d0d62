"""What a connection took, its end gives back: memory, descriptors, tasks, table entries."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from lattica.identity import Identity
from lattica.transport import Mesh, Multiaddr, Stream, open_mesh

LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
WARM_UP = 200  # connections after which caches, pools and the allocator have their size


async def _echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def _come_and_go(client: Mesh, address: Multiaddr, times: int) -> None:
    for _ in range(times):
        connection = await client.dial(address)
        async with await connection.open_stream("/soak/echo") as stream:
            await stream.send_all(b"x" * 1000)
            await stream.receive_exactly(1000)
        await connection.aclose()


def _resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def _soak(times: int, security: str) -> float:
    """Connect and disconnect `times` times; return by how many MiB the process grew."""
    async with (
        open_mesh(Identity.generate(), listen=LISTEN, security=[security]) as server,
        open_mesh(Identity.generate(), security=[security]) as client,
    ):
        server.handle("/soak/echo", _echo)
        address = server.listen_addresses[0].with_peer(server.peer_id)
        await _come_and_go(client, address, WARM_UP)
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = _resident_mib(), _tasks(), len(os.listdir("/proc/self/fd"))
        await _come_and_go(client, address, times)
        await trio.testing.wait_all_tasks_blocked(0.05)
        after = _resident_mib(), _tasks(), len(os.listdir("/proc/self/fd"))
        assert client.connections() == server.connections() == []
        assert after[1:] == before[1:]
        return after[0] - before[0]


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_300_connections_leave_nothing_behind(security: str) -> None:
    assert await _soak(300, security) < 8


@pytest.mark.slow
@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_10_000_connections_leave_memory_flat(security: str) -> None:
    assert await _soak(10_000, security) < 16
