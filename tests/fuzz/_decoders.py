"""Every function that reads bytes of strangers, with well-formed examples to spoil.

Examples are the vectors of the specification, so a new vector is a new starting point. A decoder of
a byte stream gets each input in two parts, as the network might cut it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding

from lattica import _protobuf, codec
from lattica._announce import decode as decode_announcement
from lattica._base import base32_decode
from lattica._control import decode_request as decode_control_request
from lattica.cid import CID, Codec
from lattica.content import _messages as exchange, _unixfs, decode_index
from lattica.content._fetchers import decode_peers
from lattica.dht import Namespaces, _messages as kad, gradient
from lattica.dht._contacts import decode as decode_contacts
from lattica.dht._keeper import Keeper
from lattica.errors import CodecError, IntegrityError, InvalidInput
from lattica.identity import Identity, PeerId, PublicKey
from lattica.models import (
    NameRecord,
    SignedManifest,
    Statement,
    decode_table,
    header_size,
    parse_header,
)
from lattica.models._delta_codec import DeltaCodec, decode_block
from lattica.models._manifest import _read_body as _read_manifest_body
from lattica.models._view import parse_shard_index
from lattica.pubsub import _messages as gossip
from lattica.ticket import Ticket, _read_body
from lattica.transport import Limits, Multiaddr
from lattica.transport._records import Envelope, PeerRecord
from lattica.transport.identify import decode_identify
from lattica.transport.multistream import DialerNegotiation, ListenerNegotiation
from lattica.transport.noise import NoiseHandshake, Opener, Sealer, read_payload
from lattica.transport.tls import TlsHandshake, make_certificate, read_certificate
from lattica.transport.yamux import CreditLedger, Session

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors"
NOW = 1_800_000_000.0  # Unix seconds
PROVIDER = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")
IDENTITY = Identity(bytes(range(32)))
ADDRESSES = [
    Multiaddr.parse(text)
    for text in (
        "/ip4/203.0.113.7/tcp/4001",
        "/ip6/2001:db8::1/udp/4001/quic-v1",
        "/dns4/example.org/tcp/443/wss/p2p/12D3KooWBhVtzPDxgbyWzBvsGw7mQxjbUfmvLqnRGEGrqWdTeHFZ",
    )
]
FILE_SIZE = 1 << 20
INDEX_ROOT = json.loads((VECTORS / "index-file.json").read_text())["cases"][0]["root"]
KAD = "/lattica/kad/1.0.0"


@dataclass(frozen=True, slots=True)
class Decoder:
    """One target: `corpus` gives its well-formed examples, `decode` raises `LatticaError` alone."""

    corpus: Callable[[], list[bytes]]
    decode: Callable[[bytes], object]


def vectors(suite: str, field: str = "wire", **wanted: str) -> list[bytes]:
    """The hexadecimal `field` of the cases of a suite whose other fields are as wanted."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{suite}.json").read_text())["cases"]
    return [
        bytes.fromhex(case[field])
        for case in cases
        if isinstance(case.get(field), str)
        and all(case.get(key) == value for key, value in wanted.items())
    ]


def texts(suite: str) -> list[bytes]:
    """The `text` of the cases of a suite, as bytes."""
    cases = json.loads((VECTORS / f"{suite}.json").read_text())["cases"]
    return [case["text"].encode() for case in cases if case.get("text")]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _halves(data: bytes) -> tuple[bytes, bytes]:
    cut = data[0] * len(data) // 256 if data else 0
    return data[:cut], data[cut:]


# --- identifiers and values


def _public_keys() -> list[bytes]:
    return [IDENTITY.public_key.to_protobuf(), *vectors("identifiers", kind="peer")]


def _verify_key(data: bytes) -> None:
    PublicKey.from_protobuf(data).verify(b"message", bytes(64))


