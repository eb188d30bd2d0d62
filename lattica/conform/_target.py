"""The node under test, as seen from outside: links, channels and streams that may misbehave.

The checks need hands that our own transport does not have: half a handshake, a frame of a version
that does not exist, a byte more than was granted. `Muxed` therefore writes yamux frames by hand.
For checks above the links, `connection` gives an ordinary connection of an ordinary mesh.
"""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError
from lattica.transport import TcpTransport, noise, open_mesh, tls
from lattica.transport.multistream import DialerNegotiation

from ._outcome import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lattica.identity import Identity, PeerId
    from lattica.transport import Connection, Multiaddr, RawLink, Transport
    from lattica.transport._links import SecureChannel

_SECURITY = {noise.PROTOCOL_ID: noise.secure, tls.PROTOCOL_ID: tls.secure}
_HEADER = struct.Struct("!BBHII")  # version, type, flags, stream ID, length (yamux)
_READ_BYTES = 64 << 10
_MAX_FRAME = 16 << 20  # bytes of payload that are read at most; the window allows no more
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW = 256 << 10  # bytes that may be sent on a new stream
LOST = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)


class Ended(Failure):
    """The node has closed the link, or the stream, that the check waits on."""

    code = "conformance-ended"


class Target:
    """A node at an address. Every method that opens something is a block that closes it."""

    def __init__(
        self, address: Multiaddr, identity: Identity, transports: Sequence[Transport] | None = None
    ) -> None:
        self.address, self.identity = address, identity
        self.expected: PeerId | None = address.peer_id
        self.protocols: frozenset[str] = frozenset()  # what it says it speaks, once it was asked
        self._transports = tuple(transports or (TcpTransport(),))

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """A bare link: nothing is negotiated yet."""
        bare = self.address.without_peer()
        transport = next((one for one in self._transports if one.can_dial(bare)), None)
        if transport is None:
            raise Failure(f"no transport reaches {self.address}")
        raw = await transport.dial(bare)
        try:
            yield Link(raw)
        finally:
            raw.close()

    @asynccontextmanager
    async def channel(self, security: str = noise.PROTOCOL_ID) -> AsyncIterator[SecureChannel]:
        """An encrypted channel: no muxer is agreed yet. Raises ProtocolNotSupported."""
        async with self.link() as link:
            early = await link.negotiate(security)
            channel = await _SECURITY[security](
                link.raw, self.identity, initiator=True, expected=self.expected, early=early
            )
            try:
                yield channel
            finally:
                channel.close()

    @asynccontextmanager
    async def muxed(self) -> AsyncIterator[Muxed]:
        """A connection on which yamux frames are written by hand."""
        async with self.channel() as channel:
            muxed = Muxed(channel)
            await muxed.negotiate()
            yield muxed

    @asynccontextmanager
    async def connection(self, security: str = noise.PROTOCOL_ID) -> AsyncIterator[Connection]:
        """An ordinary connection, from a mesh that serves nothing but what every mesh does."""
        async with open_mesh(
            self.identity, transports=self._transports, security=(security,)
        ) as mesh:
            yield await mesh.dial(self.address)


class Link:
    """A raw link with a buffer."""

    def __init__(self, raw: RawLink) -> None:
        self.raw = raw

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            view = view[await self.raw.send_some(view) :]

    async def receive(self) -> bytes:
        """Return what has arrived; b"" at the end."""
        buffer = memoryview(bytearray(_READ_BYTES))
        return bytes(buffer[: await self.raw.receive_into(buffer)])

    async def negotiate(self, *protocols: str) -> bytes:
        """Agree on the first of `protocols` that the node speaks; return what follows.

        Raises:
            ProtocolNotSupported: it speaks none.
        """
        negotiation = DialerNegotiation(protocols)
        await self.send(negotiation.start())
        while negotiation.protocol is None:
            data = await self.receive()
            if not data:
                raise Ended("the node closed the link during the negotiation")
            await self.send(negotiation.receive(data))
        if negotiation.protocol != protocols[-1]:
            raise Failure(f"agreed to {negotiation.protocol}, expected {protocols[-1]}")
        return negotiation.leftover

    async def wait_closed(self) -> None:
        """Wait until the node closes the link; what it says before is not looked at."""
        try:
            while await self.receive():
                pass
        except trio.BrokenResourceError:
            pass


@dataclass(frozen=True, slots=True)
class Frame:
    """A yamux frame."""

    type: int
    flags: int
    stream: int
    value: int
    payload: bytes = b""


