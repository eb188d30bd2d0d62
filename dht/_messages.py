"""Kademlia messages: bytes in, messages out. Pure. Wire format: spec/dht.md §4.

One protobuf `Message` is every request and every response; its type says which fields count. The
numbers are those of libp2p's kad-dht specification
(https://github.com/libp2p/specs/blob/master/kad-dht/README.md). Unknown fields are ignored.

A message that breaks the format is a `MessageError`. What is merely strange is skipped, because
other implementations announce addresses of transports we have not heard of: addresses we cannot
read, peers whose ID we cannot read, peers and addresses beyond the bounds below.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field, replace

from lattica import _protobuf, _varint
from lattica.errors import CodecError
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

MAX_MESSAGE = 256 << 10  # bytes; twenty peers with many addresses are 20 KiB in the wild
MAX_ANSWER = 15 << 10  # bytes that we send; rust-libp2p reads no message above 16 KiB
MAX_KEY = 1024  # bytes; multihashes and peer IDs have up to 130, names of records may be longer
MAX_VALUE = 128 << 10  # bytes of a record's value
MAX_REFUSAL = 64  # bytes of the word why a value is not kept
MAX_PEERS = 40  # peers read of each list in a message; twice what a well-behaved peer sends
MAX_ADDRESSES = 16  # addresses read of one peer
MAX_ADDRESS = 256  # bytes of one address; a relayed WebTransport address has about 200
MAX_CACHED_PEER = 512  # bytes of a peer with its addresses that is remembered as it was read
MAX_PEER_ID = 256  # bytes; the longest multihash that a peer ID may be has 130
# Fields of ours, which others ignore.
_ROOM, _CLOCK, _REFUSAL, _BRIEF = 101, 102, 103, 104


class MessageError(CodecError):
    """The bytes are not a Kademlia message."""

    code = "dht-message"


class MessageType(enum.IntEnum):
    """What a message asks, or which request it answers (§4.2)."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


class ConnectionType(enum.IntEnum):
    """What the sender of a `Peer` knows about reaching it (§4.3). A hint that binds nobody."""

    NOT_CONNECTED = 0
    CONNECTED = 1
    CAN_CONNECT = 2
    CANNOT_CONNECT = 3


