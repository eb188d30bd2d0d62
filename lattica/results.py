"""What the node's methods answer with: immutable values, each with a `to_json` for programs.

The keys of `to_json` are what `--json` prints and the control socket carries. They are stable:
a later version adds keys and does not rename them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lattica.cid import CID
from lattica.identity import PeerId
from lattica.ticket import Ticket
from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from lattica.content import Selected

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


class Result:
    """Base of all results: a frozen dataclass that shows itself as JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON values: identifiers and paths as text, enums by name."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        }


def _plain(value: object) -> Json:
    match value:
        case enum.Enum():  # before int, which some enums are
            return value.name.lower()
        case None | bool() | int() | float() | str():
            return value
        case CID() | PeerId() | Path() | Multiaddr() | Ticket():
            return str(value)
        case Result():
            return value.to_json()
        case tuple() | list():
            return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class Phase(enum.Enum):
    """What a long call is doing."""

    HASH = enum.auto()  # reading the user's files to name them
    FIND = enum.auto()  # looking for peers that hold the object
    FETCH = enum.auto()  # receiving, verifying and writing
    VERIFY = enum.auto()  # hashing what is on disk


@dataclass(frozen=True, slots=True)
class Progress(Result):
    """How far a long call is. Given to `progress=` callbacks, at most a few times a second.

    Attributes:
        phase: what is being done.
        done_bytes: hashed and found right so far. Fetching, it reaches `total_bytes` with the last
            hash and not before.
        total_bytes: None while it is not known.
        peers: providers connected now.
        received_bytes: content that came over the network in this call.
        wire_bytes: what that took; less where it came compressed.
        news: what has just happened, where that is worth a line: a provider lied, or fell silent.
    """

    phase: Phase
    done_bytes: int
    total_bytes: int | None = None
    peers: int = 0
    received_bytes: int = 0
    wire_bytes: int = 0
    news: str = ""


@dataclass(frozen=True, slots=True)
class Share(Result):
    """An object that this node now serves."""

    cid: CID
    ticket: Ticket
    name: str
    path: Path
    kind: enum.Enum
    size: int  # content bytes
    segments: int  # of all files: tensors, headers and gaps of safetensors files, else one a file
    seconds: float  # that hashing took


@dataclass(frozen=True, slots=True)
class Source(Result):
    """What one provider sent in a fetch, in content bytes."""

    peer: PeerId
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Fetched(Result):
    """An object that is now at `path`, every byte verified against `cid`."""

    cid: CID
    path: Path
    name: str
    kind: enum.Enum
    size: int  # content bytes
    received_bytes: int  # over the network, in this call; less than `size` when it resumed
    seconds: float
    sources: tuple[Source, ...]
    bad_leaves: int  # that did not match their hash; who sent them was banned
    wire_bytes: int  # what `received_bytes` took; less where it came compressed
    part_of: CID | None = None  # the directory that it is a selection of
    origin_bytes: int = 0  # what of `received_bytes` came from an origin, no peer
    deltas: tuple[CID, ...] = ()  # that led to it from a version that was here, in order


@dataclass(frozen=True, slots=True)
class PreviewFile(Result):
    """One file that would be fetched: its path in the object, "" when that is the file itself."""

    path: str
    size: int
    cid: CID


@dataclass(frozen=True, slots=True)
class Preview(Result):
    """What would be fetched, as its verified index says."""

    cid: CID  # of what would arrive: with patterns, a directory of its own
    size: int  # content bytes
    files: tuple[PreviewFile, ...]


def preview_of(selected: Selected) -> Preview:
    """Return what the exchange has selected as a result."""
    files = tuple(PreviewFile(file.path, file.size, file.root) for file in selected.files)
    return Preview(selected.root, selected.size, files)


