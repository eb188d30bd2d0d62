"""What a fetch knows of one peer: what it holds, what it owes, how it keeps up. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._leaf_states import LeafStates
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
        have: a byte of 0 or 1 for each leaf; None while it holds everything.
        cursor: no leaf below it is both missing and held by this peer.
        asks: what it owes, in the order in which it answers.
        in_flight: bytes that it owes.
        lone_since: when it was asked with nothing else on the way; None once bytes have come.
        stalled: not to be asked until what it was asked for is answered.
        paused_until: not to be asked before, as it was busy; 0 if it is not paused.
        pauses: how often it was busy since it last delivered.
    """

    id: PeerId
    pace: Pace
    have: bytearray | None
    cursor: int = 0
    asks: deque[Ask] = field(default_factory=deque)
    in_flight: int = 0
    lone_since: float | None = None
    stalled: bool = False
    paused_until: float = 0.0
    pauses: int = 0

    def holds(self, leaf: int) -> bool:
        """Whether it holds a leaf, as far as is known."""
        return self.have is None or bool(self.have[leaf])

    def note_all(self) -> None:
        """It holds every leaf."""
        self.have, self.cursor = None, 0

    def note_held(self, first: int, flags: bytes) -> bool:
        """It holds, beside what is known, the leaves that `flags` has a 1 for.

        Returns:
            Whether that is news.
        """
        if self.have is None or first >= len(self.have):
            return False
        flags = flags[: len(self.have) - first]
        end = first + len(flags)
        known = int.from_bytes(self.have[first:end], "little")
        merged = int.from_bytes(flags, "little") | known
        if merged == known:
            return False
        self.have[first:end] = merged.to_bytes(len(flags), "little")
        self.cursor = min(self.cursor, first)
        return True

    def note_lacking(self, first: int, end: int, count: int) -> None:
        """It does not hold leaves `first` to `end - 1` of `count`."""
        if self.have is None:
            self.have = bytearray(b"\1") * count
        self.have[first:end] = bytes(end - first)

    def extend(self, count: int) -> None:
        """There are so many more leaves, and it is taken to hold them."""
        if self.have is not None:
            self.have.extend(b"\1" * count)

    def next_wanted(self, leaves: LeafStates) -> int:
        """Return the first leaf that is missing and held here, or -1."""
        leaf = leaves.next_missing(self.cursor)
        while leaf >= 0 and self.have is not None and not self.have[leaf]:
            leaf = self.have.find(1, leaf)
            leaf = leaves.next_missing(leaf) if leaf >= 0 else -1
        self.cursor = leaf if leaf >= 0 else len(leaves)
        return leaf
