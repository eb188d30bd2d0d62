"""What peers say to each other about content. Pure: bytes in, values out. Format: spec/exchange.md.

A fetcher sends *requests*: small canonical-msgpack messages, each after its length as a varint. A
provider sends *answers*: a fixed head of 16 bytes, then the payload as it is, so that a leaf costs
16 bytes on the wire and no parsing, and its bytes go from the stream straight to their place.

Nothing here decides how large a leaf may be: whoever reads answers is asked for the memory a
payload goes to (`AnswerDecoder.place`) and holds the declared length against the verified index
first. Everything else is bounded by the constants below.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from lattica.cid import CID, read_multihash
from lattica.codec import Value, pack, unpack
from lattica.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROTOCOL = "/lattica/content/1.0.0"

MAX_REQUEST = 65_536  # bytes of one request: 1024 hashes of 256 bits fit
MAX_VALUES = 4096  # elements of arrays and entries of maps in one request
MAX_COUNT = 1024  # leaves, or hashes, that one request may name
MAX_BLOCK = 2 << 20  # bytes of an index block, or of any block asked for by its hash
MAX_CONTROL = 65_536  # payload bytes of an answer that is not a leaf
MAX_UNANSWERED = 64  # requests on one stream whose answer is not complete
MAX_ADDRESSES = 16  # at which a fetcher says that it can be reached
MAX_ID = (1 << 32) - 1  # request ids and leaf numbers are 32 bits
ALL_LEAVES = 0x01  # flag of a HAVE answer: the provider holds every leaf, and no bitmap follows

_HEAD = struct.Struct("!BBBBIII")  # kind, status, encoding, flags, request, number, length
HEAD_SIZE = _HEAD.size
_T = TypeVar("_T")


class MessageError(CodecError):
    """The peer's bytes are not a message of the content exchange."""

    code = "exchange-message"


class RequestKind(enum.IntEnum):
    """What a fetcher asks for (spec section 2)."""

    LEAVES = 1
    BLOCKS = 2
    HAVE = 3
    CANCEL = 4
    PEERS = 5


class AnswerKind(enum.IntEnum):
    """What a provider says (spec section 3)."""

    LEAF = 1
    END = 2
    HAVE = 3
    PEERS = 4


class Status(enum.IntEnum):
    """How it went, for one leaf or for what is left of a request. Other codes mean `FAILED`."""

    OK = 0
    ABSENT = 1  # not here, now
    SOURCE_CHANGED = 2  # the file it was served from is no longer what was shared
    REFUSED = 3  # not for you
    BUSY = 4  # not now: ask again later
    UNKNOWN = 5  # the kind of request is not known here
    TOO_LARGE = 6  # a block over the fetcher's limit, or a file of more leaves than are numbered
    CANCELLED = 7  # as the fetcher asked
    FAILED = 8  # a fault on the provider's side


class Encoding(enum.IntEnum):
    """How a leaf's bytes are written on the wire."""

    RAW = 0
    ZSTD_PLANES = 1  # `codec.pack_planes`: of content alone, to who lists it


@dataclass(frozen=True, slots=True)
class LeavesRequest:
    """Send leaves `first` to `first + count - 1` of what `root` names.

    Attributes:
        id: chosen by the fetcher; every answer carries it.
        root: the object whose index numbers the leaves.
        first: number of the first leaf.
        count: how many, 1 to `MAX_COUNT`.
        encodings: what else than raw the fetcher can read.
        extra: fields that this version does not know.
    """

    id: int
    root: CID
    first: int
    count: int
    encodings: tuple[int, ...] = ()
    extra: dict[str, Value] = field(default_factory=dict)

    kind = RequestKind.LEAVES


@dataclass(frozen=True, slots=True)
class BlocksRequest:
    """Send the blocks with these multihashes, index or leaf, each at most `limit` bytes.

    `encodings`: what else than raw the fetcher can read of leaves.
    """

    id: int
    hashes: tuple[bytes, ...]
    limit: int = MAX_BLOCK
    encodings: tuple[int, ...] = ()
    extra: dict[str, Value] = field(default_factory=dict)

    kind = RequestKind.BLOCKS


