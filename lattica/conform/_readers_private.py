"""Readers of the vectors of what crosses borders: Bitswap, private swarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lattica.content import bitswap
from lattica.content.bitswap import _messages as messages
from lattica.identity import PeerId
from lattica.private_swarm import KeyRing, SwarmKey
from lattica.transport import SwarmKeyMismatch
from lattica.transport._membership import ChannelBinding, MemberProof

from ._readers import expect, wire_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Case = Mapping[str, Any]


def read_bitswap(case: Case) -> object:
    """Bitswap messages (bitswap.md §2)."""
    wire = wire_of(case)
    message = bitswap.decode(wire)
    protocol = case.get("protocol", bitswap.PROTOCOLS[0])
    again = bytes.fromhex(case["again"]) if "again" in case else wire
    expect("the message, written again,", bitswap.encode(message, protocol).hex(), again.hex())
    hashes = [messages.multihash_of(block) for block in message.blocks]
    return {
        "wants": [
            {
                "cid": entry.cid.hex(),
                "want": entry.want.name.lower(),
                "priority": entry.priority,
                "cancel": entry.cancel,
                "send_dont_have": entry.send_dont_have,
            }
            for entry in message.entries
        ],
        "full": message.full,
        "blocks": [
            {"prefix": block.prefix.hex(), "data": block.data.hex()} for block in message.blocks
        ],
        "multihashes": [None if found is None else found.hex() for found in hashes],
        "presences": [
            {"cid": presence.cid.hex(), "have": presence.have} for presence in message.presences
        ],
        "pending_bytes": message.pending_bytes,
    }


def read_swarm(case: Case) -> object:
    """Key files, invitations and proofs of private swarms (swarm.md §1, §2)."""
    if case["kind"] == "file":
        return _ring(KeyRing.parse(case["text"]))
    if case["kind"] == "invite":
        return _ring(KeyRing.from_invite(case["text"]))
    keys = [SwarmKey(bytes.fromhex(key)) for key in case["keys"]]
    protocol, unique, dialer, listener = case["binding"]
    binding = ChannelBinding(
        protocol, bytes.fromhex(unique), PeerId.parse(dialer), PeerId.parse(listener)
    )
    proof = MemberProof(keys, binding, initiator=case["kind"] == "welcome")
    proof.start()
    try:
        answer = proof.receive(wire_of(case))
    except SwarmKeyMismatch:
        return "refused"
    if "answer" in case:
        expect("the answer", answer.hex(), case["answer"])
    return "refused" if proof.key is None else proof.key.secret.hex()


def _ring(ring: KeyRing) -> object:
    return {
        "swarm": ring.fingerprint,
        "keys": [{"name": key.name.hex(), "until": key.until} for key in ring.keys],
    }


READERS: dict[str, Callable[[Case], object]] = {
    "bitswap": read_bitswap,
    "swarm": read_swarm,
}
