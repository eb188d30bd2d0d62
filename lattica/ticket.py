"""Tickets: one line of text that is enough to fetch an object (spec/ticket.md).

A ticket names a root CID, a peer that holds it and where that peer was reachable when the ticket
was written. It is a hint with a checksum, not a promise: what arrives is verified against the CID,
and when the peer has moved, the DHT finds it or another one. Nothing in it is secret.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3

from lattica import codec
from lattica._base import base32_decode, base32_encode
from lattica.cid import CID
from lattica.errors import CodecError, InvalidInput
from lattica.identity import PeerId
from lattica.models import DeltaLink
from lattica.transport import Multiaddr, UnknownAddressProtocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "lattica:"
VERSION = 1
MAX_TEXT = 2048  # characters, prefix included: a line that still fits a QR code and a chat message
MAX_ADDRESSES = 16
MAX_DELTAS = 8
MAX_NAME = 255  # bytes of UTF-8: what common file systems take for one name
_SWARM = re.compile("[a-z2-7]{26}")
_CHECK_SIZE = 4  # bytes of BLAKE3: catches what hands and mailers do to a line


class TicketFault(enum.Enum):
    """What is wrong with a ticket, by the section of spec/ticket.md that it breaks."""

    PREFIX = "it does not start with `lattica:`"
    SIZE = "it is too long"
    TEXT = "it is not base32 in lower case"
    CHECKSUM = "its checksum is wrong: a character was lost or changed"
    VALUE = "it is not a canonical value of the right shape"
    VERSION = "its version is not known"
    ROOT = "its CID is damaged"
    PEER = "its peer ID is damaged"
    ADDRESS = "an address in it is damaged"
    OPTION = "an option in it is not what it must be"


class TicketError(InvalidInput):
    """Text is not a ticket.

    Attributes:
        fault: in what way it is wrong.
    """

    code = "ticket"
    hint = "copy the whole line that `lattica share` printed, from `lattica:` to its end"

    def __init__(self, fault: TicketFault, detail: str = "", *, hint: str | None = None) -> None:
        what = f"not a ticket: {fault.value}"
        super().__init__(f"{what} ({detail})" if detail else what, hint=hint)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says. Made by hand it is checked as one that was read: raises TicketError.

    Attributes:
        root: what to fetch.
        peer: who held it.
        addresses: where that peer was, best first, without `/p2p/<peer>` at the end.
        options: further facts by name. Those we do not know are kept.
    """

    root: CID
    peer: PeerId
    addresses: tuple[Multiaddr, ...] = ()
    options: Mapping[str, codec.Value] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(self.addresses) > MAX_ADDRESSES:
            raise TicketError(TicketFault.SIZE, f"more than {MAX_ADDRESSES} addresses")
        for address in self.addresses:
            if address.peer_id is not None:
                raise TicketError(TicketFault.ADDRESS, f"{address} names a peer once more")
        name, size = self.options.get("name"), self.options.get("size")
        if name is not None and not (isinstance(name, str) and is_plain_name(name)):
            raise TicketError(TicketFault.OPTION, "`name` is not a plain file name")
        if size is not None and not (type(size) is int and 0 <= size < 1 << 63):
            raise TicketError(TicketFault.OPTION, "`size` is not a number of bytes")
        _read_deltas(self.options.get("deltas"))

    @property
    def name(self) -> str | None:
        """What to call the object where nobody says otherwise: a plain file name, never a path."""
        name = self.options.get("name")
        return name if isinstance(name, str) else None

    @property
    def size(self) -> int | None:
        """How large the object is said to be, in bytes. The root, once verified, says it truly."""
        size = self.options.get("size")
        return size if isinstance(size, int) else None

    @property
    def sealed(self) -> bool:
        """Whether what it names is said to be a sealed object (spec/sealed.md)."""
        return self.options.get("sealed") is True

    @property
    def swarm(self) -> str | None:
        """The fingerprint of the private swarm whose members can use it; None: anybody."""
        swarm = self.options.get("swarm")
        return swarm if isinstance(swarm, str) and _SWARM.fullmatch(swarm) else None

    @property
    def origin(self) -> str | None:
        """Where the object lies besides, a URL: to be used only by who trusts the ticket's author.

        One of another kind, as a later version may write it, is not understood: None.
        """
        origin = self.options.get("origin")
        usable = isinstance(origin, str) and origin.startswith(("http://", "https://"))
        return origin if isinstance(origin, str) and usable else None

    @property
    def deltas(self) -> tuple[DeltaLink, ...]:
        """Deltas that lead to the object, or to versions before it."""
        return _read_deltas(self.options.get("deltas"))

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Read a ticket; white space around it is dropped. Raises TicketError."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise TicketError(TicketFault.PREFIX, repr(text[:24]))
        if len(text) > MAX_TEXT:
            raise TicketError(TicketFault.SIZE, f"{len(text)} characters, limit {MAX_TEXT}")
        try:
            data = base32_decode(text[len(PREFIX) :])
        except InvalidInput as error:
            raise TicketError(TicketFault.TEXT, str(error)) from None
        body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
        if len(data) < _CHECK_SIZE or _checksum(body) != check:
            raise TicketError(TicketFault.CHECKSUM)
        return _read_body(body)

    def __str__(self) -> str:
        """Return the text form. Raises TicketError: the options make it too long."""
        try:
            body = codec.pack(
                [
                    VERSION,
                    bytes(self.root),
                    self.peer.raw,
                    [bytes(address) for address in self.addresses],
                    dict(self.options),
                ]
            )
        except CodecError as error:
            raise TicketError(TicketFault.OPTION, str(error)) from None
        text = PREFIX + base32_encode(body + _checksum(body))
        if len(text) > MAX_TEXT:
            raise TicketError(TicketFault.SIZE, f"{len(text)} characters, limit {MAX_TEXT}")
        return text


