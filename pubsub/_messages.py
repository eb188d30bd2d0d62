"""The RPC that pubsub peers exchange, and signed messages: bytes in, values out. No I/O.

Sources: libp2p/specs pubsub/README.md, pubsub/gossipsub v1.0 to v1.2; ours: spec/gossip.md §2, §3.
Every count and size is held against a bound before anything is done with it. An RPC that breaks
one is an `RpcError`. A published message inside a sound RPC stays bytes until
`SignedMessage.decode`, so that one bad message costs its sender, not the RPC around it.

Signatures are StrictSign: author, sequence number and signature are there and fit, or the message
is invalid. What is signed is the message without `signature` and `key`, its fields in ascending
order, behind a prefix. A `data` field that is there and empty is signed as such.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lattica import _protobuf, _varint
from lattica.errors import CodecError, InvalidInput, ProtocolError
from lattica.identity import PeerId, PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.identity import Identity

MAX_RPC = 1 << 20  # bytes; what go-libp2p accepts by default
MAX_TOPIC = 512  # bytes of UTF-8
MAX_DATA = MAX_RPC - 4096  # bytes of payload; the rest holds topic, author, key and signature
MAX_MESSAGE = MAX_RPC - 128  # bytes, encoded: it has to fit an RPC again when it is passed on
MAX_KEY = 2048  # bytes; an RSA-8192 key takes half of it
MAX_SIGNATURE = 1024  # bytes; RSA-8192
MAX_ID = 1024  # bytes of a message identifier; ours take 46
MAX_SUBSCRIPTIONS = 5000  # per RPC, as are the next three
MAX_PUBLISH = 5000
MAX_CONTROL = 5000  # of each kind
MAX_IDS = 20_000  # over all announcements and requests
MAX_EXCHANGED_PEERS = 64  # in one prune; go and js send 16

_SIGN_PREFIX = b"libp2p-pubsub:"
_SEQNO_SIZE = 8


class RpcError(CodecError):
    """The bytes are not a pubsub RPC within bounds. The stream they came on is reset."""

    code = "gossip-rpc"


class InvalidMessage(ProtocolError):
    """A published message is malformed or its signature is not its author's. It is dropped."""

    code = "gossip-message"


class InvalidTopic(InvalidInput):
    """A topic is 1 to 512 bytes of UTF-8."""

    code = "topic"
    hint = f"use a topic of 1 to {MAX_TOPIC} bytes"


class MessageTooLarge(InvalidInput):
    """The payload does not fit a gossip message."""

    code = "message-too-large"
    hint = "share the payload as content and publish its CID; subscribers fetch it from there"