@dataclass(frozen=True, slots=True)
class HaveRequest:
    """Say which leaves of `root` you hold; with `push`, also say later which you gained."""

    id: int
    root: CID
    push: bool = False
    extra: dict[str, Value] = field(default_factory=dict)

    kind = RequestKind.HAVE


@dataclass(frozen=True, slots=True)
class PeersRequest:
    """Say who else fetches `root`, and tell them of me.

    Attributes:
        addresses: where who asks can be reached, binary multiaddrs, at most `MAX_ADDRESSES`.
    """

    id: int
    root: CID
    addresses: tuple[bytes, ...] = ()
    extra: dict[str, Value] = field(default_factory=dict)

    kind = RequestKind.PEERS


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Stop answering request `id`, or pushing for it. Has no answer of its own."""

    id: int
    extra: dict[str, Value] = field(default_factory=dict)

    kind = RequestKind.CANCEL


@dataclass(frozen=True, slots=True)
class UnknownRequest:
    """A request of a later version: to be answered with `Status.UNKNOWN`."""

    id: int
    kind: int
    extra: dict[str, Value] = field(default_factory=dict)


Request: TypeAlias = (
    LeavesRequest | BlocksRequest | HaveRequest | PeersRequest | CancelRequest | UnknownRequest
)


def encode_request(request: Request) -> bytes:
    """Return the message, without the length that goes before it on the stream."""
    fields: dict[str, Value] = dict(request.extra)
    if isinstance(request, LeavesRequest):
        fields |= {"root": bytes(request.root), "first": request.first, "count": request.count}
    elif isinstance(request, BlocksRequest):
        fields |= {"hashes": list(request.hashes), "limit": request.limit}
    elif isinstance(request, HaveRequest):
        fields |= {"root": bytes(request.root), "push": request.push}
    elif isinstance(request, PeersRequest):
        fields["root"] = bytes(request.root)
        if request.addresses:
            fields["addresses"] = list(request.addresses)
    if isinstance(request, LeavesRequest | BlocksRequest) and request.encodings:
        fields["encodings"] = list(request.encodings)
    return pack([int(request.kind), request.id, fields])


def decode_request(data: bytes | bytearray | memoryview) -> Request:
    """Read one request. Raises MessageError."""
    try:
        return _read_request(unpack(data, max_size=MAX_REQUEST, max_values=MAX_VALUES))
    except MessageError:
        raise
    except CodecError as error:
        raise MessageError(f"not a request: {error}") from None


def _read_request(value: Value) -> Request:
    if not isinstance(value, list) or len(value) != 3:
        raise MessageError("a request is an array of kind, id and fields")
    kind, request_id = _integer(value[0], "kind"), _integer(value[1], "id", MAX_ID)
    fields: dict[str, Value] = _typed(value[2], dict, "fields")
    # Each known field is taken out; what is left is kept as `extra`.
    if kind == RequestKind.LEAVES:
        root = _cid(fields.pop("root", None))
        first = _integer(fields.pop("first", None), "first", MAX_ID)
        count = _integer(fields.pop("count", None), "count", MAX_COUNT)
        if not count or first + count - 1 > MAX_ID:
            raise MessageError(f"{count} leaves from {first} on")
        return LeavesRequest(request_id, root, first, count, _encodings(fields), fields)
    if kind == RequestKind.BLOCKS:
        hashes = tuple(map(_multihash, _list(fields.pop("hashes", None), "hashes", MAX_COUNT)))
        limit = _integer(fields.pop("limit", MAX_BLOCK), "limit")
        if not hashes:
            raise MessageError("a request for no block")
        return BlocksRequest(request_id, hashes, min(limit, MAX_BLOCK), _encodings(fields), fields)
    if kind == RequestKind.HAVE:
        root = _cid(fields.pop("root", None))
        push = _typed(fields.pop("push", False), bool, "push")
        return HaveRequest(request_id, root, push, fields)
    if kind == RequestKind.PEERS:
        root = _cid(fields.pop("root", None))
        named = _list(fields.pop("addresses", []), "addresses", MAX_ADDRESSES)
        addresses = tuple(_typed(address, bytes, "an address") for address in named)
        return PeersRequest(request_id, root, addresses, fields)
    if kind == RequestKind.CANCEL:
        return CancelRequest(request_id, fields)
    return UnknownRequest(request_id, kind, fields)


def _encodings(fields: dict[str, Value]) -> tuple[int, ...]:
    items = _list(fields.pop("encodings", []), "encodings", 255)
    return tuple(_integer(item, "encodings", 255) for item in items)


def _typed(value: Value, kind: type[_T], name: str) -> _T:
    if not isinstance(value, kind):
        raise MessageError(f"{name} is {type(value).__name__}, expected {kind.__name__}")
    return value


def _integer(value: Value, name: str, most: int = (1 << 64) - 1) -> int:
    number = _typed(value, int, name)
    if isinstance(value, bool) or not 0 <= number <= most:
        raise MessageError(f"{name} is {value!r}, expected 0 to {most}")
    return number


def _list(value: Value, name: str, most: int) -> list[Value]:
    items: list[Value] = _typed(value, list, name)
    if len(items) > most:
        raise MessageError(f"{name} has {len(items)} items, limit {most}")
    return items


def _cid(value: Value) -> CID:
    return CID.from_bytes(_typed(value, bytes, "a CID"))


def _multihash(value: Value) -> bytes:
    return read_multihash(_typed(value, bytes, "a multihash"))


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The 16 bytes before every payload (spec section 3.1).

    Attributes:
        kind: an `AnswerKind`, or one that this version does not know.
        status: a `Status`, or another code.
        encoding: an `Encoding`, of a leaf's payload.
        flags: see the kind.
        request: id of the request that is answered.
        number: LEAF: the leaf's number in its root, or a block's position in its request;
            HAVE: the leaf that the bitmap's first bit stands for.
        length: bytes of payload that follow.
    """

    kind: int
    status: int
    encoding: int
    flags: int
    request: int
    number: int
    length: int

    def __bytes__(self) -> bytes:
        return _HEAD.pack(
            self.kind,
            self.status,
            self.encoding,
            self.flags,
            self.request,
            self.number,
            self.length,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer. A leaf's payload is the memory that `place` gave, filled."""

    head: AnswerHead
    payload: memoryview

    @property
    def status(self) -> Status:
        """The status, codes of later versions taken for FAILED."""
        return read_status(self.head.status)


def read_status(code: int) -> Status:
    """Return the status that a code on the wire means."""
    return Status(code) if code <= Status.FAILED else Status.FAILED


def write_leaf_head(target: memoryview, request: int, number: int, status: int, size: int) -> None:
    """Write the head of a raw leaf into 16 bytes right before where its bytes stand."""
    _HEAD.pack_into(target, 0, AnswerKind.LEAF, status, Encoding.RAW, 0, request, number, size)


def packed_leaf(request: int, number: int, packed: bytes) -> bytes:
    """Return the answer with a leaf as planes."""
    head = AnswerHead(
        AnswerKind.LEAF, Status.OK, Encoding.ZSTD_PLANES, 0, request, number, len(packed)
    )
    return bytes(head) + packed


def encode_end(request: int, status: Status, message: str = "") -> bytes:
    """Return the END answer; `message` says to people why, at most 200 characters of it."""
    payload = pack({"message": message[:200]}) if message else b""
    head = AnswerHead(AnswerKind.END, status, 0, 0, request, 0, len(payload))
    return bytes(head) + payload


def read_end_message(answer: Answer) -> str:
    """Return what an END answer says to people, printable, or "". Raises MessageError."""
    if not answer.payload:
        return ""
    try:
        fields = _typed(unpack(answer.payload, max_size=MAX_CONTROL), dict, "an END payload")
    except CodecError as error:
        raise MessageError(f"not an END payload: {error}") from None
    message = fields.get("message", "")
    text = message if isinstance(message, str) else ""
    return "".join(letter for letter in text[:200] if letter.isprintable())


def encode_have(request: int, first: int, bitmap: bytes) -> bytes:
    """Return HAVE answers for the leaves from `first` (a multiple of 8) on: one bit each."""
    out = bytearray()
    for start in range(0, max(len(bitmap), 1), MAX_CONTROL):
        part = bitmap[start : start + MAX_CONTROL]
        number = first + 8 * start
        out += bytes(AnswerHead(AnswerKind.HAVE, 0, 0, 0, request, number, len(part))) + part
    return bytes(out)


def encode_have_all(request: int) -> bytes:
    """Return the HAVE answer of a provider that holds every leaf."""
    return bytes(AnswerHead(AnswerKind.HAVE, 0, 0, ALL_LEAVES, request, 0, 0))


class AnswerDecoder:
    """Turns a provider's bytes back into answers, each leaf's payload written where it belongs.

    Answers come out the same however the bytes were split. Once it has raised, the framing is lost
    and the decoder must not be used again.
    """

    def __init__(self, place: Callable[[AnswerHead], memoryview]) -> None:
        """Make a decoder.

        Args:
            place: called with the head of each LEAF answer before its payload is read; returns
                memory of exactly `head.length` bytes for it, or raises a ProtocolError, which
                leaves `receive`, when the leaf or its length is not what was asked for.
        """
        self.leaf_bytes = 0  # content received so far: what a peer can be measured by
        self._place = place
        self._partial = bytearray()  # of a head cut by the end of the last piece
        self._head: AnswerHead | None = None
        self._target = memoryview(b"")
        self._filled = 0

    @property
    def inside(self) -> bool:
        """Whether an answer has begun and is not complete: no place for a stream to end."""
        return self._head is not None or bool(self._partial)

    def receive(self, data: bytes | bytearray | memoryview) -> Iterator[Answer]:
        """Take bytes from the wire and give the answers that they complete, one by one.

        Each is given before the head behind it is read, so that `place` knows of it. Go through
        all of them before the next call.

        Raises:
            MessageError: a payload over its limit.
            ProtocolError: what `place` raises.
        """
        view, offset, size = memoryview(data), 0, len(data)
        while offset < size or (self._head is not None and self._filled == len(self._target)):
            if self._head is None:
                offset = self._receive_head(view, offset)
                continue
            take = min(len(self._target) - self._filled, size - offset)
            end = self._filled + take
            if take:  # nothing may be written to memory for nothing, if that is read-only
                self._target[self._filled : end] = view[offset : offset + take]
                self.leaf_bytes += take * (self._head.kind == AnswerKind.LEAF)
            self._filled, offset = end, offset + take
            if end == len(self._target):
                answer = Answer(self._head, self._target)
                self._head, self._target = None, memoryview(b"")
                yield answer

    def _receive_head(self, view: memoryview, offset: int) -> int:
        end = offset + HEAD_SIZE - len(self._partial)
        self._partial += view[offset:end]
        if len(self._partial) < HEAD_SIZE:
            return len(view)
        head = AnswerHead(*_HEAD.unpack(self._partial))
        self._partial.clear()
        if head.kind == AnswerKind.LEAF:
            self._target = self._place(head)
        elif head.length > MAX_CONTROL:
            raise MessageError(f"an answer of {head.length} bytes, limit {MAX_CONTROL}")
        else:
            self._target = memoryview(bytearray(head.length))
        self._head, self._filled = head, 0
        return end


_TO_DIGITS = bytes.maketrans(b"\0\1", b"01")
_FROM_DIGITS = bytes.maketrans(b"01", b"\0\1")


def pack_bitmap(flags: bytes | bytearray) -> bytes:
    """Return flags, a byte of 0 or 1 for each leaf, as a bitmap.

    Leaf i is bit i % 8 of byte i // 8, bit 0 the lowest; bits behind the last leaf are 0.
    """
    if not flags:
        return b""
    digits = bytes(flags[::-1]).translate(_TO_DIGITS)
    return int(digits, 2).to_bytes((len(flags) + 7) // 8, "little")


def unpack_bitmap(bitmap: bytes | bytearray | memoryview, count: int) -> bytes:
    """Return `count` flags of a bitmap, a byte of 0 or 1 each; those behind its end are 0."""
    wanted = memoryview(bitmap)[: (count + 7) // 8]
    digits = bin(int.from_bytes(wanted, "little"))[:1:-1].encode()
    return digits.translate(_FROM_DIGITS)[:count].ljust(count, b"\0")
