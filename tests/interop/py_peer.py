"""A stock py-libp2p host under remote control, with the commands of `js/peer.mjs`.

Run by the interpreter of `.foreign/py`, which knows nothing of this project.
usage: python py_peer.py noise|tls
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.tls.transport import TLSTransport
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetStream

PIECE = 1 << 16
PATTERN = bytes(i % 251 for i in range(PIECE + 251))


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def send(stream: INetStream, size: int) -> None:
    offset = 0
    while offset < size:
        part = min(PIECE, size - offset)
        await stream.write(PATTERN[offset % 251 : offset % 251 + part])
        offset += part
    await stream.close()  # the writing side only, on this muxer


async def receive(stream: INetStream) -> bytes:
    try:
        return bytes(await stream.read(PIECE))
    except Exception as error:
        if "EOF" in type(error).__name__:
            return b""
        raise


async def check(stream: INetStream) -> int:
    offset = 0
    while data := await receive(stream):
        if data != PATTERN[offset % 251 : offset % 251 + len(data)]:
            raise ValueError(f"wrong bytes at {offset}")
        offset += len(data)
    return offset


async def handle_echo(stream: INetStream) -> None:
    while data := await receive(stream):
        await stream.write(data)
    await stream.close()


async def handle_sink(stream: INetStream) -> None:
    size = await check(stream)
    await stream.write(str(size).encode())
    await stream.close()


async def handle_reset(stream: INetStream) -> None:
    await stream.read(1)
    await stream.reset()


class Peer:
    def __init__(self, host: IHost) -> None:
        self.host = host

    async def open(self, to: str, protocol: str) -> INetStream:
        info = info_from_p2p_addr(Multiaddr(to))
        await self.host.connect(info)
        return await self.host.new_stream(info.peer_id, [TProtocol(protocol)])

    async def dial(self, to: str) -> dict[str, Any]:
        await self.host.connect(info_from_p2p_addr(Multiaddr(to)))
        return {"security": "?"}

    async def ping(self, to: str) -> dict[str, Any]:
        info = info_from_p2p_addr(Multiaddr(to))
        await self.host.connect(info)
        return {"ms": (await PingService(self.host).ping(info.peer_id, 1))[0]}

    async def echo(self, to: str, size: int) -> dict[str, Any]:
        stream = await self.open(to, "/interop/echo")
        received = 0

        async def read() -> None:
            nonlocal received
            received = await check(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await send(stream, size)
        return {"received": received}

    async def echoes(self, to: str, streams: int, size: int) -> dict[str, Any]:
        received = []

        async def one() -> None:
            received.append((await self.echo(to, size))["received"])

        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(one)
        return {"received": received}

    async def sink(self, to: str, size: int) -> dict[str, Any]:
        stream = await self.open(to, "/interop/sink")
        await send(stream, size)
        answer = b""
        while data := await receive(stream):
            answer += data
        return {"received": int(answer)}

    async def reset(self, to: str) -> dict[str, Any]:
        stream = await self.open(to, "/interop/hold")
        await stream.write(b"x")
        await stream.read(1)
        await stream.reset()
        return {}

    async def expect_reset(self, to: str) -> dict[str, Any]:
        stream = await self.open(to, "/interop/reset")
        await stream.write(b"x")
        try:
            data = await stream.read(1)
        except Exception as error:  # noqa: BLE001  its name is the answer
            return {"error": type(error).__name__}
        return {"error": None if data else "hung up"}

    async def unknown(self, to: str) -> dict[str, Any]:
        try:
            await self.open(to, "/interop/unknown")
        except Exception as error:  # noqa: BLE001  its name is the answer
            return {"error": type(error).__name__}
        return {"error": None}


async def serve_commands(peer: Peer, nursery: trio.Nursery) -> None:
    async def one(number: int, command: str, arguments: dict[str, Any]) -> None:
        try:
            answer = await getattr(peer, command.replace("-", "_"))(**arguments)
        except Exception as error:  # noqa: BLE001  a failure is an answer, too
            answer = {"failed": f"{type(error).__name__}: {error}"}
        say({"answer": number, **answer})

    async for line in trio.wrap_file(sys.stdin):
        message = json.loads(line)
        nursery.start_soon(one, message.pop("id"), message.pop("command"), message)


async def main(security: str) -> None:
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, create_noise_key_pair().private_key)
    options = {"/noise": noise} if security == "noise" else {"/tls/1.0.0": TLSTransport(keys)}
    host = new_host(
        key_pair=keys,
        sec_opt={TProtocol(name): option for name, option in options.items()},
        muxer_opt={TProtocol("/yamux/1.0.0"): Yamux},
    )
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]), trio.open_nursery() as nursery:
        host.set_stream_handler(TProtocol("/interop/echo"), handle_echo)
        host.set_stream_handler(TProtocol("/interop/sink"), handle_sink)
        host.set_stream_handler(TProtocol("/interop/reset"), handle_reset)
        addresses = [str(address) for address in host.get_addrs()]
        say({"event": "ready", "peer": str(host.get_id()), "addresses": addresses})
        await serve_commands(Peer(host), nursery)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(main, sys.argv[1])
