"""What py-libp2p's services hold in their hands: our streams, connections and keys as theirs.

Each translates calls, addresses and errors, and holds no state of its own. Imported by
`_libp2p_host` only.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.crypto.keys import KeyType, PrivateKey
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import (
    StreamClosed,
    StreamEOF,
    StreamReset as TheirStreamReset,
)
from libp2p.peer.id import ID
from multiaddr import Multiaddr as TheirMultiaddr

from lattica.errors import LatticaError
from lattica.identity import PeerId

from ._stream_ends import MessageTooLong
from .multiaddr import AddressCodecError, Multiaddr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lattica.identity import Identity

    from ._stream import Stream
    from .connection import Connection

MAX_WHOLE_BYTES = 16 << 20  # of a stream that is read to its end, however long the peer sends

_log = logging.getLogger(__name__)
OUR_ERRORS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)


class NotBridged(LatticaError):
    """A py-libp2p service asked for what our mesh does itself."""

    code = "not-bridged"
    hint = "listen, negotiate and prune through the mesh; its settings are those of `open_mesh`"


class MeshStream(INetStream):  # type: ignore[misc]  # its base is not typed here
    """One of our streams as theirs."""

    def __init__(self, conn: MeshConn, stream: Stream) -> None:
        self.muxed_conn = conn
        self.metric_send_channel = None
        self.stream = stream
        self._protocol = stream.protocol
        self.is_closed = False

    def get_protocol(self) -> str:
        """Return what is spoken on it."""
        return self._protocol

    def set_protocol(self, protocol_id: str) -> None:
        """Note what is spoken on it; it was agreed on already."""
        self._protocol = protocol_id

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes, as soon as there are some; without `n` all up to the end.

        A peer that sends more than `MAX_WHOLE_BYTES` before its end is reset.
        """
        with _their_stream_errors():
            if n is not None and n >= 0:
                data = await self.stream.receive_some(n) if n else b""
                if n and not data:
                    raise StreamEOF
                return data
            pieces, size = [], 0
            while piece := await self.stream.receive_some():
                size += len(piece)
                if size > MAX_WHOLE_BYTES:
                    self.stream.reset()
                    raise MessageTooLong(size, MAX_WHOLE_BYTES, self.stream.peer)
                pieces.append(piece)
        if not pieces:
            raise StreamEOF
        return b"".join(pieces)

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        with _their_stream_errors():
            await self.stream.send_all(data)

    async def close_write(self) -> None:
        """Send nothing more; the other direction stays open."""
        with _their_stream_errors():
            await self.stream.send_eof()

    async def close(self) -> None:
        """Close both directions."""
        self.is_closed = True
        await self.stream.aclose()

    async def reset(self) -> None:
        """Give the stream up."""
        self.is_closed = True
        self.stream.reset()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return IP address and port of the other end, where it has one."""
        return self.muxed_conn.get_remote_address()


class MeshConn(INetConn, IMuxedConn):  # type: ignore[misc]  # its bases are not typed here
    """One of our connections as both of theirs."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.peer_id = to_id(connection.peer)
        self.event_started = trio.Event()
        self.event_started.set()
        self._addresses = to_their_addresses([connection.remote_address])
        self._type = ConnectionType.DIRECT

    @property
    def muxed_conn(self) -> MeshConn:
        """This one: we have no layer between."""
        return self

    @property
    def is_initiator(self) -> bool:
        """Whether we dialled."""
        return not self.connection.inbound

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self.connection.closed.is_set()

    @property
    def is_established(self) -> bool:
        """Whether it takes streams."""
        return not self.connection.closing

    async def start(self) -> None:
        """Do nothing: the mesh has started it."""

    async def close(self) -> None:
        """Close it with a goodbye."""
        await self.connection.aclose()

    async def new_stream(self) -> NoReturn:
        """Raise NotBridged: our streams are opened with their protocol."""
        raise NotBridged("open streams with `host.new_stream`, which names the protocol")

    async def open_stream(self) -> NoReturn:
        """Raise NotBridged, as `new_stream`."""
        await self.new_stream()

    async def accept_stream(self) -> NoReturn:
        """Raise NotBridged: inbound streams go to their handlers."""
        raise NotBridged("inbound streams go to the handlers of their protocol")

    def get_streams(self) -> tuple[INetStream, ...]:
        """Return nothing: our mesh does not hand out streams of others."""
        return ()

    def get_transport_addresses(self) -> list[TheirMultiaddr]:
        """Return the other end's address."""
        return list(self._addresses)

    def get_connection_type(self) -> ConnectionType:
        """Return whether it is direct or relayed."""
        return self._type

    def set_transport_info(self, addresses: list[TheirMultiaddr], kind: ConnectionType) -> None:
        """Note what a relay knows better."""
        self._addresses, self._type = list(addresses), kind

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return IP address and port of the other end, where it has one."""
        parts = self.connection.remote_address.parts
        if self.connection.remote_address.ip is None or len(parts) < 2:
            return None
        return parts[0][1], int(parts[1][1])


class IdentityKey(PrivateKey):  # type: ignore[misc]  # its base is not typed here
    """Signs with our identity; the key itself stays where it is."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def sign(self, data: bytes) -> bytes:
        """Return our signature of `data`."""
        return self._identity.sign(data)

    def get_public_key(self) -> Ed25519PublicKey:
        """Return the public key."""
        return Ed25519PublicKey.from_bytes(self._identity.public_key.data)

    def get_type(self) -> KeyType:
        """Return the key's type."""
        return KeyType.Ed25519

    def to_bytes(self) -> bytes:
        """Raise TypeError: it is not shown."""
        raise TypeError("an identity is not serialised; copy its key file")


