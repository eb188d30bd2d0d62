"""Entries: what stands under a key, signed by who wrote it. Pure. Wire format: spec/dht.md §7.

A key holds a set of entries, each in a place of its own: the pair of a subkey and an author. Only
the author can sign for its places, so writers never overwrite each other, and sets that travelled
different ways merge by taking the newest entry of each place. The signature covers the protocol ID
of the DHT and the key as well: an entry copied to another key, or to another swarm, is worth
nothing there.

Times in an entry are wall-clock times, in milliseconds since 1970, because they have to mean the
same on every node and after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica import codec
from lattica.errors import CodecError
from lattica.identity import KeyType, PeerId, PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.identity import Identity

VERSION = 1
MAX_VALUE = 12 << 10  # bytes of a value; with its entry, key and a few peers it fits in 15 KiB
MAX_SUBKEY = 256  # bytes
MAX_ENTRY = MAX_VALUE + MAX_SUBKEY + 256  # bytes of a whole entry
MAX_SET = 120 << 10  # bytes of the entries of one key
MAX_ENTRIES = 512  # of one key
MAX_TTL = 7 * 24 * 3600.0  # seconds
MAX_SEQUENCE = (1 << 63) - 1
_MAX_TIME_MS = 1 << 53  # the year 287 396; what every language can count to
_DOMAIN = b"lattica/dht/entry/1\0"  # what is signed here is signed nowhere else
_SIGNATURE = 64  # bytes
# A peer ID that has an Ed25519 key inside: an identity multihash of a protobuf PublicKey.
_AUTHOR_STEM, _AUTHOR = bytes.fromhex("002408011220"), 38


class RecordError(CodecError):
    """The bytes are not an entry, or not a set of entries."""

    code = "dht-record"


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of one author, in one place under a key.

    Attributes:
        author: who wrote it; an Ed25519 peer ID, so the key to verify it is inside.
        subkey: which of the author's values under the key it is; may be empty.
        value: canonical msgpack.
        sequence: the entry with the greatest replaces the others of its place.
        created_ms: when it was written.
        expires_ms: when it is over.
        signature: the author's, over `signed_bytes`.
        encoded: the entry as it travels.
    """

    author: PeerId
    subkey: bytes
    value: bytes
    sequence: int
    created_ms: int
    expires_ms: int
    signature: bytes
    encoded: bytes

    @property
    def place(self) -> bytes:
        """Subkey and author as one, for tables: the author's length is always the same."""
        return self.subkey + self.author.raw

    @property
    def expires(self) -> float:
        """When it is over, in seconds since 1970."""
        return self.expires_ms / 1000

    def is_signed(self, scope: str, key: bytes) -> bool:
        """Say whether its author signed it for `key` in the DHT of the protocol ID `scope`."""
        signed = signed_bytes(
            scope,
            key,
            self.author,
            self.subkey,
            self.value,
            self.sequence,
            self.created_ms,
            self.expires_ms,
        )
        return _is_signed(self.author.raw[len(_AUTHOR_STEM) :], signed, self.signature)

    def supersedes(self, other: Entry) -> bool:
        """Say whether it replaces `other` of the same place. No two entries replace each other."""
        return (self.sequence, self.encoded) > (other.sequence, other.encoded)


# Signatures that hold, by key and what is signed. A reader gets the same entry from every holder, a
# holder from every writer of the set, and a writer reads what it has written: telling that bytes
# are the same takes a fraction of what telling who signed them takes.
_holding: dict[tuple[bytes, bytes, bytes], None] = {}
MAX_HOLDING = 512  # with the largest values, 6 MiB


def _is_signed(key: bytes, signed: bytes, signature: bytes) -> bool:
    if (key, signed, signature) in _holding:
        return True
    holds = PublicKey(KeyType.ED25519, key).verify(signed, signature)
    if holds:
        _remember(key, signed, signature)
    return holds


def _remember(key: bytes, signed: bytes, signature: bytes) -> None:
    _holding[key, signed, signature] = None
    if len(_holding) > MAX_HOLDING:
        del _holding[next(iter(_holding))]


