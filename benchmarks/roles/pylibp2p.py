"""Baseline: py-libp2p as it ships, Noise and Yamux, 1 MiB writes.

Runs under any interpreter that has `libp2p`; knows nothing of this project.
usage: python -m benchmarks.roles.pylibp2p serve
       python -m benchmarks.roles.pylibp2p drive ADDRESS SIZE
"""

from __future__ import annotations

import logging
import os
import struct
import sys
import time
from typing import TYPE_CHECKING

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from ._drive import PIECE, drive_async, say, until_told_to_end, upload_figures

if TYPE_CHECKING:
    from libp2p.abc import INetStream

SINK = TProtocol("/benchmark/sink")


async def serve() -> None:
    async def sink(stream: INetStream) -> None:
        size = left = struct.unpack("!Q", await stream.read(8))[0]
        while left:
            left -= len(await stream.read(min(left, PIECE)))
        await stream.write(struct.pack("!Q", size))
        await stream.close()

    host = new_host(key_pair=create_new_key_pair())
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        host.set_stream_handler(SINK, sink)
        say(ready=str(host.get_addrs()[0]))
        await until_told_to_end()


async def upload(address: str, size: int) -> None:
    host = new_host(key_pair=create_new_key_pair())
    piece = os.urandom(PIECE)
    async with host.run([]):
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)

        async def measure(size: int = size) -> dict[str, float]:
            stream = await host.new_stream(info.peer_id, [SINK])
            started, cpu = time.perf_counter(), time.process_time()
            await stream.write(struct.pack("!Q", size))
            for _ in range(size // PIECE):
                await stream.write(piece)
            assert struct.unpack("!Q", await stream.read(8))[0] == size
            figures = upload_figures(size, started, cpu)
            await stream.close()
            return figures

        await measure(16 * PIECE)
        await drive_async(measure)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    if sys.argv[1] == "serve":
        trio.run(serve)
    else:
        trio.run(upload, sys.argv[2], int(sys.argv[3]))
