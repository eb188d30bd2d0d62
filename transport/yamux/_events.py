"""What a session tells the layer above. Several of a kind may be told as one: look, then act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ._substream import Substream


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream."""

    stream: Substream


@dataclass(frozen=True, slots=True)
class Readable:
    """Bytes arrived."""

    stream: Substream


@dataclass(frozen=True, slots=True)
class Writable:
    """The peer lets us send again, after it had stopped us."""

    stream: Substream


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer has sent its last byte; what is unread remains readable."""

    stream: Substream


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer gave the stream up. What is unread stays until `Substream.discard`."""

    stream: Substream


@dataclass(frozen=True, slots=True)
class Answered:
    """A ping came back after `rtt_s` seconds."""

    rtt_s: float


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer said goodbye. `code` is a `GoAwayCode`, or what the peer made up."""

    code: int


Event: TypeAlias = Opened | Readable | Writable | Ended | Reset | Answered | GoneAway
