"""A stream between two peers, as programs use it.

`Stream` is a Trio stream, so whatever works on those works on it. Beside Trio's methods there are
some that spare copies (`receive_view`) and some that cut messages (`receive_exactly`,
`receive_message`, `send_message`).

Three ways to end are told apart, because a transfer must never take one for another: the peer
finished (`b""`), the peer gave up (`StreamReset`), the connection died (`ConnectionLost`). A block
`async with stream` that is left by an exception, or cancelled, resets the stream: half an answer
must not look like a whole one.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NoReturn

import trio

from lattica import _varint
from lattica.errors import LatticaError

from ._prompt import Prompt
from ._stream_ends import IncompleteMessage, MessageTooLong, StreamReset
from ._waiter import Waiter
from .multistream import NegotiationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from lattica.identity import PeerId

    from .connection import Connection
    from .multistream import DialerNegotiation
    from .yamux import Substream

_YIELD_BYTES = 1 << 20  # read without waiting, before other tasks get their turn
_CALL_BYTES = 8 << 10  # what a call counts for beside the bytes it returns
_SMALL_BYTES = 4096  # of a message that is sent without going through the scheduler
_JOINED_BYTES = 4096  # smaller pieces are joined where one answer may hold several
_RECEIVE_BYTES = 64 << 10  # what `receive_some` returns at most when not told


class Stream(trio.abc.HalfCloseableStream):
    """One stream. Made by `Connection.open_stream`, or handed to whoever serves a protocol.

    One task may send while another receives; two that do the same get `trio.BusyResourceError`.

    Attributes:
        connection: what it runs on.
        protocol: what the two sides speak on it.
    """

    __slots__ = (
        "_attendant",
        "_closed",
        "_negotiation",
        "_prompt",
        "_reader",
        "_receiving",
        "_refusal",
        "_sending",
        "_substream",
        "_unyielded_bytes",
        "_writer",
        "connection",
        "protocol",
    )

    def __init__(
        self,
        connection: Connection,
        substream: Substream,
        protocol: str,
        negotiation: DialerNegotiation | None = None,
    ) -> None:
        self.connection, self.protocol = connection, protocol
        self._substream, self._negotiation = substream, negotiation
        self._refusal: LatticaError | None = None
        self._reader, self._writer = Waiter(), Waiter()
        self._receiving = self._sending = self._closed = False
        self._unyielded_bytes = 0
        self._prompt: Prompt | None = None
        self._attendant: Callable[[], None] | None = None

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return self.connection.peer

    @property
    def unread_bytes(self) -> int:
        """How much has arrived and can be received without waiting."""
        return self._substream.unread_bytes

    # Sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, from where it lies; wait while the peer does not let us.

        Cancelled, some of it was sent, an unknown part; the connection stays sound, and this
        stream is good for `reset` only, unless the protocol on it can tell.

        Raises:
            StreamReset: the peer gave the stream up, and wants no more of it.
            ConnectionLost: the connection died.
            ProtocolNotSupported: the peer does not speak the protocol.
            trio.ClosedResourceError: we closed the stream, or this direction of it.
        """
        self._claim_sending()
        try:
            await self._send(memoryview(data))
        finally:
            self._sending = False

    async def send_message(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` with its length before it, as `receive_message` reads it.

        Cancelled, and raises, as `send_all`.
        """
        view = memoryview(data).cast("B")
        first = view[:_RECEIVE_BYTES]
        self._claim_sending()
        try:
            message = b"".join((_varint.encode(len(view)), first))
            if len(message) > _SMALL_BYTES:
                await self._send(memoryview(message))
            else:
                await self._yield_sometimes()
                self._check_sending()
                if self.connection._send_now(self._substream, message):
                    self._unyielded_bytes += len(message) + _CALL_BYTES
                else:
                    await self._send(memoryview(message))
            if len(view) > len(first):
                await self._send(view[len(first) :])
        finally:
            self._sending = False

    def send_message_now(self, data: bytes) -> bool:
        """Send `data` as `send_message`, if it is small and need not wait. False: it was not sent.

        Raises as `send_all`.
        """
        if self._sending:
            return False
        self._check_sending()
        return self.connection._send_now(self._substream, _varint.encode(len(data)) + data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the peer lets us send. Raises as `send_all`."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_sending()
            while not self._substream.can_send:
                await self._writer.wait()
                self._check_sending()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Say that nothing more comes from this side. The other direction stays open."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("the stream was closed here")
            if not self._substream.finished_here:
                self._check_sending()
                self.connection._finish(self._substream)
        finally:
            self._sending = False

    async def _send(self, view: memoryview) -> None:
        if view.ndim != 1 or view.itemsize != 1:
            view = view.cast("B")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_sending()
        if not view:
            await trio.lowlevel.checkpoint()
        while view:
            if self._substream.can_send:
                size = await self.connection._send_some(self._substream, view)
                view = view[size:]
            else:
                self._check_sending()
                await self._writer.wait()

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, at least a byte and at most `max_bytes`; b"" is the end.

        Cancelled, nothing was taken.

        Raises:
            StreamReset: the peer gave the stream up. What had arrived before is lost.
            ConnectionLost: the connection died, and everything that had arrived was read.
            ProtocolNotSupported: the peer does not speak the protocol.
            trio.ClosedResourceError: we closed the stream.
        """
        limit = _RECEIVE_BYTES if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be positive")
        self._claim_receiving()
        try:
            await trio.lowlevel.checkpoint()
            if not await self._wait_for_bytes():
                return b""
            piece = self._take(limit)
            if len(piece) < min(limit, _JOINED_BYTES) and self._substream.unread_bytes:
                parts, missing = [piece], limit - len(piece)
                while missing and self._substream.unread_bytes:
                    parts.append(self._take(missing))
                    missing -= len(parts[-1])
                return b"".join(parts)
            return bytes(piece)
        finally:
            self._receiving = False

    async def receive_view(self) -> bytes | memoryview:
        """Return the next piece as it arrived, uncopied; b"" is the end.

        The piece is the caller's and is never written again. Cancelled, nothing was taken. Raises
        as `receive_some`.
        """
        self._claim_receiving()
        try:
            await self._yield_sometimes()
            ready = self._substream.unread_bytes and self._negotiation is None
            if not ready and not await self._wait_for_bytes():
                return b""
            return self._take(None)
        finally:
            self._receiving = False

    async def receive_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes. Cancelled, nothing was taken.

        Raises:
            IncompleteMessage: the stream ended before. What there is can still be read.
            LatticaError: otherwise as `receive_some`.
        """
        self._claim_receiving()
        try:
            await self._yield_sometimes()
            return await self._exactly(0, size)
        finally:
            self._receiving = False

    async def receive_message(
        self, max_size: int, *, prompt: Callable[[bytes], bool] | None = None
    ) -> bytes | None:
        """Return the next message, without the length before it (an unsigned varint).

        None is the end, between two messages. Cancelled, nothing was taken but what was offered to
        `prompt`.

        Args:
            max_size: of the message, in bytes.
            prompt: called with a message that comes alone while this waits, as soon as it is read
                from the connection: that spares the turn of the scheduler which waking us costs.
                It must not wait. If it returns True, it has dealt with the message, and the next
                one is waited for; if it returns False, the message is returned all the same.

        Raises:
            Exception: what `prompt` has raised.
            MessageTooLong: the length exceeds `max_size`, in bytes.
            CodecError: the length is no varint.
            IncompleteMessage: the stream ended inside a message.
            LatticaError: otherwise as `receive_some`.
        """
        self._claim_receiving()
        try:
            await self._yield_sometimes()
            standing = None if prompt is None else Prompt(max_size, prompt)
            self._prompt = standing
            if not await self._wait_for_bytes():
                return None
            if standing is not None and standing.declined is not None:
                return standing.declined
            self._prompt = None
            while (found := self._announced(max_size)) is None:
                await self._wait_for_more()
            return await self._exactly(*found)
        finally:
            self._receiving, self._prompt = False, None

    def attend(self, heard: Callable[[], None]) -> None:
        """Have `heard` called where the connection is read, when there may be something to take.

        It stands for a task that waits to receive, and costs no turn of the scheduler: see
        `take_message`. It must not wait, and must not raise. `leave` ends it.
        """
        self._claim_receiving()
        self._attendant = heard

    def leave(self) -> None:
        """Call nobody any more when something arrives: end what `attend` began."""
        self._receiving, self._attendant = False, None

    def take_message(self, max_size: int) -> bytes | None:
        """Return the next message as `receive_message` does, or None while it is not all there.

        For messages that are smaller than a window; one that is not would never be all there.

        Raises:
            trio.EndOfChannel: the stream ended, between two messages.
            LatticaError: as `receive_message`.
        """
        if not self._is_ready():
            if not self._at_end():
                return None
            if self._negotiation is not None:
                self._negotiation.finish()
            raise trio.EndOfChannel
        found = self._announced(max_size)
        if found is not None and self._substream.unread_bytes >= sum(found):
            return self._cut(*found)
        if self._at_end():
            self._incomplete("inside a message")
        return None

    def _announced(self, max_size: int) -> tuple[int, int] | None:
        """Return the sizes of the head and body of the next message; None while the head is cut."""
        substream = self._substream
        while (found := _varint.decode(substream.peek())) is None:
            if not substream.gather():
                return None
        size, start = found
        if size > max_size:
            raise MessageTooLong(size, max_size, self.peer)
        return start, size

    def _is_dealt_with(self, prompt: Prompt) -> bool:
        """Offer what has arrived; says whether nothing is left for the task that waits."""
        substream = self._substream
        if prompt.is_over() or self._negotiation is not None or not substream.unread_bytes:
            return False
        try:
            found = self._announced(prompt.max_size)
            if found is None or substream.unread_bytes < sum(found):
                return False
            message = self._cut(*found)
            if not prompt.offer(message):
                prompt.declined = message
        except Exception as error:  # noqa: BLE001  # for who waits, whatever it is
            prompt.error = error
        return not prompt.is_over() and not substream.unread_bytes

    async def _exactly(self, skip: int, size: int) -> bytes:
        """Take `skip + size` bytes and return the last `size`; all of them or none."""
        parts: list[bytes | memoryview] = []
        missing = skip + size
        try:
            while missing and await self._wait_for_bytes():
                parts.append(self._take(missing))
                missing -= len(parts[-1])
            if missing:
                self._incomplete(f"{missing} bytes short of {size}")
        except BaseException:
            for part in reversed(parts):
                self._substream.put_back(part)
            raise
        return _join(parts, skip)

    def _cut(self, skip: int, size: int) -> bytes:
        """Take `skip + size` bytes, which are there, and return the last `size`."""
        parts: list[bytes | memoryview] = []
        missing = skip + size
        while missing:
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        return _join(parts, skip)

    # Ending

    async def aclose(self) -> None:
        """Finish, and throw away what is unread and whatever still comes.

        Cancelled, the stream is reset instead: the peer must not take what was cut for the end.
        """
        if not self._closed:
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
            except trio.Cancelled:
                self.reset()
                raise
            self._closed = True
            self.connection._close_substream(self._substream)
            self._wake()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Give the stream up, both directions, at once. Never blocks; idempotent."""
        self._closed = True
        self.connection._reset_substream(self._substream)
        self._wake()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            await self.aclose()
        else:
            self.reset()

    def __repr__(self) -> str:
        return f"<Stream {self._substream.id} {self.protocol} with {self.peer.short}>"

    # Negotiation

    async def _agree(self) -> None:
        """Wait until the peer has chosen a protocol. Raises as `receive_some`."""
        if not await self._wait_for_bytes(only_agreement=True):
            raise NegotiationError("the stream ended before a protocol was agreed", peer=self.peer)

    def _negotiate(self) -> None:
        negotiation = self._negotiation
        while negotiation is not None and (piece := self._substream.take()) is not None:
            try:
                reply = negotiation.receive(piece)
            except LatticaError as error:
                error.peer = self.peer
                self._refusal, self._negotiation = error, None
                self.connection._reset_substream(self._substream)
                self._writer.wake()  # nothing else would any more
                return
            if reply:
                self.connection._send_soon(self._substream, reply)
            if negotiation.protocol is not None:
                self.protocol = negotiation.protocol
                self._substream.put_back(negotiation.leftover)
                self._negotiation = negotiation = None

    # What the connection reports

    def _on_readable(self) -> None:
        if self._prompt is None or not self._is_dealt_with(self._prompt):
            self._wake_reader()

    def _on_writable(self) -> None:
        self._writer.wake()

    def _on_reset(self) -> None:
        # A peer that does not speak the protocol says so, takes our first bytes for nonsense and
        # resets: its answer arrived before, and tells more than the reset does.
        self._negotiate()
        if not self._substream.finished_there:
            self._substream.discard()
        self._wake()

    def _wake(self) -> None:
        self._wake_reader()
        self._writer.wake()

    def _wake_reader(self) -> None:
        if self._attendant is not None:
            self._attendant()
        else:
            self._reader.wake()

    # Helpers

    def _claim_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    def _claim_receiving(self) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True

    def _check_sending(self) -> None:
        if self._closed or (self._substream.finished_here and self._refusal is None):
            raise trio.ClosedResourceError("this direction of the stream was closed here")
        self._check_alive()

    def _check_alive(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._substream.reset_there:
            raise StreamReset(f"the peer reset the stream ({self.protocol})", peer=self.peer)
        if self.connection.close_reason is not None:
            raise self.connection._lost()

    def _take(self, max_bytes: int | None) -> bytes | memoryview:
        substream = self._substream
        piece = substream.take(max_bytes)
        assert piece is not None  # the caller has seen that bytes are there
        self._unyielded_bytes += len(piece) + _CALL_BYTES
        if substream.returnable_bytes >= substream.grant_at_bytes:
            self.connection._grant(substream)
        return piece

    async def _wait_for_bytes(self, *, only_agreement: bool = False) -> bool:
        """Wait until there is something to take; False at the end."""
        while True:
            if self._is_ready(only_agreement=only_agreement):
                return True
            if self._prompt is not None:
                if self._prompt.error is not None:
                    raise self._prompt.error
                if self._prompt.declined is not None:
                    return True
            if self._at_end():
                if self._negotiation is not None:
                    self._negotiation.finish()
                return False
            await self._wait_readable()

    def _is_ready(self, *, only_agreement: bool = False) -> bool:
        """Say whether there is something to take. Raises as `receive_some`, at the end not."""
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed here")
        if self._negotiation is not None:
            self._negotiate()
        if self._refusal is not None:
            raise self._refusal
        return self._negotiation is None and (only_agreement or self._substream.unread_bytes > 0)

    async def _wait_for_more(self) -> None:
        if self._at_end():
            self._incomplete("inside the length of a message")
        await self._wait_readable()

    def _incomplete(self, where: str) -> NoReturn:
        raise IncompleteMessage(f"the stream ended {where}", peer=self.peer)

    async def _wait_readable(self) -> None:
        self._unyielded_bytes = 0
        self.connection._outbound.kick()  # what we opened or asked may still wait to be sent
        await self._reader.wait()

    def _at_end(self) -> bool:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed here")
        if self._substream.finished_there:
            return True
        self._check_alive()
        return False

    async def _yield_sometimes(self) -> None:
        # A checkpoint costs as much as opening a small frame; a reader that finds its bytes waiting
        # again and again must still let others run.
        if self._unyielded_bytes >= _YIELD_BYTES:
            self._unyielded_bytes = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()


def _join(parts: list[bytes | memoryview], skip: int) -> bytes:
    if skip:
        parts[0] = memoryview(parts[0])[skip:]
    return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
