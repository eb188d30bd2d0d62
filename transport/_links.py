"""What the parts of a connection are to each other: the borders inside this package.

A `Transport` dials and listens; what it yields is a `RawLink`, a duplex pipe of bytes. A security
protocol turns that into a `SecureChannel`, which knows who is at the other end, and a muxer puts
streams on the channel. TCP, in-memory links, Noise and TLS know these protocols, not each other.

Two rules keep the byte path fast and sound, and every implementation holds them:

- *A buffer is written in the step that returns.* `RawLink.receive_into` waits first and writes
  last, with no checkpoint between the writing and the return. So a reader that consumes what it
  got before its next await may lend the same large buffer to any number of links, and a link that
  waits costs no memory.
- *A send takes all or nothing, and says which by its type.* `RawLink.send_some` that was cancelled
  has sent nothing. `SecureChannel.send` has taken everything as soon as it is called: a cipher
  cannot take back what it has sealed, so what a cancelled call leaves behind goes out first later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import PeerId, PublicKey

    from .multiaddr import Multiaddr


class RawLink(Protocol):
    """A duplex byte pipe below encryption: a TCP connection, an in-memory pipe.

    One task receives and one sends at a time; the two do not disturb each other.
    """

    @property
    def local_address(self) -> Multiaddr:
        """Our end."""

    @property
    def remote_address(self) -> Multiaddr:
        """The other end, as the transport sees it."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes, write them to the front of `buffer`, return how many; 0 is the end.

        `buffer` is written only after the last checkpoint of the call, so it may be shared with
        other links as long as the caller has consumed the bytes before its next await. Cancelled,
        nothing was received.

        Raises:
            trio.BrokenResourceError: the link was lost.
            trio.ClosedResourceError: this end was closed, before or during the call.
        """

    async def send_some(self, data: memoryview) -> int:
        """Send at least one byte of `data` (not empty), return how many. Cancelled: none was sent.

        Raises:
            trio.BrokenResourceError: the link was lost.
            trio.ClosedResourceError: this end was closed, before or during the call.
        """

    def send_now(self, data: memoryview) -> int:
        """Send what of `data` (not empty) goes without waiting, return how many bytes, or 0.

        Raises as `send_some`.
        """

    def close(self) -> None:
        """Close both directions, at once. Wakes waiters with ClosedResourceError; idempotent."""


class Listener(Protocol):
    """Where links come from that others open."""

    @property
    def addresses(self) -> list[Multiaddr]:
        """What is bound, with real ports."""

    async def accept(self) -> RawLink:
        """Return the next inbound link. Cancelled, none was taken.

        Raises:
            trio.ClosedResourceError: the listener was closed.
            trio.BusyResourceError: nothing can be accepted for now; call again a little later.
        """

    def close(self) -> None:
        """Stop listening, at once. Links already accepted live on; idempotent."""


class Transport(Protocol):
    """A way to reach addresses of some kind."""

    def can_dial(self, address: Multiaddr) -> bool:
        """Say whether `address` is of the kind this transport reaches."""

    def can_listen(self, address: Multiaddr) -> bool:
        """Say whether `address` is of the kind this transport binds."""

    async def dial(self, address: Multiaddr) -> RawLink:
        """Open a link. Cancelled, nothing is left open.

        Raises:
            Unreachable: nobody answered there.
        """

    async def listen(self, address: Multiaddr) -> Listener:
        """Bind `address` and accept links from then on.

        Raises:
            InvalidInput: the address cannot be bound.
        """


@runtime_checkable
class NameTransport(Transport, Protocol):
    """A transport that resolves names, and so can be led where it should not go."""

    async def dial_public(self, address: Multiaddr) -> RawLink:
        """Open a link as `dial`, but where a name leads to on the internet only."""


class SecureChannel(Protocol):
    """An encrypted, authenticated duplex pipe to a known peer. Made by `noise` and `tls`.

    One task receives and one sends at a time; the two do not disturb each other.
    """

    @property
    def peer(self) -> PeerId:
        """Who is at the other end; proven by the handshake."""

    @property
    def remote_key(self) -> PublicKey:
        """The identity key that `peer` names."""

    @property
    def protocol(self) -> str:
        """The security protocol: `/noise` or `/tls/1.0.0`."""

    @property
    def muxer(self) -> str | None:
        """The muxer agreed on inside the handshake, or None: then it has yet to be negotiated.

        Source: https://github.com/libp2p/specs/blob/master/connections/inlined-muxer-negotiation.md
        """

    @property
    def binding(self) -> bytes:
        """32 bytes that both ends have computed from the handshake, and nobody else."""

    @property
    def unsent(self) -> bool:
        """Whether sealed bytes were left behind, by a cancelled send or `send_now`; see `flush`."""

    async def receive(self) -> list[bytes | memoryview]:
        """Return all plaintext that one wake-up brought, as pieces in order; [] is the end.

        The pieces are stable memory that is never written again. Cancelled, nothing was received.

        Raises:
            ProtocolError: the peer sent what is not of this protocol, or the bytes were tampered
                with, or the link ended inside a frame. The channel is dead.
            trio.BrokenResourceError: the link was lost.
            trio.ClosedResourceError: this end was closed.
        """

    async def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Encrypt and send `buffers`, in order.

        All of them are taken, whether the call returns or is cancelled: a cancelled call keeps
        what is not on the wire yet, and the next `send` or `flush` sends it first. Whoever cancels
        again and again calls `flush` before the next `send`, so that what is kept stays bounded by
        one call. Afterwards the caller may reuse the memory.

        Raises:
            trio.BrokenResourceError: the link was lost. The channel is dead.
            trio.ClosedResourceError: this end was closed.
            LimitExceeded: the cipher's key is used up; a new connection gets a new one.
        """

    def send_now(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Encrypt and send `buffers`; what does not go without waiting is kept, as by `send`.

        For little: what is kept is bounded by the call, if there is nothing `unsent` before it.
        Raises as `send`.
        """

    async def flush(self) -> None:
        """Send what a cancelled send left behind. Cancelled, the rest is kept. Raises as `send`."""

    def close(self) -> None:
        """Close the link, at once. Wakes waiters with ClosedResourceError; idempotent."""
