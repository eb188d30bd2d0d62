"""Many planners at once over simulated links: what one seed uploads, and how long all take.

A pure simulation under virtual time. Each host has one uplink, shared leaf by leaf between those
that it serves, and one downlink; news of leaves travels a few times a second, as `_serve` does it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import pytest

from lattica.content._messages import Status
from lattica.content._plan import CancelAsk
from lattica.content._planner import Planner
from lattica.identity import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable

LEAF = 256 << 10
RATE = 10e6
PUSH_SECONDS = 0.25


class Host:
    """One node: a planner for what it lacks, and an uplink for what it has."""

    def __init__(self, number: int, count: int, up: float, down: float) -> None:
        self.id = PeerId(bytes((0, 2, 0, number)))
        self.up, self.down = up, down
        self.planner: Planner | None = None
        self.have = bytearray(b"\1" * count)
        self.told: dict[PeerId, bytes] = {}
        self.queues: dict[PeerId, deque[tuple[int, range]]] = {}  # by who asks
        self.turns: deque[PeerId] = deque()
        self.sending = False
        self.down_until = 0.0
        self.sent_leaves = 0
        self.done_at = math.inf

    @property
    def complete(self) -> bool:
        return self.planner is None or self.planner.done


class Swarm:
    """Hosts that all know each other, and one object."""

    def __init__(self, count: int, *, seed: int, latency: float = 0.01) -> None:
        self.count, self.latency, self.rng = count, latency, random.Random(seed)
        self.hosts: dict[PeerId, Host] = {}
        self.now, self.order = 0.0, itertools.count()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []

    def join(self, *, complete: bool = False, up: float = RATE, down: float = RATE) -> Host:
        host = Host(len(self.hosts), self.count, up, down)
        if not complete:
            host.have = bytearray(self.count)
            rng = random.Random(self.rng.random())
            host.planner = Planner(self.count, lambda _: LEAF, rng=rng)
        for other in self.hosts.values():
            self._introduce(host, other)
            self._introduce(other, host)
        self.hosts[host.id] = host
        self._push(host)
        return host

    def _introduce(self, host: Host, other: Host) -> None:
        if host.planner is not None:
            host.planner.add_peer(other.id, self.now, complete=other.complete)
            if not other.complete:
                host.planner.add_have(other.id, 0, bytes(other.have))
            host.planner.scattered = True

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (when, next(self.order), action))

    def _push(self, host: Host) -> None:
        for other in self.hosts.values():
            if other is host or other.planner is None:
                continue
            if host.complete:
                other.planner.set_complete(host.id)
            elif host.told.get(other.id) != bytes(host.have):
                host.told[other.id] = bytes(host.have)
                other.planner.add_have(host.id, 0, bytes(host.have))
        for other in self.hosts.values():
            self._ask(other)
        if not host.complete:
            self.at(self.now + PUSH_SECONDS, partial(self._push, host))

    def _ask(self, host: Host) -> None:
        planner = host.planner
        if planner is None or planner.done:
            return
        for peer in planner.peers:
            while (ask := planner.next_request(peer, self.now)) is not None:
                leaves = range(ask.first, ask.end)
                assert not any(map(planner.is_verified, leaves))
                asked = partial(self._asked, self.hosts[peer], host, ask.id, leaves)
                self.at(self.now + self.latency, asked)
        assert planner.in_flight_bytes <= 256 << 20
        self.at(planner.next_timeout(), partial(self._timeout, host))

    def _timeout(self, host: Host) -> None:
        assert host.planner is not None
        if host.planner.next_timeout() <= self.now and not host.planner.done:
            host.planner.handle_timeout(self.now)
            self._heed(host)

    def _heed(self, host: Host) -> None:
        assert host.planner is not None
        while (event := host.planner.next_event()) is not None:
            if isinstance(event, CancelAsk):
                provider = self.hosts[event.peer]
                cancelled = partial(self._cancel, provider, host, event.id)
                self.at(self.now + self.latency, cancelled)
        self._ask(host)

    def _asked(self, provider: Host, host: Host, ask: int, leaves: range) -> None:
        assert all(provider.have[leaf] for leaf in leaves)
        if not provider.queues.get(host.id):
            provider.turns.append(host.id)
        provider.queues.setdefault(host.id, deque()).append((ask, leaves))
        self._send(provider)

    def _cancel(self, provider: Host, host: Host, ask: int) -> None:
        queue = provider.queues.get(host.id, deque())
        for at, (number, _) in enumerate(queue):
            if number == ask:
                queue[at] = (ask, range(0))

    def _send(self, provider: Host) -> None:
        """Send one leaf to whose turn it is."""
        if provider.sending or not provider.turns:
            return
        host = self.hosts[provider.turns.popleft()]
        queue = provider.queues[host.id]
        ask, leaves = queue.popleft()
        sent, rest = leaves[:1], leaves[1:]
        if rest:
            queue.appendleft((ask, rest))
        if queue:
            provider.turns.append(host.id)
        provider.sending = True
        leaves_at = self.now + len(sent) * LEAF / provider.up
        provider.sent_leaves += len(sent)
        host.down_until = max(leaves_at, host.down_until + len(sent) * LEAF / host.down)
        arrived = partial(self._arrive, provider, host, ask, sent, not rest)
        self.at(host.down_until + self.latency, arrived)
        self.at(leaves_at, partial(self._sent, provider))

    def _sent(self, provider: Host) -> None:
        provider.sending = False
        self._send(provider)

    def _arrive(self, provider: Host, host: Host, ask: int, sent: range, ended: bool) -> None:
        planner = host.planner
        assert planner is not None
        expected = planner.expected(provider.id)
        if expected is None or expected.id != ask or planner.done:
            return
        for leaf in sent:
            assert expected.next == leaf
            planner.receive_bytes(provider.id, LEAF, self.now)
            if planner.leaf_arrived(provider.id):
                planner.leaf_verified(leaf)
                host.have[leaf] = 1
        if ended:
            cancelled = expected.next < expected.end
            status = Status.CANCELLED if cancelled else Status.OK
            planner.request_ended(provider.id, status, self.now)
        if planner.done:
            host.done_at = self.now
            self._push(host)
        self._heed(host)

    def run(self) -> None:
        for _ in range(400_000):
            if all(host.complete for host in self.hosts.values()):
                return
            when, _, action = heapq.heappop(self.agenda)
            if when == math.inf:
                break
            self.now = max(self.now, when)
            action()
        raise AssertionError("the swarm does not end")


@pytest.mark.parametrize("seed", range(3))
def test_eight_receivers_take_little_longer_than_one_and_spare_the_seed(seed: int) -> None:
    count = 400
    swarm = Swarm(count, seed=seed)
    origin = swarm.join(complete=True)
    receivers = [swarm.join() for _ in range(8)]
    swarm.run()
    one = count * LEAF / RATE
    assert max(host.done_at for host in receivers) < 1.8 * one
    assert origin.sent_leaves < 1.8 * count
    sent = sum(host.sent_leaves for host in swarm.hosts.values())
    assert sent < 1.03 * 8 * count  # little was sent twice


def test_receivers_that_join_one_by_one_are_served_by_those_before() -> None:
    count = 400
    swarm = Swarm(count, seed=1)
    origin = swarm.join(complete=True)
    receivers = [swarm.join()]
    for wait in (2.0, 4.0, 6.0):
        swarm.at(wait, lambda: receivers.append(swarm.join()))
    swarm.at(8.0, lambda: None)
    swarm.run()
    assert len(receivers) == 4
    assert all(host.complete for host in receivers)
    assert origin.sent_leaves < 2.2 * count
    assert swarm.now < 6 + 1.8 * count * LEAF / RATE


def test_a_receiver_on_a_slow_line_gets_its_share_and_holds_nobody_up() -> None:
    count = 400
    swarm = Swarm(count, seed=2)
    swarm.join(complete=True)
    fast = [swarm.join() for _ in range(3)]
    slow = swarm.join(up=RATE / 20, down=RATE / 10)
    swarm.run()
    one = count * LEAF / RATE
    assert max(host.done_at for host in fast) < 1.8 * one
    assert slow.done_at < 1.2 * 10 * one


def test_four_providers_are_used_to_the_full_and_a_fifth_within_a_second() -> None:
    count = 2000
    swarm = Swarm(count, seed=3)
    providers = [swarm.join(complete=True) for _ in range(4)]
    receiver = swarm.join(down=10 * RATE)
    used: list[float] = []

    def join() -> None:
        fifth = swarm.join(complete=True)
        providers.append(fifth)
        look(fifth)

    def look(fifth: Host) -> None:
        if fifth.sent_leaves:
            used.append(swarm.now)
        else:
            swarm.at(swarm.now + 0.1, partial(look, fifth))

    swarm.at(5.0, join)
    swarm.run()
    assert receiver.complete
    assert used
    assert used[0] < 6.0
    alone = 5.0 * 4 * RATE
    assert swarm.now < 5.0 + 1.1 * (count * LEAF - alone) / (5 * RATE)
    assert sum(host.sent_leaves for host in providers) < 1.02 * count
