"""Whole networks of routers in one loop: seeded latency, loss, churn and a liar, under a made clock.

The network carries the routers' own bytes. What a run shows depends on the seed alone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lattica.identity import Identity, PeerId
from lattica.pubsub import Message, Parameters, Router, RpcError, Version

TOPIC = "news"


@dataclass
class Node:
    router: Router
    links: set[PeerId] = field(default_factory=set)
    delivered: Counter[bytes] = field(default_factory=Counter)
    joined_at: float = 0.0


class Network:
    """Routers joined by links that delay, and may lose, each RPC."""

    def __init__(self, seed: int, *, loss: float = 0.0, parameters: Parameters | None = None) -> None:
        self.rng = random.Random(seed)
        self.loss, self.parameters = loss, parameters
        self.now = 0.0
        self.nodes: dict[PeerId, Node] = {}
        self.sent_rpcs = self.sent_bytes = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    def add(self) -> PeerId:
        identity = Identity(self.rng.randbytes(32))
        router = Router(
            identity,
            now=self.now,
            rng=random.Random(self.rng.random()),
            first_sequence=int(self.now * 1e9),
            parameters=self.parameters,
        )
        self.nodes[identity.peer_id] = Node(router, joined_at=self.now)
        self._schedule_heartbeat(identity.peer_id)
        return identity.peer_id

    def link(self, one: PeerId, other: PeerId) -> None:
        if one == other or other in self.nodes[one].links:
            return
        for here, there, outbound in ((one, other, True), (other, one, False)):
            self.nodes[here].links.add(there)
            self.nodes[here].router.add_peer(there, Version.V1_2, outbound=outbound, now=self.now)
            self.flush(here)

    def remove(self, peer: PeerId) -> None:
        node = self.nodes.pop(peer)
        for other in node.links:
            self.nodes[other].links.discard(peer)
            self.nodes[other].router.remove_peer(peer, self.now)

    def flush(self, peer: PeerId) -> None:
        router = self.nodes[peer].router
        for other in router.take_ready():
            while (rpc := router.next_rpc(other)) is not None:
                self.sent_rpcs += 1
                self.sent_bytes += len(rpc)
                if self.rng.random() >= self.loss:
                    delay = self.rng.uniform(0.005, 0.050)
                    self.at(self.now + delay, lambda to=other, rpc=rpc: self.deliver(peer, to, rpc))

    def deliver(self, sender: PeerId, receiver: PeerId, rpc: bytes) -> None:
        node = self.nodes.get(receiver)
        if node is None or sender not in node.links:
            return
        for message in node.router.receive(sender, rpc, self.now):
            node.delivered[message.data] += 1
        self.flush(receiver)

    def publish(self, peer: PeerId, data: bytes) -> None:
        self.nodes[peer].router.publish(TOPIC, data, self.now)
        self.flush(peer)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def _schedule_heartbeat(self, peer: PeerId) -> None:
        def beat() -> None:
            if peer in self.nodes:
                self.nodes[peer].router.handle_timeout(self.now)
                self.flush(peer)
                self._schedule_heartbeat(peer)

        self.at(self.nodes[peer].router.next_timeout(), beat)


def grow(network: Network, count: int, *, links: int = 8) -> list[PeerId]:
    """Add subscribed nodes, each dialling `links` random ones."""
    peers = [network.add() for _ in range(count)]
    for peer in peers:
        network.nodes[peer].router.join(TOPIC, network.now)
        for other in network.rng.sample(peers, min(links, count)):
            network.link(peer, other)
    return peers


def delivery(network: Network, expected: dict[bytes, tuple[float, PeerId]], peers: list[PeerId]) -> float:
    """The part of all (message, other node) pairs that was delivered."""
    pairs = [(data, peer) for data, (_, author) in expected.items() for peer in peers if peer != author]
    return sum(network.nodes[peer].delivered[data] > 0 for data, peer in pairs) / len(pairs)


def publish_at_random(
    network: Network, peers: list[PeerId], count: int, seconds: float
) -> dict[bytes, tuple[float, PeerId]]:
    sent = {}
    for number in range(count):
        when = network.now + seconds * number / count
        author, data = network.rng.choice(peers), b"message %d" % number
        sent[data] = (when, author)
        network.at(when, lambda author=author, data=data: network.publish(author, data))
    return sent


def test_thirty_nodes_deliver_a_thousand_messages_once_each() -> None:
    network = Network(1)
    peers = grow(network, 30)
    network.run(2)
    sent = publish_at_random(network, peers, 1000, seconds=20)
    network.run(25)
    assert delivery(network, sent, peers) == 1.0
    assert max(max(node.delivered.values()) for node in network.nodes.values()) == 1


def test_a_hundred_nodes_with_loss_and_churn_deliver_to_all_who_stay() -> None:
    network = Network(2, loss=0.05)
    peers = grow(network, 100)
    network.run(3)
    sent = publish_at_random(network, peers[:70], 100, seconds=30)
    for number, leaver in enumerate(peers[70:]):  # one leaves and one comes, every second
        network.at(network.now + number, lambda leaver=leaver: network.remove(leaver))
        network.at(network.now + number + 0.5, lambda: grow_by_one(network))
    network.run(45)
    stayed = peers[:70]
    assert delivery(network, sent, stayed) >= 0.999
    assert max(max(network.nodes[peer].delivered.values()) for peer in stayed) == 1


def grow_by_one(network: Network) -> None:
    others = list(network.nodes)
    peer = network.add()
    network.nodes[peer].router.join(TOPIC, network.now)
    for other in network.rng.sample(others, 8):
        network.link(peer, other)
    network.flush(peer)
