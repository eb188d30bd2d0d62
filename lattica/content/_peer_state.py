"""What a fetch knows of one peer: what it holds, what it owes, how it keeps up. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._holdings import Holding
    from ._pace import Pace


@dataclass(slots=True)
class Ask:
    """One request for leaves `first` to `first + count - 1`, on its way or being answered.

    Attributes:
        next: the leaf that the next answer is about; answers come in order.
        abandoned: its leaves were given free for others, as the peer fell silent.
        cancelled: the peer has been, or is about to be, told to stop.
    """

    id: int
    first: int
    count: int
    next: int
    abandoned: bool = False
    cancelled: bool = False

    @property
    def end(self) -> int:
        """One past the last leaf."""
        return self.first + self.count

    @property
    def rest(self) -> range:
        """The leaves that no answer has come for."""
        return range(self.next, self.end)


@dataclass(slots=True)
class PeerState:
    """One peer, in the eyes of the planner.

    Attributes:
        id: its name.
        pace: how it delivers.
        holding: which leaves it holds.
        asks: what it owes, in the order in which it answers.
        in_flight: bytes that it owes.
        lone_since: when it was asked with nothing else on the way; None once bytes have come.
        stalled: not to be asked until what it was asked for is answered.
        paused_until: not to be asked before, as it was busy; 0 if it is not paused.
        pauses: how often it was busy since it last delivered.
    """

    id: PeerId
    pace: Pace
    holding: Holding
    asks: deque[Ask] = field(default_factory=deque)
    in_flight: int = 0
    lone_since: float | None = None
    stalled: bool = False
    paused_until: float = 0.0
    pauses: int = 0
