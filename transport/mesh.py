"""The mesh: one node's connections to its peers, and what it serves to them.

    async with open_mesh(identity, listen=[address]) as mesh:
        mesh.handle("/echo/1", echo)
        stream = await mesh.open_stream(peer, "/echo/1", addresses=[where])

Everything that runs for a mesh runs in one nursery that its block owns: accepting, dialling,
connections, handlers. Other files hold the parts: `_inbound` the door, `_dialer` the way out,
`_connections` who is connected, `_serve` what handlers may do, `_introductions` what peers tell
each other, `_own_addresses` where we are. Here they are wired, and connections live and end.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica._version import __version__
from lattica.errors import DeadlineExceeded, InvalidInput, LatticaError

from ._book import AddressBook
from ._connections import ConnectionTable
from ._dial import MeshClosed, SelfDial
from ._dialer import Dialer
from ._events import Broadcast, PeerConnected, PeerDisconnected
from ._inbound import Inbound
from ._introductions import Introductions
from ._key_watch import end_with_keys
from ._own_addresses import OwnAddresses
from ._serve import Handlers
from ._stream_ends import ConnectionLost
from ._upgrade import Upgraded, check_security, upgrade
from .connection import Connection
from .identify import IDENTIFY_PROTOCOL, PUSH_PROTOCOL, IdentifyInfo
from .limits import Limits
from .ping import PING_PROTOCOL, PingServer, measure_round_trip
from .tcp import TcpTransport
from .yamux import CreditLedger, SessionClosing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica.identity import Identity, PeerId
    from lattica.private_swarm import Membership

    from ._events import MeshEvent
    from ._links import Listener, RawLink, Transport
    from ._stream import Stream
    from .multiaddr import IPAddress, Multiaddr

_log = logging.getLogger(__name__)
PROTOCOL_VERSION = "lattica-mesh/common/1"


class NoTransport(InvalidInput):
    """No transport of this mesh listens on that kind of address."""

    code = "no-transport"
    hint = "listen on /ip4/…/tcp/… or /ip6/…/tcp/…"


class Mesh:
    """A node among its peers. Made by `open_mesh`; lives as long as its block.

    Attributes:
        identity: who we are.
        peer_id: our name.
        limits: every bound.
        book: what we know of peers.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        transports: Sequence[Transport],
        announce: Sequence[Multiaddr],
        limits: Limits,
        security: Sequence[str],
        agent_version: str,
        protocol_version: str,
        swarm: Membership | None,
        nursery: trio.Nursery,
    ) -> None:
        self.identity, self.peer_id, self.limits = identity, identity.peer_id, limits
        self.book = AddressBook(peers=limits.book_peers, addresses_per_peer=limits.book_addresses)
        self._transports, self._nursery = transports, nursery
        self._security, self._swarm = tuple(security), swarm
        self._agent_version, self._protocol_version = agent_version, protocol_version
        self._closed = False
        self._listeners: list[Listener] = []
        self._where = OwnAddresses(
            announce, bound=lambda: self.listen_addresses, observed=limits.observed_addresses
        )
        self._ledger = CreditLedger(limits)
        self._table = ConnectionTable[Connection](self.peer_id, limits)
        self._events = Broadcast(limits.events)
        self._handlers = Handlers(limits.handlers_per_peer, limits.handlers)
        self._pings = PingServer(limits, self._handlers.refused)
        self._introductions = Introductions(
            identity,
            limits,
            self.book,
            self._where,
            self._events,
            describe=self._describe,
            connections=self.connections,
        )
        self._inbound = Inbound(
            identity,
            limits,
            security=security,
            swarm=swarm,
            nursery=nursery,
            check_room=self._check_door,
            admit=self._admit,
        )
        self._dialer = Dialer[Connection](
            identity,
            transports,
            limits,
            self.book,
            security=security,
            swarm=swarm,
            nursery=nursery,
            # Not what others say of us: they could name an address that we then never dial.
            listening=lambda: frozenset(self._where.own()).union(self.listen_addresses),
            admit=self._admit,
        )
        self._handlers.add(IDENTIFY_PROTOCOL, self._introductions.answer)
        self._handlers.add(PUSH_PROTOCOL, self._introductions.receive_push)
        self._handlers.add(PING_PROTOCOL, self._pings.serve)

    # Who we are to others

    @property
    def listen_addresses(self) -> list[Multiaddr]:
        """What is bound, with real ports, without `/p2p/…`."""
        return [address for listener in self._listeners for address in listener.addresses]

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where we say we can be reached, without `/p2p/…`: public first, loopback last.

        Behind a NAT that includes where several networks agree to see us.
        """
        return self._where.all()

    @property
    def announced(self) -> tuple[Multiaddr, ...]:
        """What we were told to say instead; empty when it is found out."""
        return self._where.announced

    @property
    def observed_addresses(self) -> Mapping[Multiaddr, int]:
        """From which addresses peers see us come, and how many peers each; a claim of theirs."""
        return self._where.observed.counts()

    @property
    def public_ips(self) -> Mapping[IPAddress, int]:
        """At which public IP addresses peers see us, and how many networks (`ip_group`) do each."""
        return self._where.observed.public_ips()

    @property
    def interface_ips(self) -> frozenset[IPAddress]:
        """The IP addresses that we listen on, those of 0.0.0.0 and `::` one by one."""
        return self._where.interface_ips()

    @property
    def protocols(self) -> frozenset[str]:
        """What we serve."""
        return self._handlers.protocols

    @property
    def refused(self) -> Mapping[str, int]:
        """How many links and streams of others were sent away, by the reason's code."""
        return {**self._inbound.refused, **self._handlers.refused}

    # Serving

    def handle(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Serve `protocol`: `handler` gets each stream that a peer opens for it.

        The stream is closed when the handler returns, and reset when it raises; whatever it raises
        is logged and ends nothing else. When the connection is gone it has `handler_grace_s` to
        finish with what has arrived. Connected peers are told of the new protocol.

        Raises:
            HandlerTaken: the protocol is served already.
        """
        self._handlers.add(protocol, handler)
        self._introductions.note_change()

    def unhandle(self, protocol: str) -> None:
        """Serve `protocol` no more; streams that are being served go on."""
        self._handlers.remove(protocol)
        self._introductions.note_change()

    # Reaching others

    def can_dial(self, address: Multiaddr) -> bool:
        """Say whether one of our transports leads there."""
        return any(transport.can_dial(address) for transport in self._transports)

    async def connect(self, peer: PeerId, addresses: Iterable[Multiaddr] = ()) -> Connection:
        """Return a live connection to `peer`, dialled if there is none.

        All of `addresses` and those in the book are raced, the likely ones ahead. Callers that
        want the same peer share one dial. Cancelled, nothing is left open.

        Raises:
            DialError: no address led to the peer; `attempts` says why for each.
            PeerIdMismatch: somebody else answered at every address.
            SwarmKeyMismatch: the peer and this node are not members of one private swarm.
            SelfDial: `peer` is this node.
            ConnectionLimit: there are connections enough.
        """
        self._check_open()
        live = self.connected(peer)
        if live is not None:
            await trio.lowlevel.checkpoint()
            return live
        self._check_room(peer)
        return await self._dialer.connect(peer, addresses)

    async def dial(self, address: Multiaddr) -> Connection:
        """Open a connection to whoever answers at `address`; a new one, whatever is open.

        If the address ends with `/p2p/…`, it has to be that peer. Cancelled, nothing is left open.

        Raises:
            DialError: nobody answered, or not as a libp2p peer; `attempts` says why.
            PeerIdMismatch: somebody else answered.
            SwarmKeyMismatch: they and this node are not members of one private swarm.
            SelfDial: it is this node.
            ConnectionLimit: there are connections enough.
        """
        self._check_open()
        self._check_room(address.peer_id)
        return await self._dialer.dial(address)

    async def adopt(
        self, link: RawLink, *, inbound: bool, expected: PeerId | None = None
    ) -> Connection:
        """Secure a link that somebody else opened, through a relay for instance, and take it in.

        Args:
            link: owned from now on; closed whatever goes wrong, cancellation included.
            inbound: whether the other end opened it.
            expected: who has to be at the other end; None takes whoever is.

        Raises:
            DeadlineExceeded: no handshake within `handshake_timeout_s`.
            PeerIdMismatch: somebody else answered.
            ConnectionLimit: there are connections enough.
            LatticaError: the handshake failed.
        """
        try:
            self._check_open()
            self._check_room(expected)
        except LatticaError:
            link.close()
            raise
        timeout = self.limits.handshake_timeout_s
        with trio.move_on_after(timeout):
            upgraded = await upgrade(
                link,
                self.identity,
                initiator=not inbound,
                expected=expected,
                security=self._security,
                swarm=self._swarm,
            )
            return self._admit(upgraded)
        raise DeadlineExceeded(f"no handshake within {timeout:g} s", peer=expected)

    async def open_stream(
        self, peer: PeerId, *protocols: str, addresses: Iterable[Multiaddr] = ()
    ) -> Stream:
        """Open a stream to `peer`, connecting first if need be; see `Connection.open_stream`.

        Raises as `connect` and `Connection.open_stream` do.
        """
        connection = await self.connect(peer, addresses)
        try:
            return await connection.open_stream(*protocols)
        except (ConnectionLost, SessionClosing):
            # It was ending while we looked; a peer that has restarted is there on a new one.
            connection = await self.connect(peer, addresses)
            return await connection.open_stream(*protocols)

    async def ping(self, peer: PeerId) -> float:
        """Return the round trip to `peer` in seconds, connecting first if need be.

        Raises as `connect` does, and:
            DeadlineExceeded: no answer within `ping_timeout_s`.
            Refused: the peer does not answer pings.
        """
        connection = await self.connect(peer)
        timeout = self.limits.ping_timeout_s
        with trio.move_on_after(timeout):
            return await measure_round_trip(connection)
        raise DeadlineExceeded(f"no answer to a ping within {timeout:g} s", peer=peer)

    def connections(self) -> list[Connection]:
        """Return all live connections."""
        return [entry for entry in self._table.all() if not entry.closing]

    def connected(self, peer: PeerId) -> Connection | None:
        """Return the live connection to `peer` that both ends prefer, if there is one."""
        live = (entry for entry in self._table.to(peer) if not entry.closing)
        return next(live, None)

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to `peer`, with a goodbye. Cancelled, they close all the same."""
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for connection in self._table.to(peer):
                nursery.start_soon(connection.aclose)

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[MeshEvent]]:
        """Receive what happens while the block runs: peers come, are identified, and go.

        A reader that falls `limits.events` behind loses the oldest.
        """
        return self._events.listen()

    # Connections, from first to last

    def _admit(self, upgraded: Upgraded) -> Connection:
        channel = upgraded.channel
        try:
            self._check_open()
            if channel.peer == self.peer_id:
                raise SelfDial(f"{upgraded.remote_address} is this node itself")
            self._table.check_room(channel.peer)
            if upgraded.inbound:
                self._table.check_source(upgraded.remote_address)
        except LatticaError:
            channel.close()
            raise
        connection = Connection(
            channel,
            local_address=upgraded.local_address,
            remote_address=upgraded.remote_address,
            inbound=upgraded.inbound,
            limits=self.limits,
            ledger=self._ledger,
            supported=self._handlers,
            on_stream=self._handlers.serve,
            tasks=self._nursery,
            received=[upgraded.leftover] if upgraded.leftover else (),
            key=upgraded.key,
        )
        if self._table.add(connection):
            self.book.keep(connection.peer)
            self._events.publish(PeerConnected(connection))
        self._nursery.start_soon(self._run, connection)
        self._nursery.start_soon(self._introductions.ask, connection)
        self._make_room()
        return connection

    def _check_room(self, peer: PeerId | None = None) -> None:
        try:
            self._table.check_room(peer)
        except LatticaError:
            self._make_room()  # too late for this one, in time for the next
            raise

    def _check_door(self, address: Multiaddr) -> None:
        self._check_room()
        self._table.check_source(address)

    def _make_room(self) -> None:
        idle = self._table.idle(trio.current_time())
        if idle is not None:
            _log.debug("%s gives way to newcomers: it is idle", idle.peer)
            idle.go_away()

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception:  # noqa: BLE001  # logged; it may not end the node
            # Bytes of a stranger reached code that did not expect them: a bug, and not one that
            # may end the node.
            _log.exception("the connection to %s failed unexpectedly", connection.peer)
        finally:
            self._handlers.wind_up(connection, self.limits.handler_grace_s)
            if self._table.remove(connection):
                self.book.release(connection.peer)
                self._events.publish(PeerDisconnected(connection.peer, connection.close_reason))

    def _describe(self) -> IdentifyInfo:
        return IdentifyInfo(
            protocols=self._handlers.protocols,
            addresses=tuple(self.addresses),
            agent_version=self._agent_version,
            protocol_version=self._protocol_version,
        )

    # Opening and closing

    async def _start(self, listen: Sequence[Multiaddr]) -> None:
        for address in listen:
            transport = next((way for way in self._transports if way.can_listen(address)), None)
            if transport is None:
                raise NoTransport(f"no transport of this mesh listens on {address}")
            self._listeners.append(await transport.listen(address))
        for listener in self._listeners:
            self._nursery.start_soon(self._inbound.serve, listener)
        self._nursery.start_soon(self._introductions.tell_changes)
        if self._swarm is not None:
            self._nursery.start_soon(
                end_with_keys, self._swarm, self.connections, self.limits, self._nursery
            )

    async def _close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener.close()
        # Each connection says goodbye in at most `close_timeout_s`, whoever has cancelled us.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for connection in self._table.all():
                    nursery.start_soon(connection.aclose)

    def _check_open(self) -> None:
        if self._closed:
            raise MeshClosed("the mesh is closed")


