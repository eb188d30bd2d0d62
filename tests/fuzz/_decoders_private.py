"""More targets: what private swarms, sealed objects and Bitswap read of strangers."""

from __future__ import annotations

import contextlib
import json

from _decoders import IDENTITY, VECTORS, Decoder, vectors

from lattica.content.bitswap import _messages as bitswap
from lattica.private_swarm import KeyRing, SwarmKey
from lattica.sealed import Header, NotARecipient, Table
from lattica.transport import SwarmKeyMismatch
from lattica.transport._membership import ChannelBinding, MemberProof
from lattica.transport.pnet import FILE_HEAD, parse_psk


def _texts(kind: str) -> list[bytes]:
    cases = json.loads((VECTORS / "swarm.json").read_text())["cases"]
    return [case["text"].encode() for case in cases if case["kind"] == kind]


def _bitswap(data: bytes) -> None:
    message = bitswap.decode(data)
    for entry in message.entries:
        bitswap.read_cid(entry.cid)
    for block in message.blocks:
        bitswap.multihash_of(block)
    for protocol in bitswap.PROTOCOLS:
        bitswap.encode(message, protocol)


def _proof(data: bytes) -> None:
    binding = ChannelBinding("/noise", bytes(32), IDENTITY.peer_id, IDENTITY.peer_id)
    key = SwarmKey(bytes(32))
    for initiator in (True, False):
        with contextlib.suppress(SwarmKeyMismatch):
            MemberProof([key], binding, initiator=initiator).receive(data)


def _sealed_header(data: bytes) -> None:
    with contextlib.suppress(NotARecipient):
        Header.parse(data).find_key(IDENTITY)


DECODERS = {
    "psk-file": Decoder(lambda: [f"{FILE_HEAD}\n/base16/\n{'5a' * 32}".encode()], parse_psk),
    "sealed-header": Decoder(lambda: vectors("sealed", kind="header"), _sealed_header),
    "sealed-table": Decoder(lambda: vectors("sealed", kind="table"), Table.parse),
    "bitswap": Decoder(lambda: vectors("bitswap"), _bitswap),
    "swarm-file": Decoder(
        lambda: _texts("file"), lambda data: KeyRing.parse(data.decode(errors="replace"))
    ),
    "swarm-invite": Decoder(
        lambda: _texts("invite"), lambda data: KeyRing.from_invite(data.decode(errors="replace"))
    ),
    "swarm-proof": Decoder(lambda: vectors("swarm"), _proof),
}
