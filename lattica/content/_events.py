"""What a fetch tells while it runs, what it returns, and how it fails. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from lattica.errors import (
    DeadlineExceeded,
    IntegrityError,
    LatticaError,
    NotFound,
    Refused,
    SourceChanged,
    Unreachable,
)
from lattica.transport import StreamReset

from ._bans import ProviderBanned
from ._values import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.cid import CID
    from lattica.identity import PeerId

    from ._values import StoredObject

_MAX_REASON = 240  # characters of why one provider was left: a peer may have many addresses
_RESUME = "what was verified is kept; run the same command again to resume"


@dataclass(frozen=True, slots=True)
class FetchStarted:
    """The index is verified, so the size is known; what was here from before has been counted."""

    root: CID
    size: int  # content bytes
    verified_bytes: int  # of these, here already


@dataclass(frozen=True, slots=True)
class ProviderJoined:
    """A stream to this provider is open."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class ProviderLeft:
    """A provider is not asked any more, for now or for good; `reason` is for people."""

    peer: PeerId
    reason: str
    banned: bool = False


@dataclass(frozen=True, slots=True)
class OriginUsed:
    """No peer serves what is missing, so it is read from an origin."""

    name: str


@dataclass(frozen=True, slots=True)
class OriginLeft:
    """An origin is not asked any more, for now or for good; `reason` is for people."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProviderSlow:
    """A provider was silent for `seconds`, longer than usual; its work was given to others."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far it is; told a few times a second."""

    root: CID
    size: int  # content bytes
    verified_bytes: int  # hashed, right, and written; reaches `size` with the last hash
    received_bytes: int  # content bytes that came over the network in this call
    rates: dict[PeerId, float]  # of each provider that is connected, bytes a second
    wire_bytes: int = 0  # that took; less than `received_bytes` where leaves came packed


@dataclass(frozen=True, slots=True)
class BadLeaf:
    """A provider sent a leaf that does not match its hash. It is banned; nothing was written."""

    error: LeafMismatch


@dataclass(frozen=True, slots=True)
class FetchDone:
    """Every byte is verified and in place."""

    root: CID
    size: int
    received_bytes: int
    seconds: float


