"""The yamux session: plaintext in, events and frames out. No I/O, no clock, no tasks.

Inbound, `receive` takes the plaintext of a connection in pieces of any size. A payload is never
gathered: each part of it goes into its stream's queue as the slice in which it came. What has
happened is told by `events`. Whatever the peer sends ends in an event, in nothing, or in a
`YamuxError`, after which the session is over.

Outbound there are two kinds of bytes. Control (openings, ends, resets, credit, pings, and small
data that must not wait) is queued here and taken whole by `take_control`; the layer above puts it
in front of every batch. Bulk data is not queued: `batch` cuts frames off the front of the caller's
memory, as many as the window and one turn on the link allow.

What a peer can make us hold is bounded: unread bytes by the windows, which are enforced, and by
the ledger; streams by the ledger and `streams_per_connection`; answers (to pings, to streams we
refuse, to data for streams we left) by their number, since a peer that provokes them and does not
read is cut off.

A window doubles while its reader keeps up: when half of it was read again within four round trips,
or within 10 ms where the round trip is shorter than that, so that credit goes back in steps worth
a frame. It stops at the ledger's bounds, and shrinks again when the node's memory gets scarce.
Source: spec/links.md §5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._control import ControlQueue
from ._events import Answered, Ended, GoneAway, Opened, Readable, Reset, Writable
from ._frames import (
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW_BYTES,
    MAX_BODY_BYTES,
    MAX_CREDIT_BYTES,
    MAX_STREAM_ID,
    Flag,
    FrameError,
    FrameType,
    GoAwayCode,
    SessionClosing,
    StreamIdError,
    StreamIdsExhausted,
    StreamLimit,
    WindowExceeded,
    encode,
)
from ._ids import StreamIds
from ._pulse import Pulse
from ._substream import Substream

if TYPE_CHECKING:
    from collections.abc import Collection

    from lattica.transport.limits import Limits

    from ._events import Event
    from ._ledger import CreditAccount

LINGER_S = 30.0  # how long a stream that we closed waits for the peer's end before it is reset
FAR_RTT_S = 0.010  # round trips from here on get the greater bounds
JOINED_BYTES = 4096  # payloads up to here are copied behind their header
# Of one stream, before others get their turn on the link: one send of a secure channel.
MAX_BATCH_BYTES = MAX_BODY_BYTES + JOINED_BYTES
_STEP_S = 0.010  # credit need not go back more often than this
_SYN, _ACK, _FIN, _RST = (int(flag) for flag in (Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST))
_DATA, _WINDOW_UPDATE = int(FrameType.DATA), int(FrameType.WINDOW_UPDATE)
_PING, _GO_AWAY = int(FrameType.PING), int(FrameType.GO_AWAY)


class Session:
    """One end of a multiplexed connection.

    Attributes:
        frames_received: how many headers were read so far.
    """

    def __init__(
        self, *, initiator: bool, account: CreditAccount, limits: Limits, now: float
    ) -> None:
        """Start a session. `initiator`: this side dialled; `account`: what it may grant."""
        self._account, self._limits = account, limits
        self._next_id = 1 if initiator else 2
        self._their_ids = StreamIds(odd=not initiator)
        self._streams: dict[int, Substream] = {}
        self._counts = {True: 0, False: 0}  # open streams of ours, of theirs
        self._lingering: dict[Substream, float] = {}  # deadline; the oldest first
        self._events: list[Event] = []
        self._control = ControlQueue()
        # Inbound: a header that is cut, and the body that is arriving
        self.frames_received = 0
        self._head = bytearray()
        self._body_left = 0
        self._body_stream: Substream | None = None
        self._body_ends = False
        self._pulse = Pulse(
            now, interval_s=limits.keep_alive_s, timeout_s=limits.keep_alive_timeout_s
        )
        self._going = self._gone = False

    @property
    def streams(self) -> Collection[Substream]:
        """The open streams, closed ones that linger included."""
        return self._streams.values()

    @property
    def rtt_s(self) -> float | None:
        """The round trip that pings measured, None until the first answer."""
        return self._pulse.rtt_s

    @property
    def closing(self) -> bool:
        """Whether one side has said goodbye."""
        return self._going or self._gone

    @property
    def peer_left(self) -> bool:
        """Whether the peer has said goodbye."""
        return self._gone

    @property
    def has_control(self) -> bool:
        """Whether `take_control` has something."""
        return bool(self._control)

    @property
    def queued_bytes(self) -> int:
        """Size of the control frames that wait, credit and pongs not counted."""
        return self._control.queued_bytes

    # Inbound

    def receive(self, piece: bytes | memoryview, now: float) -> None:
        """Take plaintext, stable for as long as the session. Raises YamuxError."""
        self._pulse.heard_at = now
        size, held_bytes = len(piece), _held_bytes(piece)
        offset = 0
        while offset < size:
            if self._body_left:
                if offset or size > self._body_left:
                    part: bytes | memoryview = memoryview(piece)[offset : offset + self._body_left]
                else:
                    part = piece
                offset += len(part)
                self._receive_body(part, held_bytes)
            elif self._head or size - offset < HEADER_BYTES:
                end = min(size, offset + HEADER_BYTES - len(self._head))
                self._head += piece[offset:end]
                offset = end
                if len(self._head) == HEADER_BYTES:
                    fields = HEADER.unpack(self._head)
                    self._head.clear()
                    self._receive_header(now, *fields)
            else:
                fields = HEADER.unpack_from(piece, offset)
                offset += HEADER_BYTES
                self._receive_header(now, *fields)

    def receive_eof(self) -> None:
        """Note the end of the connection. Raises FrameError inside a frame: that is a cut."""
        if self._head or self._body_left:
            raise FrameError("the connection ended inside a frame")

    def events(self) -> list[Event]:
        """Return what has happened since the last call."""
        events, self._events = self._events, []
        for event in events:
            if type(event) is Readable:
                event.stream.announced = False
        return events

    def _receive_header(
        self, now: float, version: int, kind: int, flags: int, stream_id: int, value: int
    ) -> None:
        self.frames_received += 1
        if version != 0:
            raise FrameError(f"yamux version {version}, expected 0")
        if kind > _GO_AWAY:
            raise FrameError(f"frame type {kind}, expected 0 to {_GO_AWAY}")
        if (stream_id == 0) is (kind <= _WINDOW_UPDATE):
            raise FrameError(f"a {FrameType(kind).name} frame for stream {stream_id}")
        if kind <= _WINDOW_UPDATE:
            self._receive_for_stream(now, kind, flags, stream_id, value)
        elif kind == _PING:
            self._receive_ping(flags, value, now)
        elif not self._gone:
            self._gone = True
            self._events.append(GoneAway(value))

    def _receive_for_stream(
        self, now: float, kind: int, flags: int, stream_id: int, value: int
    ) -> None:
        if flags & _SYN:
            stream = self._receive_opening(stream_id, now)
        else:
            stream = self._streams.get(stream_id)
            if stream is None and kind == _DATA and value:
                self._check_known(stream_id)
        if stream is not None and stream.closed and kind == _DATA and value:
            # We left, and the peer goes on: tell it once, and forget the stream.
            self._control.answer(encode(FrameType.WINDOW_UPDATE, _RST, stream_id, 0))
            self._remove(stream)
            stream = None
        if kind == _DATA:
            self._body_left, self._body_ends = value, False
            self._body_stream = stream if value else None
        if stream is None:
            return
        if kind == _DATA:
            if value > stream.credit_bytes:
                raise WindowExceeded(
                    f"{value} bytes on stream {stream_id}, {stream.credit_bytes} were granted"
                )
            stream.credit_bytes -= value
        elif value:
            self._receive_credit(stream, value)
        if flags & _RST:
            self._receive_reset(stream)
        elif flags & _FIN:
            if self._body_left:
                self._body_ends = True
            else:
                self._receive_end(stream)

    def _receive_opening(self, stream_id: int, now: float) -> Substream | None:
        self._their_ids.use(stream_id)
        if (
            self._going
            or self._counts[False] >= self._limits.streams_per_connection
            or not self._account.admit(ours=False)
        ):
            self._control.answer(encode(FrameType.WINDOW_UPDATE, _RST, stream_id, 0))
            return None
        stream = self._add(stream_id, ours=False, now=now)
        stream.flags = _ACK
        self._events.append(Opened(stream))
        return stream

    def _check_known(self, stream_id: int) -> None:
        # Data for a stream that is over may still be under way. Data for one that never was means
        # that the two sides do not count alike, and whatever follows would be guesswork.
        ours = stream_id & 1 == self._next_id & 1
        if not (stream_id < self._next_id if ours else self._their_ids.was_used(stream_id)):
            raise StreamIdError(f"data on stream {stream_id}, which nobody opened")

    def _receive_body(self, part: bytes | memoryview, held_bytes: int) -> None:
        self._body_left -= len(part)
        stream = self._body_stream
        if stream is None:
            return
        if stream.closed:  # closed here between two parts of the body
            self._body_stream = None
            if stream.id in self._streams:
                self._control.answer(encode(FrameType.WINDOW_UPDATE, _RST, stream.id, 0))
                self._remove(stream)
            return
        stream.queue(part, held_bytes)
        if not stream.announced:
            stream.announced = True
            self._events.append(Readable(stream))
        if not self._body_left:
            self._body_stream = None
            if self._body_ends:
                self._receive_end(stream)

    def _receive_credit(self, stream: Substream, count_bytes: int) -> None:
        total = stream.send_credit_bytes + count_bytes
        if total > MAX_CREDIT_BYTES:
            raise WindowExceeded(f"{total} bytes of credit on stream {stream.id}")
        if not (stream.send_credit_bytes or stream.finished_here):
            self._events.append(Writable(stream))
        stream.send_credit_bytes = total

    def _receive_end(self, stream: Substream) -> None:
        if stream.finished_there:
            return
        stream.end()
        self._control.forget_grant(stream)
        if not stream.closed:
            self._events.append(Ended(stream))
        if stream.finished_here:
            self._remove(stream)

    def _receive_reset(self, stream: Substream) -> None:
        stream.reset_there = True
        self._body_stream = None
        self._remove(stream)
        if not stream.closed:
            self._events.append(Reset(stream))

    def _receive_ping(self, flags: int, nonce: int, now: float) -> None:
        if flags & _SYN:
            self._control.pong(nonce)
        elif flags & _ACK:
            rtt_s = self._pulse.answered(nonce, now)
            if rtt_s is not None:
                self._events.append(Answered(rtt_s))

    # Streams, as the layer above commands

    def open_stream(self, now: float, first: bytes = b"") -> Substream:
        """Open a stream; `first` travels with the opening. The frame waits in the control queue.

        Raises:
            SessionClosing: one side has said goodbye.
            StreamLimit: too many streams are open, or the node's memory is promised away.
            StreamIdsExhausted: this connection has had all the streams it can have.
        """
        if self.closing:
            raise SessionClosing("the connection is closing and takes no new streams")
        if self._next_id > MAX_STREAM_ID:
            raise StreamIdsExhausted("all stream IDs of the connection are used")
        if self._counts[True] >= self._limits.streams_per_connection:
            raise StreamLimit(f"{self._counts[True]} streams of ours are open on the connection")
        if not self._account.admit(ours=True):
            raise StreamLimit("the unread bytes that the node may hold are promised to others")
        stream = self._add(self._next_id, ours=True, now=now)
        self._next_id += 2
        stream.flags = _SYN
        if first:
            self.send_soon(stream, first)
        else:
            self._control.add(stream.header(_WINDOW_UPDATE, 0, 0))
        return stream

    def send_soon(self, stream: Substream, data: bytes, *, answer: bool = False) -> None:
        """Queue a few bytes among the control frames; the window must have room for them.

        `answer`: the peer provoked them, so they count against what it may provoke. Raises
        PeerFlood then.
        """
        stream.send_credit_bytes -= len(data)
        frame = stream.header(_DATA, 0, len(data)) + data
        if answer:
            self._control.answer(frame)
        else:
            self._control.add(frame)

    def batch(self, stream: Substream, data: memoryview) -> tuple[list[bytes | memoryview], int]:
        """Cut frames off the front of `data`, control first: `(buffers, bytes of data taken)`.

        The buffers alias `data`. They must all be sent, in order, before anything else.
        """
        size = min(len(data), stream.send_credit_bytes, MAX_BATCH_BYTES)
        stream.send_credit_bytes -= size
        head = self.take_control()
        buffers: list[bytes | memoryview] = []
        for start in range(0, size, MAX_BODY_BYTES):
            body = data[start : min(start + MAX_BODY_BYTES, size)]
            head += stream.header(_DATA, 0, len(body))
            if len(body) <= JOINED_BYTES:
                buffers.append(b"".join((head, body)))
            else:
                buffers += (head, body)
            head = b""
        if head:
            buffers.append(head)
        return buffers, size

    def grant(self, stream: Substream, now: float) -> None:
        """Return credit for what was read, once `Substream.wants_grant`, and size the window."""
        elapsed = now - stream.granted_at
        stream.granted_at = now
        held = stream.window_bytes - stream.returnable_bytes
        self._resize(stream, held, quick=elapsed < max(4 * (self._pulse.rtt_s or 0.0), _STEP_S))
        stream.returnable_bytes = 0
        credit = stream.window_bytes - held
        if credit > 0:
            stream.credit_bytes += credit
            self._control.grant(stream, credit)

    def finish(self, stream: Substream) -> None:
        """Say that we send nothing more on this stream. What was sent before arrives before."""
        if stream.finished_here or stream.id not in self._streams:
            return
        stream.finished_here = True
        self._control.add(stream.header(_WINDOW_UPDATE, _FIN, 0))
        if stream.finished_there:
            self._remove(stream)

    def close(self, stream: Substream, now: float) -> None:
        """Finish, and throw away what is unread and whatever still comes.

        A peer that goes on sending is told with a reset; so is one that could not even try, having
        used all its credit, and one that does not finish within `LINGER_S`.
        """
        if stream.closed:
            return
        waits_for_credit = not stream.credit_bytes and self._body_stream is not stream
        self.finish(stream)
        stream.discard()
        self._control.forget_grant(stream)
        if stream.id not in self._streams:
            return
        if waits_for_credit:
            self._reset(stream)
        else:
            self._lingering[stream] = now + LINGER_S

    def reset(self, stream: Substream, *, answer: bool = False) -> None:
        """Give the stream up, both directions, at once; what is unread is thrown away.

        `answer` as for `send_soon`.
        """
        stream.discard()
        stream.finished_here = True
        if stream.id in self._streams:
            self._reset(stream, answer=answer)

    # The session

    def take_control(self) -> bytes:
        """Return the control frames that wait. They must be sent before anything else."""
        return self._control.take()

    def go_away(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Say goodbye: no new streams either way, open ones may finish, if the code is normal."""
        if not self._going or code != GoAwayCode.NORMAL:
            self._going = True
            self._control.add(encode(FrameType.GO_AWAY, 0, 0, code))

    def ping(self, now: float) -> None:
        """Ask for a sign of life now, unless one is awaited already."""
        self._ask(self._pulse.ask(now))

    def next_timeout(self) -> float:
        """When to call `handle_timeout`. It may move, later with each byte that arrives."""
        due = self._pulse.next_timeout()
        if self._lingering:
            due = min(due, next(iter(self._lingering.values())))
        return due

    def handle_timeout(self, now: float) -> None:
        """Do what is due: ask for a sign of life, reset what lingers.

        Raises:
            PeerSilent: a ping was not answered, and nothing else came.
        """
        self._ask(self._pulse.handle_timeout(now))
        while self._lingering:
            stream, due = next(iter(self._lingering.items()))
            if due > now:
                break
            self._reset(stream)

    def lose(self) -> None:
        """Note that the connection is gone. What is unread stays readable; all credit is back."""
        self._going = self._gone = True
        self._streams.clear()
        self._lingering.clear()
        self._control.clear()
        self._body_stream = None
        self._account.close()

    def _ask(self, nonce: int | None) -> None:
        if nonce is not None:
            self._control.add(encode(FrameType.PING, _SYN, 0, nonce))

    def _resize(self, stream: Substream, held_bytes: int, *, quick: bool) -> None:
        window = stream.window_bytes
        if self._account.crowded:
            window = min(window, max(held_bytes, window // 2, INITIAL_WINDOW_BYTES))
            self._account.release(stream.window_bytes - window)
        elif quick:
            far = (self._pulse.rtt_s or 0.0) >= FAR_RTT_S
            limits = self._limits
            most = limits.stream_unread_max_bytes if far else limits.stream_unread_bytes
            growth = min(window, most - window)
            if growth > 0 and self._account.grow(growth, far=far):
                window += growth
        stream.window_bytes, stream.grant_at_bytes = window, window // 2

    def _add(self, stream_id: int, *, ours: bool, now: float) -> Substream:
        stream = Substream(stream_id, self._account, ours=ours, now=now)
        self._streams[stream_id] = stream
        self._counts[ours] += 1
        return stream

    def _remove(self, stream: Substream) -> None:
        if self._streams.pop(stream.id, None) is not None:
            self._counts[stream.ours] -= 1
            self._lingering.pop(stream, None)
            self._control.forget_grant(stream)

    def _reset(self, stream: Substream, *, answer: bool = False) -> None:
        self._remove(stream)
        frame = stream.header(_WINDOW_UPDATE, _RST, 0)
        if answer:
            self._control.answer(frame)
        else:
            self._control.add(frame)


def _held_bytes(piece: bytes | memoryview) -> int:
    """What stays in memory as long as a slice of `piece` does."""
    if isinstance(piece, memoryview):
        return len(piece.obj)  # type: ignore[arg-type]  # bytes or bytearray below every view
    return len(piece)
