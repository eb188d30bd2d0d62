"""Who may write to the channel, and in which order.

One task at a time has the turn: it puts the control frames that wait in front of its own data, and
hands the turn on after one batch. So control frames never wait behind more than a batch, whoever
writes the most; writers queue in order of arrival; and nobody who reads ever waits for a turn.
A writer that finds the turn free takes it without going through the scheduler. One that finds it
taken, and has little to say, leaves its bytes among the control frames: under load many small
messages then share one frame of the cipher and one system call.

A small message need not wait at all (`send_now`). It goes at once where few went that way since the
peer was last heard, and otherwise shares a frame with what follows it (much as Nagle has it, RFC
896): a question and its answer never wait, and a crowd of them does not cost a system call each.

A cancelled writer has handed whole frames to the channel, or none; what the channel could not send
is sent by whoever comes next, at the latest by `serve`, which also sends control frames when no
writer does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._links import SecureChannel
    from .yamux import Session, Substream

_SHARED_BYTES = 4096  # of one message that shares somebody else's turn
_UNHEARD = 4  # small messages that go at once before the peer is heard
_MAX_SHARED_BYTES = 64 << 10  # of all those that wait; then writers wait, too


class Outbound:
    """The sending half of a connection. Raises what `SecureChannel.send` raises."""

    def __init__(self, session: Session, channel: SecureChannel) -> None:
        self._session, self._channel = session, channel
        self._turn = trio.Lock()
        self._idle = trio.lowlevel.ParkingLot()  # where `serve` waits
        self._closed = False
        self._unheard = 0  # small messages that went at once since the peer was heard

    async def send_some(self, stream: Substream, data: memoryview) -> int:
        """Send from the front of `data`, uncopied; return how many bytes.

        It is 0 when the stream, by the time the turn came, could not send any more. Cancelled,
        what was taken is sent later.
        """
        session, channel, turn = self._session, self._channel, self._turn
        self._check_open()
        if not turn.locked():
            turn.acquire_nowait()
        elif self._share(stream, data):
            await trio.lowlevel.checkpoint()
            return len(data)
        else:
            await turn.acquire()
        try:
            if channel.unsent:
                await channel.flush()
            self._check_open()
            if not stream.can_send:
                return 0
            buffers, size = session.batch(stream, data)
            await channel.send(buffers)
            return size
        finally:
            turn.release()
            self.kick()

    def send_now(self, stream: Substream, data: bytes | memoryview) -> bool:
        """Send all of `data`, if it is little and need not wait. False: nothing was sent."""
        self._check_open()
        if not stream.can_send or self._channel.unsent:
            return False
        if self._turn.locked() or self._unheard >= _UNHEARD:
            is_shared = self._share(stream, data)
            self.kick()
            return is_shared
        if len(data) > min(_SHARED_BYTES, stream.send_credit_bytes):
            return False
        self._unheard += 1
        buffers, _ = self._session.batch(stream, memoryview(data))
        self._channel.send_now(buffers)
        self.kick()
        return True

    def heard(self) -> None:
        """Note that the peer was heard: the next small message goes at once."""
        self._unheard = 0

    async def send_control(self) -> None:
        """Send what waits that is nobody's batch."""
        async with self._turn:
            if self._channel.unsent:
                await self._channel.flush()
            control = self._session.take_control()
            if control:
                await self._channel.send([control])

    async def serve(self) -> None:
        """Send control frames as they come up, while the connection lives."""
        while True:
            if not self._wanted:
                await self._idle.park()
                # Whoever was woken together with us may answer, and take these frames along.
                await trio.lowlevel.checkpoint()
            if self._wanted:
                await self.send_control()

    def kick(self) -> None:
        """See to it that what waits is sent. Never blocks."""
        if self._wanted and not self._turn.locked():
            self._idle.unpark()

    def _share(self, stream: Substream, data: bytes | memoryview) -> bool:
        """Leave `data` among the control frames, if there is room for it."""
        if (
            len(data) > min(_SHARED_BYTES, stream.send_credit_bytes)
            or self._session.queued_bytes > _MAX_SHARED_BYTES
        ):
            return False
        self._session.send_soon(stream, bytes(data))
        return True

    def close(self) -> None:
        """Take no more data. Control frames can still be sent, for a goodbye."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the connection is closing")

    @property
    def _wanted(self) -> bool:
        return self._session.has_control or self._channel.unsent
