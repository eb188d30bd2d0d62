"""`/noise`: links encrypted and authenticated by the Noise protocol, as libp2p uses it.

The handshake is XX over X25519 with ChaCha20-Poly1305 and SHA-256; the identity keys of both sides
sign their Noise keys. Two of us on processors made for it go on with AES-256-GCM. Everything here
but `secure` is pure: bytes in, bytes out. Source:
https://github.com/libp2p/specs/blob/master/noise/README.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica.transport._channel import secure_link

from ._ciphers import (
    AES_256_GCM as AES_256_GCM,
    CHACHA20_POLY1305 as CHACHA20_POLY1305,
    CIPHERS as CIPHERS,
    Cipher as Cipher,
    preferred as preferred,
)
from ._frames import (
    MAX_PLAINTEXT as MAX_PLAINTEXT,
    Opener as Opener,
    Sealer as Sealer,
)
from ._handshake import NoiseError as NoiseError, XXHandshake as XXHandshake
from ._payload import Payload as Payload, make_payload as make_payload, read_payload as read_payload
from ._session import (
    MAX_HANDSHAKE_MESSAGE as MAX_HANDSHAKE_MESSAGE,
    NoiseHandshake as NoiseHandshake,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import Identity, PeerId
    from lattica.transport._links import RawLink, SecureChannel

PROTOCOL_ID = "/noise"


async def secure(
    link: RawLink,
    identity: Identity,
    *,
    initiator: bool,
    expected: PeerId | None = None,
    early: bytes = b"",
    muxers: Sequence[str] = (),
    ciphers: Sequence[str] | None = None,
) -> SecureChannel:
    """Secure `link`. Whatever goes wrong, cancellation included, closes it.

    Args:
        link: below encryption; the channel owns it from now on.
        identity: who we are.
        initiator: whether we dialled.
        expected: whom we want to talk to; checked before any byte of ours but the handshake's.
        early: bytes that have been read from the link already.
        muxers: what we can put on the channel, best first. When given and the peer offers some as
            well, `SecureChannel.muxer` says which one is agreed and no negotiation follows.
        ciphers: what else than ChaCha20-Poly1305 frames may be sealed with, best first; by default
            what this processor is faster at.

    Raises:
        NoiseError: the peer does not speak Noise, or cannot prove who it is.
        PeerIdMismatch: it is not the peer we expected.
        HandshakeLost: the link ended before the handshake did.
    """
    handshake = NoiseHandshake(
        identity,
        initiator=initiator,
        expected=expected,
        muxers=muxers,
        ciphers=preferred() if ciphers is None else ciphers,
    )
    return await secure_link(link, handshake, protocol=PROTOCOL_ID, early=early)
