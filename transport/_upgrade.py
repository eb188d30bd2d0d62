"""From a raw link to an encrypted, authenticated channel with a muxer agreed on.

Both ends negotiate a security protocol in the clear, run its handshake, and agree on the muxer:
inside the handshake where the peer can (that saves a round trip), else by a second negotiation on
the channel. Source: https://github.com/libp2p/specs/blob/master/connections/README.md.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.errors import InvalidInput

from . import noise, tls, yamux
from ._channel import HandshakeLost, NoCommonMuxer, send_all
from ._membership import (
    PROTOCOL_ID as MEMBER,
    ChannelBinding,
    MemberProof,
    SwarmKeyMismatch,
)
from .multistream import DialerNegotiation, ListenerNegotiation, ProtocolNotSupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import Identity, PeerId
    from lattica.private_swarm import Membership, SwarmKey

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
        key: by which both ends have proven to be members of one private swarm; None in public.
    """

    channel: SecureChannel
    local_address: Multiaddr
    remote_address: Multiaddr
    inbound: bool
    leftover: bytes
    key: SwarmKey | None = None


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
    swarm: Membership | None = None,
) -> Upgraded:
    """Secure `link` and agree on the muxer. Whatever goes wrong, cancellation included, closes it.

    Args:
        link: just opened.
        identity: who we are.
        initiator: whether we opened the link.
        expected: who has to be at the other end; None takes whoever is.
        security: protocols to offer, best first.
        swarm: keys of the private swarm that both ends have to be members of; None: of none.

    Raises:
        ProtocolError: the peer does not follow a protocol, or cannot prove who it is.
        Refused: the peer has no protocol in common with us.
        SwarmKeyMismatch: one end is in a private swarm, and the other not, or in another one.
        Unreachable: the link was lost (HandshakeLost), or somebody else answered (PeerIdMismatch).
    """
    try:
        chosen, early = await _negotiate_link(link, security, initiator=initiator)
        channel = await _secure(link, identity, chosen, initiator, expected, early, swarm)
        if swarm is None:
            leftover, key = await _agree_on_muxer(channel, identity, initiator=initiator), None
        else:
            leftover, key = await _prove(channel, identity, swarm.live(), initiator=initiator)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        link.close()
        raise HandshakeLost(f"the link was lost during the handshake: {error}") from error
    except BaseException:
        link.close()
        raise
    inbound = not initiator
    return Upgraded(channel, link.local_address, link.remote_address, inbound, leftover, key)


async def _secure(
    link: RawLink,
    identity: Identity,
    protocol: str,
    initiator: bool,
    expected: PeerId | None,
    early: bytes,
    swarm: Membership | None,
) -> SecureChannel:
    """Run the security protocol. A member offers no muxer in it, but to prove that it is one."""
    try:
        return await _SECURITY[protocol](
            link,
            identity,
            initiator=initiator,
            expected=expected,
            early=early,
            muxers=(MUXER,) if swarm is None else (MEMBER,),
        )
    except NoCommonMuxer as error:
        if swarm is not None:
            raise _not_a_member() from error
        if MEMBER in error.offered:
            raise _members_only() from error
        raise


def _members_only() -> SwarmKeyMismatch:
    return SwarmKeyMismatch("the peer is in a private swarm, and talks to its members only")


def _not_a_member() -> SwarmKeyMismatch:
    return SwarmKeyMismatch("the peer is in no private swarm, and this node talks to members only")


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


async def _agree_on_muxer(channel: SecureChannel, identity: Identity, *, initiator: bool) -> bytes:
    """Agree on the muxer if that is still to be done; returns what came behind it."""
    if channel.muxer is not None:
        return b""
    # A member agrees to nothing but to be proven one: asking for that as well tells why.
    agreed, leftover = await _negotiate(channel, (MUXER, MEMBER), initiator=initiator)
    if agreed == MEMBER:
        if not initiator:  # without a key everybody is refused, in the form that says so
            with suppress(SwarmKeyMismatch):
                await _exchange_proofs(channel, identity, (), leftover, initiator=False)
        raise _members_only()
    return leftover


async def _prove(
    channel: SecureChannel, identity: Identity, keys: Sequence[SwarmKey], *, initiator: bool
) -> tuple[bytes, SwarmKey]:
    """Prove to each other that both ends are members; returns what came behind, and the key."""
    received = b""
    if channel.muxer is None:
        try:
            _, received = await _negotiate(channel, (MEMBER,), initiator=initiator)
        except (HandshakeLost, ProtocolNotSupported, trio.BrokenResourceError) as error:
            raise _not_a_member() from error
    return await _exchange_proofs(channel, identity, keys, received, initiator=initiator)


async def _exchange_proofs(
    channel: SecureChannel,
    identity: Identity,
    keys: Sequence[SwarmKey],
    received: bytes,
    *,
    initiator: bool,
) -> tuple[bytes, SwarmKey]:
    own = identity.peer_id
    dialer, listener = (own, channel.peer) if initiator else (channel.peer, own)
    binding = ChannelBinding(channel.protocol, channel.binding, dialer, listener)
    proof = MemberProof(keys, binding, initiator=initiator)
    if hello := proof.start():
        await channel.send([hello])
    while True:
        if reply := proof.receive(received):
            await channel.send([reply])
        if proof.refused:
            raise SwarmKeyMismatch("the peer cannot prove that it is a member", peer=channel.peer)
        if proof.key is not None:
            return proof.leftover, proof.key
        pieces = await channel.receive()
        if not pieces:
            raise SwarmKeyMismatch("the peer hung up instead of proving to be a member")
        received = b"".join(pieces)


async def _negotiate(
    channel: SecureChannel, protocols: Sequence[str], *, initiator: bool
) -> tuple[str, bytes]:
    negotiation = DialerNegotiation(protocols) if initiator else ListenerNegotiation(protocols)
    if isinstance(negotiation, DialerNegotiation):
        await channel.send([negotiation.start()])
    while negotiation.protocol is None:
        pieces = await channel.receive()
        if not pieces:
            raise HandshakeLost("the peer hung up before a muxer was agreed")
        reply = negotiation.receive(b"".join(pieces))
        if reply:
            await channel.send([reply])
    return negotiation.protocol, negotiation.leftover