def _tensors(data: bytes) -> None:
    codec.decode(data)
    receiver, left = codec.Receiver(max_size=1 << 16), memoryview(data)
    while (place := receiver.wanted()) is not None:
        if place.nbytes > left.nbytes:
            return
        place[:], left = left[: place.nbytes], left[place.nbytes :]
    receiver.value()


def _ticket_bodies() -> list[bytes]:
    bodies = []
    for text in texts("ticket"):
        with contextlib.suppress(InvalidInput):
            bodies.append(base32_decode(text.decode().removeprefix("lattica:"))[:-4])
    return bodies


def _read_entries(data: bytes) -> None:
    items, _ = Keeper(Namespaces({}, scope=KAD)).read(b"/lattica/greeting", data, now=NOW)
    for item in items:
        assert item.entry is not None
        codec.unpack(item.entry.value, max_size=len(item.entry.value))


# --- links


def _noise_first(data: bytes) -> None:
    handshake = NoiseHandshake(IDENTITY, initiator=False)
    for part in _halves(data):
        handshake.receive(part)


def _noise_firsts() -> list[bytes]:
    return [NoiseHandshake(IDENTITY, initiator=True).start() for _ in range(4)]


def _noise_second(data: bytes) -> None:
    handshake = NoiseHandshake(IDENTITY, initiator=True)
    handshake.start()
    handshake.receive(data)


def _noise_seconds() -> list[bytes]:
    return [NoiseHandshake(IDENTITY, initiator=False).receive(first) for first in _noise_firsts()]


def _noise_payload(data: bytes) -> None:
    read_payload(data, bytes(32))


def _noise_frames() -> list[bytes]:
    return [
        b"".join(bytes(batch) for batch in Sealer(bytes(32)).seal([bytes(size)]))
        for size in (0, 1, 100, 70_000)
    ]


def _open_frames(data: bytes) -> None:
    opener = Opener(bytes(32))
    for part in _halves(data):
        opener.receive(part)
    opener.finish()


def _certificates() -> list[bytes]:
    own = make_certificate(IDENTITY)[0].public_bytes(Encoding.DER)
    return [own, *vectors("tls-certificates")]


def _tls_hellos() -> list[bytes]:
    return [TlsHandshake(IDENTITY, initiator=True, now=NOW).start()]


def _tls_hello(data: bytes) -> None:
    TlsHandshake(IDENTITY, initiator=False, now=NOW).receive(data)


def _listen(data: bytes) -> None:
    listener = ListenerNegotiation({"/noise", "/tls/1.0.0"})
    for part in _halves(data):
        listener.receive(part)
    listener.finish()


def _dial(data: bytes) -> None:
    dialer = DialerNegotiation(["/noise", "/tls/1.0.0"])
    dialer.start()
    for part in _halves(data):
        dialer.receive(part)
    dialer.finish()


def _yamux(data: bytes) -> None:
    limits = Limits()
    account = CreditLedger(limits).open_account()
    session = Session(initiator=False, account=account, limits=limits, now=0.0)
    stream = session.open_stream(0.0)
    for part in _halves(data):
        session.receive(part, 0.0)
        session.events()
    session.take_control()
    session.close(stream, 0.0)
    session.receive_eof()


def _contact_files() -> list[bytes]:
    address = bytes(Multiaddr.parse("/ip4/192.0.2.1/tcp/4001"))
    contact: codec.Value = [IDENTITY.peer_id.raw, [address, address], 1_800_000_000]
    return [codec.pack({"version": 1, "protocol": "/kad", "contacts": [contact, contact]})]


def _identifies() -> list[bytes]:
    signed = PeerRecord(IDENTITY.peer_id, 7, tuple(ADDRESSES)).sign(IDENTITY)
    return [
        _protobuf.encode(
            [
                (1, IDENTITY.public_key.to_protobuf()),
                *((2, bytes(address)) for address in ADDRESSES),
                (3, "/ipfs/id/1.0.0"),
                (3, "/lattica/content/1.0.0"),
                (4, bytes(ADDRESSES[0])),
                (5, "lattica-mesh/common/1"),
                (6, "lattica-mesh/0"),
                (8, signed),
            ]
        )
    ]