@dataclass(frozen=True, slots=True)
class Record:
    """A value under a key (§4.4). `received_at` is RFC 3339 text that its holder filled in."""

    key: bytes
    value: bytes
    received_at: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as one message tells of it. What it says is hearsay until the peer itself answers."""

    info: PeerInfo
    connection: ConnectionType = ConnectionType.NOT_CONNECTED
    _encoded: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def encoded(self) -> bytes:
        """Return its protobuf form. Made once: the same peers are told often."""
        if self._encoded is None:
            object.__setattr__(self, "_encoded", _encode_peer(self))
        assert self._encoded is not None
        return self._encoded


@dataclass(frozen=True, slots=True)
class Message:
    """One request or response.

    Attributes:
        type: which request it is, or answers.
        key: what it is about: a peer ID for `FIND_NODE`, a multihash for providers.
        record: the value, for `PUT_VALUE` and `GET_VALUE`.
        closer: peers nearer to `key` than the sender.
        providers: peers that have the content.
        room: bytes that the sender of `GET_VALUE` reads in an answer; 0 where it does not say.
        clock: the time that the sender of a response has, in milliseconds since 1970; 0: not said.
        refusal: in a response to `PUT_VALUE`, why the value is not kept.
        brief: in a request, that the record of `PUT_VALUE` need not come back, nor closer peers
            with that of `GET_VALUE`; in a response to such a `PUT_VALUE`, that it is kept.
    """

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer: tuple[Peer, ...] = ()
    providers: tuple[Peer, ...] = ()
    room: int = 0
    clock: int = 0
    refusal: str = ""
    brief: bool = False


def encode(message: Message, *, clock: int = 0) -> bytes:
    """Return the protobuf form of `message`, without a length before it; `clock` instead of its."""
    record = message.record
    fields: list[tuple[int, int | bytes | None]] = [
        (1, int(message.type)),
        (2, message.key or None),
        (3, _encode_record(record) if record is not None else None),
    ]
    fields += [(8, peer.encoded()) for peer in message.closer]
    fields += [(9, peer.encoded()) for peer in message.providers]
    fields += [
        (_ROOM, message.room or None),
        (_CLOCK, clock or message.clock or None),
        (_REFUSAL, message.refusal.encode() or None),
        (_BRIEF, 1 if message.brief else None),
    ]
    return _protobuf.encode(fields)


def frame(encoded: bytes) -> bytes:
    """Return an encoded message as it stands on a stream: its length before it (§4.1)."""
    return _varint.encode(len(encoded)) + encoded


def decode(data: bytes | bytearray | memoryview) -> Message:
    """Read one whole message. Raises MessageError."""
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"a message of {len(data)} bytes, limit {MAX_MESSAGE}")
    try:
        return _decode(data)
    except MessageError:
        raise
    except CodecError as error:
        raise MessageError(f"not a Kademlia message: {error}") from None


def _decode(data: bytes | bytearray | memoryview) -> Message:
    fields = _protobuf.decode(data)
    number, key, record = fields.integer(1), fields.blob(2) or b"", fields.blob(3)
    kind = _KNOWN_TYPES.get(number)
    if kind is None:
        raise MessageError(f"message type {number}")
    if len(key) > MAX_KEY:
        raise MessageError(f"a key of {len(key)} bytes, limit {MAX_KEY}")
    refusal = fields.text(_REFUSAL) or ""
    if len(refusal) > MAX_REFUSAL:
        raise MessageError(f"a refusal of {len(refusal)} characters, limit {MAX_REFUSAL}")
    return Message(
        kind,
        key,
        None if record is None else _decode_record(record),
        _decode_peers(fields.blobs(8)) if 8 in fields else (),
        _decode_peers(fields.blobs(9)) if 9 in fields else (),
        fields.integer(_ROOM),
        fields.integer(_CLOCK),
        refusal,
        bool(fields.integer(_BRIEF)),
    )


def fit(message: Message, size: int = MAX_ANSWER) -> Message:
    """Return `message` with as many of its peers as `size` bytes hold, the first ones first.

    Closer peers and providers take turns, so that neither list starves the other.
    """
    left = size - 32 - len(message.key)
    if message.record is not None:
        left -= 64 + len(message.record.key) + len(message.record.value)
    closer: list[Peer] = []
    providers: list[Peer] = []
    for turn in range(max(len(message.closer), len(message.providers))):
        for source, kept in ((message.closer, closer), (message.providers, providers)):
            if turn < len(source):
                left -= _encoded_size(source[turn])
                if left < 0:
                    return _with_peers(message, closer, providers)
                kept.append(source[turn])
    return message


def _with_peers(message: Message, closer: list[Peer], providers: list[Peer]) -> Message:
    return replace(message, closer=tuple(closer), providers=tuple(providers))


def _encoded_size(peer: Peer) -> int:
    # In a message, with its field and its length: one below 16 KiB takes two bytes.
    return len(peer.encoded()) + 4


def _encode_peer(peer: Peer) -> bytes:
    fields: list[tuple[int, int | bytes | None]] = [(1, peer.info.peer.raw)]
    fields += [(2, bytes(address)) for address in peer.info.addresses[:MAX_ADDRESSES]]
    fields.append((3, int(peer.connection) or None))
    return _protobuf.encode(fields)


def _decode_peers(encoded: list[bytes]) -> tuple[Peer, ...]:
    found = (
        _read_peer(data) if len(data) <= MAX_CACHED_PEER else _decode_peer(data)
        for data in encoded[:MAX_PEERS]
    )
    return tuple(peer for peer in found if peer is not None)


def _decode_peer(data: bytes) -> Peer | None:
    fields = _protobuf.decode(data)
    raw, connection = fields.blob(1), fields.integer(3)
    peer = _peer_id(raw) if raw is not None else None
    if peer is None:
        return None
    known = (_address(blob, peer) for blob in fields.blobs(2)[:MAX_ADDRESSES])
    addresses = dict.fromkeys(address for address in known if address is not None)
    kind = ConnectionType(connection) if connection in _KNOWN_CONNECTIONS else 0
    return Peer(PeerInfo(peer, tuple(addresses)), ConnectionType(kind))


def _encode_record(record: Record) -> bytes:
    return _protobuf.encode(
        [(1, record.key), (2, record.value), (5, record.received_at or None)],
    )


def _decode_record(data: bytes) -> Record:
    fields = _protobuf.decode(data)
    key, value, received_at = fields.blob(1) or b"", fields.blob(2) or b"", fields.text(5) or ""
    if len(key) > MAX_KEY or len(value) > MAX_VALUE or len(received_at) > 64:
        sizes = f"{len(key)}, {len(value)} and {len(received_at)} bytes"
        raise MessageError(f"a record of {sizes}, limits {MAX_KEY}, {MAX_VALUE} and 64")
    return Record(key, value, received_at)


def _peer_id(raw: bytes) -> PeerId | None:
    return _read_peer_id(raw) if len(raw) <= MAX_PEER_ID else None


def _address(raw: bytes, peer: PeerId) -> Multiaddr | None:
    return _read_address(raw, peer) if len(raw) <= MAX_ADDRESS else None


# The same few peers come again in every answer of a lookup, and reading an address takes 10 µs.
# Caches keep what they were asked, so the sizes above are checked before: each holds at most 4096
# small immutable values and what they were read from.
@functools.lru_cache(maxsize=2048)
def _read_peer(data: bytes) -> Peer | None:
    return _decode_peer(data)


@functools.lru_cache(maxsize=4096)
def _read_peer_id(raw: bytes) -> PeerId | None:
    try:
        return PeerId.from_bytes(raw)
    except CodecError:
        return None


@functools.lru_cache(maxsize=4096)
def _read_address(raw: bytes, peer: PeerId) -> Multiaddr | None:
    # Addresses travel without the `/p2p/…` of the peer they belong to, but some peers leave it on.
    try:
        address = Multiaddr.from_bytes(raw)
        named = address.peer_id
        if named is None:
            return address
        return address.without_peer() if named == peer and len(address.parts) > 1 else None
    except CodecError:
        return None


_KNOWN_TYPES = {int(kind): kind for kind in MessageType}
_KNOWN_CONNECTIONS = frozenset(ConnectionType)
