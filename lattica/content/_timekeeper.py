"""The clock of a fetch: whom the planner finds too slow, who makes room, when nobody can help."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ._events import ProviderSlow
from ._plan import CancelAsk, PeerReady, PeerSilent
from ._seats import ROOM_SECONDS
from ._session import ProviderSilent, StreamEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from lattica.errors import LatticaError
    from lattica.identity import PeerId

    from ._candidates import Candidates
    from ._events import FetchEvent
    from ._farewells import Farewells
    from ._patience import Patience
    from ._planner import Planner
    from ._seats import Seats


class Timekeeper:
    """Keeps the time of one fetch."""

    def __init__(
        self,
        seats: Seats,
        candidates: Candidates,
        farewells: Farewells,
        patience: Patience,
        *,
        origins: Sized,
        tell: Callable[[FetchEvent], object],
    ) -> None:
        """Keep time for those who sit in `seats`, and tell the caller who is slow.

        `origins` are worth waiting for, too, as long as there are any.
        """
        self._seats, self._candidates = seats, candidates
        self._farewells, self._patience = farewells, patience
        self._origins, self._tell = origins, tell
        self._alarm, self._alarm_at = trio.Event(), math.inf

    def look(self) -> None:
        """Look at the clock: somebody came or went."""
        self._alarm.set()

    def asked(self, planner: Planner) -> None:
        """Look at the clock if a deadline is nearer than the next look, or nothing is under way."""
        if planner.next_timeout() < self._alarm_at or planner.idle():
            self._alarm.set()

    async def run(self, planner: Planner, done: trio.Event) -> LatticaError:
        """Keep time while `planner` plans. Returns why nobody can help; once `done`, never."""
        while True:
            now = trio.current_time()
            planner.handle_timeout(now)
            self.carry_out(planner)
            self._make_room(now)
            if not done.is_set() and self._is_hopeless(planner, now):
                return self._reason_to_stop(now)
            self._alarm = trio.Event()
            self._alarm_at = min(
                planner.next_timeout(), self._give_up_at(planner), self._seats.room_at()
            )
            with trio.move_on_at(self._alarm_at):
                await self._alarm.wait()

    def carry_out(self, planner: Planner) -> None:
        """Do what the planner says has to be done."""
        while (event := planner.next_event()) is not None:
            session = self._seats.sessions.get(event.peer)
            if session is None:
                continue
            if isinstance(event, CancelAsk):
                session.cancel_request(event.id)
            elif isinstance(event, PeerReady):
                session.ring()
            elif isinstance(event, PeerSilent):
                silent = f"{event.peer} was silent for {event.seconds:.0f} s"
                self._cut(event.peer, ProviderSilent(silent, peer=event.peer))
            else:
                self._tell(ProviderSlow(event.peer, event.seconds))
                self._seats.ring()

    def _make_room(self, now: float) -> None:
        while now >= self._seats.room_at():
            peer = self._seats.longest_idle()
            idle = f"{peer} delivered nothing for {ROOM_SECONDS:.0f} s while others waited"
            self._cut(peer, StreamEnded(idle, peer=peer))

    def _cut(self, peer: PeerId, why: LatticaError) -> None:
        self._farewells.cut(peer, why)
        self._seats.cut(peer)

    def _reason_to_stop(self, now: float) -> LatticaError:
        if self._seats.sessions and now >= self._patience.stalled_at:
            return self._farewells.stall(now - self._patience.last_gain)
        return self._farewells.failure()

    def _give_up_at(self, planner: Planner) -> float:
        """When patience ends: with nobody to talk to, nothing to ask of them, or nothing gained."""
        talking = bool(self._seats.sessions)
        return self._patience.ends_at(
            asking=talking and not planner.idle(), waiting=talking or bool(self._origins)
        )

    def _is_hopeless(self, planner: Planner, now: float) -> bool:
        if now >= self._give_up_at(planner):
            return True
        if self._candidates.searches and not self._candidates.all_refused():
            return False
        for peer in self._candidates.attended:
            session = self._seats.sessions.get(peer)
            if session is None or session.partial or self._seats.is_cut(peer):
                return False  # it may come, come to hold more, or come back
        return planner.idle()
