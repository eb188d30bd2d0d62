"""Readers of the vectors of what crosses borders: Bitswap, private swarms, sealed objects."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from lattica import sealed
from lattica.content import bitswap
from lattica.content.bitswap import _messages as messages
from lattica.identity import Identity, PeerId
from lattica.private_swarm import KeyRing, SwarmKey
from lattica.sealed._format import seal_chunk
from lattica.transport import SwarmKeyMismatch
from lattica.transport._membership import ChannelBinding, MemberProof

from ._outcome import Failure
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


def read_sealed(case: Case) -> object:
    """Headers, chunks and tables of sealed objects (sealed.md §1 to §3)."""
    if case["kind"] == "header":
        header = sealed.Header.parse(wire_of(case))
        expect("the header, written again,", bytes(header).hex(), wire_of(case).hex())
        try:
            return header.find_key(Identity(bytes.fromhex(case["seed"]))).hex()
        except sealed.NotARecipient:
            return "not-a-recipient"
    if case["kind"] == "table":
        return _table(sealed.Table.parse(wire_of(case)))
    plain = bytes.fromhex(case["plain"]).ljust(sealed.CHUNK_BYTES, b"\0")
    key, header_bytes = bytes.fromhex(case["key"]), bytes.fromhex(case["header"])
    number, count = case["number"], case["count"]
    chunk = seal_chunk(key, header_bytes, number, plain, last=number == count - 1)
    expect("the sealed chunk", hashlib.sha256(chunk).hexdigest(), case["sealed_sha256"])
    opener = sealed.Opener(key, header_bytes, count * sealed.SEALED_BYTES)
    expect("the chunk, opened again,", opener.open(number, chunk), plain)
    for other in {0, number + 1, count - 1} - {number}:
        try:
            opener.open(other, chunk)
        except sealed.SealBroken:
            continue
        raise Failure(f"chunk {number} opens as chunk {other}")
    return "valid"


def _table(table: sealed.Table) -> object:
    return {
        "name": table.name,
        "tree": table.is_directory,
        "directories": list(table.directories),
        "files": [[entry.path, entry.size, entry.offset] for entry in table.entries()],
        "chunks": table.chunk_count,
    }


READERS: dict[str, Callable[[Case], object]] = {
    "bitswap": read_bitswap,
    "sealed": read_sealed,
    "swarm": read_swarm,
}
