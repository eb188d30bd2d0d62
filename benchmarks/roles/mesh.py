"""Ours: a mesh on loopback with one security protocol.

usage: python -m benchmarks.roles.mesh serve SECURITY
       python -m benchmarks.roles.mesh upload SECURITY ADDRESS SIZE
       python -m benchmarks.roles.mesh connect SECURITY ADDRESS COUNT
"""

from __future__ import annotations

import os
import statistics
import struct
import sys
import time
from typing import TYPE_CHECKING

import trio

from lattica.identity import Identity
from lattica.transport import Multiaddr, open_mesh

from ._drive import PIECE, drive_async, say, until_told_to_end, upload_figures

if TYPE_CHECKING:
    from lattica.transport import Connection, Stream

SINK, ECHO = "/benchmark/sink", "/benchmark/echo"
REQUEST = bytes(128)


async def serve(security: str) -> None:
    """Swallow uploads and echo requests."""

    async def sink(stream: Stream) -> None:
        size = 0
        while data := await stream.receive_view():
            size += len(data)
        await stream.send_all(struct.pack("!Q", size))

    async def echo(stream: Stream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    listen = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
    async with open_mesh(Identity.generate(), listen=listen, security=[security]) as mesh:
        mesh.handle(SINK, sink)
        mesh.handle(ECHO, echo)
        say(ready=str(mesh.listen_addresses[0].with_peer(mesh.peer_id)))
        await until_told_to_end()


async def upload(security: str, address: str, size: int) -> None:
    """Upload `size` bytes whenever told to, each time on a new stream of one connection."""
    piece = os.urandom(PIECE)
    async with open_mesh(Identity.generate(), security=[security]) as mesh:
        connection = await mesh.dial(Multiaddr.parse(address))

        async def measure(size: int = size) -> dict[str, float]:
            started, cpu = time.perf_counter(), time.process_time()
            async with await connection.open_stream(SINK) as stream:
                for _ in range(size // PIECE):
                    await stream.send_all(piece)
                await stream.send_eof()
                acknowledged = await stream.receive_exactly(8)
            assert struct.unpack("!Q", acknowledged)[0] == size
            return upload_figures(size, started, cpu)

        await measure(64 * PIECE)
        await drive_async(measure)


async def connect(security: str, address: str, count: int) -> None:
    """Time dials, and requests on an open and on a new stream: medians in milliseconds."""
    target = Multiaddr.parse(address)
    identity = Identity.generate()
    async with open_mesh(identity, security=[security]) as mesh:

        async def dial_to_first_byte() -> float:
            started = time.perf_counter()
            connection = await mesh.dial(target)
            async with await connection.open_stream(ECHO) as stream:
                await stream.send_all(b"x")
                await stream.receive_exactly(1)
                seconds = time.perf_counter() - started
            await connection.aclose()
            return seconds

        async def measure() -> dict[str, float]:
            dials = [await dial_to_first_byte() for _ in range(count)]
            connection = await mesh.dial(target)
            requests = await _requests(connection, 10 * count)
            await connection.aclose()
            return {"connect_ms": statistics.median(dials) * 1e3, **requests}

        await measure()
        await drive_async(measure)


async def _requests(connection: Connection, count: int) -> dict[str, float]:
    async def request(stream: Stream) -> None:
        await stream.send_all(REQUEST)
        await stream.receive_exactly(len(REQUEST))

    on_new, on_open = [], []
    for _ in range(count):
        started = time.perf_counter()
        async with await connection.open_stream(ECHO) as stream:
            await request(stream)
        on_new.append(time.perf_counter() - started)
    async with await connection.open_stream(ECHO) as stream:
        for _ in range(count):
            started = time.perf_counter()
            await request(stream)
            on_open.append(time.perf_counter() - started)
    return {
        "request_new_ms": statistics.median(on_new) * 1e3,
        "request_open_ms": statistics.median(on_open) * 1e3,
    }


if __name__ == "__main__":
    command, security_protocol, *rest = sys.argv[1:]
    if command == "serve":
        trio.run(serve, security_protocol)
    elif command == "upload":
        trio.run(upload, security_protocol, rest[0], int(rest[1]))
    else:
        trio.run(connect, security_protocol, rest[0], int(rest[1]))
