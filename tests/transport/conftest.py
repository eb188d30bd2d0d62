"""Fixtures of the transport's tests: meshes on an in-memory network, and bare connections."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import Connection, Limits, MemoryNetwork, Multiaddr, Stream, noise, tls
from lattica.transport.tcp import TcpLink
from lattica.transport.yamux import CreditLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica.identity import PublicKey
    from lattica.transport import Mesh
    from lattica.transport._links import RawLink, SecureChannel


@pytest.fixture
def network() -> MemoryNetwork:
    """A network without delays or faults."""
    return MemoryNetwork()


@pytest.fixture
async def mesh_pair(network: MemoryNetwork) -> AsyncIterator[list[Mesh]]:
    """Two meshes that know each other's address and are not connected yet."""
    async with open_memory_meshes(2, network=network) as meshes:
        yield meshes


class PlainChannel:
    """A `SecureChannel` that secures nothing, and notes what passes: one entry of `sent` a send."""

    protocol = "/plain"
    muxer = None
    binding = bytes(32)

    def __init__(self, link: RawLink, key: PublicKey) -> None:
        self.link, self.remote_key, self.peer = link, key, key.peer_id
        self.sent: list[list[bytes]] = []
        self._unsent = bytearray()

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    async def receive(self) -> list[bytes | memoryview]:
        buffer = bytearray(1 << 16)
        size = await self.link.receive_into(memoryview(buffer))
        return [bytes(buffer[:size])] if size else []

    def hold(self) -> trio.Event:
        """Read nothing until the event that comes back is set: a hung process, a full pipe."""
        gate, receive = trio.Event(), self.receive

        async def receive_later() -> list[bytes | memoryview]:
            await gate.wait()
            return await receive()

        self.receive = receive_later  # type: ignore[method-assign]
        return gate

    async def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        self.sent.append([bytes(buffer) for buffer in buffers])
        self._unsent += b"".join(buffers)
        await self.flush()

    def send_now(self, buffers: Sequence[bytes | memoryview]) -> None:
        self.sent.append([bytes(buffer) for buffer in buffers])
        self._unsent += b"".join(buffers)
        del self._unsent[: self.link.send_now(memoryview(bytes(self._unsent)))]

    async def flush(self) -> None:
        if not self._unsent:
            await trio.lowlevel.checkpoint()
        while self._unsent:
            size = await self.link.send_some(memoryview(bytes(self._unsent)))
            del self._unsent[:size]

    def close(self) -> None:
        self.link.close()


@dataclass
class Pair:
    """Two connections with each other. `near` dialled; the peers are called the same way."""

    near: Connection
    far: Connection
    ledgers: tuple[CreditLedger, CreditLedger]
    accepted: trio.MemoryReceiveChannel[Stream]  # streams that `near` opened, as `far` sees them
    network: MemoryNetwork | None  # where the hosts `near` and `far` are

    @property
    def channels(self) -> tuple[PlainChannel, PlainChannel]:
        ends = self.near._channel, self.far._channel
        assert isinstance(ends[0], PlainChannel)
        assert isinstance(ends[1], PlainChannel)
        return ends[0], ends[1]

    async def open_stream(self, protocol: str = "/test") -> tuple[Stream, Stream]:
        """Open a stream, and wait until the other end has it."""
        stream = await self.near.open_stream(protocol)
        self.near._outbound.kick()
        return stream, await self.accepted.receive()


class OpenPair(Protocol):
    def __call__(
        self,
        *,
        network: MemoryNetwork | None = None,
        sockets: int | None = None,
        security: str = "plain",
        limits: Limits | None = None,
    ) -> AbstractAsyncContextManager[Pair]: ...


@asynccontextmanager
async def _open_pair(
    *,
    network: MemoryNetwork | None = None,
    sockets: int | None = None,
    security: str = "plain",
    limits: Limits | None = None,
) -> AsyncIterator[Pair]:
    """Connect two ends; streams that `near` opens for any `/test…` come out of `accepted`.

    Args:
        network: what is between them; a perfect network if not given.
        sockets: TCP over loopback instead, with kernel buffers of about so many bytes.
        security: `plain`, `noise` or `tls`.
        limits: of both ends.
    """
    limits = limits or Limits()
    if sockets is None:
        network = network or MemoryNetwork()
        links = await _memory_links(network)
    else:
        links = _socket_links(sockets)
    outbox, accepted = trio.open_memory_channel[Stream](1024)
    channels: list[SecureChannel] = []
    ledgers = CreditLedger(limits), CreditLedger(limits)
    async with trio.open_nursery() as nursery:
        if security == "plain":
            for number, link in enumerate(links):
                channels.append(PlainChannel(link, sample_identity(1 - number).public_key))
        else:
            secured: dict[int, SecureChannel] = {}

            async def secure(number: int, link: RawLink) -> None:
                make = noise.secure if security == "noise" else tls.secure
                secured[number] = await make(
                    link, sample_identity(number), initiator=number == 0, expected=None
                )

            async with trio.open_nursery() as handshakes:
                for number, link in enumerate(links):
                    handshakes.start_soon(secure, number, link)
            channels = [secured[0], secured[1]]
        ends = []
        for number, (link, channel) in enumerate(zip(links, channels, strict=True)):
            connection = Connection(
                channel,
                local_address=link.local_address,
                remote_address=link.remote_address,
                inbound=number == 1,
                limits=limits,
                ledger=ledgers[number],
                supported={"/test", "/test/2"},
                on_stream=outbox.send,
                tasks=nursery,
            )
            nursery.start_soon(connection.run)
            ends.append(connection)
        yield Pair(ends[0], ends[1], ledgers, accepted, network)
        nursery.cancel_scope.cancel()


async def _memory_links(network: MemoryNetwork) -> list[RawLink]:
    listener = await network.transport("far").listen(Multiaddr.parse("/memory/0"))
    near = await network.transport("near").dial(listener.addresses[0])
    return [near, await listener.accept()]


def _socket_links(buffer_bytes: int) -> list[RawLink]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        near.connect(server.getsockname())
        far, _ = server.accept()
    for each in (near, far):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return [TcpLink(near), TcpLink(far)]


@pytest.fixture(scope="session")
def open_pair() -> OpenPair:
    """Opens two connections with each other; see `_open_pair`."""
    return _open_pair


@pytest.fixture
async def quiet_pair(open_pair: OpenPair) -> AsyncIterator[Pair]:
    """A pair whose first pings are over; what its channels sent is counted from here."""
    async with open_pair() as pair:
        await wait_all_tasks_blocked()
        for channel in pair.channels:
            channel.sent.clear()
        yield pair
