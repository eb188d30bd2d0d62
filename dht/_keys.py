"""Positions in the key space, and how far apart they are.

Every peer and every piece of content has a position: the SHA2-256 of the peer ID's bytes, or of the
content's multihash, read as a 256-bit number. Distance is the XOR of two positions
(spec/dht.md §2; Maymounkov and Mazières, *Kademlia*, 2002, §2.1). What shares more leading bits is
nearer, and everything within one shared prefix is nearer to a key in it than anything outside.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    import random

KEY_BITS = 256
K = 20  # peers that answer for a key, and contacts per bucket (libp2p kad-dht: replication)
MAX_AIMED_BITS = 12  # leading bits that `key_sharing` meets: 8 192 hashes or so, about 5 ms


class InvalidKey(InvalidInput):
    """The key is too short or too long."""

    code = "dht-key"
    hint = "content is looked up by its multihash, a peer by its peer ID"


def position(key: bytes) -> int:
    """Return where `key` (a peer ID or a multihash, in bytes) stands in the key space."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


@functools.lru_cache(maxsize=1 << 14)  # some 3 MiB: peer IDs have 34 to 64 bytes
def place_of(peer_id: bytes) -> int:
    """Return the position of a peer: the same few thousand come up again and again."""
    return position(peer_id)


def shared_bits(one: int, other: int) -> int:
    """Return how many leading bits two positions share: 256 when they are the same."""
    return KEY_BITS - (one ^ other).bit_length()


def key_sharing(origin: int, bits: int, rng: random.Random) -> bytes:
    """Return a random key whose position shares exactly `bits` leading bits with `origin`.

    Requests carry keys, not positions, so a key for a given region has to be searched for. It has
    the form of a peer ID, because some peers take no other in `FIND_NODE`. `bits` is at most
    `MAX_AIMED_BITS`: regions beyond are in our own neighbourhood, which self lookups cover.
    """
    if not 0 <= bits <= MAX_AIMED_BITS:
        raise ValueError(f"cannot aim at {bits} shared bits, at most {MAX_AIMED_BITS}")
    stem = b"\x12\x20" + rng.randbytes(28)
    counter = rng.getrandbits(32)
    while True:
        key = stem + counter.to_bytes(4, "big")
        if shared_bits(position(key), origin) == bits:
            return key
        counter = (counter + 1) & 0xFFFFFFFF
