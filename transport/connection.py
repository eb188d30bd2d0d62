"""A live connection: one secure channel, many streams.

Theory of operation. Three tasks serve a connection. One receives: it feeds what the channel brings
to the yamux session, wakes the readers and writers concerned, and never waits for anything but the
channel; no reader's slowness and no blocked send can stop it. One sends control frames when no
writer takes them along. One keeps time: pings, and deadlines of streams. Programs read and write in
their own tasks, straight from and to the session (`Stream`, `Outbound`), without locks or
checkpoints per frame.

Inbound streams cost no task until their protocol is agreed: the negotiation is fed where bytes
arrive. Then `on_stream` runs in a task of its own, in a nursery of the caller's, since a handler
may have work to finish after the connection is gone.

The connection ends once: the channel breaks, the peer says goodbye, breaks the protocol or falls
silent, or `aclose` is called. Whoever waits on a stream is woken then and told why.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import DeadlineExceeded, LatticaError

from ._outbound import Outbound
from ._stream import Stream
from ._stream_ends import ConnectionLost
from .multistream import DialerNegotiation, ListenerNegotiation, NegotiationError
from .yamux import (
    Ended,
    GoAwayCode,
    GoneAway,
    Opened,
    Readable,
    Reset,
    Session,
    Writable,
    YamuxError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Sequence

    from lattica.identity import PeerId
    from lattica.private_swarm import SwarmKey

    from ._links import SecureChannel
    from .limits import Limits
    from .multiaddr import Multiaddr
    from .yamux import CreditLedger, Event, Substream

_log = logging.getLogger(__name__)
# Frames taken in before other tasks get their turn. Half a megabyte of plaintext is a dozen frames
# from a friend, and may be 40 000 from somebody else.
_YIELD_FRAMES = 1000
_LINK_ERRORS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)


class NegotiationTimeout(DeadlineExceeded):
    """The peer did not say in time which protocol it speaks."""

    code = "negotiation-timeout"


class Connection:
    """An encrypted, multiplexed connection to a peer. Lives while its `run` does.

    Attributes:
        local_address: our end.
        remote_address: the other end, as the transport sees it.
        inbound: the peer dialled.
        opened_at: when it came about, on Trio's clock.
        key: of the private swarm that both ends are members of; None in public.
        closed: set when it is over.
        close_reason: why it is over or ending; None until then.
    """

    def __init__(
        self,
        channel: SecureChannel,
        *,
        local_address: Multiaddr,
        remote_address: Multiaddr,
        inbound: bool,
        limits: Limits,
        ledger: CreditLedger,
        supported: Container[str],
        on_stream: Callable[[Stream], Awaitable[None]],
        tasks: trio.Nursery,
        received: Sequence[bytes | memoryview] = (),
        key: SwarmKey | None = None,
    ) -> None:
        """Take over `channel`, on which yamux was agreed. Nothing happens until `run`.

        Args:
            channel: owned from now on.
            local_address: our end.
            remote_address: the other end.
            inbound: the peer dialled.
            limits: every bound.
            ledger: the credit of the node, shared by its connections.
            supported: protocols that inbound streams may ask for; looked at for each stream.
            on_stream: serves one inbound stream, its protocol agreed. Must close it; what it
                raises goes to `tasks`.
            tasks: where `on_stream` runs; must outlive `run`.
            received: plaintext that came behind the agreement on yamux.
            key: by which both ends have proven to be members of a private swarm.
        """
        self.local_address, self.remote_address = local_address, remote_address
        self.inbound, self.key = inbound, key
        self.opened_at = trio.current_time()
        self.closed = trio.Event()
        self.close_reason: LatticaError | None = None
        self._channel, self._limits, self._received = channel, limits, received
        self._supported, self._on_stream, self._tasks = supported, on_stream, tasks
        self._session = Session(
            initiator=not inbound,
            account=ledger.open_account(),
            limits=limits,
            now=self.opened_at,
        )
        self._outbound = Outbound(self._session, channel)
        self._negotiating: dict[Substream, float] = {}  # inbound; deadlines, the first one first
        self._serving = 0
        self._alarm = trio.CancelScope()
        self._pumps: trio.CancelScope | None = None
        self._link_works = True

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return self._channel.peer

    @property
    def security(self) -> str:
        """The protocol that secures it: `/noise` or `/tls/1.0.0`."""
        return self._channel.protocol

    @property
    def rtt(self) -> float | None:
        """The round trip in seconds, as pings measured it; None until the first answer."""
        return self._session.rtt_s

    @property
    def stream_count(self) -> int:
        """Streams that are open, both sides' together."""
        return len(self._session.streams)

    @property
    def closing(self) -> bool:
        """Whether one side has said goodbye: it takes no new streams."""
        return self.close_reason is not None or self._session.closing

    async def open_stream(self, *protocols: str) -> Stream:
        """Open a stream that speaks the first of `protocols` that the peer knows.

        With one protocol nothing is awaited: the opening, the negotiation and the first bytes that
        are sent travel together, and a refusal (ProtocolNotSupported) surfaces where the answer is
        read. The opening goes out with the first bytes sent, or when something is awaited. With
        several, the peer's choice is awaited. Cancelled, no stream is left.

        Raises:
            InvalidInput: no protocol, or what is none.
            ConnectionLost: the connection died.
            SessionClosing: the connection is closing.
            StreamLimit: too many streams are open.
            ProtocolNotSupported: the peer knows none of several.
            NegotiationTimeout: the peer does not choose.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.close_reason is not None:
            raise self._lost()
        negotiation = DialerNegotiation(protocols)
        substream = self._session.open_stream(trio.current_time(), negotiation.start())
        stream = substream.owner = Stream(self, substream, protocols[0], negotiation)
        if len(protocols) > 1:
            limit_s = self._limits.negotiation_timeout_s
            try:
                with trio.fail_after(limit_s):
                    await stream._agree()
            except trio.TooSlowError:
                stream.reset()
                raise NegotiationTimeout(
                    f"no protocol was agreed within {limit_s:g} s", peer=self.peer
                ) from None
            except BaseException:
                stream.reset()
                raise
        return stream

    async def aclose(self) -> None:
        """Say goodbye and close, in at most `close_timeout_s`. Streams end with ConnectionLost.

        Cancelled, it closes all the same, in the background.
        """
        self._close_here()
        await self.closed.wait()

    def go_away(self) -> None:
        """Take no new streams, either way; close when the last one is done. Never blocks."""
        self._session.go_away()
        self._outbound.kick()
        self._close_if_done()

    async def run(self) -> None:
        """Serve the connection until it ends. However it ends, this returns; see `close_reason`.

        Cancelled, the connection is closed with a goodbye, in at most `close_timeout_s`.
        """
        try:
            if self.close_reason is None:
                async with private_nursery() as nursery:
                    self._pumps = nursery.cancel_scope
                    for pump in (self._receive, self._outbound.serve, self._keep_time):
                        nursery.start_soon(self._guard, pump)
        finally:
            self._close_here()
            try:
                with trio.CancelScope(shield=True):
                    await self._say_goodbye()
            finally:  # whatever interrupts the goodbye: others wait for `closed`
                self._channel.close()
                self._session.lose()
                self._negotiating.clear()
                self.closed.set()

    async def _guard(self, pump: Callable[[], Awaitable[None]]) -> None:
        # What the peer or the network does wrong ends the connection, not the caller's nursery.
        try:
            await pump()
        except _LINK_ERRORS as error:
            self._fail(error)

    async def _receive(self) -> None:
        pieces, self._received = self._received, ()
        await self._take_in(pieces)
        while pieces := await self._channel.receive():
            await self._take_in(pieces)
            del pieces  # a connection that falls idle holds nothing of what it received last
        self._session.receive_eof()
        raise ConnectionLost("the peer closed it", peer=self.peer)

    async def _take_in(self, pieces: Sequence[bytes | memoryview]) -> None:
        session = self._session
        self._outbound.heard()
        now, frames = trio.current_time(), session.frames_received
        for piece in pieces:
            if session.frames_received - frames > _YIELD_FRAMES:
                frames = session.frames_received
                self._report(now)
                await trio.lowlevel.checkpoint()
            try:
                session.receive(piece, now)
            except YamuxError:
                self._report(now)
                raise
        self._report(now)

    def _report(self, now: float) -> None:
        for event in self._session.events():
            try:
                self._handle(event, now)
            except YamuxError as error:
                self._fail(error)  # and go on: the other events are news for whoever waits
        self._outbound.kick()
        self._close_if_done()

    def _handle(self, event: Event, now: float) -> None:
        # A stream that an earlier event made us close has no owner any more.
        match event:
            case Readable(stream) | Ended(stream) if stream.owner is not None:
                stream.owner._on_readable()
            case Writable(stream) if stream.owner is not None:
                stream.owner._on_writable()
            case Reset(stream) if stream.owner is not None:
                stream.owner._on_reset()
            case Opened(stream):
                stream.owner = _Inbound(self, stream)
                self._negotiating[stream] = now + self._limits.negotiation_timeout_s
                self._set_alarm()
            case GoneAway(code) if code != GoAwayCode.NORMAL:
                self._fail(ConnectionLost(f"the peer ended it with code {code}", peer=self.peer))

    async def _keep_time(self) -> None:
        while True:
            now = trio.current_time()
            while self._negotiating:
                stream, due = next(iter(self._negotiating.items()))
                if due > now:
                    break
                self._refuse(stream, "no protocol was agreed in time")
            self._session.handle_timeout(now)
            self._outbound.kick()
            self._close_if_done()
            with trio.CancelScope(deadline=self._next_deadline()) as self._alarm:
                await trio.sleep_forever()

    def _next_deadline(self) -> float:
        due = self._session.next_timeout()
        if self._negotiating:
            due = min(due, next(iter(self._negotiating.values())))
        return due

    def _set_alarm(self) -> None:
        # Earlier if need be, never later: an alarm for nothing costs less than moving it each time.
        due = self._next_deadline()
        if due < self._alarm.deadline:
            self._alarm.deadline = due

    # Inbound streams

    def _accept(self, substream: Substream, protocol: str) -> None:
        del self._negotiating[substream]
        if self._serving >= self._limits.streams_per_connection:
            # Streams that were reset are not counted any more, but their handlers may still run.
            self._reset_substream(substream)
            return
        self._serving += 1
        stream = substream.owner = Stream(self, substream, protocol)
        self._tasks.start_soon(self._serve, stream, name=f"serve {protocol}")

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._on_stream(stream)
        finally:
            self._serving -= 1

    def _refuse(self, substream: Substream, why: str, *, politely: bool = False) -> None:
        _log.debug("refused a stream of %s: %s", self.peer, why)
        self._negotiating.pop(substream, None)
        if politely:
            self._close_substream(substream)
        else:
            self._reset_substream(substream, answer=True)

    # What streams ask for

    async def _send_some(self, substream: Substream, data: memoryview) -> int:
        try:
            return await self._outbound.send_some(substream, data)
        except _LINK_ERRORS as error:
            self._fail(error)
            raise self._lost() from error

    def _send_now(self, substream: Substream, data: bytes) -> bool:
        try:
            return self._outbound.send_now(substream, data)
        except _LINK_ERRORS as error:
            self._fail(error)
            raise self._lost() from error

    def _send_soon(self, substream: Substream, data: bytes, *, answer: bool = False) -> None:
        self._session.send_soon(substream, data, answer=answer)
        self._outbound.kick()

    def _grant(self, substream: Substream) -> None:
        self._session.grant(substream, trio.current_time())
        self._outbound.kick()

    def _finish(self, substream: Substream) -> None:
        self._session.finish(substream)
        self._outbound.kick()
        self._close_if_done()

    def _close_substream(self, substream: Substream) -> None:
        self._session.close(substream, trio.current_time())
        substream.owner = None  # which refers to it: so both are freed without the collector
        self._outbound.kick()
        self._set_alarm()
        self._close_if_done()

    def _reset_substream(self, substream: Substream, *, answer: bool = False) -> None:
        substream.owner = None
        self._session.reset(substream, answer=answer)
        self._outbound.kick()
        self._close_if_done()

    # The end

    def _close_here(self) -> None:
        self._fail(ConnectionLost("it was closed here", peer=self.peer), link_works=True)

    def _close_if_done(self) -> None:
        if self._session.closing and not self._session.streams:
            who = "the peer" if self._session.peer_left else "we"
            reason = ConnectionLost(f"{who} said goodbye", peer=self.peer)
            self._fail(reason, link_works=True)

    def _fail(self, error: Exception, *, link_works: bool = False) -> None:
        if self.close_reason is not None:
            return
        self._link_works = link_works
        if not isinstance(error, LatticaError):
            lost = ConnectionLost(str(error) or "the link broke", peer=self.peer)
            lost.__cause__ = error
            error = lost
        _log.debug("the connection to %s ends", self.peer, exc_info=error)
        _forget_frames(error)
        self.close_reason = error
        for substream in list(self._session.streams):  # who attends to one may reset it at once
            if substream.owner is not None:
                substream.owner._wake()
        if self._pumps is not None:
            self._pumps.cancel()

    def _lost(self) -> ConnectionLost:
        """A fresh error for each caller: a traceback belongs to one of them."""
        reason = self.close_reason
        error = ConnectionLost(f"connection lost: {reason}", peer=self.peer)
        error.__cause__ = reason
        return error

    async def _say_goodbye(self) -> None:
        self._outbound.close()
        if isinstance(self.close_reason, YamuxError):
            self._session.go_away(self.close_reason.go_away)
        elif self._link_works:
            self._session.go_away()
        else:
            return
        with trio.move_on_after(self._limits.close_timeout_s):
            try:
                await self._outbound.send_control()
            except _LINK_ERRORS as error:
                _log.debug("no goodbye to %s: %s", self.peer, error)


def _forget_frames(error: BaseException | None) -> None:
    """Take the tracebacks off an error that is kept: their frames hold all that was received."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class _Inbound:
    """An inbound stream until its protocol is agreed."""

    def __init__(self, connection: Connection, substream: Substream) -> None:
        self._connection, self._substream = connection, substream
        self._negotiation = ListenerNegotiation(connection._supported)
        self._answered = False

    def _on_readable(self) -> None:
        negotiation, substream = self._negotiation, self._substream
        try:
            while negotiation.protocol is None and (piece := substream.take()) is not None:
                reply = negotiation.receive(piece)
                if reply:
                    self._answered = True
                    self._connection._send_soon(substream, reply, answer=True)
            if negotiation.protocol is None and substream.finished_there:
                negotiation.finish()
        except NegotiationError as error:
            # A dialer that did not wait for our answer sent its request behind the proposal. Having
            # refused that, we end the stream rather than reset it, so that it reads the refusal.
            self._connection._refuse(substream, str(error), politely=self._answered)
            return
        if negotiation.protocol is not None:
            substream.put_back(negotiation.leftover)
            self._connection._accept(substream, negotiation.protocol)

    def _on_writable(self) -> None:
        pass

    def _on_reset(self) -> None:
        self._connection._refuse(self._substream, "the peer reset it")

    def _wake(self) -> None:
        pass
