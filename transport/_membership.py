"""Proof of membership in a private swarm, inside a secure channel (spec/swarm.md §2). Pure.

It stands where a muxer is agreed on: a member offers this protocol and no muxer, so a peer that
does not know it is refused by the ordinary rules of every libp2p, before it has seen anything of
us but our name. Then the dialer proves first: a MAC over what makes this very channel unique, under
each key that it has. Who waits finds one that it shares, or refuses, and proves the same in turn.
A MAC tells nothing of its key, is good for one channel, one direction and two names, and so can be
neither replayed, reflected nor passed on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.errors import ProtocolError, Refused
from lattica.private_swarm import MAX_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.identity import PeerId
    from lattica.private_swarm import SwarmKey

PROTOCOL_ID = "/lattica/member/1.0.0"
PROOF_BYTES = 32
HELLO_BYTES = MAX_KEYS * PROOF_BYTES  # always: nobody learns how many keys there are
WELCOME_BYTES = 1 + PROOF_BYTES
_WELCOME, _REFUSED = 0, 1
_PURPOSE = "lattica swarm proof 1"
_DIALER, _LISTENER = b"dialer", b"listener"


class SwarmKeyMismatch(Refused):
    """The peer and this node are not members of the same private swarm."""

    code = "swarm-key-mismatch"
    hint = "get the swarm's key from a member, and give its file as --swarm-key"


class MembershipError(ProtocolError):
    """The peer does not keep to the form of a proof of membership."""

    code = "membership"


@dataclass(frozen=True, slots=True)
class ChannelBinding:
    """What makes a channel unlike any other.

    Attributes:
        protocol: the security protocol.
        unique: 32 bytes that both ends of the channel, and nobody else's, have computed.
        dialer: who opened it, proven.
        listener: who was dialled, proven.
    """

    protocol: str
    unique: bytes
    dialer: PeerId
    listener: PeerId


class MemberProof:
    """One side of the exchange: bytes in, bytes out.

    Attributes:
        key: the newest key that both have, once the peer has proven it.
        refused: whether what `receive` returned last is a refusal: send it, then hang up.
        leftover: what came behind the peer's last word; it is the muxer's.
    """

    def __init__(
        self,
        keys: Sequence[SwarmKey],
        binding: ChannelBinding,
        *,
        initiator: bool,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Begin with the keys that are good now, the newest first; without one all is refused."""
        self._keys, self._binding, self._initiator = tuple(keys)[:MAX_KEYS], binding, initiator
        self._random_bytes = random_bytes
        self._buffer = bytearray()
        self.key: SwarmKey | None = None
        self.refused = False
        self.leftover = b""

    def start(self) -> bytes:
        """Return the first bytes; nothing for the side that waits."""
        if not self._initiator:
            return b""
        proofs = [self._proof(key, _DIALER) for key in self._keys]
        return b"".join(proofs) + self._random_bytes(HELLO_BYTES - PROOF_BYTES * len(proofs))

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take bytes, return what to send.

        Raises:
            SwarmKeyMismatch: the peer refuses us, or cannot prove that it is a member.
            MembershipError: the peer does not keep to the form.
        """
        self._buffer += data
        size = WELCOME_BYTES if self._initiator else HELLO_BYTES
        if len(self._buffer) < size or self.key is not None or self.refused:
            return b""
        message, rest = bytes(self._buffer[:size]), bytes(self._buffer[size:])
        if self._initiator:
            self.leftover = rest
            self._read_welcome(message)
            return b""
        if rest:
            raise MembershipError("the dialer goes on before it was let in")
        return self._answer(message)

    def _answer(self, hello: bytes) -> bytes:
        shown = [hello[start : start + PROOF_BYTES] for start in range(0, HELLO_BYTES, PROOF_BYTES)]
        for key in self._keys:
            expected = self._proof(key, _DIALER)
            # All are compared, whatever is found: how long it takes tells nothing.
            found = [hmac.compare_digest(expected, proof) for proof in shown]
            if any(found) and self.key is None:
                self.key = key
        if self.key is None:
            self.refused = True
            return bytes([_REFUSED]) + self._random_bytes(PROOF_BYTES)
        return bytes([_WELCOME]) + self._proof(self.key, _LISTENER)

    def _read_welcome(self, welcome: bytes) -> None:
        if welcome[0] == _REFUSED:
            raise SwarmKeyMismatch("the peer is in a private swarm that this node has no key of")
        if welcome[0] != _WELCOME:
            raise MembershipError(f"an answer of kind {welcome[0]} to a proof of membership")
        for key in self._keys:
            expected = self._proof(key, _LISTENER)
            if hmac.compare_digest(expected, welcome[1:]) and self.key is None:
                self.key = key
        if self.key is None:
            raise SwarmKeyMismatch("the peer cannot prove that it is a member of the swarm")

    def _proof(self, key: SwarmKey, role: bytes) -> bytes:
        binding = self._binding
        parts = (
            role,
            binding.protocol.encode(),
            binding.unique,
            binding.dialer.raw,
            binding.listener.raw,
        )
        text = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
        return hmac.digest(key.derive(_PURPOSE), text, hashlib.sha256)
