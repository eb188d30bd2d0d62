"""Peer: go-libp2p, as two `p2pd` daemons that upload to each other over Noise.

usage: python -m benchmarks.roles.go serve
       python -m benchmarks.roles.go drive ADDRESS SIZE
"""

from __future__ import annotations

import os
import struct
import sys
import time

import trio

from benchmarks._worker import ROOT
from lattica.transport import Multiaddr

from ._drive import PIECE, drive_async, say, until_told_to_end, upload_figures

sys.path.insert(0, str(ROOT / "tests" / "interop"))  # the driver of the interoperability tests

from _go_peer import open_go_peer
from install_peers import GO_DAEMON

SINK = "/benchmark/sink"


async def serve() -> None:
    # The daemon cannot half-close, so an upload says its size first.
    async def sink(stream: trio.SocketStream) -> None:
        left = size = struct.unpack("!Q", await stream.receive_some(8))[0]
        while left:
            left -= len(await stream.receive_some(min(left, PIECE)))
        await stream.send_all(struct.pack("!Q", size))
        await stream.receive_some(1)  # until the other side has read that and closes

    async with open_go_peer(GO_DAEMON, "-tls=0") as go:
        await go.handle(SINK, sink)
        say(ready=str(go.address))
        await until_told_to_end()


async def upload(address: str, size: int) -> None:
    piece = os.urandom(PIECE)
    async with open_go_peer(GO_DAEMON, "-tls=0") as go:

        async def measure(size: int = size) -> dict[str, float]:
            async with await go.open_stream(Multiaddr.parse(address), SINK) as stream:
                started, cpu = time.perf_counter(), time.process_time()
                await stream.send_all(struct.pack("!Q", size))
                for _ in range(size // PIECE):
                    await stream.send_all(piece)
                acknowledged = await stream.receive_some(8)
                assert struct.unpack("!Q", acknowledged)[0] == size
                return upload_figures(size, started, cpu)

        await measure(16 * PIECE)
        await drive_async(measure)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(serve)
    else:
        trio.run(upload, sys.argv[2], int(sys.argv[3]))
