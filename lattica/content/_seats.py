"""Who is talked to now: as many as there are seats, and who brings nothing makes room for others.

Without that, as many idlers as there are seats would keep everybody else out.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lattica.identity import PeerId

    from ._origin import OriginSession
    from ._session import Session
    from .bitswap import BitswapSession

    Talk: TypeAlias = Session | BitswapSession | OriginSession

ROOM_SECONDS = 30.0  # without a whole leaf, after which a provider makes room for one that waits


class Seats:
    """The sessions of one fetch.

    Attributes:
        free: what to hold, from before a provider is dialled until it was left.
        sessions: those that run, by peer.
    """

    def __init__(self, count: int) -> None:
        self.free = trio.Semaphore(count)
        self.sessions: dict[PeerId, Talk] = {}
        self._scopes: dict[PeerId, trio.CancelScope] = {}
        self._delivered_at: dict[PeerId, float] = {}  # the last leaf of each session, or its start

    @contextmanager
    def taken(self, session: Talk, now: float) -> Iterator[None]:
        """Be `session` while the block runs; `cut` ends the block."""
        peer = session.peer
        scope = self._scopes[peer] = trio.CancelScope()
        self.sessions[peer], self._delivered_at[peer] = session, now
        try:
            with scope:
                yield
        finally:
            del self.sessions[peer], self._scopes[peer], self._delivered_at[peer]

    def ring(self) -> None:
        """Let every provider look for something to be asked."""
        for session in self.sessions.values():
            session.ring()

    def cut(self, peer: PeerId) -> None:
        """End the session with `peer`."""
        self._scopes[peer].cancel()

    def is_cut(self, peer: PeerId) -> bool:
        """Whether the session with `peer`, which runs, is about to end."""
        return self._scopes[peer].cancel_called

    def delivered(self, peer: PeerId, now: float) -> None:
        """Note that a leaf of `peer` is whole."""
        self._delivered_at[peer] = now

    def delivered_at(self) -> dict[PeerId, float]:
        """Return when each one delivered last, or came."""
        return dict(self._delivered_at)

    def room_at(self) -> float:
        """When the provider that has delivered nothing for longest is to make room for another."""
        staying = self._staying()
        leaving = len(self.sessions) - len(staying)
        if not staying or self.free.statistics().tasks_waiting <= leaving:
            return math.inf
        return min(staying.values()) + ROOM_SECONDS

    def longest_idle(self) -> PeerId:
        """Who has delivered nothing for longest, of those that stay."""
        staying = self._staying()
        return min(staying, key=staying.__getitem__)

    def _staying(self) -> dict[PeerId, float]:
        return {peer: at for peer, at in self._delivered_at.items() if not self.is_cut(peer)}
