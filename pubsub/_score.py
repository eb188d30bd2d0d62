"""What we think of each peer, from what it did to us. Pure; decays with `now`.

Three terms of the GossipSub v1.1 score function count: P2 (messages brought first, a little good),
P4 (invalid messages, over all topics) and P7 (behaviour: broken promises, grafts during a backoff,
garbage). The rest need a topic's expected rate or the application's view. A bad score outlives the
connection for a while, so that dialling again does not wash it off.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._parameters import ScoreParameters

_ZERO = 0.05  # a counter below it counts nothing: decay alone would never let a peer off


@dataclass(slots=True)
class _Ledger:
    """One peer's counters, as of `updated_at`."""

    updated_at: float
    invalid: float = 0.0
    penalty: float = 0.0
    deliveries: float = 0.0


class Scores:
    """The scores of all peers. 0 is a stranger; below 0 a peer is in no mesh."""

    def __init__(self, parameters: ScoreParameters) -> None:
        self._parameters = parameters
        self._present: dict[PeerId, _Ledger] = {}
        self._absent: OrderedDict[PeerId, _Ledger] = OrderedDict()  # oldest departure first

    def add_peer(self, peer: PeerId, now: float) -> None:
        """Begin to keep a score, or go on with one retained."""
        ledger = self._absent.pop(peer, None)
        if ledger is not None and now - ledger.updated_at > self._parameters.retain_seconds:
            ledger = None
        self._present.setdefault(peer, ledger or _Ledger(now))

    def remove_peer(self, peer: PeerId, now: float) -> None:
        """The peer is gone. A bad score is retained, a good one has to be earned again."""
        ledger = self._present.get(peer)
        if ledger is None:
            return
        bad = self.score(peer, now) < 0
        del self._present[peer]
        if bad:
            ledger.deliveries = 0.0
            self._absent[peer] = ledger
            if len(self._absent) > self._parameters.max_retained:
                self._absent.popitem(last=False)

    def invalid_message(self, peer: PeerId, now: float) -> None:
        """P4: the peer sent a message that is malformed, forged or rejected."""
        self._ledger(peer, now).invalid += 1

    def misbehaved(self, peer: PeerId, now: float, times: float = 1) -> None:
        """P7: the peer broke the protocol's manners."""
        self._ledger(peer, now).penalty += times

    def delivered_first(self, peer: PeerId, now: float) -> None:
        """P2: the peer brought a valid message before anybody else."""
        ledger = self._ledger(peer, now)
        ledger.deliveries = min(ledger.deliveries + 1, self._parameters.delivery_cap)

    def score(self, peer: PeerId, now: float) -> float:
        """Return the peer's score at `now`."""
        ledger, parameters = self._ledger(peer, now), self._parameters
        excess = max(0.0, ledger.penalty - parameters.penalty_threshold)
        return (
            parameters.delivery_weight * ledger.deliveries
            + parameters.invalid_weight * ledger.invalid**2
            + parameters.penalty_weight * excess**2
        )

    def graylisted(self, peer: PeerId, now: float) -> bool:
        """Say whether everything the peer sends is to be ignored."""
        return self.score(peer, now) < self._parameters.graylist_threshold

    def _ledger(self, peer: PeerId, now: float) -> _Ledger:
        # An absent peer gets a ledger that nobody keeps.
        ledger, parameters = self._present.get(peer) or _Ledger(now), self._parameters
        elapsed = now - ledger.updated_at
        if elapsed > 0:
            ledger.invalid = _decayed(ledger.invalid, parameters.invalid_decay, elapsed)
            ledger.penalty = _decayed(ledger.penalty, parameters.penalty_decay, elapsed)
            ledger.deliveries = _decayed(ledger.deliveries, parameters.delivery_decay, elapsed)
            ledger.updated_at = now
        return ledger

    def __len__(self) -> int:
        return len(self._present) + len(self._absent)


def _decayed(value: float, factor: float, seconds: float) -> float:
    value *= factor**seconds
    return value if value > _ZERO else 0.0
