"""`/tls/1.0.0`: links encrypted and authenticated by TLS 1.3, as libp2p uses it.

Each side shows a self-signed certificate in which its identity key vouches for its TLS key.
Everything here but `secure` is pure: bytes in, bytes out. Source:
https://github.com/libp2p/specs/blob/master/tls/tls.md.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lattica.transport._channel import secure_link

from ._certificate import (
    CertificateError as CertificateError,
    TlsError as TlsError,
    make_certificate as make_certificate,
    read_certificate as read_certificate,
)
from ._session import TlsCipher as TlsCipher, TlsHandshake as TlsHandshake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import Identity, PeerId
    from lattica.transport._links import RawLink, SecureChannel

PROTOCOL_ID = "/tls/1.0.0"


async def secure(
    link: RawLink,
    identity: Identity,
    *,
    initiator: bool,
    expected: PeerId | None = None,
    early: bytes = b"",
    muxers: Sequence[str] = (),
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

    Raises:
        TlsError: the peer does not speak TLS 1.3, or cannot prove who it is.
        PeerIdMismatch: it is not the peer we expected.
        HandshakeLost: the link ended before the handshake did.
    """
    handshake = TlsHandshake(
        identity, initiator=initiator, now=time.time(), expected=expected, muxers=muxers
    )
    return await secure_link(link, handshake, protocol=PROTOCOL_ID, early=early)
