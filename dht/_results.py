"""What putting, getting and crawling come to: immutable values, each with a `to_json`."""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

from lattica.errors import NotFound
from lattica.identity import PeerId
from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from lattica.codec import Value

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


class ValueNotFound(NotFound):
    """Nobody who was asked holds a valid value under the key."""

    code = "dht-value-not-found"
    hint = "check the key and the subkey; what was put before may have expired"


class Result:
    """Base of all results: a frozen dataclass that shows itself as JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON: identifiers as text, other bytes as `{"base64": …}`."""
        return {
            field.name: plain(getattr(self, field.name))
            for field in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        }


def plain(value: object) -> Json:
    """Return a value as JSON has it. Bytes, which JSON has not, become `{"base64": …}`."""
    match value:
        case enum.Enum():
            return value.name.lower()
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case PeerId() | Multiaddr():
            return str(value)
        case Result():
            return value.to_json()
        case tuple() | list():
            return [plain(item) for item in value]
        case dict():
            return {str(name): plain(item) for name, item in value.items()}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def text_of(name: bytes) -> Json:
    """Return a key or subkey as JSON: its text, where it is one."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return plain(name)


@dataclass(frozen=True, slots=True)
class FoundValue(Result):
    """One value under a key.

    Attributes:
        value: what was put: None, bool, int, float, str, bytes, list or dict.
        author: who signed it; None in a namespace where values are not signed.
        subkey: under which of the author's subkeys.
        sequence: the author's count; 0 where values are not signed.
        created: when it was written, in seconds since 1970; 0 where that is not known.
        expires: when it is over, in seconds since 1970.
    """

    value: Value
    author: PeerId | None
    subkey: bytes
    sequence: int
    created: float
    expires: float

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON, and the `type` of the value, which JSON may not show."""
        names = {"subkey": text_of(self.subkey), "type": type(self.value).__name__}
        return {**Result.to_json(self), **names}


@dataclass(frozen=True, slots=True)
class GetResult(Result):
    """What stands under a key, as most of those who should know say.

    Attributes:
        key: which.
        entries: the newest valid value of each subkey and author, by subkey, then author.
        asked: peers that were asked.
        answered: peers that answered.
        holders: peers that held a valid value; this node counts, where it is one of them.
        stale: of them, those that lacked something newer. They are told.
        invalid: values refused: not signed, not for this key, or against the namespace's rules.
        complete: enough of the nearest peers answered that nothing newer can have been missed, as
            long as most of them are honest.
        seconds: how long it took.
    """

    key: bytes
    entries: tuple[FoundValue, ...]
    asked: int
    answered: int
    holders: int
    stale: int
    invalid: int
    complete: bool
    seconds: float

    @property
    def newest(self) -> FoundValue:
        """The entry written last, of whatever author and subkey. Raises ValueNotFound."""
        if not self.entries:
            where = f"{self.answered} of {self.asked} peers answered"
            raise ValueNotFound(f"no value under {shown(self.key)}: {where}")
        return max(self.entries, key=lambda entry: (entry.created, entry.sequence))

    @property
    def value(self) -> Value:
        """The value written last. Raises ValueNotFound."""
        return self.newest.value

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON."""
        return {**Result.to_json(self), "key": text_of(self.key)}


@dataclass(frozen=True, slots=True)
class PutResult(Result):
    """A value that was put.

    Attributes:
        key: where.
        subkey: where under it.
        author: this node; None in a namespace where values are not signed.
        sequence: the number that makes it newer than what stood there; 0 where not signed.
        expires: until when it stands, in seconds since 1970.
        asked: peers that were to keep it.
        holders: how many keep it by now: more than half of those asked, while the rest are still
            being told. This node counts, where it is among the nearest to the key.
        refused: how many did not by now, by why.
        seconds: how long it took.
    """

    key: bytes
    subkey: bytes
    author: PeerId | None
    sequence: int
    expires: float
    asked: int
    holders: int
    refused: dict[str, int]
    seconds: float

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON."""
        names = {"key": text_of(self.key), "subkey": text_of(self.subkey)}
        return {**Result.to_json(self), **names}


def shown(key: bytes) -> str:
    """Return a key as people read it."""
    text = text_of(key)
    return text if isinstance(text, str) else key.hex()


@dataclass(frozen=True, slots=True)
class CrawledPeer(Result):
    """One peer that a crawl came upon.

    Attributes:
        peer: which.
        addresses: where it is said to be.
        reachable: whether it answered.
        error: why it did not, in a word or two.
        agent: which program it says it is; empty where it has not said.
        contacts: peers that it named.
        rtt_ms: the round trip to it, where it was measured.
    """

    peer: PeerId
    addresses: tuple[Multiaddr, ...]
    reachable: bool
    error: str | None
    agent: str
    contacts: int
    rtt_ms: float | None


@dataclass(frozen=True, slots=True)
class CrawlResult(Result):
    """The DHT as one walk found it. This node is not among the peers.

    Attributes:
        protocol: of which DHT.
        peers: all that were named, the reachable first.
        reachable: how many of them answered.
        complete: everybody who was named was asked. False: there were more than were allowed, or
            time ran out.
        seconds: how long it took.
    """

    protocol: str
    peers: tuple[CrawledPeer, ...]
    reachable: int
    complete: bool
    seconds: float
