"""The `/noise` handshake as libp2p frames and fills it: bytes in, bytes out, a secured link.

Each side proves its identity in the first payload that is encrypted: the responder in the second
message, the initiator in the third, once it knows whom it talks to. Both also name their muxers
there, which saves the round trip that would otherwise settle the muxer, and the ciphers that they
would rather seal frames with; the initiator's order wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.transport._channel import Established, NoCommonMuxer, check_peer

from ._ciphers import agree
from ._frames import LENGTH_BYTES, Opener, Sealer
from ._handshake import NoiseError, XXHandshake
from ._payload import Payload, make_payload, read_payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import Identity, PeerId

# A payload holds a key, a signature and a few names: 2.2 KiB with an 8192-bit RSA key. The bound
# is what a stranger can make us hold before it has proven anything.
MAX_HANDSHAKE_MESSAGE = 8192  # bytes


class NoiseHandshake:
    """One side of the handshake; see `Handshake` in `lattica.transport._channel`.

    Attributes:
        established: the result, None until the last message is through.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        expected: PeerId | None = None,
        muxers: Sequence[str] = (),
        ciphers: Sequence[str] = (),
    ) -> None:
        # The static key lives for this link only: nothing to store, nothing to leak later.
        static = X25519PrivateKey.generate()
        self._noise = XXHandshake(initiator=initiator, static=static)
        self._static_key = static.public_key().public_bytes_raw()
        self._identity = identity
        self._initiator = initiator
        self._expected = expected
        self._muxers, self._ciphers = tuple(muxers), tuple(ciphers)
        self._buffer = bytearray()
        self._step = 0  # messages of the peer that have been handled
        self._last_words = b""
        self.established: Established | None = None

    def start(self) -> bytes:
        """Return the first message; nothing for the responder."""
        return _frame(self._noise.write(b"")) if self._initiator else b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take bytes, return what to send.

        Raises:
            NoiseError: that is no handshake, or the peer cannot prove who it is.
            PeerIdMismatch: it is not the peer we expected.
        """
        self._buffer += data
        reply = b""
        while self.established is None and (message := self._next_message()) is not None:
            reply += self._handle(message)
        return reply

    def last_words(self) -> bytes:
        """Return our last message where the peer can tell from it what is wrong; else nothing."""
        return self._last_words  # Noise has no alerts

    def _next_message(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if size > MAX_HANDSHAKE_MESSAGE:
            raise NoiseError(f"a handshake message of {size} bytes, limit {MAX_HANDSHAKE_MESSAGE}")
        end = LENGTH_BYTES + size
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[LENGTH_BYTES:end])
        del self._buffer[:end]
        return message

    def _handle(self, message: bytes) -> bytes:
        payload = self._noise.read(message)
        if not self._initiator and not self._step:
            # The first payload is in the clear and from nobody: ignored.
            self._step += 1
            return _frame(self._noise.write(self._own_payload()))
        peer = read_payload(payload, self._noise.remote_static)
        check_peer(peer.key, self._expected)
        try:
            muxer = self._agree(peer)
        except NoCommonMuxer:
            if self._initiator:
                self._last_words = _frame(self._noise.write(self._own_payload()))
            raise
        reply = _frame(self._noise.write(self._own_payload())) if self._initiator else b""
        self._establish(peer, muxer)
        return reply

    def _own_payload(self) -> bytes:
        return make_payload(self._identity, self._static_key, self._muxers, self._ciphers)

    def _agree(self, peer: Payload) -> str | None:
        if not self._muxers or not peer.muxers:
            return None  # left to multistream-select, once the link is secure
        ours, theirs = self._muxers, peer.muxers
        first, second = (ours, theirs) if self._initiator else (theirs, ours)
        common = next((muxer for muxer in first if muxer in second), None)
        if common is None:
            raise NoCommonMuxer(theirs)
        return common

    def _establish(self, peer: Payload, muxer: str | None) -> None:
        send_key, receive_key = self._noise.split()
        sides = (self._ciphers, peer.ciphers)
        cipher = agree(*(sides if self._initiator else sides[::-1]))
        opener = Opener(receive_key, cipher)
        pieces = opener.receive(bytes(self._buffer))
        self._buffer.clear()
        self.established = Established(
            remote_key=peer.key,
            muxer=muxer,
            binding=self._noise.hash,
            sealer=Sealer(send_key, cipher),
            opener=opener,
            pieces=pieces,
        )


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
