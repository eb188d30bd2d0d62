"""Readers of the vectors of values and messages: identifiers, tickets, exchange, DHT, gossip.

Each takes a case and returns what we make of its input, in the words of the case's `result`; what
we refuse leaves as the `LatticaError` it is. Where a value has one spelling the reader also writes
it again and compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lattica import _announce, codec
from lattica.cid import CID
from lattica.codec import _canonical, unpack_planes
from lattica.content import _messages as exchange
from lattica.content._fetchers import decode_peers
from lattica.dht import Namespaces, ValueRefused, _messages as dht, gradient
from lattica.dht._records import sign_entry
from lattica.errors import CodecError
from lattica.identity import Identity, PublicKey
from lattica.pubsub import SignedMessage, decode_rpc, read_id
from lattica.ticket import Ticket, TicketError, TicketFault
from lattica.transport import Multiaddr, UnknownAddressProtocol

from ._outcome import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lattica.dht._namespaces import Item

    Case = Mapping[str, Any]


def wire_of(case: Case) -> bytes:
    """The input of a case; spaces in the hexadecimal are for the eye."""
    return bytes.fromhex(case["wire"])


def expect(what: str, found: object, expected: object) -> None:
    """Raise Failure unless the two are equal."""
    if found != expected:
        raise Failure(f"{what} is {found!r}, expected {expected!r}")


def read_identifier(case: Case) -> object:
    """CIDs in binary and text, peer IDs (codec.md §1, §2)."""
    if case["kind"] == "cid-text":
        return str(CID.parse(case["text"]))
    if case["kind"] == "peer":
        key = PublicKey.from_protobuf(wire_of(case))
        if "seed" in case:
            ours = Identity(bytes.fromhex(case["seed"])).public_key
            expect("the key of the seed", ours.to_protobuf(), wire_of(case))
        return str(key.peer_id)
    cid = CID.from_bytes(wire_of(case))
    expect("the binary form, written again,", bytes(cid), wire_of(case))
    expect("the text form, read again,", CID.parse(str(cid)), cid)
    if "content" in case:
        content = bytes.fromhex(case["content"])
        expect("whether the content matches", cid.matches(content), True)
        expect("whether other content matches", cid.matches(content + b"x"), False)
    return str(cid)


def read_canonical(case: Case) -> object:
    """Canonical msgpack (codec.md §3)."""
    wire = wire_of(case)
    value = _canonical.unpack(wire, max_size=len(wire))
    expect("the value, written again,", _canonical.pack(value), wire)
    return {"bytes": value.hex()} if isinstance(value, bytes) else {"value": value}


def read_tensors(case: Case) -> object:
    """Values with tensors (codec.md §4), whole and as they come from a stream."""
    wire = wire_of(case)
    value = codec.decode(wire)
    expect("the message, written again,", b"".join(codec.encode(value)), wire)
    receiver, position = codec.Receiver(max_size=len(wire)), 0
    while (place := receiver.wanted()) is not None:
        place[:] = wire[position : position + place.nbytes]
        position += place.nbytes
    expect("the value, from a stream,", b"".join(codec.encode(receiver.value())), wire)
    for dtype, shape, path, data in case["tensors"]:
        found = value
        for step in path:
            found = found[step]
        if dtype in ("BYTES", "BUFFER"):
            expect("the bytes", (bytes(found).hex(), [len(found)]), (data, shape))
            continue
        read = codec.tensor_bytes(found)
        expect("the tensor", read and (read.dtype, list(read.shape)), (dtype, shape))
        expect("its elements", read and read.data.hex(), data)
    return "valid"


def read_ticket(case: Case) -> object:
    """Tickets (ticket.md). A refusal has to name the fault that the case names."""
    try:
        ticket = Ticket.parse(case["text"])
    except TicketError as error:
        if "fault" in case:
            expect("the fault", error.fault, TicketFault[case["fault"].upper()])
        raise
    if "body" in case:
        _, root, peer, addresses, options = case["body"]
        expect("the root", bytes(ticket.root).hex(), root)
        expect("the peer", ticket.peer.raw.hex(), peer)
        readable = [one for one in map(_address, addresses) if one is not None]
        expect("the addresses", list(ticket.addresses), readable)
        expect("the options", set(ticket.options), set(options))
        if len(readable) == len(addresses):
            expect("the ticket, written again,", str(ticket), case["text"].strip())
    return "valid"


def _address(binary: str) -> Multiaddr | None:
    try:
        return Multiaddr.from_bytes(bytes.fromhex(binary))
    except UnknownAddressProtocol:
        return None


def read_announcement(case: Case) -> object:
    """Announcements of shares (announcements.md)."""
    author = Identity(bytes(32)).peer_id
    shown = _announce.decode(wire_of(case), author).to_json()
    return {name: value for name, value in shown.items() if name != "peer"}


def read_exchange(case: Case) -> object:
    """Requests, answers and bitmaps of the content exchange (exchange.md)."""
    wire = wire_of(case)
    if case["kind"] == "request":
        request = exchange.decode_request(wire)
        expect("the request, written again,", exchange.encode_request(request), wire)
        return _request_fields(request)
    if case["kind"] == "answers":
        return _answers(wire)
    if case["kind"] == "peers":
        told = decode_peers(wire, Multiaddr.parse("/ip4/192.168.1.2/tcp/4001"))
        return [[str(info.peer), [str(each) for each in info.addresses]] for info in told]
    count, leaves = case["result"]["count"], case["result"]["leaves"]
    flags = bytes(leaf in leaves for leaf in range(count))
    expect("the bitmap, written again,", exchange.pack_bitmap(flags), wire)
    read = exchange.unpack_bitmap(wire, count)
    return {"count": count, "leaves": [leaf for leaf in range(count) if read[leaf]]}


def _request_fields(request: exchange.Request) -> dict[str, object]:
    fields: dict[str, object] = {"kind": int(request.kind), "id": request.id}
    for name in (
        "root",
        "first",
        "count",
        "encodings",
        "hashes",
        "limit",
        "push",
        "addresses",
        "extra",
    ):
        value = getattr(request, name, None)
        if isinstance(value, CID):
            fields[name] = str(value)
        elif isinstance(value, tuple):
            fields[name] = [one.hex() if isinstance(one, bytes) else one for one in value]
        elif value is not None:
            fields[name] = value
    return fields


def _answers(wire: bytes) -> list[dict[str, object]]:
    def place(head: exchange.AnswerHead) -> memoryview:
        if head.length > 1000:  # what the index of these cases vouches for
            raise CodecError("more than the index vouches for")
        return memoryview(bytearray(head.length))

    decoder = exchange.AnswerDecoder(place)
    answers = list(decoder.receive(wire))
    if decoder.inside:
        raise CodecError("an answer is cut short")
    names = ("kind", "status", "encoding", "flags", "request", "number")
    return [
        {name: int(getattr(answer.head, name)) for name in names}
        | {"payload": answer.payload.hex()}
        for answer in answers
    ]


def read_planes(case: Case) -> object:
    """Leaves as byte planes (exchange.md §3.4)."""
    content = bytearray(case["size"])
    unpack_planes(wire_of(case), content)
    return content.hex()


def read_dht_message(case: Case) -> object:
    """Kademlia messages (dht.md §4)."""
    message = dht.decode(wire_of(case))
    if "canonical" in case["flags"]:
        expect("the message, written again,", dht.encode(message), wire_of(case))
    fields: dict[str, object] = {"type": message.type.name, "key": message.key.hex()}
    if message.record is not None:
        fields["record"] = {
            "key": message.record.key.hex(),
            "value": message.record.value.hex(),
            "received_at": message.record.received_at,
        }
    for name, peers in (("closer", message.closer), ("providers", message.providers)):
        fields[name] = [
            {
                "peer": str(peer.info.peer),
                "addresses": [str(address) for address in peer.info.addresses],
                "connection": int(peer.connection),
            }
            for peer in peers
        ]
    ours = {
        "room": message.room,
        "clock": message.clock,
        "refusal": message.refusal,
        "brief": message.brief,
    }
    return fields | {name: value for name, value in ours.items() if value}


def read_dht_entries(case: Case) -> object:
    """Sets of signed entries (dht.md §7)."""
    scope, key, wire = case["scope"], bytes.fromhex(case["key"]), wire_of(case)
    namespaces = Namespaces({}, scope=scope)
    items: list[Item] = []
    found: list[object] = []
    for encoded in namespaces.rules(key).split(wire):
        try:
            items.append(namespaces.read(key, encoded, now=case["now"]))
        except ValueRefused as error:
            found.append(error.reason.value)
        else:
            found.append(_entry_fields(items[-1], case))
    if "canonical" in case["flags"]:
        expect("the set, written again,", namespaces.rules(key).join(items), wire)
    return found


def _entry_fields(item: Item, case: Case) -> dict[str, object]:
    entry = item.entry
    assert entry is not None
    if "seed" in case:
        again = sign_entry(
            Identity(bytes.fromhex(case["seed"])),
            scope=case["scope"],
            key=bytes.fromhex(case["key"]),
            subkey=entry.subkey,
            value=entry.value,
            sequence=entry.sequence,
            created_ms=entry.created_ms,
            expires_ms=entry.expires_ms,
        )
        expect("the entry, signed again,", again, entry)
    return {
        "author": str(entry.author),
        "subkey": entry.subkey.hex(),
        "value": entry.value.hex(),
        "sequence": entry.sequence,
        "created_ms": entry.created_ms,
        "expires_ms": entry.expires_ms,
    }


def read_gradient_record(case: Case) -> object:
    """Records of Gradient's Lattica (dht.md §8)."""
    wire = wire_of(case)
    if case["kind"] == "literal":
        value = gradient.read_literal(wire)
        if "canonical" in case["flags"]:
            expect("the value, written again,", gradient.write_literal(value), wire)
        return {"text": value} if isinstance(value, str) else {"bytes": value.hex()}
    if case["kind"] == "index":
        subkeys, expires = gradient.decode_index(wire)
        again = gradient.encode_index(subkeys, expires)
        fields: dict[str, object] = {"subkeys": list(subkeys), "expires": expires}
    else:
        raw, expires = gradient.decode_value(wire)
        again = gradient.encode_value(raw, expires)
        fields = {"raw": raw.hex(), "expires": expires}
    if "canonical" in case["flags"]:
        expect("the record, written again,", again, wire)
    return fields


