"""One stream of a session: a queue of what arrived, and the two windows.

The bytes are not copied. A payload is queued as the slice of plaintext in which it came; whoever
reads gets that slice. Two rules keep a hostile peer from turning a few unread bytes into a lot of
memory: a payload that is a small part of the plaintext it came in is copied out, so that it does
not keep the rest alive; and small payloads that nobody reads are joined to their predecessor, so
that each queue entry is worth its overhead. Memory held is then at most four times the unread
bytes that the ledger counts, and in practice the same.

`window = credit + arriving + unread + returnable`, always: what the peer may still send, what it
has announced, what waits for a reader, and what was read but not granted again. The session writes
these fields and the reader's side (`take`, `put_back`) moves bytes from one to the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ._frames import HEADER, INITIAL_WINDOW_BYTES

if TYPE_CHECKING:
    from ._ledger import CreditAccount

_JOINED_BYTES = 2048  # payloads below this are joined to what waits before them
_JOIN_UP_TO_BYTES = 16 << 10
_NEVER = 1 << 62


class Substream:
    """A stream as the session sees it. Made by `Session`; read it, and change it by its methods.

    Attributes:
        id: its number on the connection.
        ours: whether this side opened it.
        unread_bytes: what waits for `take`.
        send_credit_bytes: what the peer still lets us send.
        window_bytes: what the ledger is charged for it.
        finished_here: we have sent our last byte.
        finished_there: the peer has sent its last byte; all of it is in the queue.
        reset_there: the peer gave the stream up. Set without `finished_there`, bytes were lost.
        closed: nobody here wants it any more; whatever arrives is thrown away.
        owner: what the layer above keeps beside it.
    """

    __slots__ = (
        "_account",
        "_pieces",
        "announced",
        "closed",
        "credit_bytes",
        "finished_here",
        "finished_there",
        "flags",
        "grant_at_bytes",
        "granted_at",
        "id",
        "ours",
        "owner",
        "reset_there",
        "returnable_bytes",
        "send_credit_bytes",
        "unread_bytes",
        "window_bytes",
    )

    def __init__(self, stream_id: int, account: CreditAccount, *, ours: bool, now: float) -> None:
        self._account = account
        self._pieces: deque[bytes | memoryview | bytearray] = deque()
        self.id, self.ours = stream_id, ours
        self.owner: Any = None
        self.flags = 0  # what our next frame says on top: the acknowledgement of a new stream
        self.announced = False  # a Readable event is under way
        self.unread_bytes = self.returnable_bytes = 0
        self.credit_bytes = self.send_credit_bytes = INITIAL_WINDOW_BYTES
        self.window_bytes = INITIAL_WINDOW_BYTES
        self.grant_at_bytes = INITIAL_WINDOW_BYTES // 2
        self.granted_at = now
        self.finished_here = self.finished_there = self.reset_there = self.closed = False

    @property
    def wants_grant(self) -> bool:
        """Whether enough was read for `Session.grant` to return credit, in one large step."""
        return self.returnable_bytes >= self.grant_at_bytes

    @property
    def can_send(self) -> bool:
        """Whether a byte could go out now."""
        return self.send_credit_bytes > 0 and not (self.finished_here or self.reset_there)

    def header(self, kind: int, flags: int, value: int) -> bytes:
        """Return the header of our next frame on the stream, which will be sent as the next."""
        flags |= self.flags
        self.flags = 0
        return HEADER.pack(0, kind, flags, self.id, value)

    def take(self, max_bytes: int | None = None) -> bytes | memoryview | None:
        """Return the next piece, at most `max_bytes` of it, or None when nothing waits."""
        pieces = self._pieces
        if not pieces:
            return None
        piece = pieces.popleft()
        size = len(piece)
        if type(piece) is bytearray:
            piece = bytes(piece)
        if max_bytes is not None and size > max_bytes:
            view = memoryview(piece)
            pieces.appendleft(view[max_bytes:])
            piece, size = view[:max_bytes], max_bytes
        self.unread_bytes -= size
        if self.finished_there:
            self._release(size)
        else:
            self.returnable_bytes += size
        return piece  # type: ignore[return-value]  # a bytearray became bytes above

    def put_back(self, piece: bytes | memoryview) -> None:
        """Return what `take` gave; it is the next piece again.

        What was granted for it meanwhile stays granted: until it is taken again, the stream may
        hold that much more than its window.
        """
        if not piece or self.closed:
            return
        self._pieces.appendleft(piece)
        self.unread_bytes += len(piece)
        if self.finished_there:
            self._release(-len(piece))
        else:
            self.returnable_bytes -= len(piece)

    def peek(self) -> bytes | bytearray | memoryview:
        """Return the next piece and leave it there; empty when nothing waits."""
        return self._pieces[0] if self._pieces else b""

    def gather(self) -> bool:
        """Join the next two pieces. False where there are not two."""
        if len(self._pieces) < 2:
            return False
        first, second = self._pieces.popleft(), self._pieces.popleft()
        self._pieces.appendleft(b"".join((first, second)))
        return True

    def discard(self) -> None:
        """Throw away what is unread and give its memory back. Nothing will be queued again."""
        self._pieces.clear()
        self.unread_bytes = self.returnable_bytes = self.credit_bytes = 0
        self.grant_at_bytes = _NEVER
        self.closed = True
        self._release(self.window_bytes)

    def queue(self, body: bytes | memoryview, held_bytes: int) -> None:
        """Add what arrived. `held_bytes`: what keeping a slice of it would keep alive."""
        pieces, size = self._pieces, len(body)
        self.unread_bytes += size
        if size < _JOINED_BYTES:
            tail = pieces[-1] if pieces else None
            if type(tail) is bytearray and len(tail) < _JOIN_UP_TO_BYTES:
                tail += body
            else:
                pieces.append(bytearray(body) if pieces else bytes(body))
        else:
            pieces.append(body if 4 * size >= held_bytes else bytes(body))

    def end(self) -> None:
        """Note that nothing more will arrive: only what is unread stays charged."""
        self.finished_there = True
        self.credit_bytes = self.returnable_bytes = 0
        self.grant_at_bytes = _NEVER
        self._release(self.window_bytes - self.unread_bytes)

    def _release(self, count_bytes: int) -> None:
        self.window_bytes -= count_bytes
        self._account.release(count_bytes)
