"""Whose message is read next: one of each peer at a time, and so many wants in a second.

A message of 300 kB can list eight thousand wants, and each takes some twenty microseconds to read,
to look up and to note. So a few megabytes a second, of a few strangers, would be all that a node
does. What is over the bound stays unread, which holds up whoever sends it and nobody else.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.content._budget import Budget
from lattica.errors import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.identity import PeerId

_AT_ONCE = 2  # messages that are read and looked up at the same time, of all peers
_MAX_WAITING = 128  # messages that wait for that, of all peers, at most half a mebibyte each
_MAX_WAITING_OF_ONE = 4
_BYTES_OF_A_WANT = 64  # what is no want takes as long to read as so many bytes of wants


class TooManyMessages(LimitExceeded):
    """A peer, or all peers together, say more than is listened to."""

    code = "too-many-messages"
    hint = "wants are kept until they are cancelled: there is no need to repeat them"


class Ears:
    """The messages that wait to be read."""

    def __init__(self, wants: float, wants_of_one: float) -> None:
        """Hear so many wants a second, of all peers and of each."""
        self._budget = Budget(wants, wants_of_one)
        self._open = trio.Semaphore(_AT_ONCE)
        self._locks: dict[PeerId, trio.Lock] = {}
        self._waiting: Counter[PeerId] = Counter()

    def check(self, peer: PeerId) -> None:
        """Refuse one more message of `peer` where too many wait. Raises TooManyMessages."""
        if self._waiting[peer] >= _MAX_WAITING_OF_ONE or self._waiting.total() >= _MAX_WAITING:
            raise TooManyMessages(f"{self._waiting[peer]} messages of it wait already", peer=peer)

    @asynccontextmanager
    async def turn(self, peer: PeerId) -> AsyncIterator[None]:
        """Wait until a message of `peer` may be read. Raises TooManyMessages."""
        self.check(peer)
        self._waiting[peer] += 1
        lock = self._locks.setdefault(peer, trio.Lock())
        try:
            async with lock:
                now = trio.current_time()
                while (ready := self._budget.ready_at(peer, now)) > now:
                    await trio.sleep_until(ready)
                    now = trio.current_time()
                async with self._open:
                    yield
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer], self._locks[peer]

    def heard(self, peer: PeerId, wants: int, size: int) -> None:
        """Count a message of `size` bytes, which listed so many wants."""
        self._budget.spend(peer, max(wants, size // _BYTES_OF_A_WANT), trio.current_time())