@dataclass(frozen=True, slots=True)
class Announcement:
    """IHAVE: messages of a topic that the sender can be asked for."""

    topic: str
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """PRUNE: the sender took us out of its mesh.

    Attributes:
        topic: which mesh.
        backoff_seconds: how long not to graft again; None where a v1.0 peer does not say.
        peers: (peer ID, signed peer record) pairs offered instead; carried, not used.
    """

    topic: str
    backoff_seconds: int | None = None
    peers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC. Order inside a field is the sender's.

    Attributes:
        subscriptions: (topic, wanted) pairs.
        publish: encoded messages, not looked into.
        ihave: announcements.
        iwant: identifiers of messages asked for.
        graft: topics whose mesh the sender added us to.
        prune: topics whose mesh it removed us from.
        idontwant: identifiers of messages the sender has already.
    """

    subscriptions: tuple[tuple[str, bool], ...] = ()
    publish: tuple[bytes, ...] = ()
    ihave: tuple[Announcement, ...] = ()
    iwant: tuple[bytes, ...] = ()
    graft: tuple[str, ...] = ()
    prune: tuple[Prune, ...] = ()
    idontwant: tuple[bytes, ...] = ()

    @property
    def items(self) -> int:
        """How many things it says: what it costs to take in grows with this, not with its bytes."""
        announced = sum(1 + len(one.ids) for one in self.ihave)
        told = len(self.subscriptions) + len(self.publish) + len(self.graft) + len(self.prune)
        return told + announced + len(self.iwant) + len(self.idontwant)


def encode_rpc(rpc: Rpc) -> bytes:
    """Return `rpc` as the protobuf message, without its length prefix."""
    fields: list[tuple[int, int | bytes | str | None]] = [
        (1, _protobuf.encode([(1, int(wanted)), (2, topic)])) for topic, wanted in rpc.subscriptions
    ]
    fields += [(2, message) for message in rpc.publish]
    control = [(1, _encode_ids(one.ids, 2, topic=one.topic)) for one in rpc.ihave]
    if rpc.iwant:
        control.append((2, _encode_ids(rpc.iwant, 1)))
    control += [(3, _protobuf.encode([(1, topic)])) for topic in rpc.graft]
    control += [(4, _encode_prune(one)) for one in rpc.prune]
    if rpc.idontwant:
        control.append((5, _encode_ids(rpc.idontwant, 1)))
    if control:
        fields.append((3, _protobuf.encode(control)))
    return _protobuf.encode(fields)


def _encode_ids(ids: Iterable[bytes], number: int, *, topic: str | None = None) -> bytes:
    return _protobuf.encode([(1, topic), *((number, one) for one in ids)])


def _encode_prune(prune: Prune) -> bytes:
    peers = [
        (2, _protobuf.encode([(1, peer), (2, record or None)])) for peer, record in prune.peers
    ]
    return _protobuf.encode([(1, prune.topic), *peers, (3, prune.backoff_seconds)])


def decode_rpc(data: bytes | memoryview) -> Rpc:
    """Read one RPC. Fields of later versions are passed over.

    Raises:
        RpcError: not an RPC, or more of something than one RPC may carry.
    """
    if len(data) > MAX_RPC:
        raise RpcError(f"an RPC of {len(data)} bytes, limit {MAX_RPC}")
    try:
        message = _protobuf.decode(data)
        subscriptions = tuple(
            _decode_subscription(one)
            for one in _bounded(message.blobs(1), MAX_SUBSCRIPTIONS, "subscriptions")
        )
        publish = tuple(_bounded(message.blobs(2), MAX_PUBLISH, "messages"))
        if 3 not in message:
            return Rpc(subscriptions, publish)
        control = _protobuf.decode(b"".join(message.blobs(3)))  # repeated parts merge (protobuf)
        ids = _IdReader()
        return Rpc(
            subscriptions,
            publish,
            ihave=tuple(_decode_ihave(one, ids) for one in _control(control, 1)),
            iwant=tuple(ids.read_all(_control(control, 2))),
            graft=tuple(_topic(_protobuf.decode(one).text(1)) for one in _control(control, 3)),
            prune=tuple(_decode_prune(one) for one in _control(control, 4)),
            idontwant=tuple(ids.read_all(_control(control, 5))),
        )
    except RpcError:
        raise
    except CodecError as error:
        raise RpcError(f"not a pubsub RPC: {error}") from None


class _IdReader:
    """Reads identifiers and counts them over the whole RPC."""

    def __init__(self) -> None:
        self._left = MAX_IDS

    def read(self, values: list[bytes]) -> list[bytes]:
        self._left -= len(values)
        if self._left < 0:
            raise RpcError(f"more than {MAX_IDS} message identifiers in an RPC")
        if any(not 0 < len(one) <= MAX_ID for one in values):
            raise RpcError(f"a message identifier is empty or longer than {MAX_ID} bytes")
        return values

    def read_all(self, parts: list[bytes]) -> list[bytes]:
        return [one for part in parts for one in self.read(_protobuf.decode(part).blobs(1))]


def _bounded(values: list[bytes], limit: int, what: str) -> list[bytes]:
    if len(values) > limit:
        raise RpcError(f"{len(values)} {what} in an RPC, limit {limit}")
    return values


def _control(control: _protobuf.Message, number: int) -> list[bytes]:
    return _bounded(control.blobs(number), MAX_CONTROL, "control messages")


def _topic(topic: str | None) -> str:
    if not topic or len(topic.encode()) > MAX_TOPIC:
        raise RpcError(f"a topic is missing, empty or longer than {MAX_TOPIC} bytes")
    return topic


def _decode_subscription(data: bytes) -> tuple[str, bool]:
    message = _protobuf.decode(data)
    return _topic(message.text(2)), message.integer(1) != 0


def _decode_ihave(data: bytes, ids: _IdReader) -> Announcement:
    message = _protobuf.decode(data)
    return Announcement(_topic(message.text(1)), tuple(ids.read(message.blobs(2))))


def _decode_prune(data: bytes) -> Prune:
    message = _protobuf.decode(data)
    peers = []
    for one in _bounded(message.blobs(2), MAX_EXCHANGED_PEERS, "exchanged peers"):
        info = _protobuf.decode(one)
        peers.append((info.blob(1) or b"", info.blob(2) or b""))
    backoff = message.integer(3) if 3 in message else None
    return Prune(_topic(message.text(1)), backoff, tuple(peers))


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """One message as peers pass it on.

    Attributes:
        author: whose signature it carries.
        data: the payload; None where the field is absent, which signs differently from empty.
        seqno: 8 bytes, big-endian; with the author it names the message.
        topic: where it was published.
        signature: the author's, over all of the above.
        key: the author's public key, where the peer ID does not contain it.
    """

    author: PeerId
    data: bytes | None = field(repr=False)
    seqno: bytes
    topic: str
    signature: bytes = field(default=b"", repr=False)
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def sign(cls, identity: Identity, *, topic: str, data: bytes, seqno: int) -> SignedMessage:
        """Make a message of ours.

        Args:
            identity: the author.
            topic: 1 to 512 bytes.
            data: at most `MAX_DATA` bytes.
            seqno: larger than in every message of this author before.

        Raises:
            InvalidTopic: the topic is empty or too long.
            MessageTooLarge: the payload does not fit; share it as content instead.
        """
        check_topic(topic)
        if len(data) > MAX_DATA:
            raise MessageTooLarge(f"a message of {len(data)} bytes, limit {MAX_DATA}")
        draft = cls(identity.peer_id, data, seqno.to_bytes(_SEQNO_SIZE, "big"), topic)
        signature = identity.sign(_SIGN_PREFIX + draft._unsigned())
        return replace(draft, signature=signature)

    @classmethod
    def decode(cls, encoded: bytes) -> SignedMessage:
        """Read a message; `verify` says whether it is its author's. Raises InvalidMessage."""
        if len(encoded) > MAX_MESSAGE:
            raise InvalidMessage(f"a message of {len(encoded)} bytes, limit {MAX_MESSAGE}")
        try:
            message = _protobuf.decode(encoded)
            author, data, seqno, topic, signature, key = (
                _single(message, number) for number in range(1, 7)
            )
            if author is None or topic is None or signature is None:
                raise InvalidMessage("a message without author, topic or signature")
            if seqno is None or len(seqno) != _SEQNO_SIZE:
                raise InvalidMessage(f"a sequence number that is not {_SEQNO_SIZE} bytes")
            if not 0 < len(topic) <= MAX_TOPIC or len(signature) > MAX_SIGNATURE:
                raise InvalidMessage("topic or signature is empty or too long")
            return cls(_peer_id(author), data, seqno, topic.decode(), signature, key)
        except UnicodeDecodeError:
            raise InvalidMessage("a topic that is not UTF-8") from None
        except CodecError as error:
            raise InvalidMessage(f"not a message: {error}") from None

    @property
    def id(self) -> bytes:
        """What names the message: author, then sequence number (the default of libp2p pubsub)."""
        return self.author.raw + self.seqno

    def encode(self) -> bytes:
        """Return the message as it goes into an RPC."""
        return self._unsigned() + _protobuf.encode([(5, self.signature), (6, self.key)])

    def verify(self) -> None:
        """Check the signature. Raises InvalidMessage."""
        key = self._public_key()
        if not key.verify(_SIGN_PREFIX + self._unsigned(), self.signature):
            raise InvalidMessage(f"the signature is not {self.author}'s", peer=self.author)

    def _unsigned(self) -> bytes:
        fields = [(1, self.author.raw), (2, self.data), (3, self.seqno), (4, self.topic)]
        return _protobuf.encode(fields)

    def _public_key(self) -> PublicKey:
        inline = self.author.raw[2:] if self.author.raw[0] == 0 else None
        encoded = self.key or inline
        if encoded is None or len(encoded) > MAX_KEY:
            raise InvalidMessage(f"no usable key of {self.author}", peer=self.author)
        try:
            key = PublicKey.from_protobuf(encoded)
        except CodecError as error:
            raise InvalidMessage(f"no usable key: {error}", peer=self.author) from None
        if key.peer_id != self.author:
            raise InvalidMessage(f"the key is not {self.author}'s", peer=self.author)
        return key