def fitting(
    root: CID,
    peer: PeerId,
    addresses: Sequence[Multiaddr],
    options: Mapping[str, codec.Value],
    deltas: Sequence[DeltaLink] = (),
) -> Ticket:
    """Return the ticket with as many of `addresses`, best first, as there is room for.

    Of `deltas` it names the first ones that fit beside all of those.
    """
    kept = tuple(addresses[:MAX_ADDRESSES])
    for count in range(min(len(deltas), MAX_DELTAS), 0, -1):
        ticket = Ticket(root, peer, kept, {**options, "deltas": write_deltas(deltas[:count])})
        if _fits(ticket):
            return ticket
    while kept and not _fits(Ticket(root, peer, kept, options)):
        kept = kept[:-1]
    return Ticket(root, peer, kept, options)


def _fits(ticket: Ticket) -> bool:
    try:
        str(ticket)
    except TicketError:
        return False
    return True


def write_deltas(links: Sequence[DeltaLink]) -> codec.Value:
    """Return deltas as the option `deltas`."""
    return [[bytes(link.base), bytes(link.result), bytes(link.delta), link.size] for link in links]


def _read_deltas(value: codec.Value) -> tuple[DeltaLink, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_DELTAS:
        raise TicketError(TicketFault.OPTION, f"`deltas` is not a list of at most {MAX_DELTAS}")
    found = []
    for entry in value:
        match entry:
            case [bytes(base), bytes(result), bytes(delta), int(size)] if 0 <= size < 1 << 63:
                try:
                    cids = [CID.from_bytes(cid) for cid in (base, result, delta)]
                except CodecError as error:
                    raise TicketError(TicketFault.OPTION, f"`deltas`: {error}") from None
                found.append(DeltaLink(cids[0], cids[1], cids[2], size))
            case _:
                raise TicketError(TicketFault.OPTION, "an entry of `deltas` is no delta")
    return tuple(found)


def is_plain_name(name: str) -> bool:
    """Say whether a stranger's `name` may become a file beside ours.

    One path component on every system, not hidden, nothing that a terminal would obey.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return (
        0 < len(encoded) <= MAX_NAME
        and not name.startswith(".")
        and not name.endswith((" ", "."))
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
    )


def _checksum(body: bytes) -> bytes:
    return blake3(body).digest(_CHECK_SIZE)


def _read_body(body: bytes) -> Ticket:
    try:
        value = codec.unpack(body, max_size=MAX_TEXT)
    except CodecError as error:
        raise TicketError(TicketFault.VALUE, str(error)) from None
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise TicketError(TicketFault.VALUE)
    if value[0] != VERSION:
        raise TicketError(
            TicketFault.VERSION,
            f"{value[0]}, expected {VERSION}",
            hint="a newer lattica wrote it: update yours",
        )
    match value:
        case [_, bytes(root), bytes(peer), list(addresses), dict(options)]:
            return Ticket(_root(root), _peer(peer), _addresses(addresses), options)
    raise TicketError(TicketFault.VALUE)


def _root(data: bytes) -> CID:
    try:
        return CID.from_bytes(data)
    except CodecError as error:
        raise TicketError(TicketFault.ROOT, str(error)) from None


def _peer(data: bytes) -> PeerId:
    try:
        return PeerId.from_bytes(data)
    except CodecError as error:
        raise TicketError(TicketFault.PEER, str(error)) from None


def _addresses(values: list[codec.Value]) -> tuple[Multiaddr, ...]:
    if len(values) > MAX_ADDRESSES:
        raise TicketError(TicketFault.SIZE, f"more than {MAX_ADDRESSES} addresses")
    found = []
    for value in values:
        if not isinstance(value, bytes):
            raise TicketError(TicketFault.ADDRESS, "not bytes")
        try:
            found.append(Multiaddr.from_bytes(value))
        except UnknownAddressProtocol:
            continue  # of a transport that came after us; the others may do
        except CodecError as error:
            raise TicketError(TicketFault.ADDRESS, str(error)) from None
    return tuple(found)
