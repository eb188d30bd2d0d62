"""More targets: what private swarms, sealed objects and Bitswap read of strangers."""

from __future__ import annotations

from _decoders import Decoder, vectors

from lattica.content.bitswap import _messages as bitswap


def _bitswap(data: bytes) -> None:
    message = bitswap.decode(data)
    for entry in message.entries:
        bitswap.read_cid(entry.cid)
    for block in message.blocks:
        bitswap.multihash_of(block)
    for protocol in bitswap.PROTOCOLS:
        bitswap.encode(message, protocol)


DECODERS = {"bitswap": Decoder(lambda: vectors("bitswap"), _bitswap)}
