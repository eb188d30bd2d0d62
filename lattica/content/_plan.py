"""What a planner is bounded by, and what it advises. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ._pace import PaceLimits

if TYPE_CHECKING:
    from lattica.identity import PeerId


@dataclass(frozen=True, slots=True)
class PlannerLimits:
    """The bounds of one fetch.

    Attributes:
        request_bytes: most that one request asks for, unless one leaf alone is larger.
        total_bytes: most on the way from all peers; a peer with nothing else still gets one leaf.
        race_bytes: most that is asked of a second peer while the first still owes it.
        requests: unanswered requests per peer; a provider refuses more than 64.
        pace: the bounds of each peer's pace.
    """

    request_bytes: int = 4 << 20
    total_bytes: int = 256 << 20
    race_bytes: int = 16 << 20
    requests: int = 32
    pace: PaceLimits = field(default_factory=PaceLimits)


@dataclass(frozen=True, slots=True)
class CancelAsk:
    """Tell `peer` to stop answering request `id`: its leaves came from elsewhere."""

    peer: PeerId
    id: int


@dataclass(frozen=True, slots=True)
class PeerStalled:
    """`peer` was silent for `seconds`, longer than usual: its leaves were given to others."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """`peer` was silent for `seconds`: close its stream. It has been removed."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerReady:
    """Ask `peer` again: its pause after being busy is over, or it could race a slower one now."""

    peer: PeerId


PlannerEvent: TypeAlias = CancelAsk | PeerStalled | PeerSilent | PeerReady
