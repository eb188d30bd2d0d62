"""From a raw link to an encrypted, authenticated channel with a muxer agreed on.

Both ends negotiate a security protocol in the clear, run its handshake, and agree on the muxer:
inside the handshake where the peer can (that saves a round trip), else by a second negotiation on
the channel. Source: https://github.com/libp2p/specs/blob/master/connections/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.errors import InvalidInput

from . import noise, tls, yamux
from ._channel import HandshakeLost, send_all
from .multistream import DialerNegotiation, ListenerNegotiation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import Identity, PeerId

    from ._links import RawLink, SecureChannel
    from .multiaddr import Multiaddr

MUXER = yamux.PROTOCOL_ID
_SECURITY = {noise.PROTOCOL_ID: noise.secure, tls.PROTOCOL_ID: tls.secure}
_BUFFER_BYTES = 2048  # a negotiation is two short lines


class UnknownSecurity(InvalidInput):
    """A security protocol that this library does not have."""

    code = "unknown-security"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A link that is ready for the muxer.

    Attributes:
        channel: the encrypted channel; whoever holds this closes it.
        local_address: our end of the link.
        remote_address: the other end.
        inbound: whether the other end opened the link.
        leftover: what the peer's muxer has sent already, to be taken before `channel.receive`.
    """

    channel: SecureChannel
    local_address: Multiaddr
    remote_address: Multiaddr
    inbound: bool
    leftover: bytes


def check_security(protocols: Sequence[str]) -> None:
    """Raise UnknownSecurity unless all `protocols` are ours, and there is one."""
    unknown = [protocol for protocol in protocols if protocol not in _SECURITY]
    if unknown or not protocols:
        raise UnknownSecurity(
            f"security protocols {list(protocols)}, expected some of {list(_SECURITY)}"
        )


async def upgrade(
    link: RawLink,
    identity: Identity,
    *,
    initiator: bool,
    expected: PeerId | None,
    security: Sequence[str],
) -> Upgraded:
    """Secure `link` and agree on the muxer. Whatever goes wrong, cancellation included, closes it.

    Args:
        link: just opened.
        identity: who we are.
        initiator: whether we opened the link.
        expected: who has to be at the other end; None takes whoever is.
        security: protocols to offer, best first.

    Raises:
        ProtocolError: the peer does not follow a protocol, or cannot prove who it is.
        Refused: the peer has no protocol in common with us.
        Unreachable: the link was lost (HandshakeLost), or somebody else answered (PeerIdMismatch).
    """
    try:
        chosen, early = await _negotiate_link(link, security, initiator=initiator)
        channel = await _SECURITY[chosen](
            link,
            identity,
            initiator=initiator,
            expected=expected,
            early=early,
            muxers=(MUXER,),
        )
        leftover = b""
        if channel.muxer is None:
            leftover = await _negotiate_muxer(channel, initiator=initiator)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        link.close()
        raise HandshakeLost(f"the link was lost during the handshake: {error}") from error
    except BaseException:
        link.close()
        raise
    return Upgraded(channel, link.local_address, link.remote_address, not initiator, leftover)


async def _negotiate_link(
    link: RawLink, offered: Sequence[str], *, initiator: bool
) -> tuple[str, bytes]:
    negotiation = DialerNegotiation(offered) if initiator else ListenerNegotiation(offered)
    if isinstance(negotiation, DialerNegotiation):
        await send_all(link, negotiation.start())
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while negotiation.protocol is None:
        size = await link.receive_into(buffer)
        if not size:
            raise HandshakeLost("the peer hung up before a security protocol was agreed")
        await send_all(link, negotiation.receive(buffer[:size]))
    return negotiation.protocol, negotiation.leftover


async def _negotiate_muxer(channel: SecureChannel, *, initiator: bool) -> bytes:
    negotiation = DialerNegotiation([MUXER]) if initiator else ListenerNegotiation([MUXER])
    if isinstance(negotiation, DialerNegotiation):
        await channel.send([negotiation.start()])
    while negotiation.protocol is None:
        pieces = await channel.receive()
        if not pieces:
            raise HandshakeLost("the peer hung up before a muxer was agreed")
        reply = negotiation.receive(b"".join(pieces))
        if reply:
            await channel.send([reply])
    return negotiation.leftover
