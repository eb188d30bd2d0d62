"""Waiting until something may be sent: the upload limit, kept by all that serve content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._budget import Turns

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._budget import Budget


class Uploads:
    """The line that all streams of one node stand in before they send content."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._turns = budget, Turns(budget)

    @property
    def piece_bytes(self) -> int | None:
        """How much to read and send at once; None without a limit."""
        return self._budget.piece_bytes if self._budget.is_limited else None

    async def wait(self, peer: PeerId, size: int) -> None:
        """Return when `size` bytes may be sent to `peer`, which then count as sent."""
        if not self._budget.is_limited or not size:
            return
        woken = trio.Event()
        turn = self._turns.join(peer, size, woken.set)
        try:
            while not turn.granted:
                now = trio.current_time()
                self._turns.grant(now)
                with trio.move_on_at(self._turns.next_time(now)):
                    await woken.wait()
        finally:
            self._turns.leave(turn)
