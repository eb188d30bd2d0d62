"""Peers that sent what does not match its hash: not asked again for a time, by any fetch. Pure.

A leaf travels encrypted and authenticated, and a provider hashes it before it sends it, so a wrong
one is no accident. Still a ban ends: a machine with bad memory may have been repaired. Whoever lies
again is banned for twice as long.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.errors import IntegrityError

if TYPE_CHECKING:
    from lattica.identity import PeerId

FIRST_BAN_SECONDS = 600.0
_LONGEST_BAN_SECONDS = 86_400.0
_MAX_BANS = 1024  # peers remembered; a new identity costs a liar nothing, so more would not help


class ProviderBanned(IntegrityError):
    """A provider is not asked, because it sent wrong bytes not long ago."""

    code = "provider-banned"
    hint = "find another provider, or try again when the ban is over"


@dataclass(frozen=True, slots=True)
class Ban:
    """Why a peer is not asked, and until when.

    Attributes:
        reason: what it did, for people: `wrong leaf 812`.
        until: when the ban ends, on the clock of `now`.
        seconds: how long it lasts in all.
    """

    reason: str
    until: float
    seconds: float

    def text(self, now: float) -> str:
        """Say it to people: `banned 10 min: wrong leaf 812`."""
        return f"banned {_duration(self.until - now)}: {self.reason}"


class Bans:
    """The bans of one node."""

    def __init__(self) -> None:
        self._bans: OrderedDict[PeerId, Ban] = OrderedDict()

    def add(self, peer: PeerId, reason: str, now: float) -> Ban:
        """Ban `peer` from now on. What it does while it is banned makes the ban no longer."""
        last = self._bans.get(peer)
        if last is not None and now < last.until:
            return last
        seconds = FIRST_BAN_SECONDS if last is None else min(2 * last.seconds, _LONGEST_BAN_SECONDS)
        ban = self._bans[peer] = Ban(reason, now + seconds, seconds)
        self._bans.move_to_end(peer)
        if len(self._bans) > _MAX_BANS:
            self._bans.popitem(last=False)
        return ban

    def of(self, peer: PeerId, now: float) -> Ban | None:
        """Return the ban that holds for `peer` now."""
        ban = self._bans.get(peer)
        return ban if ban is not None and now < ban.until else None


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
