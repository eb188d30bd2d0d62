"""Why providers were left, and why they send no more: kept for who asks again, and for the end.

Pure. A provider that was left may be offered again, be tried again, or be of no use for good; and
once nobody is left to ask, the reasons together say what the fetch fails of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica.errors import (
    DeadlineExceeded,
    LimitExceeded,
    NotFound,
    Refused,
    SourceChanged,
    Unreachable,
)
from lattica.transport import StreamReset

from ._bans import ProviderBanned
from ._events import LeafMismatch, failure, stalled
from ._messages import Status
from ._session import HoldsNothing

if TYPE_CHECKING:
    from lattica.cid import CID
    from lattica.errors import LatticaError
    from lattica.identity import PeerId

_DECLINED = {Status.BUSY: "is busy", Status.FAILED: "fails"}
_WORTH_RETRYING = (Unreachable, StreamReset, LimitExceeded, DeadlineExceeded)
_WORTH_ANOTHER_OFFER = (HoldsNothing, LeafMismatch, ProviderBanned)  # a ban has an end
_MAY_CHANGE = (*_WORTH_RETRYING, HoldsNothing)
_MAX_LIES = 100  # kept to be reported


class Farewells:
    """The reasons of one fetch.

    Attributes:
        lies: what did not match its hash, the first hundred.
    """

    def __init__(self, root: CID) -> None:
        self.lies: list[LeafMismatch] = []
        self._root = root
        self._reasons: dict[PeerId, LatticaError] = {}  # why each was left last
        self._refusals: dict[PeerId, LatticaError] = {}  # why each will not send something
        self._told: dict[PeerId, str] = {}

    def __len__(self) -> int:
        """How many providers were left and did not come back."""
        return len(self._reasons)

    def of(self, peer: PeerId) -> LatticaError | None:
        """Return why `peer` was left, if it was."""
        return self._reasons.get(peer)

    def is_useless(self, peer: PeerId) -> bool:
        """Whether what is known of `peer` speaks against asking it when it is offered again."""
        known = self._reasons.get(peer)
        return known is not None and not isinstance(known, _WORTH_ANOTHER_OFFER)

    def lied(self, lie: LeafMismatch) -> None:
        """Keep a lie."""
        if len(self.lies) < _MAX_LIES:
            self.lies.append(lie)

    def refused(self, peer: PeerId, status: Status) -> None:
        """Note why `peer` does not send something."""
        if status is Status.SOURCE_CHANGED:
            self._refusals[peer] = SourceChanged(f"{peer} has changed its copy", peer=peer)
        elif status is Status.REFUSED:
            self._refusals[peer] = Refused(f"{peer} refused", peer=peer)
        elif status is not Status.CANCELLED:
            said = _DECLINED.get(status, "does not hold what is missing")
            self._refusals.setdefault(peer, NotFound(f"{peer} {said}", peer=peer))

    def cut(self, peer: PeerId, error: LatticaError) -> None:
        """Note why `peer` is about to be left."""
        self._reasons[peer] = error

    def left(self, peer: PeerId, error: LatticaError) -> bool:
        """Note why `peer` was left. Returns whether that is news, to be told."""
        news = self._told.get(peer) != str(error)
        self._told[peer], self._reasons[peer] = str(error), error
        return news

    def returned(self, peer: PeerId) -> None:
        """Note that `peer` is talked to."""
        self._reasons.pop(peer, None)
        self._told.pop(peer, None)

    def all_for_good(self) -> bool:
        """Whether somebody was left, and nobody of whom a later try may bring more."""
        return bool(self._reasons) and not any(
            isinstance(error, _MAY_CHANGE) for error in self._reasons.values()
        )

    def failure(self) -> LatticaError:
        """Return the error of a fetch that has nobody left to ask."""
        return failure(self._root, self.lies, self._reasons | self._refusals)

    def stall(self, seconds: float) -> LatticaError:
        """Return the error of a fetch that has gained nothing for `seconds`."""
        return stalled(self._root, seconds, self._reasons | self._refusals)


def worth_retrying(error: LatticaError) -> bool:
    """Whether a provider that was lost like this may be back by and by."""
    return isinstance(error, _WORTH_RETRYING)