class RawConnLink:
    """Their raw connection as a link of ours: a relayed one, which is a stream below.

    A send that is cancelled may have sent part of the data, as theirs does not say; the connection
    on top is then broken, and the peer is dialled again.
    """

    def __init__(self, raw_conn: Any, tasks: trio.Nursery) -> None:
        self._raw, self._tasks = raw_conn, tasks
        self._closed = False
        self._pending = b""
        found = from_their_addresses(raw_conn.get_transport_addresses())
        circuit = Multiaddr((("p2p-circuit", ""),))
        self.local_address = circuit
        self.remote_address = found[0] if found else circuit

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and write them to the front of `buffer`; 0 is the end."""
        if not self._pending:
            try:
                self._pending = await self._raw.read(len(buffer))
            except StreamEOF:
                return 0
            except BaseLibp2pError as error:
                raise self._broken(error) from error
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

    async def send_some(self, data: memoryview) -> int:
        """Send all of `data`."""
        try:
            await self._raw.write(bytes(data))
        except BaseLibp2pError as error:
            raise self._broken(error) from error
        return len(data)

    def send_now(self, data: memoryview) -> int:
        """Send nothing: theirs waits, always."""
        return 0

    def close(self) -> None:
        """Close it; theirs waits to do so, so that happens behind our back."""
        if not self._closed:
            self._closed = True
            self._tasks.start_soon(self._close)

    async def _close(self) -> None:
        with trio.move_on_after(1) as scope:
            scope.shield = True
            try:
                await self._raw.close()
            except (BaseLibp2pError, *OUR_ERRORS) as error:
                _log.debug("closing a relayed link: %s", error)

    def _broken(self, error: Exception) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._closed:
            return trio.ClosedResourceError("this end of the link was closed")
        return trio.BrokenResourceError(str(error))


def to_id(peer: PeerId) -> ID:
    """Return our peer ID as theirs."""
    return ID(peer.raw)


def from_id(peer_id: ID) -> PeerId:
    """Return their peer ID as ours."""
    return PeerId.from_bytes(peer_id.to_bytes())


def to_their_addresses(addresses: Iterable[Multiaddr]) -> list[TheirMultiaddr]:
    """Return our addresses as theirs, without those of protocols that they do not know."""
    found = []
    for address in addresses:
        try:
            theirs = TheirMultiaddr(bytes(address))
            str(theirs)  # they read the bytes only when asked
        except ValueError:
            continue
        found.append(theirs)
    return found


def from_their_addresses(addresses: Iterable[TheirMultiaddr]) -> list[Multiaddr]:
    """Return their addresses as ours, without those of protocols that we do not know."""
    found = []
    for address in addresses:
        try:
            found.append(Multiaddr.from_bytes(address.to_bytes()))
        except AddressCodecError:
            continue
    return found


@contextmanager
def _their_stream_errors() -> Iterator[None]:
    try:
        yield
    except trio.ClosedResourceError as error:
        raise StreamClosed(str(error)) from error
    except OUR_ERRORS as error:
        raise TheirStreamReset(str(error)) from error