def signed_bytes(
    scope: str,
    key: bytes,
    author: PeerId,
    subkey: bytes,
    value: bytes,
    sequence: int,
    created_ms: int,
    expires_ms: int,
) -> bytes:
    """Return what the author of an entry signs (§7.3)."""
    return _DOMAIN + codec.pack(
        [scope, key, author.raw, subkey, value, sequence, created_ms, expires_ms]
    )


def sign_entry(
    identity: Identity,
    *,
    scope: str,
    key: bytes,
    value: bytes,
    sequence: int,
    created_ms: int,
    expires_ms: int,
    subkey: bytes = b"",
) -> Entry:
    """Return an entry signed by `identity`. What it is given is checked by the caller."""
    author = identity.peer_id
    signed = signed_bytes(scope, key, author, subkey, value, sequence, created_ms, expires_ms)
    signature = identity.sign(signed)
    _remember(author.raw[len(_AUTHOR_STEM) :], signed, signature)
    encoded = codec.pack(
        [author.raw, subkey, value, sequence, created_ms, expires_ms, signature],
    )
    return Entry(author, subkey, value, sequence, created_ms, expires_ms, signature, encoded)


def decode_entry(data: bytes) -> Entry:
    """Read one entry. Whether it is signed and timely is not looked at. Raises RecordError."""
    try:
        fields = codec.unpack(data, max_size=MAX_ENTRY, max_values=7)
    except CodecError as error:
        raise RecordError(f"not an entry: {error}") from None
    match fields:
        case [
            bytes(author),
            bytes(subkey),
            bytes(value),
            int(sequence),
            int(created),
            int(expires),
            bytes(signature),
        ]:
            pass
        case _:
            raise RecordError("an entry is an array of seven fields")
    if len(author) != _AUTHOR or not author.startswith(_AUTHOR_STEM):
        raise RecordError("the author of an entry is not an Ed25519 peer ID")
    if len(subkey) > MAX_SUBKEY or len(value) > MAX_VALUE or len(signature) != _SIGNATURE:
        sizes = f"{len(subkey)}, {len(value)} and {len(signature)} bytes"
        raise RecordError(
            f"subkey, value and signature of {sizes}; "
            f"limits {MAX_SUBKEY} and {MAX_VALUE}, and a signature has {_SIGNATURE}"
        )
    numbers = (sequence, created, expires)
    if any(isinstance(number, bool) for number in numbers):
        raise RecordError("an entry with a boolean where a number is due")
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise RecordError(f"sequence {sequence}")
    if not 0 <= created < expires < _MAX_TIME_MS or expires - created > MAX_TTL * 1000:
        raise RecordError(f"an entry from {created} to {expires} ms, at most {MAX_TTL:.0f} s")
    return Entry(PeerId(author), subkey, value, sequence, created, expires, signature, bytes(data))


def encode_set(entries: Iterable[Entry]) -> bytes:
    """Return the value of a record that carries `entries`, one for each place at most."""
    ordered = sorted(entries, key=lambda entry: (entry.subkey, entry.author.raw))
    return codec.pack([VERSION, [entry.encoded for entry in ordered]])


def decode_set(data: bytes) -> list[bytes]:
    """Read the value of a record into encoded entries, which are for `decode_entry`.

    An entry that is none is that entry's fault, not the set's: it leaves the others good.

    Raises:
        RecordError: it is not a set.
    """
    try:
        value = codec.unpack(data, max_size=2 * MAX_SET, max_values=MAX_ENTRIES + 2)
    except CodecError as error:
        raise RecordError(f"not a set of entries: {error}") from None
    if not isinstance(value, list) or len(value) < 2 or type(value[0]) is not int:
        raise RecordError("a set of entries is an array of its version and its entries")
    if value[0] != VERSION:
        raise RecordError(f"a set of entries of version {value[0]}, expected {VERSION}")
    entries = value[1]
    if not isinstance(entries, list) or not all(isinstance(each, bytes) for each in entries):
        raise RecordError("a set of entries holds something else than bytes")
    return entries  # type: ignore[return-value]  # each was looked at just now
