"""Gossip over a mesh: tasks, streams and lifetimes. Only this file and the queue it fills wait.

Theory of operation. `Router` decides; this file moves bytes. To each peer that speaks GossipSub
goes one long-lived stream of ours, on which nothing but our RPCs travels; its RPCs come on a stream
of its own, the newest one if it opens several. A task per peer (`_Session`) empties the router's
outbox for it, so a slow peer delays nobody. RPCs that arrive are judged and passed on by the router
in the task that reads them. One task beats the heart.

A session lasts as long as its connection. When its stream breaks it opens another, after a pause
that grows, and tells the peer our subscriptions anew.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import LatticaError, ProtocolError, Unreachable
from lattica.transport import PeerDisconnected, PeerIdentified, ProtocolNotSupported

from ._message_id import IdForm
from ._messages import MAX_RPC
from ._peers import PROTOCOLS
from ._router import Router
from ._subscription import Overflow, Subscription
from ._values import Message, Statistics, Validator, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lattica.identity import PeerId
    from lattica.transport import Connection, Mesh, Stream

    from ._parameters import Parameters, ScoreParameters

_log = logging.getLogger(__name__)
_STREAM_ERRORS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)
_STALL_S = 60.0  # a peer that reads nothing for so long gets a new stream, later
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before a broken stream is opened again


class StalledPeer(Unreachable):
    """A peer has stopped reading what is sent to it."""

    code = "gossip-stalled"


class _Session:
    """One peer: the stream that it opened last, and the signal that something waits for it."""

    def __init__(self, connection: Connection, protocol: str) -> None:
        self.connection, self.protocol = connection, protocol
        self.peer = connection.peer
        self.inbound: Stream | None = None
        self.wake = trio.Event()
        self.scope = trio.CancelScope()
        self.failure: Exception | None = None  # of the stream we send on

    @contextmanager
    def fails(self, scope: trio.CancelScope) -> Iterator[None]:
        """Note what breaks the stream, and end all that is done with it."""
        try:
            yield
        except _STREAM_ERRORS as error:
            self.failure = self.failure or error
            scope.cancel()


class Pubsub:
    """Topics on a mesh. Made by `open_pubsub`; lives as long as its block."""

    def __init__(self, mesh: Mesh, router: Router, nursery: trio.Nursery) -> None:
        self._mesh, self._router, self._nursery = mesh, router, nursery
        self._sessions: dict[PeerId, _Session] = {}
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._closed = False

    async def publish(self, topic: str, data: bytes) -> int:
        """Sign `data` and send it to everybody who subscribed to `topic`.

        Does not wait for anybody to receive it. While most of the topic's peers are slow to take
        what waits for them it waits for room, but at most a heartbeat: a peer that is stuck loses
        messages, the oldest first, and delays nobody. Our own subscriptions do not get the message.
        Cancelled, nothing was published.

        Returns:
            How many connected peers it goes to; they pass it on to others. With 0 it reaches those
            who subscribe within the next seconds, if we subscribed to the topic.

        Raises:
            InvalidTopic: the topic is empty or longer than 512 bytes.
            MessageTooLarge: more than `MAX_DATA` bytes. Share them as content, publish the CID.
            trio.ClosedResourceError: the block of `open_pubsub` has been left.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._router.parameters.heartbeat_seconds):
            while not self._closed and self._router.congested(topic, trio.current_time()):
                await self._room.park()
        if self._closed:
            raise trio.ClosedResourceError("pubsub is closed")
        peers = self._router.publish(topic, data, trio.current_time())
        self._wake_sessions()
        return peers

    @asynccontextmanager
    async def subscribe(
        self,
        topic: str,
        *,
        queue_messages: int = 1024,
        queue_bytes: int = 16 << 20,
        overflow: Overflow = Overflow.DROP_OLDEST,
    ) -> AsyncIterator[Subscription]:
        """Receive what others publish to `topic` while the block runs.

        Several subscriptions to one topic each get every message.

        Args:
            topic: 1 to 512 bytes.
            queue_messages: how many messages may wait to be taken.
            queue_bytes: their size; a single larger message still goes through.
            overflow: what happens beyond that.

        Raises:
            InvalidTopic: nothing was subscribed.
        """
        subscription = Subscription(
            topic, queue_messages=queue_messages, queue_bytes=queue_bytes, overflow=overflow
        )
        self._router.join(topic, trio.current_time())
        self._subscriptions.setdefault(topic, []).append(subscription)
        self._wake_sessions()
        try:
            await trio.lowlevel.checkpoint()
            yield subscription
        finally:
            subscription.close()
            self._subscriptions[topic].remove(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]
                self._router.leave(topic, trio.current_time())
                self._wake_sessions()

    def set_validator(self, topic: str, validator: Validator | None) -> None:
        """Ask `validator` about each message of a topic before it is delivered and passed on.

        It is called in the task that reads from a peer and must return at once. One that raises is
        logged, and the message ignored. None removes it.
        """
        self._router.set_validator(topic, None if validator is None else _guarded(validator))

    def subscribers(self, topic: str) -> list[PeerId]:
        """The connected peers that subscribed to a topic."""
        return self._router.subscribers(topic)

    def mesh_peers(self, topic: str) -> list[PeerId]:
        """The peers that get every message of a topic from us at once."""
        return self._router.mesh(topic)

    def score(self, peer: PeerId) -> float:
        """What we think of a peer: below 0 it is in no mesh, far below it is ignored."""
        return self._router.score(peer, trio.current_time())

    @property
    def statistics(self) -> Statistics:
        """The router's counters."""
        return self._router.statistics

    # Peers

    async def _follow_peers(self, task_status: trio.TaskStatus[None]) -> None:
        async with self._mesh.events() as events:
            for connection in self._mesh.connections():
                self._admit(connection.peer)
            task_status.started()
            async for event in events:
                if isinstance(event, PeerIdentified):
                    self._admit(event.peer)
                elif isinstance(event, PeerDisconnected):
                    self._dismiss(event.peer)

    def _admit(self, peer: PeerId) -> None:
        """Begin a session with a peer that says it speaks GossipSub."""
        connection = self._mesh.connected(peer)
        spoken = self._mesh.book.protocols(peer)
        protocol = next((one for one in PROTOCOLS if one in spoken), None)
        if connection is not None and protocol is not None and peer not in self._sessions:
            self._start_session(connection, protocol)

    def _dismiss(self, peer: PeerId) -> None:
        session = self._sessions.get(peer)
        if session is not None:
            session.scope.cancel()

    def _start_session(self, connection: Connection, protocol: str) -> _Session:
        session = self._sessions[connection.peer] = _Session(connection, protocol)
        self._router.add_peer(
            connection.peer,
            PROTOCOLS[protocol],
            outbound=not connection.inbound,
            now=trio.current_time(),
            id_form=IdForm.of_agent(self._mesh.book.agent(connection.peer)),
        )
        self._nursery.start_soon(self._run_session, session)
        return session

    async def _run_session(self, session: _Session) -> None:
        try:
            with session.scope:
                await self._keep_sending(session)
        finally:
            del self._sessions[session.peer]
            self._router.remove_peer(session.peer, trio.current_time())
            self._room.unpark_all()
            if session.inbound is not None:
                session.inbound.reset()
        if self._mesh.connected(session.peer) not in (None, session.connection):
            self._admit(session.peer)  # it is there on another connection

    async def _keep_sending(self, session: _Session) -> None:
        """Send to a peer until its connection ends, or it does not speak GossipSub any more.

        One that takes no stream of ours yet has one open to us may only be slow to set itself up.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            started_at = trio.current_time()
            try:
                await self._send(session)
            except ProtocolNotSupported:
                if session.inbound is None:
                    return
            except _STREAM_ERRORS as error:
                _log.debug("the gossip stream to %s broke: %s", session.peer, error)
            if session.connection.closing:
                return
            if trio.current_time() - started_at > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._router.greet(session.peer)

    async def _send(self, session: _Session) -> None:
        """Send what waits for a peer on a stream of its own. Raises what ended the stream."""
        async with await session.connection.open_stream(session.protocol) as stream:
            async with trio.open_nursery() as nursery:
                # Both may find the stream broken; the first to do so ends the other.
                nursery.start_soon(self._pump, session, stream, nursery.cancel_scope)
                nursery.start_soon(self._watch, session, stream, nursery.cancel_scope)
            if session.failure is not None:
                failure, session.failure = session.failure, None
                raise failure

    async def _pump(self, session: _Session, stream: Stream, scope: trio.CancelScope) -> None:
        with session.fails(scope):
            while True:
                rpc = self._router.next_rpc(session.peer)
                if rpc is None:
                    session.wake = trio.Event()
                    await session.wake.wait()
                    continue
                with trio.move_on_after(_STALL_S) as sending:
                    await stream.send_message(rpc)
                if sending.cancelled_caught:
                    raise StalledPeer(f"nothing was read for {_STALL_S:g} s", peer=session.peer)
                self._room.unpark_all()

    async def _watch(self, session: _Session, stream: Stream, scope: trio.CancelScope) -> None:
        """Notice that a stream of ours is reset while nothing is sent. Nothing comes on it."""
        with session.fails(scope):
            if await stream.receive_some(1):
                raise ProtocolError("the peer writes on our gossip stream", peer=stream.peer)

    # What peers send

    async def _serve(self, stream: Stream) -> None:
        session = self._session_of(stream)
        if session is None:
            stream.reset()
            return
        if session.inbound is not None:
            session.inbound.reset()
        session.inbound = stream
        try:
            # The stream stays open in both directions until the peer ends it: others take a
            # half-closed stream for a dead peer.
            while (rpc := await stream.receive_message(MAX_RPC)) is not None:
                messages = self._router.receive(stream.peer, rpc, trio.current_time())
                self._wake_sessions()
                for message in messages:
                    await self._deliver(message)
        finally:
            if session.inbound is stream:
                session.inbound = None

    def _session_of(self, stream: Stream) -> _Session | None:
        if self._closed:
            return None
        session = self._sessions.get(stream.peer)
        if session is None:
            session = self._start_session(stream.connection, stream.protocol)
        return session

    async def _deliver(self, message: Message) -> None:
        for subscription in list(self._subscriptions.get(message.topic, ())):
            await subscription.put(message)

    # Upkeep

    async def _beat(self) -> None:
        while True:
            await trio.sleep_until(self._router.next_timeout())
            self._router.handle_timeout(trio.current_time())
            self._wake_sessions()

    def _wake_sessions(self) -> None:
        for peer in self._router.take_ready():
            session = self._sessions.get(peer)
            if session is not None:
                session.wake.set()

    def _close(self) -> None:
        self._closed = True
        self._room.unpark_all()
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.close()


def _guarded(validator: Validator) -> Validator:
    def validate(message: Message) -> Verdict:
        try:
            return validator(message)
        except Exception:  # noqa: BLE001  # a stranger's message must not end the reading
            _log.exception("the validator of %r failed; the message is ignored", message.topic)
            return Verdict.IGNORE

    return validate


@asynccontextmanager
async def open_pubsub(
    mesh: Mesh,
    *,
    parameters: Parameters | None = None,
    score_parameters: ScoreParameters | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Pubsub]:
    """Gossip with the peers of `mesh` while the block runs.

    At its end subscriptions end, and peers see our streams reset.

    Args:
        mesh: whose handlers of the `/meshsub/…` protocols this takes.
        parameters: how the router behaves.
        score_parameters: how it judges peers.
        rng: decides who is grafted, pruned and told; a seeded one replays.

    Raises:
        HandlerTaken: pubsub is open on this mesh already.
    """
    router = Router(
        mesh.identity,
        now=trio.current_time(),
        rng=rng or random.Random(),
        # Receivers may refuse sequence numbers at or below those they know: the time since 1970
        # grows from one run of a node to the next.
        first_sequence=time.time_ns(),
        parameters=parameters,
        score_parameters=score_parameters,
    )
    served: list[str] = []
    async with private_nursery() as nursery:
        pubsub = Pubsub(mesh, router, nursery)
        try:
            for protocol in PROTOCOLS:
                mesh.handle(protocol, pubsub._serve)
                served.append(protocol)
            await nursery.start(pubsub._follow_peers)
            nursery.start_soon(pubsub._beat)
            yield pubsub
        finally:
            for protocol in served:
                mesh.unhandle(protocol)
            pubsub._close()
            nursery.cancel_scope.cancel()
