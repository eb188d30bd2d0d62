"""What time it is, as far as this node can tell. Pure.

Whether a value has expired is a question of the wall clock, and wall clocks are wrong. Each answer
of a peer carries the time that it has; the median of what the peers asked last say, our own clock
among them, is the time that values are written and judged by (spec/dht.md §7.5). All nodes of a
network come to nearly the same, so one whose clock is five minutes off works as any other. Beyond
`MAX_SKEW` the difference is an error instead: that clock wants to be set, and nobody can move ours
by more. Of one network few are heard: who invents peers there has no majority by that.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from lattica.errors import LatticaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lattica.identity import PeerId

_log = logging.getLogger(__name__)

MAX_SKEW = 600.0  # seconds
NOTED_SKEW = 60.0  # seconds; from here on the user is told
_PEERS = 33  # whose clocks are remembered: those that answered last
_PEERS_PER_GROUP = 4  # of one network


class ClockSkew(LatticaError):
    """The clock of this node is so far from those of its peers that no expiry can be trusted.

    Attributes:
        seconds: by how much it is ahead of them; negative where it is behind.
    """

    code = "clock-skew"
    hint = "set the clock of the machine (NTP), or check those of the peers, then try again"

    def __init__(self, seconds: float) -> None:
        way = "ahead of" if seconds > 0 else "behind"
        super().__init__(
            f"the clock of this node is {abs(seconds) / 60:.1f} minutes {way} those of its peers, "
            f"at most {MAX_SKEW / 60:.0f} are allowed"
        )
        self.seconds = seconds


class _Said(NamedTuple):
    """What one peer said last: its clock minus ours, in seconds, and from which network."""

    offset: float
    group: bytes | None


class Clock:
    """The wall clock of this node, and what those of others say of it.

    Args:
        wall: returns the seconds since 1970, as this machine has them.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self.wall = wall
        self._said: OrderedDict[PeerId, _Said] = OrderedDict()
        self._medians: tuple[float, float] | None = None  # of what is said, with ours and without
        self._noted = False

    def now(self) -> float:
        """Return the time, in seconds since 1970, as most clocks around have it."""
        usual, _ = self._offsets()
        return self.wall() + (usual if abs(usual) <= MAX_SKEW else 0.0)

    def observe(
        self,
        peer: PeerId,
        theirs: float,
        *,
        asked: float,
        answered: float,
        group: bytes | None = None,
    ) -> None:
        """Note what time `peer` had between two moments of ours (`wall`).

        `group` is the network from which it answered, see `transport.ip_group`.
        """
        self._said.pop(peer, None)
        offset = theirs - (asked + answered) / 2
        self._said[peer] = _Said(offset, group)
        if group is not None:
            beside = [each for each, said in self._said.items() if said.group == group]
            if len(beside) > _PEERS_PER_GROUP:
                del self._said[beside[0]]
        if len(self._said) > _PEERS:
            self._said.popitem(last=False)
        self._medians = None
        if self._noted or abs(offset) > NOTED_SKEW:  # one that is near moves the median no further
            self._note_skew()

    def _note_skew(self) -> None:
        skew = self.skew
        if abs(skew) > NOTED_SKEW and not self._noted:
            self._noted = True
            _log.warning("%s", ClockSkew(skew))
        elif abs(skew) < NOTED_SKEW / 2:
            self._noted = False

    @property
    def skew(self) -> float:
        """By how many seconds our clock is ahead of those of the peers; 0 where none is known."""
        return -self._offsets()[1]

    def _offsets(self) -> tuple[float, float]:
        if self._medians is None:
            offsets = [said.offset for said in self._said.values()]
            self._medians = _median((0.0, *offsets)), _median(offsets)
        return self._medians

    def check(self) -> None:
        """Raise ClockSkew if values can neither be written nor judged with this clock."""
        skew = self.skew
        if abs(skew) > MAX_SKEW:
            raise ClockSkew(skew)


def _median(values: Iterable[float]) -> float:
    """Return the middle one; of two in the middle, the mean where one clock says it of another."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return (low + high) / 2
