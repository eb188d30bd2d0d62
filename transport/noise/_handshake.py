"""Noise_XX_25519_ChaChaPoly_SHA256, the handshake alone: messages in, messages out, two keys.

The pattern (Noise Protocol Framework, section 7.5):

    -> e
    <- e, ee, s, es
    -> s, se

Each token either carries a public key (`e`, `s`) or mixes a Diffie-Hellman secret into the chaining
key: `es` is the initiator's ephemeral with the responder's static key, and so on. What has been
said is hashed, and each encrypted part authenticates that hash. Source:
https://noiseprotocol.org/noise.html (revision 34), sections 5 and 12.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lattica.errors import ProtocolError

KEY_BYTES = 32
TAG_BYTES = 16
MAX_MESSAGE = 65_535  # bytes of a Noise message, its tag included
_PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"  # 32 bytes, so it is the first hash as it is
_PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


class NoiseError(ProtocolError):
    """The peer does not speak Noise, or somebody changed what it said. The link is dead."""

    code = "noise"


def nonce_bytes(counter: int) -> bytes:
    """Return the 96-bit ChaChaPoly nonce of message `counter` (section 12.3)."""
    return b"\0\0\0\0" + counter.to_bytes(8, "little")


class XXHandshake:
    """One side of the exchange. `write` and `read` take turns; three messages in all.

    Attributes:
        remote_static: the peer's static public key, once its message has been read.
        complete: whether all three messages are through; then `split` gives the keys.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey | None = None,
        prologue: bytes = b"",
    ) -> None:
        """Begin. `ephemeral` is for test vectors only: used twice, it gives the secrets away."""
        self._initiator = initiator
        self._own = {"e": ephemeral or X25519PrivateKey.generate(), "s": static}
        self._remote: dict[str, bytes] = {}
        self._messages = iter(_PATTERN)
        self._left = len(_PATTERN)
        self._symmetric = _SymmetricState(prologue)

    @property
    def remote_static(self) -> bytes:
        """The peer's static public key: 32 bytes."""
        return self._remote["s"]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to write or read."""
        return not self._left

    @property
    def hash(self) -> bytes:
        """What both sides have agreed on so far, hashed; equal at the end (channel binding)."""
        return self._symmetric.hash

    def write(self, payload: bytes) -> bytes:
        """Return our next message, carrying `payload` (in the clear in the first message)."""
        message = b""
        for token in self._next_tokens():
            if token in self._own:
                public = self._own[token].public_key().public_bytes_raw()
                if token == "e":
                    self._symmetric.mix_hash(public)
                    message += public
                else:
                    message += self._symmetric.encrypt(public)
            else:
                self._mix_secret(token)
        return message + self._symmetric.encrypt(payload)

    def read(self, message: bytes) -> bytes:
        """Take the peer's next message, return its payload. Raises NoiseError."""
        for token in self._next_tokens():
            if token in self._own:
                sealed = token == "s"
                size = KEY_BYTES + TAG_BYTES * sealed
                if len(message) < size:
                    raise NoiseError(f"a handshake message of {len(message)} bytes is cut short")
                public, message = message[:size], message[size:]
                if sealed:
                    public = self._symmetric.decrypt(public)
                else:
                    self._symmetric.mix_hash(public)
                self._remote[token] = public
            else:
                self._mix_secret(token)
        return self._symmetric.decrypt(message)

    def split(self) -> tuple[bytes, bytes]:
        """Return the keys that we send and receive with, 32 bytes each."""
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def _next_tokens(self) -> tuple[str, ...]:
        self._left -= 1
        return next(self._messages)

    def _mix_secret(self, token: str) -> None:
        ours, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        public = X25519PublicKey.from_public_bytes(self._remote[theirs])
        try:
            secret = self._own[ours].exchange(public)
        except ValueError:
            # The result is zero: a point of low order, which only an attacker sends (RFC 7748, 6.1)
            raise NoiseError("the peer's key has low order") from None
        self._symmetric.mix_key(secret)


class _SymmetricState:
    """The chaining key, the transcript hash and the cipher between them (section 5.2)."""

    def __init__(self, prologue: bytes) -> None:
        self.hash = self._chaining_key = _PROTOCOL_NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._counter = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, secret)
        self._cipher, self._counter = ChaCha20Poly1305(key), 0

    def encrypt(self, plaintext: bytes) -> bytes:
        data = plaintext
        if self._cipher is not None:
            data = self._cipher.encrypt(nonce_bytes(self._counter), plaintext, self.hash)
            self._counter += 1
        self.mix_hash(data)
        return data

    def decrypt(self, data: bytes) -> bytes:
        plaintext = data
        if self._cipher is not None:
            try:
                plaintext = self._cipher.decrypt(nonce_bytes(self._counter), data, self.hash)
            except InvalidTag:
                raise NoiseError("a handshake message is forged or meant for others") from None
            self._counter += 1
        self.mix_hash(data)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        return _hkdf(self._chaining_key, b"")


def _hkdf(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs (section 4.3)."""
    key = hmac.digest(chaining_key, secret, "sha256")
    first = hmac.digest(key, b"\x01", "sha256")
    return first, hmac.digest(key, first + b"\x02", "sha256")