def _identify(data: bytes) -> None:
    decode_identify(data, IDENTITY.peer_id)


def _records() -> list[bytes]:
    return [PeerRecord(IDENTITY.peer_id, 7, tuple(ADDRESSES)).sign(IDENTITY)]


def _envelope(data: bytes) -> None:
    Envelope.open(data, "libp2p-peer-record")


# --- content


def _blocks() -> list[bytes]:
    leaf = CID.of(b"leaf")
    link = _unixfs.Link(leaf, 4, 4)
    return [
        *vectors("content-dag", "block"),
        _unixfs.encode_file([link, link]),
        _unixfs.encode_directory([_unixfs.Entry("a", leaf, 4), _unixfs.Entry("b", leaf, 4)]),
    ]


def _block(data: bytes) -> None:
    _unixfs.decode(CID.of(data, Codec.DAG_PB), data)


def _answers() -> list[bytes]:
    found = [wire for wire in vectors("exchange") if wire]
    heads = [
        bytes(exchange.AnswerHead(exchange.AnswerKind.LEAF, 0, 0, 0, 1, number, 64)) + bytes(64)
        for number in range(3)
    ]
    return [*found, b"".join(heads)]


def _decode_answers(data: bytes) -> None:
    def place(head: exchange.AnswerHead) -> memoryview:
        if head.length > 1024:
            raise CodecError("more than was asked for")
        return memoryview(bytearray(head.length))

    decoder = exchange.AnswerDecoder(place)
    for part in _halves(data):
        for answer in decoder.receive(part):
            exchange.read_status(answer.head.status)


def _safetensors() -> list[bytes]:
    return vectors("safetensors-cut", "header")


