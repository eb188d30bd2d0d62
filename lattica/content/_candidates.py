"""Who may be asked: everyone a fetch has heard of, by whom, and whether more may come. Pure.

What peers say of others is worth little: of those who are remembered, half at most are hearsay.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._farewells import Farewells

_log = logging.getLogger(__name__)


class Candidates:
    """The candidates of one fetch.

    Attributes:
        searches: sources of further ones that have not ended.
    """

    def __init__(self, own: PeerId, farewells: Farewells, limit: int) -> None:
        """Remember `limit` of them at most; `own` is nobody to ask."""
        self.searches = 0
        self._own, self._farewells, self._limit = own, farewells, limit
        self._attended: set[PeerId] = {own}  # dialled, talked to, or about to be
        self._heard_of = 0  # peers that were taken up because of what another says
        self._rumoured: set[PeerId] = set()  # who fetches it too, by hearsay; not reached yet
        self._rounds = self._rounds_wanted = 0  # of looking for more; of these, to believe it

    @property
    def attended(self) -> set[PeerId]:
        """Those that are looked after now."""
        return self._attended - {self._own}

    @property
    def rumours(self) -> bool:
        """Whether others are said to fetch it, too, of whom nothing else is known yet."""
        return bool(self._rumoured)

    def is_attended(self, peer: PeerId) -> bool:
        """Whether `peer` is looked after already, or is this node."""
        return peer in self._attended

    def take(self, peer: PeerId, *, hearsay: bool) -> bool:
        """Look after `peer` from now on. False: it is of no use, or one too many."""
        if self._farewells.is_useless(peer):
            return False
        known = self._farewells.of(peer) is not None
        heard = hearsay and not known
        full = len(self._farewells) + len(self._attended) > self._limit
        if not known and (full or (heard and self._heard_of >= self._limit // 2)):
            _log.debug("%s is one provider too many", peer)
            return False
        self._heard_of += heard
        self._attended.add(peer)
        if hearsay:
            self._rumoured.add(peer)
        return True

    def reached(self, peer: PeerId) -> None:
        """Note that `peer` can tell by itself what it holds."""
        self._rumoured.discard(peer)

    def over(self, peer: PeerId) -> None:
        """Look after `peer` no more."""
        self._attended.discard(peer)
        self._rumoured.discard(peer)
        self._rounds_wanted = self._rounds + 2  # the one under way may have begun before

    def looked_around(self) -> None:
        """Note that a whole search has found whom there is to find."""
        self._rounds += 1

    def all_refused(self) -> bool:
        """Whether all who are known will not serve us, and looking around found nobody else."""
        return self._rounds >= self._rounds_wanted and self._farewells.all_for_good()
