"""Secure channels over raw links: the one file of `noise` and `tls` that waits.

A security protocol is pure. Its `Handshake` takes bytes and gives bytes until it is `established`;
from then on a `Sealer` turns plaintext into bytes for the link and an `Opener` turns bytes from the
link into plaintext. Here they meet a `RawLink`.

- *Receiving* goes through one large buffer per event loop, lent to whichever link has bytes: all
  frames in it are opened before the next await, so waiting links share it and an idle one costs
  nothing. 512 KiB fit the level-2 cache of current cores and measured best.
- *Sending* seals a batch of frames, sends it, seals the next. Sealing cannot be undone, so a
  cancelled send seals the rest as well and keeps what is not on the wire, in order, for the next
  call: no frame of the layers above is ever cut, whoever cancels whatever.
- *Failure is final.* After a forged frame, a lost link or a used-up key each call raises what
  happened first.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from lattica.errors import LatticaError, LimitExceeded, ProtocolError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lattica.identity import PeerId, PublicKey

    from ._links import RawLink

RECEIVE_BYTES = 512 * 1024
_LAST_WORDS_SECONDS = 0.5  # what a refused peer gets to read our alert; its socket buffer is empty


class PeerIdMismatch(Unreachable):
    """Somebody else answered than the peer that was asked for.

    Attributes:
        peer: whom we wanted.
        found: who answered, proven.
    """

    code = "peer-id-mismatch"
    retryable = False
    hint = "another node has this address now; get a fresh address or ticket of the peer"

    def __init__(self, *, peer: PeerId, found: PeerId) -> None:
        super().__init__(f"expected peer {peer}, but {found} answered", peer=peer)
        self.found = found


class HandshakeLost(Unreachable):
    """The link ended in the middle of the handshake."""

    code = "handshake-lost"
    hint = "the peer hung up: it may be stopping, or may not want this node; try again later"


class NoCommonMuxer(ProtocolError):
    """The peer puts nothing on the link that we do.

    Attributes:
        offered: what it would put there.
    """

    code = "no-common-muxer"

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__(f"no muxer in common with a peer that offers {len(offered)}")
        self.offered = tuple(offered)


class KeyExhausted(LimitExceeded):
    """The link has carried as much as its key allows."""

    code = "key-exhausted"
    hint = "connect again: a new link has a new key"


class Sealer(Protocol):
    """Plaintext in, bytes for the link out. Pure."""

    def seal(self, buffers: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
        """Yield `buffers` sealed, in batches; each is valid until the next is asked for.

        Raises:
            KeyExhausted: the key is used up.
        """


class Opener(Protocol):
    """Bytes from the link in, plaintext out. Pure."""

    def receive(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Take bytes; return the plaintext of all frames that are now whole.

        Raises:
            ProtocolError: these are not frames that our peer sealed.
        """

    def finish(self) -> None:
        """Note the end of the link. Raises ProtocolError inside a frame: a cut is no goodbye."""


@dataclass(frozen=True, slots=True)
class Established:
    """What a handshake ends with.

    Attributes:
        remote_key: the peer's identity key, proven.
        muxer: what was agreed inside the handshake, or None.
        binding: 32 bytes that both ends have computed from what was said, and nobody else.
        pieces: plaintext that came along with the peer's last handshake message.
    """

    remote_key: PublicKey
    muxer: str | None
    binding: bytes
    sealer: Sealer
    opener: Opener
    pieces: list[bytes | memoryview] = field(default_factory=list)