def _delta_blocks() -> list[bytes]:
    """Blocks, each after its codec, its width and what it gives divided by 8."""
    cases = json.loads((VECTORS / "delta.json").read_text())["cases"]
    return [
        bytes([case["codec"], case["width"], case["length"] // 8]) + bytes.fromhex(case["block"])
        for case in cases
        if case["kind"] == "block"
    ]


def _decode_delta_block(data: bytes) -> None:
    head = data[:3].ljust(3, b"\0")
    width = (1, 2, 4, 8)[head[1] % 4]
    size = 8 * head[2]
    codec = DeltaCodec(head[0] % len(DeltaCodec))
    base, out = memoryview(bytes(size)), memoryview(bytearray(size))
    decode_block(codec, memoryview(data)[3:], base, out, width)


def _parse_safetensors(data: bytes) -> None:
    size = header_size(data[:8], FILE_SIZE)
    parse_header(data[:size], FILE_SIZE)


def _manifest_bodies() -> list[bytes]:
    # What the signature keeps faults from.
    found = []
    for wire in vectors("manifest", kind="manifest"):
        with contextlib.suppress(CodecError, IntegrityError):
            found.append(SignedManifest.decode(wire).manifest.encode())
    return found


def _decode_body(data: bytes) -> None:
    _read_manifest_body(codec.unpack(data, max_size=1 << 16))


def _shard_indexes() -> list[bytes]:
    return [b'{"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors"}}']


def _control_lines() -> list[bytes]:
    return [
        b'{"method":"get","params":{"ref":"bafy","dest":"/tmp/x","timeout":1.5}}\n',
        b'{"method":"peers"}\n',
    ]


DECODERS = {
    "cid": Decoder(lambda: vectors("identifiers", kind="cid"), CID.from_bytes),
    "cid-text": Decoder(lambda: texts("identifiers"), lambda data: CID.parse(_text(data))),
    "peer-id": Decoder(lambda: [IDENTITY.peer_id.raw], PeerId.from_bytes),
    "public-key": Decoder(_public_keys, _verify_key),
    "protobuf": Decoder(_identifies, _protobuf.decode),
    "msgpack": Decoder(
        lambda: vectors("canonical-msgpack"), lambda data: codec.unpack(data, max_size=1 << 16)
    ),
    "tensors": Decoder(lambda: vectors("tensor-messages"), _tensors),
    "multiaddr": Decoder(lambda: [bytes(a) for a in ADDRESSES], Multiaddr.from_bytes),
    "multiaddr-text": Decoder(
        lambda: [str(a).encode() for a in ADDRESSES], lambda data: Multiaddr.parse(_text(data))
    ),
    "ticket": Decoder(lambda: texts("ticket"), lambda data: Ticket.parse(_text(data))),
    "ticket-body": Decoder(_ticket_bodies, _read_body),  # what the checksum keeps faults from
    "multistream-listen": Decoder(lambda: vectors("multistream"), _listen),
    "multistream-dial": Decoder(lambda: vectors("multistream"), _dial),
    "noise-first": Decoder(_noise_firsts, _noise_first),
    "noise-second": Decoder(_noise_seconds, _noise_second),
    "noise-payload": Decoder(lambda: vectors("noise", kind="payload"), _noise_payload),
    "noise-frames": Decoder(_noise_frames, _open_frames),
    "tls-hello": Decoder(_tls_hellos, _tls_hello),
    "tls-certificate": Decoder(_certificates, lambda data: read_certificate(data, now=NOW)),
    "yamux": Decoder(lambda: vectors("yamux-frames"), _yamux),
    "identify": Decoder(_identifies, _identify),
    "signed-record": Decoder(_records, _envelope),
    "gradient-value": Decoder(
        lambda: vectors("gradient-records", kind="value"),
        lambda data: gradient.read_literal(gradient.decode_value(data)[0]),
    ),
    "gradient-index": Decoder(
        lambda: vectors("gradient-records", kind="index"), gradient.decode_index
    ),
    "gradient-literal": Decoder(
        lambda: vectors("gradient-records", kind="literal"), gradient.read_literal
    ),
    "kad-entries": Decoder(lambda: vectors("dht-entries"), _read_entries),
    "kad-contacts": Decoder(_contact_files, lambda data: decode_contacts(data, "/kad")),
    "kad": Decoder(lambda: vectors("dht-messages"), kad.decode),
    "gossip-rpc": Decoder(lambda: vectors("gossip-messages"), gossip.decode_rpc),
    "gossip-message": Decoder(lambda: vectors("gossip-messages"), gossip.SignedMessage.decode),
    "announcement": Decoder(
        lambda: vectors("announcements"), lambda data: decode_announcement(data, IDENTITY.peer_id)
    ),
    "index-block": Decoder(_blocks, _block),
    "exchange-request": Decoder(
        lambda: vectors("exchange", kind="request"), exchange.decode_request
    ),
    "exchange-peers": Decoder(
        lambda: vectors("exchange", kind="peers"), lambda data: decode_peers(data, PROVIDER)
    ),
    "exchange-answer": Decoder(_answers, _decode_answers),
    "index-file": Decoder(
        lambda: vectors("index-file"), lambda data: decode_index(data, CID.parse(INDEX_ROOT))
    ),
    "leaf-planes": Decoder(
        lambda: vectors("leaf-planes"), lambda data: codec.unpack_planes(data, bytearray(64))
    ),
    "safetensors": Decoder(_safetensors, _parse_safetensors),
    "delta-block": Decoder(_delta_blocks, _decode_delta_block),
    "shard-index": Decoder(_shard_indexes, parse_shard_index),
    "manifest": Decoder(lambda: vectors("manifest", kind="manifest"), SignedManifest.decode),
    "manifest-body": Decoder(_manifest_bodies, _decode_body),
    "statement": Decoder(lambda: vectors("manifest", kind="statement"), Statement.decode),
    "name-record": Decoder(lambda: vectors("manifest", kind="name"), NameRecord.decode),
    "tensor-table": Decoder(lambda: vectors("manifest", kind="table"), decode_table),
    "control": Decoder(_control_lines, decode_control_request),
}
