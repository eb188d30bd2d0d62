"""Bitswap messages: bytes in, values out, and back. Pure. Wire format: spec/bitswap.md §2.

A message says what its sender wants, what it has, and carries blocks; each part may be left out.
Nothing in it is believed: a block is named by what its bytes hash to, not by what it claims.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from lattica import _protobuf, _varint
from lattica.cid import CID, DIGEST_SIZE, Codec, HashFunction
from lattica.content._unixfs import MAX_BLOCK_BYTES
from lattica.errors import CodecError

PROTOCOL_1_2 = "/ipfs/bitswap/1.2.0"
PROTOCOL_1_1 = "/ipfs/bitswap/1.1.0"
PROTOCOL_1_0 = "/ipfs/bitswap/1.0.0"
PROTOCOLS = (PROTOCOL_1_2, PROTOCOL_1_1, PROTOCOL_1_0)  # best first
MAX_MESSAGE = 4 << 20  # bytes of one message, its length not counted
MAX_ENTRIES = 8192  # of each kind in one message
MAX_CID_BYTES = 256
_V0_HEAD = bytes((HashFunction.SHA2_256, DIGEST_SIZE))  # a version 0 CID is the multihash alone


class WantType(enum.IntEnum):
    """What is asked of a block (§2.2)."""

    BLOCK = 0
    HAVE = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a wantlist.

    Attributes:
        cid: as its sender spelled it, version 0 or 1: answers repeat it.
        want: the block, or whether it is there.
        priority: the higher, the sooner; a hint.
        cancel: it is wanted no more.
        send_dont_have: it wants to be told, too, that the block is not there.
    """

    cid: bytes
    want: WantType = WantType.BLOCK
    priority: int = 1
    cancel: bool = False
    send_dont_have: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A block, and the CID that it is sent for, without the digest."""

    prefix: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether the sender has a block."""

    cid: bytes
    have: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        entries: changes of the sender's wantlist, or with `full` all of it.
        full: what is not in `entries` is wanted no more.
        blocks: what the sender gives.
        presences: what it says it has or lacks.
        pending_bytes: how much it goes on to send; a hint.
    """

    entries: tuple[Entry, ...] = ()
    full: bool = False
    blocks: tuple[Block, ...] = ()
    presences: tuple[Presence, ...] = ()
    pending_bytes: int = field(default=0)


def encode(message: Message, protocol: str = PROTOCOL_1_2) -> bytes:
    """Return `message` in the form of `protocol`: what an older one has no words for is left out.

    Before 1.1 a block comes without a prefix, so only those of version 0 CIDs are sent.
    """
    newest = protocol == PROTOCOL_1_2
    fields: list[tuple[int, int | bytes | str | None]] = []
    if message.entries or message.full:
        lines = [
            (1, _protobuf.encode(_entry_fields(entry, newest=newest)))
            for entry in message.entries
            if newest or entry.cancel or entry.want is WantType.BLOCK
        ]
        fields.append((1, _protobuf.encode([*lines, (2, 1 if message.full else None)])))
    if protocol == PROTOCOL_1_0:
        fields += [(2, block.data) for block in message.blocks if block.prefix[:1] == b"\0"]
    else:
        fields += [
            (3, _protobuf.encode([(1, block.prefix), (2, block.data)])) for block in message.blocks
        ]
    if newest:
        fields += [
            (4, _protobuf.encode([(1, presence.cid), (2, None if presence.have else 1)]))
            for presence in message.presences
        ]
        fields.append((5, min(message.pending_bytes, 0x7FFFFFFF) or None))
    return _protobuf.encode(fields)


def decode(data: bytes | bytearray | memoryview) -> Message:
    """Read a message of any version. Raises CodecError."""
    fields = _protobuf.decode(data)
    wantlist = fields.blob(1)
    lines = None if wantlist is None else _protobuf.decode(wantlist)
    entries = [] if lines is None else lines.blobs(1)
    old, new, presences = fields.blobs(2), fields.blobs(3), fields.blobs(4)
    if max(map(len, (entries, old, new, presences))) > MAX_ENTRIES:
        raise CodecError(f"a Bitswap message of more than {MAX_ENTRIES} entries")
    return Message(
        entries=tuple(map(_entry, entries)),
        full=lines is not None and bool(lines.integer(2)),
        blocks=(
            *(_checked(Block(_prefix(0, Codec.DAG_PB, _V0_HEAD), block)) for block in old),
            *map(_block, new),
        ),
        presences=tuple(map(_presence, presences)),
        pending_bytes=max(0, _signed(fields.integer(5))),
    )


def read_cid(data: bytes) -> CID:
    """Return what a CID of version 0 or 1 stands for. Raises CodecError."""
    if len(data) > MAX_CID_BYTES:
        raise CodecError(f"a CID of {len(data)} bytes, limit {MAX_CID_BYTES}")
    if len(data) == len(_V0_HEAD) + DIGEST_SIZE and data.startswith(_V0_HEAD):
        return CID(Codec.DAG_PB, data)
    return CID.from_bytes(data)


def block_for(cid: bytes, data: bytes | memoryview) -> Block:
    """Return the block that answers a want of `cid`, spelled as it was asked for."""
    parsed = read_cid(cid)
    version = 0 if cid.startswith(_V0_HEAD) else 1
    return Block(_prefix(version, parsed.codec, parsed.multihash[:2]), bytes(data))


def multihash_of(block: Block) -> bytes | None:
    """*Slow.* Return the multihash of a block's bytes; None for a hash that we do not compute."""
    _, position = _varint.decode_whole(block.prefix)
    _, position = _varint.decode_whole(block.prefix, position)
    code, position = _varint.decode_whole(block.prefix, position)
    size, _ = _varint.decode_whole(block.prefix, position)
    if code not in (HashFunction.BLAKE3, HashFunction.SHA2_256) or size != DIGEST_SIZE:
        return None
    return HashFunction(code).multihash(block.data)