def peek_id(encoded: bytes) -> bytes | None:
    """Return the name that a message bears, without reading the rest; None if that is not quick.

    Most messages that arrive are copies of one that has been read. Nothing else may be concluded.
    """
    try:
        end = 2 + encoded[1]
        if encoded[0] != 0x0A or end > 0x81:  # field 1 first, its length in one byte
            return None
        position = end
        if encoded[position] == 0x12:  # field 2
            length, position = _varint.decode_whole(encoded, position + 1)
            position += length
        seqno = encoded[position + 2 : position + 2 + _SEQNO_SIZE]
        if encoded[position : position + 2] != b"\x1a\x08" or len(seqno) != _SEQNO_SIZE:  # field 3
            return None
        return encoded[2:end] + seqno
    except (IndexError, CodecError):
        return None


def check_topic(topic: str) -> None:
    """Hold a topic of our own against the limit. Raises InvalidTopic."""
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise InvalidTopic("a topic that is not Unicode text") from None
    if not 0 < size <= MAX_TOPIC:
        raise InvalidTopic(f"a topic of {size} bytes, limit {MAX_TOPIC}")


@functools.lru_cache(maxsize=1024)  # a few authors write most of what arrives
def _peer_id(raw: bytes) -> PeerId:
    return PeerId.from_bytes(raw)


def _single(message: _protobuf.Message, number: int) -> bytes | None:
    values = message.blobs(number)
    if len(values) > 1:  # implementations would disagree on which one was signed
        raise InvalidMessage(f"field {number} of a message appears {len(values)} times")
    return values[0] if values else None