@dataclass(frozen=True, slots=True)
class RangeRead(Result):
    """A part of a file that was written to `path`, every byte verified against `cid`."""

    cid: CID  # of the file
    file: str  # its path in the object that was named; "" when it is the object
    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Status(Result):
    """Who a running node is and where it can be reached."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]  # each ending in /p2p/<peer>, ready to paste
    home: Path
    version: str
    connections: int
    uptime_s: float


@dataclass(frozen=True, slots=True)
class Peer(Result):
    """One connection."""

    peer: PeerId
    address: Multiaddr
    inbound: bool
    security: str
    agent: str
    rtt_ms: float | None
    connected_s: float  # since when, in seconds


@dataclass(frozen=True, slots=True)
class Pong(Result):
    """Round trips to one peer, in milliseconds, in the order measured."""

    peer: PeerId
    address: Multiaddr
    round_trips_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SharedObject(Result):
    """One object in the store."""

    cid: CID
    name: str
    path: Path
    kind: enum.Enum
    size: int  # content bytes
    state: enum.Enum  # complete, partial or changed
    added: float  # seconds since the epoch
    pinned: bool = False  # kept when the store needs the room


@dataclass(frozen=True, slots=True)
class Damaged(Result):
    """A leaf or index block that is gone or no longer matches its hash."""

    cid: CID
    path: str
    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verification(Result):
    """What hashing an object on disk showed. `damaged` lists the first ones.

    `differing` lists files that are not what they were, while a copy elsewhere is: nothing is
    served from them, and nothing repairs them, for they may have been changed on purpose.
    """

    cid: CID
    checked_bytes: int
    damaged_count: int
    damaged: tuple[Damaged, ...]
    repaired_bytes: int = 0  # content that was fetched and written anew
    differing: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptObject(Result):
    """An object that the store has bytes of its own for."""

    cid: CID
    size: int  # of the store's own files, in bytes
    pinned: bool
    used: float  # when it was read last, or added; seconds since the epoch


@dataclass(frozen=True, slots=True)
class StoreUsage(Result):
    """What the store uses of the disk. Files of the user, shared in place, are not its own."""

    quota: int | None  # bytes; None: no bound
    used_bytes: int
    index_bytes: int  # of these, the index
    objects: tuple[KeptObject, ...]  # the least used first: the order in which they would go


@dataclass(frozen=True, slots=True)
class ObjectHolder(Result):
    """A peer that said that it holds an object, or some of it."""

    peer: PeerId
    whole: bool
    leaves: int | None  # how many it holds; None: all


@dataclass(frozen=True, slots=True)
class ObjectStat(Result):
    """All that this node knows of an object that it holds."""

    cid: CID
    name: str
    path: Path
    kind: enum.Enum
    size: int  # content bytes
    state: enum.Enum
    added: float  # seconds since the epoch
    pinned: bool
    files: int
    leaves: int  # of all files, equal ones counted each time; 0 until the index is here
    leaves_here: int  # of these, those that are here and, where a get has left them, hashed
    index_blocks: int
    index_bytes: int
    peers: tuple[ObjectHolder, ...] | None = None  # who else holds it now; None: not asked


@dataclass(frozen=True, slots=True)
class Collected(Result):
    """What a garbage collection did."""

    freed_bytes: int
    forgotten: tuple[CID, ...]  # objects that are no longer here


@dataclass(frozen=True, slots=True)
class Announcement(Result):
    """A share that a peer announced to the swarm. Its word; nothing of it is verified."""

    cid: CID
    name: str
    size: int
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Published(Result):
    """A version of a model that this node has published."""

    cid: CID  # of the manifest: names the version, and all that is said of it
    ticket: Ticket
    name: str
    version: int
    root: CID  # of the content
    full_bytes: int  # of the content
    wire_bytes: int  # of it that the version before has not


@dataclass(frozen=True, slots=True)
class TensorsFetched(Result):
    """Chosen tensors, now in a safetensors file at `path`."""

    path: Path
    tensors: int
    size: int  # bytes of the file
    read_bytes: int  # of the tensors that were read for it


@dataclass(frozen=True, slots=True)
class Stated(Result):
    """What somebody said of a manifest, signed by them."""

    manifest: CID
    verdict: str  # sign, approve or revoke
    signer: PeerId
    created: int  # seconds since the epoch
    trusted: bool  # whether the user trusts the signer


ProgressCallback: TypeAlias = Callable[[Progress], object]