@asynccontextmanager
async def open_mesh(
    identity: Identity,
    *,
    listen: Sequence[Multiaddr] = (),
    transports: Sequence[Transport] | None = None,
    announce: Sequence[Multiaddr] = (),
    limits: Limits | None = None,
    security: Sequence[str] = ("/noise", "/tls/1.0.0"),
    agent_version: str | None = None,
    protocol_version: str = PROTOCOL_VERSION,
    swarm: Membership | None = None,
) -> AsyncIterator[Mesh]:
    """Run a mesh until the block ends. It owns all its tasks, sockets and connections.

    Args:
        identity: who we are.
        listen: where to listen; port 0 picks a free one, 0.0.0.0 and `::` all interfaces.
        transports: how to reach others; TCP alone when not given.
        announce: where to say that we can be reached, instead of what is bound.
        limits: every bound; the defaults when not given.
        security: protocols to offer, best first, and to accept.
        agent_version: what we call our software.
        protocol_version: the family of protocols we belong to.
        swarm: keys of a private swarm: whoever is no member sees nothing of us but our name.

    Raises:
        AddressInUse: a port is taken; says which, and what to do.
        InvalidInput: an address cannot be bound, or a security protocol is not known.
    """
    check_security(security)
    limits = limits if limits is not None else Limits()
    if transports is None:
        transports = [
            TcpTransport(backlog=limits.accept_backlog, head_start_s=limits.dial_head_start_s)
        ]
    if agent_version is None:
        agent_version = f"lattica-mesh/{__version__}"
    async with private_nursery() as nursery:
        mesh = Mesh(
            identity,
            transports=transports,
            announce=[address.without_peer() for address in announce],
            limits=limits,
            security=security,
            agent_version=agent_version,
            protocol_version=protocol_version,
            swarm=swarm,
            nursery=nursery,
        )
        try:
            await mesh._start(listen)
            yield mesh
        finally:
            await mesh._close()
        nursery.cancel_scope.cancel()