FetchEvent: TypeAlias = (
    FetchStarted
    | ProviderJoined
    | ProviderLeft
    | ProviderSlow
    | OriginUsed
    | OriginLeft
    | FetchProgress
    | BadLeaf
    | FetchDone
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object that arrived.

    Attributes:
        stored: as the store lists it; from now on it is served from where it lies.
        received_bytes: content bytes that came over the network in this call.
        sources: the same by provider.
        bad_leaves: every leaf that did not match, as it was noticed (the first hundred).
        wire_bytes: what `received_bytes` took; less where leaves came packed.
        origin_bytes: what of `received_bytes` came from origins, no peers.
    """

    stored: StoredObject
    received_bytes: int
    sources: dict[PeerId, int] = field(default_factory=dict)
    bad_leaves: tuple[LeafMismatch, ...] = ()
    wire_bytes: int = 0
    origin_bytes: int = 0


class LeafMismatch(IntegrityError):
    """A provider sent a leaf or an index block that does not hash to what was asked for.

    Attributes:
        leaf: its number in the object (or in the order in which the index became known); -1
            where a read knows its offset only.
        offset: of its first byte in its file.
        path: of that file in the object; "" when the object is the file, or for an index block.
        short: the same in three words: `wrong leaf 812`.
    """

    def __init__(
        self,
        *,
        cid: CID,
        leaf: int,
        offset: int,
        path: str,
        peer: PeerId,
        index: bool = False,
    ) -> None:
        number = f"leaf {leaf}" if leaf >= 0 else "a leaf"
        what = (
            "index block" if index else f"{number} (offset {offset}{' in ' + path if path else ''})"
        )
        super().__init__(f"{what} of {cid} from {peer} does not match its hash", peer=peer, cid=cid)
        self.leaf, self.offset, self.path = leaf, offset, path
        where = f"leaf {leaf}" if leaf >= 0 else f"leaf at offset {offset}"
        self.short = f"wrong {'index block' if index else where}"


class NoProvider(NotFound):
    """Nobody who could be asked holds what is missing."""

    code = "no-provider"
    hint = (
        "check that a peer which shares it is running, or name one: --from ADDR; or, of any "
        f"peer of its network, --bootstrap ADDR; {_RESUME}"
    )


class ProvidersLost(Unreachable):
    """The providers could not be reached, or were lost and did not come back."""

    code = "providers-lost"
    hint = f"check that a peer which shares it is running and can be reached; {_RESUME}"


class FetchStalled(DeadlineExceeded):
    """Somebody is asked, and nothing comes of it: they are busy, or deliver next to nothing."""

    code = "stalled"
    hint = f"try again later, or find another provider; {_RESUME}"


class ProvidersRefused(Refused):
    """Those who might hold it do not serve us."""

    code = "providers-refused"


class ProvidersBanned(IntegrityError):
    """All that provide what is missing sent wrong bytes not long ago."""

    code = "providers-banned"
    hint = f"find another provider, or try again when the ban is over; {_RESUME}"


class SourcesChanged(SourceChanged):
    """All that provided what is missing have changed their files since they shared them."""

    code = "source-changed"
    retryable = True
    hint = f"find another provider, or have the file shared again; {_RESUME}"


class OriginError(Unreachable):
    """An origin does not give what it should: it cannot be reached, or answers with an error."""

    code = "origin"
    hint = "check the origin's address; a peer that shares the object would do as well"


class OriginLacksIt(NotFound):
    """An origin does not have the file, or has it in a way that cannot be used."""

    code = "origin-lacks-it"
    hint = "check the origin's address; a peer that shares the object would do as well"


class OriginMismatch(IntegrityError):
    """An origin's content is not what was asked for."""

    code = "origin-mismatch"
    hint = "the origin has another version of it: find a peer that shares this one"


class DiskFull(StorageError):
    """The disk has no room for the object."""

    code = "disk-full"
    hint = f"free some space, or choose another destination; {_RESUME}"


def failure(
    root: CID, lies: list[LeafMismatch], reasons: dict[PeerId, LatticaError]
) -> LatticaError:
    """Return the error of a fetch that cannot go on, going by why each provider was left.

    A lie weighs most, then a changed source, then loss: each says more of what to do than the next.
    """
    if lies:
        return lies[0]
    if len(reasons) == 1 and isinstance(error := next(iter(reasons.values())), _OF_ORIGINS):
        return error  # nobody else is known
    summary = _summary(reasons)
    for kind, made, text in _FAILURES:
        if any(isinstance(error, kind) for error in reasons.values()):
            return made(f"{text} {root} ({summary})", cid=root)
    return NoProvider(f"no provider of {root} ({summary})", cid=root)


def stalled(root: CID, seconds: float, reasons: dict[PeerId, LatticaError]) -> FetchStalled:
    """Return the error of a fetch that has gained nothing for `seconds`."""
    return FetchStalled(
        f"nothing of {root} came in {seconds:.0f} s ({_summary(reasons)})", cid=root
    )


def _summary(reasons: dict[PeerId, LatticaError]) -> str:
    if not reasons:
        return "none is known"
    texts = [
        text
        if str(peer) in (text := str(error)) or isinstance(error, _OF_ORIGINS)
        else f"{peer}: {text}"
        for peer, error in islice(reasons.items(), 5)
    ]
    cut = (text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…" for text in texts)
    return f"tried {len(reasons)}: " + " · ".join(cut)


_OF_ORIGINS = (OriginError, OriginLacksIt, OriginMismatch)  # whose messages name them
_FAILURES: tuple[tuple[type[LatticaError], Callable[..., LatticaError], str], ...] = (
    (SourceChanged, SourcesChanged, "every provider has changed its copy of"),
    (Unreachable, ProvidersLost, "no provider could be reached, or stayed, for"),
    (StreamReset, ProvidersLost, "every provider hung up on"),
    (ProviderBanned, ProvidersBanned, "nobody who is not banned provides"),
    (Refused, ProvidersRefused, "every provider refused"),
)
