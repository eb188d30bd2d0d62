"""How a simulated DHT node stays in the network: its table, and what it provides."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lattica.dht._keys import key_sharing
from lattica.dht._upkeep import SELF_LOOKUP_FIRST_SECONDS, SELF_LOOKUP_SECONDS

if TYPE_CHECKING:
    from lattica.dht._lookup import Lookup

    from ._dht_node import SimulatedDht


class Upkeep:
    """What a node does to stay in the network: `lattica.dht._upkeep` without its tasks."""

    def __init__(self, node: SimulatedDht, *, interval: float = SELF_LOOKUP_FIRST_SECONDS) -> None:
        self._node = node
        self._running = False
        self._first_interval = self._interval = interval
        self._rests_until = 0.0

    def met(self) -> None:
        """Begin, now that there is somebody to ask."""
        if not self._running:
            self._running, self._interval = True, self._first_interval
            self._node.host.after(0.0, self._refresh)
            self._node.host.after(0.0, self._announce)

    def _refresh(self) -> None:
        if not len(self._node.table):
            self._running = False
            return
        self._node.find_node(self._node.peer.raw, self._looked_for_ourselves)

    def _looked_for_ourselves(self, lookup: Lookup) -> None:
        node = self._node
        if lookup.report().complete and not lookup.covered_bits():
            node.table.looked_up_everywhere(now=node.host.now)
        self._refresh_buckets(node.table.due_refreshes(node.host.now))

    def _refresh_buckets(self, buckets: list[int]) -> None:
        node = self._node
        if buckets:
            key = key_sharing(node.table.position, buckets[0], node.host.rng)
            node.find_node(key, lambda _: self._refresh_buckets(buckets[1:]))
            return
        if node.joined_at is None:
            node.joined_at = node.host.now
        pause = self._interval * node.host.rng.uniform(0.8, 1.2)
        self._interval = min(2 * self._interval, SELF_LOOKUP_SECONDS)
        self._rests_until = node.host.now + pause
        self._ask_silent()

    def _announce(self) -> None:
        """Announce what is due, one key at a time, as long as there is anybody."""
        node = self._node
        due = node.schedule.due(node.host.now, 1) if len(node.table) else []
        if due:
            node.provide(due[0], partial(self._announced, due[0]))
        elif self._running and len(node.schedule):
            node.host.at(max(node.schedule.next_due(), node.host.now + 1.0), self._announce)

    def _announced(self, key: bytes, lookup: Lookup) -> None:
        node = self._node
        if lookup.closest():
            node.schedule.announced(key, now=node.host.now)
        else:
            node.schedule.postpone(key, now=node.host.now)
        self._announce()

    def _ask_silent(self) -> None:
        node = self._node
        now = node.host.now
        if now >= self._rests_until or not len(node.table):
            self._refresh()
            return
        for peer in node.table.due_checks(now):
            node.consider(peer)
        again_at = min(self._rests_until, max(node.table.next_check(), now + 1.0))
        node.host.at(again_at, self._ask_silent)
