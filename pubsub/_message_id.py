"""How implementations spell the name of a message, and back.

A message is named by its author and sequence number, and libp2p's specification leaves the
spelling to the implementation. go writes the peer ID's bytes and the eight bytes of the number; py
writes the same in hex; js writes the public key's protobuf in place of the peer ID; rust writes
both as text. The router knows one spelling, go's. Names are translated at its edge, and a peer is
answered in the spelling it uses: else it would ask for what it has, and hold it against us that
the answers bear other names. A name in any other spelling says nothing and is passed over. Ours:
spec/gossip.md §4.
"""

from __future__ import annotations

import enum
import functools

from lattica._base import base58_decode, base58_encode
from lattica.errors import CodecError, LatticaError
from lattica.identity import PeerId, PublicKey

_SEQNO_SIZE = 8
_IDENTITY_HASH = 0
# How long a peer ID is in base58, by its beginning. In the text spelling the digits of the sequence
# number follow without a mark, and digits are base58, too.
_TEXT_LENGTHS = {b"12": 52, b"16": 53, b"Qm": 46}


class IdForm(enum.Enum):
    """A spelling of message names."""

    PEER_ID = "peer-id"
    KEY = "key"
    HEX = "hex"
    TEXT = "text"

    @classmethod
    def of_agent(cls, agent: str) -> IdForm:
        """Guess the spelling of a peer that has named no message yet, by its software."""
        return _AGENTS.get(agent.partition("/")[0], cls.PEER_ID)


_AGENTS = {"js-libp2p": IdForm.KEY, "py-libp2p": IdForm.HEX, "rust-libp2p": IdForm.TEXT}


def read_id(name: bytes) -> tuple[bytes, IdForm] | None:
    """Return `name` in the router's spelling and how it was spelt, or None if it is foreign."""
    try:
        if name[:1] in (b"\x00", b"\x12"):
            return _checked(name), IdForm.PEER_ID
        if name[:1] == b"\x08":
            return _peer_id_of(name[:-_SEQNO_SIZE]) + name[-_SEQNO_SIZE:], IdForm.KEY
        if name[:4] in (b"0024", b"0025", b"1220"):
            return _checked(bytes.fromhex(name.decode("ascii"))), IdForm.HEX
        length = _TEXT_LENGTHS.get(name[:2])
        digits = name[length:]
        if length is None or not digits.isdigit() or len(digits) > 20:
            return None
        author = _peer_id_in(name[:length])
        return author + int(digits).to_bytes(_SEQNO_SIZE, "big"), IdForm.TEXT
    except (LatticaError, ValueError, OverflowError):
        return None


def write_id(message_id: bytes, form: IdForm) -> bytes:
    """Return a name, which is in the router's spelling, in the spelling `form`.

    A hashed peer ID does not give its key away: such names stay as they are in the KEY form.
    """
    author, seqno = message_id[:-_SEQNO_SIZE], message_id[-_SEQNO_SIZE:]
    if form is IdForm.KEY and author[0] == _IDENTITY_HASH:
        return author[2:] + seqno
    if form is IdForm.HEX:
        return message_id.hex().encode()
    if form is IdForm.TEXT:
        return _text_of(author) + str(int.from_bytes(seqno, "big")).encode()
    return message_id


def _checked(message_id: bytes) -> bytes:
    if len(message_id) <= _SEQNO_SIZE:
        raise CodecError("a message identifier without an author")
    _check_peer_id(message_id[:-_SEQNO_SIZE])
    return message_id


# A few authors name thousands of messages: each is parsed once.
@functools.lru_cache(maxsize=1024)
def _check_peer_id(raw: bytes) -> None:
    PeerId.from_bytes(raw)


@functools.lru_cache(maxsize=1024)
def _peer_id_of(key: bytes) -> bytes:
    return PublicKey.from_protobuf(key).peer_id.raw


@functools.lru_cache(maxsize=1024)
def _peer_id_in(text: bytes) -> bytes:
    return PeerId.from_bytes(base58_decode(text.decode("ascii"))).raw


@functools.lru_cache(maxsize=1024)
def _text_of(raw: bytes) -> bytes:
    return base58_encode(raw).encode()