def _prefix(version: int, codec: int, head: bytes) -> bytes:
    return _varint.encode(version) + _varint.encode(codec) + head


def _entry_fields(entry: Entry, *, newest: bool) -> list[tuple[int, int | bytes | str | None]]:
    fields: list[tuple[int, int | bytes | str | None]] = [
        (1, entry.cid),
        (2, entry.priority or None),
        (3, 1 if entry.cancel else None),
    ]
    if newest:
        fields += [(4, int(entry.want) or None), (5, 1 if entry.send_dont_have else None)]
    return fields


def _entry(data: bytes) -> Entry:
    fields = _protobuf.decode(data)
    cid = _cid(fields)
    try:
        want = WantType(fields.integer(4))
    except ValueError:
        raise CodecError(f"a want of type {fields.integer(4)}") from None
    return Entry(
        cid=cid,
        want=want,
        priority=_signed(fields.integer(2)),
        cancel=bool(fields.integer(3)),
        send_dont_have=bool(fields.integer(5)),
    )


def _block(data: bytes) -> Block:
    fields = _protobuf.decode(data)
    prefix = fields.blob(1) or b""
    position = 0
    for _ in ("version", "codec", "hash function", "digest length"):
        _, position = _varint.decode_whole(prefix, position)
    if position != len(prefix):
        raise CodecError(f"{len(prefix) - position} bytes follow the prefix of a block")
    return _checked(Block(prefix, fields.blob(2) or b""))


def _checked(block: Block) -> Block:
    if len(block.data) > MAX_BLOCK_BYTES:
        raise CodecError(f"a block of {len(block.data)} bytes, limit {MAX_BLOCK_BYTES}")
    return block


def _presence(data: bytes) -> Presence:
    fields = _protobuf.decode(data)
    kind = fields.integer(2)
    if kind not in (0, 1):
        raise CodecError(f"a block presence of type {kind}")
    return Presence(_cid(fields), have=kind == 0)


def _cid(fields: _protobuf.Message) -> bytes:
    cid = fields.blob(1) or b""
    read_cid(cid)
    return cid


def _signed(value: int) -> int:
    """Return the int32 that a protobuf varint stands for."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
