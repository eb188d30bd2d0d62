"""Which values are valid under which keys. Pure. spec/dht.md §7.

A key has the form `/namespace/rest`, and each namespace has `Rules`: what a value must be, and
which of two is the newer. Namespaces are closed: a node keeps, sends and believes nothing under a
namespace that it was not given rules for. There are two kinds of rules. `SignedEntries` is ours:
sets of entries, each signed by its author. `SingleValues` is what other libp2p programs do: one
value, judged by two functions; `public_keys` makes the `/pk/` of go-libp2p of it.

Rules that raise anything refuse the value. What is not a refusal on purpose is logged: a bug in a
check must not open the door that it guards.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from lattica import codec
from lattica.errors import CodecError, InvalidInput, Refused
from lattica.identity import PublicKey

from ._messages import MAX_KEY
from ._records import MAX_ENTRY, MAX_VALUE, Entry, decode_entry, decode_set, encode_set
from ._results import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_log = logging.getLogger(__name__)

GENERAL = "lattica"  # the namespace that every node has rules for
NO_NAMESPACE = ""  # keys that have not the form; only rules given for them open it
MAX_AHEAD = 600.0  # seconds that an entry may come from the future: clocks differ
MAX_VALUES = 4096  # elements and entries in one value: decoded, they take far more than packed
SINGLE_SECONDS = 36 * 3600.0  # how long a single value is kept, which says nothing about it itself


class Reason(enum.Enum):
    """Why a value is refused, as the answer to its sender says it (§7.7)."""

    INVALID = "invalid"  # not what the namespace demands, or not signed by its author
    STALE = "stale"  # a newer one is held
    EXPIRED = "expired"
    FUTURE = "future"  # written later than now, by more than clocks may differ
    NAMESPACE = "namespace"  # no rules for the namespace
    FULL = "full"  # the key or the node holds as much as it may


class ValueRefused(Refused):
    """A value that a node must not keep or believe.

    Attributes:
        reason: why, in one word.
    """

    code = "dht-value-refused"
    hint = "the message says what is wrong with the value; a corrected one may be put again"

    def __init__(self, message: str, reason: Reason = Reason.INVALID) -> None:
        super().__init__(message)
        self.reason = reason


class UnknownNamespace(InvalidInput):
    """No rules say which values are valid under this key."""

    code = "dht-namespace"
    hint = "a key looks like /lattica/name; other namespaces are opened with `namespaces=`"


@dataclass(frozen=True, slots=True)
class Item:
    """One valid value of one place under a key, as a store keeps it.

    Attributes:
        place: which of the key's places; one that is alike is replaced.
        owner: whose quota it counts against.
        expires: when it is over, in seconds since 1970.
        encoded: as it travels.
        entry: what it says, where it is a signed entry.
    """

    place: bytes
    owner: bytes
    expires: float
    encoded: bytes
    entry: Entry | None = None


class Rules(Protocol):
    """What a namespace demands of its values.

    Attributes:
        merges: whether a key holds many values side by side.
    """

    merges: ClassVar[bool]

    def split(self, value: bytes) -> list[bytes]:
        """Return the encoded items in a record's value. Raises RecordError."""

    def read(self, scope: str, key: bytes, encoded: bytes, *, now: float) -> Item:
        """Return the item, which is valid at `now`, in seconds since 1970. May raise anything."""

    def reopen(self, key: bytes, encoded: bytes, expires: float) -> Item:
        """Return an item that this node has read before, as its disk gives it back."""

    def supersedes(self, key: bytes, item: Item, other: Item) -> bool:
        """Say whether `item` replaces `other` of the same place."""

    def join(self, items: Iterable[Item]) -> bytes:
        """Return the record's value that carries `items`."""


class SignedEntries:
    """Rules for sets of signed entries.

    Args:
        check: called with the key, the entry and its decoded value, once the entry is known to be
            signed and timely; it raises to refuse. None: any value will do.
    """

    merges: ClassVar[bool] = True

    def __init__(self, check: Callable[[bytes, Entry, codec.Value], object] | None = None) -> None:
        self._check = check

    def split(self, value: bytes) -> list[bytes]:
        """Return the encoded entries. Raises RecordError."""
        return decode_set(value)

    def read(self, scope: str, key: bytes, encoded: bytes, *, now: float) -> Item:
        """Return the entry as an item. Raises RecordError, ValueRefused, and what `check` does."""
        entry = decode_entry(encoded)
        if entry.expires <= now:
            raise ValueRefused(
                f"an entry that expired {now - entry.expires:.0f} s ago", Reason.EXPIRED
            )
        ahead = entry.created_ms / 1000 - now
        if ahead > MAX_AHEAD:
            raise ValueRefused(
                f"an entry written {ahead:.0f} s from now, at most {MAX_AHEAD:.0f} are allowed: "
                "a clock is wrong",
                Reason.FUTURE,
            )
        if not entry.is_signed(scope, key):
            raise ValueRefused(f"an entry that {entry.author} did not sign for this key")
        value = codec.unpack(entry.value, max_size=MAX_VALUE, max_values=MAX_VALUES)
        if self._check is not None:
            self._check(key, entry, value)
        return _item(entry)

    def reopen(self, key: bytes, encoded: bytes, expires: float) -> Item:
        """Return the entry as an item; its signature was verified when it came."""
        return _item(decode_entry(encoded))

    def supersedes(self, key: bytes, item: Item, other: Item) -> bool:
        """Say whether the sequence of `item` is greater."""
        assert item.entry is not None
        assert other.entry is not None
        return item.entry.supersedes(other.entry)

    def join(self, items: Iterable[Item]) -> bytes:
        """Return the set."""
        return encode_set(item.entry for item in items if item.entry is not None)