class Muxed:
    """Yamux by hand. Pings of the node are answered; all else is up to the check."""

    def __init__(self, channel: SecureChannel) -> None:
        self._channel = channel
        self._buffer = bytearray()

    async def negotiate(self) -> None:
        """Agree on yamux."""
        negotiation = DialerNegotiation(["/yamux/1.0.0"])
        await self._channel.send([negotiation.start()])
        while negotiation.protocol is None:
            await self._channel.send([negotiation.receive(await self._pieces())])
        self._buffer += negotiation.leftover

    async def send(
        self, kind: int, flags: int, stream: int, value: int = 0, *, version: int = 0
    ) -> None:
        """Send a frame without payload."""
        await self._channel.send([_HEADER.pack(version, kind, flags, stream, value)])

    async def send_data(self, flags: int, stream: int, payload: bytes) -> None:
        """Send a data frame."""
        await self._channel.send([_HEADER.pack(0, DATA, flags, stream, len(payload)), payload])

    async def receive(self) -> Frame:
        """Return the next frame that is not a ping of the node's. Raises Ended."""
        while True:
            header = await self._take(_HEADER.size)
            version, kind, flags, stream, value = _HEADER.unpack(header)
            if version != 0 or kind > GO_AWAY or (kind == DATA and value > _MAX_FRAME):
                raise Failure(f"the node sent no yamux frame: {header.hex()}")
            payload = await self._take(value) if kind == DATA else b""
            if kind == PING and flags & SYN:
                await self.send(PING, ACK, 0, value)
                continue
            return Frame(kind, flags, stream, value, payload)

    async def receive_of(self, stream: int) -> Frame:
        """Return the next frame of one stream. Raises Ended when the session ends."""
        while True:
            frame = await self.receive()
            if frame.type == GO_AWAY:
                raise Ended(f"the node said go-away {frame.value}")
            if frame.stream == stream and frame.type in (DATA, WINDOW_UPDATE):
                return frame

    async def wait_refused(self, stream: int | None = None) -> None:
        """Wait until the node says go-away 1, closes the link, or resets `stream`."""
        try:
            while True:
                frame = await self.receive()
                if frame.type == GO_AWAY:
                    if frame.value != 1:
                        raise Failure(f"answered with go-away {frame.value}, expected 1")
                    return
                if stream is not None and frame.stream == stream and frame.flags & RST:
                    return
        except (Ended, *LOST) as error:
            if isinstance(error, Failure) and not isinstance(error, Ended):
                raise

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += await self._pieces()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _pieces(self) -> bytes:
        pieces = await self._channel.receive()
        if not pieces:
            raise Ended("the node closed the connection")
        return b"".join(pieces)


class RawStream:
    """One yamux stream of ours, by hand, with an account of what we may send."""

    def __init__(self, muxed: Muxed, number: int) -> None:
        self.muxed, self.number = muxed, number
        self.credit = INITIAL_WINDOW
        self.ended = False
        self._received = bytearray()
        self._opened = False

    async def send(self, data: bytes, *, flags: int = 0) -> None:
        """Send within or beyond the credit; the first frame opens the stream."""
        flags |= 0 if self._opened else SYN
        self._opened = True
        self.credit -= len(data)
        await self.muxed.send_data(flags, self.number, data)

    async def negotiate(self, *protocols: str) -> None:
        """Agree on the last of `protocols`; the ones before have to be refused."""
        negotiation = DialerNegotiation(protocols)
        await self.send(negotiation.start())
        while negotiation.protocol is None:
            while not self._received:
                await self.pump()
            data = bytes(self._received)
            self._received.clear()
            reply = negotiation.receive(data)
            if reply:
                await self.send(reply)
        if negotiation.protocol != protocols[-1]:
            raise Failure(f"agreed to {negotiation.protocol}, expected {protocols[-1]}")
        self._received += negotiation.leftover

    async def receive(self, size: int) -> bytes:
        """Return exactly `size` bytes. Raises Ended."""
        while len(self._received) < size:
            if self.ended:
                raise Ended(f"the stream ended after {len(self._received)} of {size} bytes")
            await self.pump()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def pump(self) -> None:
        """Take in one frame of the stream. Raises Ended when the node resets it."""
        frame = await self.muxed.receive_of(self.number)
        if frame.flags & RST:
            raise Ended("the node reset the stream")
        if frame.type == WINDOW_UPDATE:
            self.credit += frame.value
        self._received += frame.payload
        self.ended |= bool(frame.flags & FIN)
