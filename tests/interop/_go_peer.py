"""go-libp2p, as the daemon `p2pd`, driven through its control socket.

Each request is a varint-delimited protobuf message on a fresh Unix socket; a stream's socket
carries the stream's bytes after the answer. Protocol: go-libp2p-daemon, `specs/CONTROL.md`,
`specs/DHT.md` and `specs/PUBSUB.md`.

The daemon cannot half-close: an end of stream from either side closes both its sockets. So its
streams carry counted bytes here, and half-close is proven against the other implementations.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica import _protobuf, _varint
from lattica.identity import PeerId
from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PIECE = 1 << 18
PATTERN = memoryview(bytes(i % 251 for i in range(PIECE + 251)))


class GoFailure(Exception):
    """The daemon says that a request failed."""


class GoPeer:
    """A running daemon. Made by `open_go_peer`."""

    half_closes = False

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder, self._nursery = folder, nursery
        self._handlers = 0
        self.peer: PeerId
        self.address: Multiaddr

    async def identify(self) -> None:
        answer = _nested(await self.request([(1, 0)]), 4)
        self.peer = PeerId.from_bytes(answer.blob(1) or b"")
        self.address = Multiaddr.from_bytes(answer.blobs(2)[0]).with_peer(self.peer)

    async def request(self, fields: list[tuple[int, int | bytes]]) -> _protobuf.Message:
        """One request, one answer."""
        stream, answer = await self.open(fields)
        await stream.aclose()
        return answer

    async def open(
        self, fields: list[tuple[int, int | bytes]]
    ) -> tuple[trio.SocketStream, _protobuf.Message]:
        """One request; the socket stays open for what follows the answer."""
        stream = await trio.open_unix_socket(str(self._folder / "control"))
        assert isinstance(stream, trio.SocketStream)
        await stream.send_all(_delimited(_protobuf.encode(fields)))
        answer = await _receive(stream)
        if answer.integer(1) != 0:
            await stream.aclose()
            raise GoFailure(_nested(answer, 2).text(1))
        return stream, answer

    # Streams -----------------------------------------------------------------------------------

    async def dial(self, to: Multiaddr) -> str | None:
        peer = _peer_of(to)
        body = _protobuf.encode([(1, peer.raw), (2, bytes(to.without_peer())), (3, 15)])
        await self.request([(1, 1), (2, body)])
        return None

    async def open_stream(self, to: Multiaddr, protocol: str) -> trio.SocketStream:
        await self.dial(to)
        body = _protobuf.encode([(1, _peer_of(to).raw), (2, protocol), (3, 15)])
        stream, _ = await self.open([(1, 2), (3, body)])
        return stream

    async def handle(
        self, protocol: str, handler: Callable[[trio.SocketStream], Awaitable[None]]
    ) -> None:
        """Serve `protocol` on the daemon with a handler that runs here."""
        self._handlers += 1
        path = self._folder / f"handler-{self._handlers}"
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await listener.bind(str(path))
        listener.listen(512)
        address = _varint.encode(400) + _delimited(str(path).encode())
        body = _protobuf.encode([(1, address), (2, protocol), (3, 0)])  # 3: required by go
        await self.request([(1, 3), (4, body)])
        self._nursery.start_soon(self._accept, listener, handler)

    async def _accept(
        self,
        listener: trio.socket.SocketType,
        handler: Callable[[trio.SocketStream], Awaitable[None]],
    ) -> None:
        async def one(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await _receive(stream)  # who it is
                    await handler(stream)
                except (trio.BrokenResourceError, EOFError):
                    return  # the other side reset the stream: some tests do that on purpose

        with listener:
            while True:
                accepted, _ = await listener.accept()
                self._nursery.start_soon(one, trio.SocketStream(accepted))

    async def echo(self, to: Multiaddr, size: int) -> int:
        async with await self.open_stream(to, "/interop/echo") as stream:
            return await _echo(stream, size)

    async def echoes(self, to: Multiaddr, streams: int, size: int) -> list[int]:
        received: list[int] = []

        async def one() -> None:
            received.append(await self.echo(to, size))

        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(one)
        return received

    async def reset(self, to: Multiaddr) -> None:
        # The daemon resets a stream whose local socket is closed with bytes in it unread.
        async with await self.open_stream(to, "/interop/hold") as stream:
            await stream.send_all(b"x")
            await stream.receive_some(1)

    async def sees_reset(self, to: Multiaddr) -> bool:
        async with await self.open_stream(to, "/interop/reset") as stream:
            await stream.send_all(b"x")
            try:
                return await stream.receive_some(1) == b""  # the daemon just hangs up
            except trio.BrokenResourceError:
                return True

    async def is_refused(self, to: Multiaddr) -> bool:
        try:
            await self.open_stream(to, "/interop/unknown")
        except GoFailure:
            return True
        return False

    async def hang_up(self, peer: PeerId) -> None:
        await self.request([(1, 7), (7, _protobuf.encode([(1, peer.raw)]))])

    async def peers(self) -> list[PeerId]:
        answer = await self.request([(1, 5)])
        found = [_protobuf.decode(info).blob(1) for info in answer.blobs(6)]
        return [PeerId.from_bytes(raw) for raw in found if raw is not None]

    # DHT -----------------------------------------------------------------------------------------

    async def find_peer(self, peer: PeerId) -> list[Multiaddr]:
        answer = await self._dht([(1, 0), (2, peer.raw), (7, 10)])
        return [Multiaddr.from_bytes(raw) for raw in _nested(_nested(answer, 5), 2).blobs(2)]

    async def provide(self, cid: bytes) -> None:
        await self._dht([(1, 8), (3, cid), (7, 15)])

    async def find_providers(self, cid: bytes, count: int = 1) -> list[PeerId]:
        body = _protobuf.encode([(1, 2), (3, cid), (6, count), (7, 10)])
        stream, _ = await self.open([(1, 4), (5, body)])
        found = []
        async with stream:
            while (message := await _receive(stream)).integer(1) != 2:  # END
                found.append(PeerId.from_bytes(_nested(message, 2).blob(1) or b""))
        return found

    async def put_value(self, key: bytes, value: bytes) -> None:
        await self._dht([(1, 7), (4, key), (5, value), (7, 15)])

    async def get_value(self, key: bytes) -> bytes:
        answer = await self._dht([(1, 5), (4, key), (7, 10)])
        return _nested(answer, 5).blob(3) or b""

    async def _dht(self, fields: list[tuple[int, int | bytes]]) -> _protobuf.Message:
        return await self.request([(1, 4), (5, _protobuf.encode(fields))])

    # Gossip --------------------------------------------------------------------------------------

    async def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[tuple[PeerId, bytes]]:
        body = _protobuf.encode([(1, 3), (2, topic)])
        stream, _ = await self.open([(1, 8), (8, body)])
        outbox, inbox = trio.open_memory_channel[tuple[PeerId, bytes]](1000)

        async def pump() -> None:
            async with stream, outbox:
                while True:
                    message = await _receive(stream)
                    author = PeerId.from_bytes(message.blob(1) or b"")
                    await outbox.send((author, message.blob(2) or b""))

        self._nursery.start_soon(pump)
        return inbox

    async def publish(self, topic: str, data: bytes) -> None:
        await self.request([(1, 8), (8, _protobuf.encode([(1, 2), (2, topic), (3, data)]))])

    async def subscribers(self, topic: str) -> list[PeerId]:
        body = _protobuf.encode([(1, 1), (2, topic)])
        answer = _nested(await self.request([(1, 8), (8, body)]), 7)
        return [PeerId.from_bytes(raw) for raw in answer.blobs(2)]


@asynccontextmanager
async def open_go_peer(daemon: Path, *options: str) -> AsyncIterator[GoPeer]:
    """Start a daemon on loopback and stop it at the end of the block.

    Args:
        daemon: the binary.
        options: more flags, such as `-tls=0` or `-noise=0`.
    """
    with tempfile.TemporaryDirectory(prefix="go-peer-") as name:
        folder = Path(name)
        listen = [f"-listen=/unix{folder / 'control'}", "-hostAddrs=/ip4/127.0.0.1/tcp/0"]
        command = [str(daemon), *listen, "-natPortMap=0", "-pubsub=1", *options]
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
            )
            assert process.stdout is not None
            with trio.fail_after(30):
                await _until_listening(process.stdout)
            nursery.start_soon(_drain, process.stdout)
            go = GoPeer(folder, nursery)
            await go.identify()
            await _serve(go)
            yield go
            nursery.cancel_scope.cancel()


async def _until_listening(output: trio.abc.ReceiveStream) -> None:
    seen = bytearray()
    async for data in output:
        seen += data
        if b"Peer ID" in seen:  # printed once the control socket and the host listen
            return
    raise AssertionError(f"p2pd ended at once: {seen.decode()}")


async def _drain(output: trio.abc.ReceiveStream) -> None:
    async for _ in output:
        pass


async def _serve(go: GoPeer) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)  # and leave the other unread: see GoPeer.reset

    await go.handle("/interop/echo", echo)
    await go.handle("/interop/reset", reset)


async def _echo(stream: trio.SocketStream, size: int) -> int:
    received = 0

    async def receive() -> None:
        nonlocal received
        received = await _check(stream, size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await _send(stream, size)
    return received


async def _send(stream: trio.SocketStream, size: int) -> None:
    offset = 0
    while offset < size:
        part = min(PIECE, size - offset)
        await stream.send_all(PATTERN[offset % 251 : offset % 251 + part])
        offset += part


async def _check(stream: trio.SocketStream, size: int) -> int:
    offset = 0
    while offset < size and (data := await stream.receive_some(PIECE)):
        assert data == PATTERN[offset % 251 : offset % 251 + len(data)], f"at {offset}"
        offset += len(data)
    return offset


def _peer_of(address: Multiaddr) -> PeerId:
    assert address.peer_id is not None
    return address.peer_id


def _delimited(data: bytes) -> bytes:
    return _varint.encode(len(data)) + data


def _nested(message: _protobuf.Message, number: int) -> _protobuf.Message:
    return _protobuf.decode(message.blob(number) or b"")


async def _receive(stream: trio.SocketStream) -> _protobuf.Message:
    prefix = bytearray()
    while (found := _varint.decode(prefix)) is None:
        prefix += await _exactly(stream, 1)
    return _protobuf.decode(await _exactly(stream, found[0]))


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
