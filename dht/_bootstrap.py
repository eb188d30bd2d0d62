"""Bootstrap addresses: what became of each, and when to try again. Pure.

A bootstrap node is how a new node meets the first others. It may be down, moved or not started,
so reaching it is a state that anybody can look at, never a condition for starting. It is tried
again at growing intervals with some chance in them, so that a swarm that lost its bootstrap node
does not come back to it all at once; and we stay in touch even when all is well, because two halves
of a swarm that lost sight of each other meet again there.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._results import Result

if TYPE_CHECKING:
    import random

    from lattica.identity import PeerId
    from lattica.transport import Multiaddr

FIRST_RETRY_SECONDS = 1.0
LONELY_RETRY_SECONDS = 30.0  # at most, while nobody at all is connected
RETRY_SECONDS = 300.0  # at most, while others are
# A connection that lived so long makes up for earlier failures. A crowded node sends idle peers
# away after a minute: that must not bring them back at once.
STEADY_SECONDS = 600.0


class BootstrapPhase(enum.Enum):
    """How far we are with a bootstrap address."""

    TRYING = "trying"
    CONNECTED = "connected"
    FAILED = "failed"  # tried again later
    OURSELVES = "ourselves"


@dataclass(frozen=True, slots=True)
class BootstrapStatus(Result):
    """What became of one bootstrap address.

    Attributes:
        address: as it was given.
        peer: who answered there last.
        phase: how far we are.
        attempts: how often it was dialled since it last worked.
        error: why it is not connected, or of no use; None when all is well.
        retry_in: seconds until it is tried again; None when that is not waited for.
    """

    address: Multiaddr
    peer: PeerId | None
    phase: BootstrapPhase
    attempts: int
    error: str | None
    retry_in: float | None


class Bootstrap:
    """The state of one address."""

    def __init__(self, address: Multiaddr) -> None:
        self.address, self.peer = address, address.peer_id
        self.phase = BootstrapPhase.TRYING
        self.attempts = 0
        self.error: str | None = None
        self._tries_again_at: float | None = None
        self._connected_at = 0.0
        self._is_identified = False

    @property
    def settled(self) -> bool:
        """Whether a first attempt is over, without success: nothing comes of waiting for it."""
        return self.phase in (BootstrapPhase.FAILED, BootstrapPhase.OURSELVES) or (
            self.phase is BootstrapPhase.CONNECTED and self.error is not None
        )

    @property
    def is_useful(self) -> bool:
        """Whether it is connected, and nothing speaks against asking it."""
        return self.phase is BootstrapPhase.CONNECTED and self.error is None

    def trying(self) -> None:
        """Note that it is being dialled."""
        self.attempts += 1
        self._tries_again_at = None
        if self.phase is not BootstrapPhase.FAILED:
            self.phase = BootstrapPhase.TRYING

    def connected(self, peer: PeerId, *, now: float) -> None:
        """Note that there is a connection."""
        self.peer, self.phase = peer, BootstrapPhase.CONNECTED
        self.error, self._connected_at, self._is_identified = None, now, False

    def identified(self, complaint: str | None) -> bool:
        """Note whether the connected peer is of use: `complaint` says why it is not.

        Returns whether it has just become of use: not so when it only says so again.
        """
        if self.phase is not BootstrapPhase.CONNECTED:
            return False
        self.error = complaint
        was_known, self._is_identified = self._is_identified, complaint is None
        return self._is_identified and not was_known

    def lost(self, why: str, *, now: float, lonely: bool, rng: random.Random) -> float:
        """Note that the connection ended, or could not be made. Returns when to try again."""
        if self.phase is BootstrapPhase.CONNECTED and now - self._connected_at >= STEADY_SECONDS:
            self.attempts = 0
        self.phase, self.error = BootstrapPhase.FAILED, why
        most = LONELY_RETRY_SECONDS if lonely else RETRY_SECONDS
        delay = min(FIRST_RETRY_SECONDS * 2 ** min(self.attempts, 16), most)
        self._tries_again_at = now + delay * rng.uniform(0.5, 1.0)
        return self._tries_again_at

    def is_ourselves(self) -> None:
        """Note that the address is our own, so that there is nothing to do."""
        self.phase, self.error = BootstrapPhase.OURSELVES, "this is the address of this node"

    def status(self, now: float) -> BootstrapStatus:
        """Return the state, to look at."""
        again = self._tries_again_at
        retry_in = None if again is None else max(0.0, again - now)
        return BootstrapStatus(
            self.address, self.peer, self.phase, self.attempts, self.error, retry_in
        )
