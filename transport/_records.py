"""Signed envelopes, and the peer records that travel in them: bytes in, values out.

A peer record says at which addresses a peer can be reached, signed by the peer itself, so that it
stays true whoever passes it on. Of two records of a peer, the one with the higher sequence number
holds. Sources: libp2p/specs RFC 0002 (signed envelopes) and RFC 0003 (routing records).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica import _protobuf, _varint
from lattica.errors import CodecError
from lattica.identity import PeerId, PublicKey

from ._book import bare_address
from .multiaddr import AddressCodecError, Multiaddr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.identity import Identity

MAX_ENVELOPE = 16 << 10  # bytes; a record of MAX_RECORD_ADDRESSES usual addresses is 2 KiB
MAX_RECORD_ADDRESSES = 64  # read from one record; the rest is ignored
_DOMAIN = "libp2p-peer-record"
_PAYLOAD_TYPE = b"\x03\x01"


class RecordError(CodecError):
    """A signed envelope, or the record in it, is not what it claims to be."""

    code = "record"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload whose signature was checked, and the key that signed it."""

    key: PublicKey
    payload_type: bytes
    payload: bytes

    @classmethod
    def open(cls, data: bytes, domain: str) -> Envelope:
        """Read and verify an envelope. Raises RecordError."""
        if len(data) > MAX_ENVELOPE:
            raise RecordError(f"an envelope of {len(data)} bytes, limit {MAX_ENVELOPE}")
        try:
            message = _protobuf.decode(data)
            key = PublicKey.from_protobuf(message.blob(1) or b"")
            envelope = cls(key, message.blob(2) or b"", message.blob(3) or b"")
            signature = message.blob(5) or b""
        except CodecError as error:
            raise RecordError(f"not a signed envelope: {error}") from None
        if not key.verify(_signed(domain, envelope.payload_type, envelope.payload), signature):
            raise RecordError(f"an envelope whose signature is not that of {key.peer_id}")
        return envelope


def seal(identity: Identity, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """Return the envelope of `payload`, signed for use in `domain` only."""
    signature = identity.sign(_signed(domain, payload_type, payload))
    return _protobuf.encode(
        [(1, identity.public_key.to_protobuf()), (2, payload_type), (3, payload), (5, signature)]
    )


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """Where a peer can be reached, in its own words.

    Attributes:
        peer: whose addresses they are.
        sequence: grows with each record of that peer.
        addresses: without `/p2p/…`; those of protocols that we do not know are left out.
    """

    peer: PeerId
    sequence: int
    addresses: tuple[Multiaddr, ...]

    @classmethod
    def open(cls, data: bytes) -> PeerRecord:
        """Read and verify a record in its envelope. Raises RecordError."""
        envelope = Envelope.open(data, _DOMAIN)
        if envelope.payload_type != _PAYLOAD_TYPE:
            raise RecordError(f"an envelope of type 0x{envelope.payload_type.hex()}, expected 0301")
        try:
            message = _protobuf.decode(envelope.payload)
            peer = PeerId.from_bytes(message.blob(1) or b"")
            entries = message.blobs(3)[:MAX_RECORD_ADDRESSES]
            encoded = [_protobuf.decode(entry).blob(1) or b"" for entry in entries]
            sequence = message.integer(2)
        except CodecError as error:
            raise RecordError(f"not a peer record: {error}") from None
        if peer != envelope.key.peer_id:
            raise RecordError(f"a record of {peer} signed by {envelope.key.peer_id}")
        return cls(peer, sequence, tuple(read_addresses(encoded, peer)))

    def sign(self, identity: Identity) -> bytes:
        """Return this record in its envelope, signed by the peer it is about."""
        fields: list[tuple[int, int | bytes | str | None]] = [
            (1, self.peer.raw),
            (2, self.sequence),
        ]
        fields += [(3, _protobuf.encode([(1, bytes(address))])) for address in self.addresses]
        return seal(identity, _DOMAIN, _PAYLOAD_TYPE, _protobuf.encode(fields))


def read_addresses(encoded: Iterable[bytes], peer: PeerId) -> list[Multiaddr]:
    """Return the addresses of `peer`, without `/p2p/…`.

    What we cannot read is skipped: peers announce transports that we have never heard of. So is
    what names another peer, and 0.0.0.0, which names no machine at all.
    """
    found: dict[Multiaddr, None] = {}
    for data in encoded:
        try:
            address = bare_address(Multiaddr.from_bytes(data), peer)
        except AddressCodecError:
            continue
        if address is not None and not address.is_unspecified:
            found[address] = None
    return list(found)


def _signed(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    parts = (domain.encode(), payload_type, payload)
    return b"".join(_varint.encode(len(part)) + part for part in parts)
