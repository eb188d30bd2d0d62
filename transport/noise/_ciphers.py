"""What seals the frames of a link once the handshake is through, and when its key is renewed.

libp2p fixes one cipher, ChaCha20-Poly1305. Processors with instructions for AES run AES-256-GCM
several times as fast, and on such links it is the cipher that sets the pace. So each side may name
further ciphers in an extension of its handshake payload, which is encrypted and authenticated;
where both name one, frames are sealed with it. Whoever does not know the extension sees the cipher
it expects.

AES-GCM wears its key out sooner: with B blocks under one key, somebody's chance to tell ciphertext
from noise is below B² / 2^129. So the key is renewed every 2^22 frames, of 2^12 blocks at most,
which keeps that chance below 2^-60 (TLS 1.3 is content with 2^-57: RFC 8446, section 5.5).
"""

from __future__ import annotations

import functools
import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from lattica.transport._channel import KeyExhausted

from ._handshake import nonce_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_FRAMES = 2**64 - 1  # per link and direction; the last nonce is reserved (Noise, section 5.1)
_LABEL = b"lattica noise AES-256-GCM"
_TRIAL_BYTES, _TRIALS = 16 << 10, 5


def _big_endian_nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


@dataclass(frozen=True, slots=True)
class Cipher:
    """An AEAD with keys of 32, nonces of 12 and tags of 16 bytes.

    Attributes:
        name: what it is called in the handshake.
        aead: makes it from a key.
        nonce: the nonce of a frame, from its number (Noise, sections 12.3 and 12.4).
        frames_per_key: after how many frames the key is renewed; None for never.
    """

    name: str
    aead: type[AESGCM | ChaCha20Poly1305]
    nonce: Callable[[int], bytes]
    frames_per_key: int | None = None


CHACHA20_POLY1305 = Cipher("chacha20-poly1305", ChaCha20Poly1305, nonce_bytes)
AES_256_GCM = Cipher("aes-256-gcm", AESGCM, _big_endian_nonce, frames_per_key=2**22)
CIPHERS = {cipher.name: cipher for cipher in (AES_256_GCM, CHACHA20_POLY1305)}


class Keys:
    """The keys of one direction of a link, one after the other.

    Attributes:
        aead: what seals or opens the frames up to `last`.
        last: the number of the first frame that this key is not for.
    """

    def __init__(self, cipher: Cipher, secret: bytes, *, used: int = 0) -> None:
        """Begin with the frame of number `used`, from what the handshake has split off."""
        self._cipher, self._secret = cipher, secret
        self.aead = cipher.aead(secret)
        self.last = 0
        if cipher.frames_per_key is None:
            self.last = _MAX_FRAMES
        while self.last <= used < _MAX_FRAMES:
            self.renew()

    def renew(self) -> None:
        """Go on to the next key, from which none before it can be told.

        Raises:
            KeyExhausted: no nonce is left.
        """
        if self._cipher.frames_per_key is None or self.last >= _MAX_FRAMES:
            raise KeyExhausted(f"{_MAX_FRAMES} frames have gone over one link")
        self._secret = hmac.digest(self._secret, _LABEL, "sha256")
        self.aead = self._cipher.aead(self._secret)
        self.last = min(self.last + self._cipher.frames_per_key, _MAX_FRAMES)


def agree(initiator: Sequence[str], responder: Sequence[str]) -> Cipher:
    """Return the cipher of a link whose ends named these; the initiator's order wins."""
    return next(
        (cipher for name in initiator if name in responder and (cipher := CIPHERS.get(name))),
        CHACHA20_POLY1305,
    )


@functools.cache
def preferred() -> tuple[str, ...]:
    """Return what to name in handshakes: AES, where this processor is faster at it.

    Where it is slower there are no instructions for it, and then its running time could also give
    away what depends on the key.
    """
    return (AES_256_GCM.name,) if _seconds(AES_256_GCM) < _seconds(CHACHA20_POLY1305) else ()


def _seconds(cipher: Cipher) -> float:
    aead, nonce, data = cipher.aead(bytes(32)), cipher.nonce(0), bytes(_TRIAL_BYTES)
    trials = []
    for _ in range(_TRIALS):
        begun = time.perf_counter()
        aead.encrypt(nonce, data, None)
        trials.append(time.perf_counter() - begun)
    return min(trials)
