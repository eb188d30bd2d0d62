"""A mesh behind py-libp2p's `IHost` and `INetwork`. Imported by `libp2p.open_libp2p_host` only.

Both stand for the mesh and hold no state of their own but the peer store. Their negotiation tells
at once whether the peer speaks a protocol, and their services count on it; so a stream is handed
out when the peer has agreed, at the price of a round trip.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import IHost, IMuxedConn, INetConn, INetStream, INetworkService, INotifee
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.exceptions import ConnectionFailure, StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.network.tag_store import TagStore
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.multiselect import Multiselect

from lattica._nursery import private_nursery
from lattica.errors import LatticaError, ProtocolError

from ._events import PeerConnected, PeerDisconnected, PeerIdentified
from ._libp2p_parts import (
    OUR_ERRORS,
    IdentityKey,
    MeshConn,
    MeshStream,
    NotBridged,
    RawConnLink,
    from_id,
    from_their_addresses,
    to_id,
    to_their_addresses,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID
    from libp2p.peer.peerinfo import PeerInfo
    from multiaddr import Multiaddr as TheirMultiaddr

    from lattica.identity import PeerId

    from ._stream import Stream
    from .connection import Connection
    from .mesh import Mesh

_log = logging.getLogger(__name__)
_PEERSTORE_TTL_S = 3600


class ServiceFault(ProtocolError):
    """A py-libp2p service gave up on what a peer sent."""

    code = "libp2p-service"


class MeshNetwork(INetworkService):  # type: ignore[misc]  # its base is not typed here
    """A mesh as their network: connections, and who is told of them."""

    def __init__(self, mesh: Mesh, peerstore: PeerStore) -> None:
        self._mesh, self.peerstore = mesh, peerstore
        self.listeners: dict[str, Any] = {}
        self.tags = TagStore()
        self._conns: WeakKeyDictionary[Connection, MeshConn] = WeakKeyDictionary()
        self._notifees: list[INotifee] = []

    def conn(self, connection: Connection) -> MeshConn:
        """Return the one object of theirs that stands for `connection`."""
        conn = self._conns.get(connection)
        if conn is None:
            conn = self._conns[connection] = MeshConn(connection)
        return conn

    @property
    def connections(self) -> dict[ID, list[INetConn]]:
        """All live connections by peer."""
        found: dict[ID, list[INetConn]] = {}
        for connection in self._mesh.connections():
            found.setdefault(to_id(connection.peer), []).append(self.conn(connection))
        return found

    def get_peer_id(self) -> ID:
        """Return our name."""
        return to_id(self._mesh.peer_id)

    def get_connections(self, peer_id: ID | None = None) -> list[INetConn]:
        """Return live connections, all or those to one peer."""
        found = self.connections
        if peer_id is not None:
            return found.get(peer_id, [])
        return [conn for conns in found.values() for conn in conns]

    def get_connections_map(self) -> dict[ID, list[INetConn]]:
        """Return all live connections by peer."""
        return self.connections

    def get_connection(self, peer_id: ID) -> INetConn | None:
        """Return the preferred connection to a peer."""
        connection = self._mesh.connected(from_id(peer_id))
        return None if connection is None else self.conn(connection)

    def get_total_connections(self) -> int:
        """Return the number of live connections."""
        return len(self._mesh.connections())

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Connect, and return the connections to the peer. Raises SwarmException."""
        addresses = from_their_addresses(_known(self.peerstore, peer_id))
        try:
            connection = await self._mesh.connect(from_id(peer_id), addresses)
        except LatticaError as error:
            raise SwarmException(str(error)) from error
        return [self.conn(connection)]

    async def dial_addr(
        self, addr: TheirMultiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        """Connect to one address, anew. Raises SwarmException; `source` is not supported."""
        try:
            (address,) = from_their_addresses([addr]) or (None,)
            if source is not None or address is None:
                raise NotBridged(f"cannot dial {addr} from {source}")
            bare = address if address.peer_id is not None else address.with_peer(from_id(peer_id))
            return self.conn(await self._mesh.dial(bare))
        except LatticaError as error:
            raise SwarmException(str(error)) from error

    async def dial_addr_as_responder(
        self, addr: TheirMultiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        """Raise SwarmException: no simultaneous open yet."""
        raise SwarmException(f"simultaneous open of {addr} is not supported")

    async def close_peer(self, peer_id: ID) -> None:
        """Disconnect."""
        await self._mesh.disconnect(from_id(peer_id))

    def register_notifee(self, notifee: INotifee) -> None:
        """Tell `notifee` of peers that come and go."""
        self._notifees.append(notifee)

    def remove_notifee(self, notifee: INotifee) -> None:
        """Undo `register_notifee`."""
        if notifee in self._notifees:
            self._notifees.remove(notifee)

    async def tell(self, method: str, connection: Connection) -> None:
        """Call one method of all notifees. What they raise is logged: they are foreign code."""
        for notifee in list(self._notifees):
            try:
                await getattr(notifee, method)(self, self.conn(connection))
            except Exception:  # noqa: BLE001  # logged; one service may not end the others
                _log.exception("%s.%s failed", type(notifee).__name__, method)

    def tag_peer(self, peer_id: ID, tag: str, value: int) -> None:
        """Note a tag; our mesh does not prune by it."""
        self.tags.tag_peer(peer_id, tag, value)

    def untag_peer(self, peer_id: ID, tag: str) -> None:
        """Drop a tag."""
        self.tags.untag_peer(peer_id, tag)

    def get_tag_info(self, peer_id: ID) -> Any:
        """Return the tags of a peer."""
        return self.tags.get_tag_info(peer_id)

    def protect(self, peer_id: ID, tag: str) -> None:
        """Note a protection; our mesh does not prune at all."""
        self.tags.protect(peer_id, tag)

    def unprotect(self, peer_id: ID, tag: str) -> bool:
        """Drop a protection."""
        return bool(self.tags.unprotect(peer_id, tag))

    def is_protected(self, peer_id: ID, tag: str = "") -> bool:
        """Say whether a peer is protected."""
        return bool(self.tags.is_protected(peer_id, tag))

    def get_metrics(self) -> dict[str, int]:
        """Return nothing: the mesh has its own."""
        return {}

    def get_conn_mgr_info(self) -> Any:
        """Raise NotBridged."""
        raise NotBridged("the mesh does not prune connections")

    async def new_stream(self, peer_id: ID) -> NoReturn:
        """Raise NotBridged: our streams are opened with their protocol."""
        raise NotBridged("open streams with `host.new_stream`, which names the protocol")

    async def listen(self, *multiaddrs: TheirMultiaddr) -> bool:
        """Raise NotBridged: the mesh listens."""
        raise NotBridged("the mesh listens where `open_mesh` was told to")

    def set_stream_handler(self, stream_handler: object) -> None:
        """Raise NotBridged: handlers are per protocol."""
        raise NotBridged("set handlers per protocol, with `host.set_stream_handler`")

    async def upgrade_outbound_raw_conn(self, raw_conn: Any, peer_id: ID) -> INetConn:
        """Take in a connection that a relay opened for us. Raises SwarmException."""
        return await self.adopt(raw_conn, inbound=False, expected=from_id(peer_id))

    async def upgrade_inbound_raw_conn(self, raw_conn: Any, maddr: TheirMultiaddr) -> IMuxedConn:
        """Take in a connection that a relay brought to us. Raises SwarmException."""
        return await self.adopt(raw_conn, inbound=True, expected=None)

    async def adopt(self, raw_conn: Any, *, inbound: bool, expected: PeerId | None) -> MeshConn:
        """Secure their raw connection and take it into the mesh. Raises SwarmException."""
        link = RawConnLink(raw_conn, self._mesh._nursery)
        try:
            connection = await self._mesh.adopt(link, inbound=inbound, expected=expected)
        except LatticaError as error:
            raise SwarmException(str(error)) from error
        conn = self.conn(connection)
        conn.set_transport_info(raw_conn.get_transport_addresses(), raw_conn.get_connection_type())
        return conn

    def get_peer_health_summary(self, peer_id: ID) -> dict[str, Any]:
        """Return nothing: health is not monitored."""
        return {}

    def get_global_health_summary(self) -> dict[str, Any]:
        """Return nothing: health is not monitored."""
        return {}

    def export_health_metrics(self, format: str = "json") -> str:  # noqa: A002  # their name
        """Return nothing: health is not monitored."""
        return ""

    async def get_health_monitor_status(self) -> dict[str, Any]:
        """Say that health is not monitored."""
        return {"enabled": False}

    async def run(self) -> None:
        """Raise NotBridged: the mesh runs already."""
        raise NotBridged("the mesh runs in the block of `open_mesh`")

    def get_manager(self) -> NoReturn:
        """Raise NotBridged: the mesh runs already."""
        raise NotBridged("the mesh runs in the block of `open_mesh`")

    async def close(self) -> None:
        """Raise NotBridged: the mesh ends with its block."""
        raise NotBridged("the mesh ends with the block of `open_mesh`")


class MeshHost(IHost):  # type: ignore[misc]  # its base is not typed here
    """A mesh as their host. Made by `open_libp2p_host`.

    Attributes:
        mesh: what is behind it.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._peerstore = PeerStore()
        self._network = MeshNetwork(mesh, self._peerstore)
        self._replaced: dict[str, Any] = {}  # handlers of the mesh that theirs stand in for

    def get_id(self) -> ID:
        """Return our name."""
        return to_id(self.mesh.peer_id)

    def get_public_key(self) -> Ed25519PublicKey:
        """Return our public key."""
        return self.get_private_key().get_public_key()

    def get_private_key(self) -> IdentityKey:
        """Return what signs for us, without showing the key."""
        return IdentityKey(self.mesh.identity)

    def get_network(self) -> MeshNetwork:
        """Return the network."""
        return self._network

    def get_peerstore(self) -> PeerStore:
        """Return the peer store, which follows what the mesh learns of its peers."""
        return self._peerstore

    def get_mux(self) -> Multiselect:
        """Return the protocols we serve, in the form they ask it."""
        return Multiselect(dict.fromkeys(sorted(self.mesh.protocols)))

    @property
    def conn_manager(self) -> TagStore:
        """Tags of peers; our mesh does not prune by them."""
        return self._network.tags

    def get_addrs(self) -> list[TheirMultiaddr]:
        """Return where we say we can be reached, with `/p2p/…`."""
        return to_their_addresses(
            address.with_peer(self.mesh.peer_id) for address in self.mesh.addresses
        )

    def get_transport_addrs(self) -> list[TheirMultiaddr]:
        """Return what is bound."""
        return to_their_addresses(self.mesh.listen_addresses)

    def get_connected_peers(self) -> list[ID]:
        """Return the peers we are connected to."""
        return list(self._network.connections)

    def get_live_peers(self) -> list[ID]:
        """Return the peers we are connected to."""
        return self.get_connected_peers()

    def set_stream_handler(
        self, protocol_id: str, stream_handler: Callable[[INetStream], Awaitable[None]]
    ) -> None:
        """Serve a protocol; a handler that is there already gives way until it is removed."""
        protocol = str(protocol_id)

        async def serve(stream: Stream) -> None:
            theirs = MeshStream(self._network.conn(stream.connection), stream)
            try:
                await stream_handler(theirs)
            except BaseLibp2pError as error:
                raise ServiceFault(f"{protocol}: {error}", peer=stream.peer) from error

        before = self.mesh._handlers.get(protocol)
        self._replaced.setdefault(protocol, before)
        self.mesh.unhandle(protocol)
        self.mesh.handle(protocol, serve)

    def remove_stream_handler(self, protocol_id: str) -> None:
        """Serve a protocol no more, or as the mesh did before."""
        protocol = str(protocol_id)
        if protocol in self._replaced:
            before = self._replaced.pop(protocol)
            self.mesh.unhandle(protocol)
            if before is not None:
                self.mesh.handle(protocol, before)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[str]) -> MeshStream:
        """Open a stream; the peer has agreed on its protocol. Raises StreamFailure."""
        peer = from_id(peer_id)
        addresses = from_their_addresses(_known(self._peerstore, peer_id))
        stream: Stream | None = None
        try:
            protocols = [str(protocol) for protocol in protocol_ids]
            stream = await self.mesh.open_stream(peer, *protocols, addresses=addresses)
            with trio.fail_after(self.mesh.limits.negotiation_timeout_s):
                await stream._agree()
        except (*OUR_ERRORS, trio.TooSlowError) as error:
            if stream is not None:
                stream.reset()
            raise StreamFailure(f"failed to open a stream to {peer_id}: {error}") from error
        except BaseException:
            if stream is not None:
                stream.reset()
            raise
        return MeshStream(self._network.conn(stream.connection), stream)

    async def connect(self, peer_info: PeerInfo) -> None:
        """Connect to a peer, and keep its addresses. Raises ConnectionFailure."""
        self._peerstore.add_addrs(peer_info.peer_id, peer_info.addrs, _PEERSTORE_TTL_S)
        addresses = from_their_addresses(_known(self._peerstore, peer_info.peer_id))
        try:
            await self.mesh.connect(from_id(peer_info.peer_id), addresses)
        except LatticaError as error:
            raise ConnectionFailure(str(error)) from error

    async def disconnect(self, peer_id: ID) -> None:
        """Close all connections to a peer."""
        await self.mesh.disconnect(from_id(peer_id))

    async def upgrade_outbound_connection(self, raw_conn: Any, peer_id: ID) -> INetConn:
        """Take in a connection that a relay opened for us. Raises SwarmException."""
        return await self._network.upgrade_outbound_raw_conn(raw_conn, peer_id)

    async def upgrade_inbound_connection(self, raw_conn: Any, maddr: TheirMultiaddr) -> IMuxedConn:
        """Take in a connection that a relay brought to us. Raises SwarmException."""
        return await self._network.upgrade_inbound_raw_conn(raw_conn, maddr)

    def get_metrics_recv_channel(self) -> None:
        """Return None: the mesh has its own metrics."""

    async def initiate_autotls_procedure(self, public_ip: str | None = None) -> None:
        """Raise NotBridged."""
        raise NotBridged("the mesh has no AutoTLS")

    def run(self, listen_addrs: Sequence[TheirMultiaddr], *, task_status: Any = None) -> NoReturn:
        """Raise NotBridged: the mesh runs already."""
        raise NotBridged("the mesh runs in the block of `open_mesh`")

    async def close(self) -> None:
        """Raise NotBridged: the mesh ends with its block."""
        raise NotBridged("the mesh ends with the block of `open_mesh`")

    def get_connection_health(self, peer_id: ID) -> dict[str, Any]:
        """Return nothing: health is not monitored."""
        return {}

    def get_network_health_summary(self) -> dict[str, Any]:
        """Return nothing: health is not monitored."""
        return {}

    def export_health_metrics(self, format: str = "json") -> str:  # noqa: A002  # their name
        """Return nothing: health is not monitored."""
        return ""

    async def get_health_monitor_status(self) -> dict[str, Any]:
        """Say that health is not monitored."""
        return {"enabled": False}

    async def follow(self, events: trio.MemoryReceiveChannel[Any]) -> None:
        """Keep the peer store and the notifees up to date with the mesh."""
        last: dict[PeerId, Connection] = {}
        async for event in events:
            if isinstance(event, PeerConnected):
                last[event.peer] = event.connection
                await self._network.tell("connected", event.connection)
            elif isinstance(event, PeerIdentified):
                peer_id = to_id(event.peer)
                addresses = to_their_addresses(self.mesh.book.addresses(event.peer))
                self._peerstore.add_addrs(peer_id, addresses, _PEERSTORE_TTL_S)
                protocols = sorted(self.mesh.book.protocols(event.peer))
                self._peerstore.set_protocols(peer_id, protocols)
            elif isinstance(event, PeerDisconnected) and event.peer in last:
                await self._network.tell("disconnected", last.pop(event.peer))


@asynccontextmanager
async def run_host(mesh: Mesh) -> AsyncIterator[MeshHost]:
    """Run `mesh` as a host of theirs until the block ends."""
    host = MeshHost(mesh)
    try:
        async with mesh.events() as events, private_nursery() as nursery:
            nursery.start_soon(host.follow, events)
            yield host
            nursery.cancel_scope.cancel()
    finally:
        for protocol in list(host._replaced):
            host.remove_stream_handler(protocol)


def _known(peerstore: PeerStore, peer_id: ID) -> list[TheirMultiaddr]:
    return list(peerstore.addrs(peer_id)) if peerstore.has_peer(peer_id) else []
