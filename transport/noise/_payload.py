"""What libp2p says inside the Noise handshake: who owns the static key, and what it can speak.

The Noise static key is fresh; the identity key signs it, and so proves that the two have one owner.
Unknown fields and extensions are ignored. Source:
https://github.com/libp2p/specs/blob/master/noise/README.md#the-libp2p-handshake-payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica import _protobuf
from lattica.errors import CodecError
from lattica.identity import PublicKey

from ._handshake import NoiseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import Identity

_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_IDENTITY_KEY, _IDENTITY_SIG, _EXTENSIONS = 1, 2, 4  # NoiseHandshakePayload
_STREAM_MUXERS = 2  # NoiseExtensions
_CIPHERS = 27_745  # ours; numbers above 1 024 are free to use


@dataclass(frozen=True, slots=True)
class Payload:
    """A peer's proof, checked.

    Attributes:
        key: its identity key.
        muxers: what it can put on the link, best first; empty when it does not say.
        ciphers: what else it can seal frames with, best first.
    """

    key: PublicKey
    muxers: tuple[str, ...]
    ciphers: tuple[str, ...] = ()


def make_payload(
    identity: Identity, static_key: bytes, muxers: Sequence[str], ciphers: Sequence[str] = ()
) -> bytes:
    """Return our proof for `static_key`, our Noise public key on this link."""
    extensions = _protobuf.encode(
        [
            *((_STREAM_MUXERS, muxer) for muxer in muxers),
            *((_CIPHERS, cipher) for cipher in ciphers),
        ]
    )
    return _protobuf.encode(
        [
            (_IDENTITY_KEY, identity.public_key.to_protobuf()),
            (_IDENTITY_SIG, identity.sign(_SIGNED_PREFIX + static_key)),
            (_EXTENSIONS, extensions or None),
        ]
    )


def read_payload(encoded: bytes, static_key: bytes) -> Payload:
    """Check a peer's proof for `static_key`, its Noise public key on this link.

    Raises:
        NoiseError: it is not such a proof.
    """
    try:
        message = _protobuf.decode(encoded)
        identity, signature = message.blob(_IDENTITY_KEY), message.blob(_IDENTITY_SIG)
        if identity is None or signature is None:
            raise NoiseError("the peer does not say who it is")
        key = PublicKey.from_protobuf(identity)
        extensions = _protobuf.decode(message.blob(_EXTENSIONS) or b"")
        muxers = tuple(extensions.texts(_STREAM_MUXERS))
        ciphers = tuple(extensions.texts(_CIPHERS))
    except CodecError as error:
        raise NoiseError(f"the peer's handshake payload: {error}") from error
    if not key.verify(_SIGNED_PREFIX + static_key, signature):
        raise NoiseError(f"whoever is there cannot prove to be {key.peer_id}")
    return Payload(key, muxers, ciphers)