class Handshake(Protocol):
    """How two strangers get to `Established`. Pure."""

    @property
    def established(self) -> Established | None:
        """The result; what `start` or `receive` returned last must be sent all the same."""

    def start(self) -> bytes:
        """Return the first flight; nothing for the side that waits."""

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take bytes; return what to send.

        Raises:
            ProtocolError: the peer does not follow the protocol, or cannot prove who it is.
            PeerIdMismatch: it is proven to be somebody else.
        """

    def last_words(self) -> bytes:
        """Return what tells the peer why we hang up, after `receive` has raised."""


def check_peer(key: PublicKey, expected: PeerId | None) -> None:
    """Hold a proven key against whom we wanted. Raises PeerIdMismatch."""
    if expected is not None and key.peer_id != expected:
        raise PeerIdMismatch(peer=expected, found=key.peer_id)


async def secure_link(
    link: RawLink, handshake: Handshake, *, protocol: str, early: bytes = b""
) -> Channel:
    """Run `handshake` over `link`. Whatever goes wrong, cancellation included, closes the link.

    `early` is what has been read from the link already.

    Raises:
        ProtocolError: the peer does not follow the protocol, or cannot prove who it is.
        PeerIdMismatch: it is proven to be somebody else.
        HandshakeLost: the link ended before the handshake did.
    """
    try:
        await send_all(link, handshake.start())
        data: bytes | memoryview = early or await _receive(link)
        while True:
            await send_all(link, handshake.receive(data))
            if handshake.established is not None:
                return Channel(link, handshake.established, protocol)
            data = await _receive(link)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        link.close()
        raise HandshakeLost(f"the link was lost during the {protocol} handshake") from error
    except LatticaError:
        await _say_why(link, handshake)
        raise
    except BaseException:
        link.close()
        raise


class Channel:
    """A `SecureChannel` over a raw link. Made by `secure_link`; ends with `close`."""

    def __init__(self, link: RawLink, established: Established, protocol: str) -> None:
        self.remote_key = established.remote_key
        self.peer: PeerId = established.remote_key.peer_id
        self.muxer, self.binding = established.muxer, established.binding
        self.protocol = protocol
        self._link = link
        self._sealer, self._opener = established.sealer, established.opener
        self._pieces = established.pieces
        self._unsent = b""
        self._sending = False
        self._failure: LatticaError | None = None

    @property
    def unsent(self) -> bool:
        """Whether sealed bytes were left behind."""
        return bool(self._unsent)

    async def receive(self) -> list[bytes | memoryview]:
        """Return the plaintext of one wake-up; [] is the end. See `SecureChannel.receive`."""
        if self._pieces:
            await trio.lowlevel.checkpoint()
            pieces, self._pieces = self._pieces, []
            return pieces
        with self._failures():
            buffer = _receive_buffer()
            while size := await self._link.receive_into(buffer):
                # No await between the receiving and the opening: the buffer is everybody's.
                if pieces := self._opener.receive(buffer[:size]):
                    return pieces
            self._opener.finish()
            return []

    async def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Seal and send all of `buffers`. See `SecureChannel.send`."""
        with self._failures(), self._only_sender():
            batches = self._sealer.seal(buffers)
            try:
                if self._unsent:
                    await self._drain(memoryview(self._unsent))
                for batch in batches:
                    await self._drain(batch)
            except (trio.Cancelled, KeyboardInterrupt):
                # Some of it is sealed and may be on the wire. The rest must follow it, so that
                # neither a frame of ours nor one of the muxer's is cut: seal now, send later.
                self._unsent = b"".join((self._unsent, *map(bytes, batches)))
                raise

    def send_now(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Seal `buffers` and send what goes without waiting. See `SecureChannel.send_now`."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        try:
            for batch in self._sealer.seal(buffers):
                sent = 0 if self._unsent else self._link.send_now(batch)
                if sent < len(batch):
                    self._unsent += bytes(batch[sent:])
        except LatticaError as error:
            self._failure = error
            self.close()
            raise

    async def flush(self) -> None:
        """Send what a cancelled send left behind. See `SecureChannel.flush`."""
        with self._failures(), self._only_sender():
            await self._drain(memoryview(self._unsent))

    def close(self) -> None:
        """Close the link, at once; idempotent."""
        self._unsent = b""
        self._link.close()

    async def _drain(self, data: memoryview) -> None:
        if not data:
            await trio.lowlevel.checkpoint()
            return
        offset = 0
        try:
            while offset < len(data):
                offset += await self._link.send_some(data[offset:])
        finally:
            self._unsent = bytes(data[offset:])

    @contextmanager
    def _failures(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            yield
        except LatticaError as error:
            self._failure = error
            self.close()
            raise

    @contextmanager
    def _only_sender(self) -> Iterator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False


_shared_buffer: trio.lowlevel.RunVar[memoryview] = trio.lowlevel.RunVar("lattica-receive-buffer")


def _receive_buffer() -> memoryview:
    try:
        return _shared_buffer.get()
    except LookupError:
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        _shared_buffer.set(buffer)
        return buffer


async def _receive(link: RawLink) -> memoryview:
    buffer = _receive_buffer()
    size = await link.receive_into(buffer)
    if not size:
        raise trio.BrokenResourceError("the peer hung up")
    return buffer[:size]


async def send_all(link: RawLink, data: bytes) -> None:
    """Send all of `data`. Cancelled, some of it may have been sent. Raises as `send_some`."""
    view = memoryview(data)
    while view:
        view = view[await link.send_some(view) :]


async def _say_why(link: RawLink, handshake: Handshake) -> None:
    try:
        with trio.move_on_after(_LAST_WORDS_SECONDS):
            await send_all(link, handshake.last_words())
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it does not want to know
    finally:
        link.close()
