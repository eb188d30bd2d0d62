"""Putting values again: what this node has written, and what it keeps for others.

The peers nearest to a key tomorrow are not those of today. So a writer puts its entries again, at
doubling intervals up to an hour, until they expire. And a keeper hands on what it keeps when nobody
has put it for one to two hours: values outlive their writer, and the peers that were told first. It
is chance which keeper is the first to do so; the others are put to by it, and have nothing to do.
"""

from __future__ import annotations

import heapq
import logging
import math
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery

from ._own import MAX_OWN, OwnEntries
from ._providers import ProvideSchedule

if TYPE_CHECKING:
    import random
    from collections.abc import Container

    from ._client import Client
    from ._clock import Clock
    from ._keeper import Keeper
    from ._namespaces import Item
    from ._placing import Placer

_log = logging.getLogger(__name__)

RENEW_SECONDS = 3600.0  # at most between two puttings of the same entry by its writer
HAND_ON_SECONDS = 3600.0  # to twice as long, from one putting to the next by a keeper
AT_ONCE = 4  # keys being put again
_GONE = 64  # keys to hand on under which nothing stands any more, besides one for each value


class HandOn:
    """When each key that is kept is to be handed on. Pure."""

    def __init__(self, rng: random.Random, *, seconds: float = HAND_ON_SECONDS) -> None:
        self._rng, self._seconds = rng, seconds
        self._due: dict[bytes, float] = {}
        self._heap: list[
            tuple[float, bytes]
        ] = []  # what no longer says what `_due` does is skipped

    def __len__(self) -> int:
        return len(self._due)

    def touch(self, key: bytes, now: float) -> None:
        """Note that somebody has put `key`: its keepers have just been told."""
        at = self._due[key] = now + self._seconds * self._rng.uniform(1.0, 2.0)
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(at, key) for key, at in self._due.items()]
            heapq.heapify(self._heap)

    def forget_all_but(self, kept: Container[bytes]) -> None:
        """Forget the keys that are not `kept` any more."""
        self._due = {key: at for key, at in self._due.items() if key in kept}
        self._heap = [(at, key) for key, at in self._due.items()]
        heapq.heapify(self._heap)

    def due(self, now: float, limit: int) -> list[bytes]:
        """Return up to `limit` keys to hand on now; each needs another `touch`, or is forgotten."""
        keys: list[bytes] = []
        while self._heap and self._heap[0][0] <= now and len(keys) < limit:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                del self._due[key]
                keys.append(key)
        return keys

    def next_due(self) -> float:
        """Return when `due` may have something; infinity when there is nothing."""
        return self._heap[0][0] if self._heap else math.inf


class Renewal:
    """Puts again.

    Attributes:
        own: what this node has written.

    Args:
        placer: brings values to their holders.
    """

    def __init__(
        self, client: Client, keeper: Keeper, clock: Clock, placer: Placer, *, rng: random.Random
    ) -> None:
        self.own = OwnEntries()
        self._client, self._keeper, self._clock, self._placer = client, keeper, clock, placer
        self._schedule = ProvideSchedule(renew_seconds=RENEW_SECONDS)
        self._held = HandOn(rng)
        self._changed = trio.Event()
        self._sleeps_until = -math.inf
        self._is_full = False  # and that was said
        keeper.on_put = self._note_put

    def remember(self, key: bytes, item: Item) -> None:
        """Put `item` again from now on, which is being put for the first time."""
        self._forget_expired()
        if not self.own.add(key, item):
            if not self._is_full:
                _log.warning("%d entries are put again until they expire; others are not", MAX_OWN)
            self._is_full = True
            return
        self._is_full = False
        self._schedule.remove(key)
        now = trio.current_time()
        self._schedule.add(key, now=now)
        self._schedule.start([key])
        self._schedule.announced(key, now=now)
        self._wake()

    def forget(self, key: bytes, item: Item) -> None:
        """Put `item` no more."""
        self.own.remove(key, item)
        if not self.own.of(key):
            self._schedule.remove(key)

    def resume(self) -> None:
        """Go on with what was written, and kept, in an earlier life."""
        now = trio.current_time()
        for key in self.own.keys:
            self._schedule.add(key, now=now)
        for key in self._keeper.store.keys:
            self._held.touch(key, now)
        self._wake()

    def hasten(self) -> None:
        """Put again soon: there is somebody, after there was nobody."""
        self._schedule.hasten(now=trio.current_time())
        self._wake()

    async def run(self) -> None:
        """Put again whatever is due. Runs until cancelled."""
        while True:
            self._changed, self._sleeps_until = trio.Event(), self._next_due()
            with trio.move_on_at(self._sleeps_until):
                await self._changed.wait()
            self._sleeps_until = -math.inf
            await self._client.met.wait()
            self._forget_expired()
            now = trio.current_time()
            async with private_nursery() as nursery:
                for key in self._schedule.due(now, AT_ONCE):
                    nursery.start_soon(self._renew, key)
                for key in self._held.due(now, AT_ONCE):
                    nursery.start_soon(self._hand_on, key)

    def _note_put(self, key: bytes) -> None:
        self._held.touch(key, trio.current_time())
        # Values go without a word: they expire, or give way. Nobody fills this with their keys.
        if len(self._held) > 2 * len(self._keeper.store) + _GONE:
            self._held.forget_all_but(self._keeper.store)
        if len(self._held) == 1:
            self._wake()

    def _next_due(self) -> float:
        return min(self._schedule.next_due(), self._held.next_due())

    def _wake(self) -> None:
        # What was put just now comes due after all the rest: nothing to get up for.
        if self._next_due() < self._sleeps_until:
            self._changed.set()

    def _forget_expired(self) -> None:
        for key in self.own.expire(self._clock.now()):
            self._schedule.remove(key)

    async def _renew(self, key: bytes) -> None:
        told = False
        try:
            told = await self._put_again(key, self.own.of(key))
        finally:
            now = trio.current_time()
            if told:
                self._schedule.announced(key, now=now)
            else:
                self._schedule.postpone(key, now=now)

    async def _hand_on(self, key: bytes) -> None:
        items = self._keeper.store.items(key, now=self._clock.now())
        if items:
            try:
                await self._put_again(key, items)
            finally:
                self._held.touch(key, trio.current_time())

    async def _put_again(self, key: bytes, items: list[Item]) -> bool:
        peers = await self._placer.holders_of(key)
        if not items:
            return False
        telling = self._placer.telling(key, items, peers)
        await telling.run()
        return bool(telling.told)