def read_gossip(case: Case) -> object:
    """RPCs, messages and their names (gossip.md §2 to §4)."""
    wire = wire_of(case)
    if case["kind"] == "message":
        message = SignedMessage.decode(wire)
        message.verify()
        return {
            "from": str(message.author),
            "data": None if message.data is None else message.data.hex(),
            "seqno": int.from_bytes(message.seqno, "big"),
            "topic": message.topic,
        }
    if case["kind"] == "name":
        found = read_id(wire)
        return "foreign" if found is None else {"name": found[0].hex(), "spelling": found[1].value}
    rpc = decode_rpc(wire)
    return {
        "subscriptions": [{"topic": one, "subscribe": wanted} for one, wanted in rpc.subscriptions],
        "publish": [one.hex() for one in rpc.publish],
        "ihave": [{"topic": one.topic, "ids": [i.hex() for i in one.ids]} for one in rpc.ihave],
        "iwant": [one.hex() for one in rpc.iwant],
        "graft": list(rpc.graft),
        "prune": [
            {
                "topic": one.topic,
                "backoff": one.backoff_seconds,
                "peers": [{"peer": peer.hex(), "record": raw.hex()} for peer, raw in one.peers],
            }
            for one in rpc.prune
        ],
        "idontwant": [one.hex() for one in rpc.idontwant],
    }


READERS: dict[str, Callable[[Case], object]] = {
    "announcements": read_announcement,
    "canonical-msgpack": read_canonical,
    "dht-entries": read_dht_entries,
    "dht-messages": read_dht_message,
    "exchange": read_exchange,
    "leaf-planes": read_planes,
    "gossip-messages": read_gossip,
    "gradient-records": read_gradient_record,
    "identifiers": read_identifier,
    "tensor-messages": read_tensors,
    "ticket": read_ticket,
}