class SingleValues:
    """Rules for keys that hold one value, as other libp2p programs have them.

    Args:
        validate: called with key and value; raises to refuse.
        select: called with the key and two values; returns the index of the better one. Default:
            the one that was there first.
        seconds: how long a value is kept after it came.
    """

    merges: ClassVar[bool] = False

    def __init__(
        self,
        validate: Callable[[bytes, bytes], object],
        select: Callable[[bytes, Sequence[bytes]], int] = lambda _key, _values: 0,
        *,
        seconds: float = SINGLE_SECONDS,
    ) -> None:
        self._validate, self._select, self._seconds = validate, select, seconds

    def split(self, value: bytes) -> list[bytes]:
        """Return the value alone."""
        return [value]

    def read(self, scope: str, key: bytes, encoded: bytes, *, now: float) -> Item:
        """Return the value as an item. Raises what `validate` does, and ValueRefused."""
        if len(encoded) > MAX_ENTRY:
            raise ValueRefused(f"a value of {len(encoded)} bytes, limit {MAX_ENTRY}")
        self._validate(key, encoded)
        return self.reopen(key, encoded, now + self._seconds)

    def reopen(self, key: bytes, encoded: bytes, expires: float) -> Item:
        """Return the value as an item. It has no author: its key pays for it."""
        return Item(b"", key, expires, encoded)

    def supersedes(self, key: bytes, item: Item, other: Item) -> bool:
        """Say whether `select` prefers `item`."""
        return self._select(key, (other.encoded, item.encoded)) == 1

    def join(self, items: Iterable[Item]) -> bytes:
        """Return the only value."""
        (only,) = items
        return only.encoded


def public_keys() -> SingleValues:
    """Return the rules of `/pk/`: under a peer ID stands the public key that it names.

    Source: https://github.com/libp2p/go-libp2p-record, `pubkey.go`.
    """

    def validate(key: bytes, value: bytes) -> None:
        if PublicKey.from_protobuf(value).peer_id.raw != key.removeprefix(b"/pk/"):
            raise ValueRefused("a public key under the peer ID of another")

    return SingleValues(validate)


class Namespaces:
    """The rules of one node.

    Attributes:
        scope: the protocol ID of the DHT, which entries are signed for.
    """

    def __init__(self, rules: Mapping[str, Rules], *, scope: str) -> None:
        self.scope = scope
        self._rules = {GENERAL: SignedEntries(), **rules}

    def rules(self, key: bytes) -> Rules:
        """Return the rules for `key`. Raises UnknownNamespace."""
        name = namespace_of(key)
        rules = self._rules.get(name)
        if rules is None or not 1 <= len(key) <= MAX_KEY:
            which = f"/{name}/" if name else "keys without a namespace"
            raise UnknownNamespace(f"{shown(key[:64])}: no rules for {which}")
        return rules

    def read(self, key: bytes, encoded: bytes, *, now: float) -> Item:
        """Return the valid item that `encoded` is. Raises ValueRefused, whatever is wrong."""
        try:
            return self.rules(key).read(self.scope, key, encoded, now=now)
        except ValueRefused:
            raise
        except UnknownNamespace as error:
            raise ValueRefused(str(error), Reason.NAMESPACE) from None
        except CodecError as error:
            raise ValueRefused(str(error)) from None
        except Exception as error:
            # Checks are code of others, and what they look at came from a stranger.
            _log.exception("the check of %r failed; the value is refused", key[:64])
            raise ValueRefused(f"its check failed: {type(error).__name__}") from error

    def supersedes(self, key: bytes, item: Item, other: Item) -> bool:
        """Say whether `item` replaces `other` of its place. Raises ValueRefused: nobody can say."""
        try:
            return self.rules(key).supersedes(key, item, other)
        except Exception as error:
            _log.exception("comparing two values of %r failed; the old one stays", key[:64])
            raise ValueRefused(f"comparing it failed: {type(error).__name__}") from error


def namespace_of(key: bytes) -> str:
    """Return the namespace of a key: `lattica` of `/lattica/x`; empty where there is none."""
    parts = key.split(b"/", 2)
    if len(parts) < 3 or parts[0] or not parts[1] or not parts[2]:
        return NO_NAMESPACE
    try:
        return parts[1].decode()
    except UnicodeDecodeError:
        return NO_NAMESPACE


def _item(entry: Entry) -> Item:
    return Item(entry.place, entry.author.raw, entry.expires, entry.encoded, entry)
