"""Whole networks of routers in one loop: seeded latency, loss, churn and a liar, a made clock.

The network carries the routers' own bytes. What a run shows depends on the seed alone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from lattica.identity import Identity, PeerId
from lattica.pubsub import Parameters, Router, Version
from lattica.pubsub._messages import Rpc, SignedMessage, encode_rpc

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = "news"


@dataclass
class Node:
    router: Router
    links: set[PeerId] = field(default_factory=set)
    delivered: Counter[bytes] = field(default_factory=Counter)


class Network:
    """Routers joined by links that delay, and may lose, each RPC."""

    def __init__(
        self, seed: int, *, loss: float = 0.0, parameters: Parameters | None = None
    ) -> None:
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
        self.nodes[identity.peer_id] = Node(router)
        self._schedule_heartbeat(identity.peer_id)
        return identity.peer_id

    def link(self, one: PeerId, other: PeerId) -> None:
        if one == other or other in self.nodes[one].links:
            return
        for here, there, outbound in ((one, other, True), (other, one, False)):
            self.nodes[here].links.add(there)
            self.nodes[here].router.add_peer(there, Version.V1_2, outbound=outbound, now=self.now)
        self.flush(one)
        self.flush(other)

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
                    self.at(self.now + delay, partial(self.deliver, peer, other, rpc))

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


def grow_by_one(network: Network) -> None:
    others = list(network.nodes)
    peer = network.add()
    network.nodes[peer].router.join(TOPIC, network.now)
    for other in network.rng.sample(others, 8):
        network.link(peer, other)


def publish_at_random(
    network: Network, peers: list[PeerId], count: int, *, seconds: float
) -> dict[bytes, PeerId]:
    """Schedule messages of random authors. Returns who writes which."""
    sent = {}
    for number in range(count):
        author, data = network.rng.choice(peers), b"message %d" % number
        sent[data] = author
        when = network.now + seconds * number / count
        network.at(when, partial(network.publish, author, data))
    return sent


def delivered_part(network: Network, sent: dict[bytes, PeerId], peers: list[PeerId]) -> float:
    """The part of all (message, other node) pairs that was delivered."""
    pairs = [(data, peer) for data, author in sent.items() for peer in peers if peer != author]
    return sum(network.nodes[peer].delivered[data] > 0 for data, peer in pairs) / len(pairs)


def most_deliveries(network: Network, peers: list[PeerId]) -> int:
    return max(max(network.nodes[peer].delivered.values()) for peer in peers)


def test_thirty_nodes_deliver_a_thousand_messages_once_each_and_drop_a_forger() -> None:
    network = Network(1)
    peers = grow(network, 30)
    forger = network.add()
    victims = peers[:10]
    for victim in victims:
        network.link(forger, victim)
    network.run(2)
    sent = publish_at_random(network, peers, 1000, seconds=20)
    for number in range(200):
        network.at(network.now + number / 10, partial(forge, network, forger, number))
    network.run(25)
    assert delivered_part(network, sent, peers) == 1.0
    assert most_deliveries(network, peers) == 1
    assert not any(
        data.startswith(b"forged") for node in network.nodes.values() for data in node.delivered
    )
    for victim in victims:
        router = network.nodes[victim].router
        assert forger not in router.mesh(TOPIC)
        assert router.score(forger, network.now) < router.score_parameters.publish_threshold
        assert router.statistics.invalid < 20
        assert router.statistics.graylisted > 150


def forge(network: Network, forger: PeerId, number: int) -> None:
    """Send every neighbour a message in the name of another, the body exchanged."""
    author = next(peer for peer in network.nodes if peer != forger)
    draft = SignedMessage.sign(Identity(bytes(32)), topic=TOPIC, data=b"x", seqno=number)
    message = replace(draft, author=author, data=b"forged %d" % number)
    rpc = encode_rpc(Rpc(publish=(message.encode(),)))
    for victim in network.nodes[forger].links:
        network.at(network.now, partial(network.deliver, forger, victim, rpc))


def test_a_hundred_nodes_with_loss_and_churn_deliver_to_all_who_stay() -> None:
    network = Network(2, loss=0.05)
    peers = grow(network, 100)
    network.run(3)
    stayers, leavers = peers[:70], peers[70:]
    sent = publish_at_random(network, stayers, 60, seconds=30)
    for number, leaver in enumerate(leavers):  # each second one leaves and one comes
        network.at(network.now + number, partial(network.remove, leaver))
        network.at(network.now + number + 0.5, partial(grow_by_one, network))
    network.run(40)
    assert delivered_part(network, sent, stayers) >= 0.999
    assert most_deliveries(network, stayers) == 1


def test_a_burst_larger_than_the_queues_reaches_everybody_within_bounds() -> None:
    parameters = Parameters(queue_messages=64, cache_messages=400, seen_messages=1000)
    network = Network(3, parameters=parameters)
    peers = grow(network, 12, links=4)
    network.run(2)
    sent = {}
    for number in range(300):
        sent[b"%d" % number] = peers[number % 12]
        network.publish(peers[number % 12], b"%d" % number)
    network.run(10)
    assert delivered_part(network, sent, peers) == 1.0
    assert most_deliveries(network, peers) == 1


def test_memory_is_bounded_under_more_traffic_than_the_caches_hold() -> None:
    parameters = Parameters(cache_messages=50, seen_messages=100, queue_messages=20)
    network = Network(4, parameters=parameters)
    peers = grow(network, 8, links=3)
    network.run(2)
    publish_at_random(network, peers, 600, seconds=2)
    for _ in range(20):
        network.run(0.1)
        for node in network.nodes.values():
            assert len(node.router._cache) <= 50
            assert len(node.router._seen) <= 100
            assert all(len(one.outbox._messages) <= 20 for one in node.router._peers.values())


def test_the_same_seed_replays_the_same_run() -> None:
    def run(seed: int) -> tuple[int, int]:
        network = Network(seed, loss=0.1)
        peers = grow(network, 10, links=4)
        publish_at_random(network, peers, 20, seconds=2)
        network.run(6)
        return network.sent_rpcs, network.sent_bytes

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_a_message_costs_a_mesh_not_a_flood() -> None:
    network = Network(6)
    peers = grow(network, 40, links=20)
    network.run(5)
    before = network.sent_bytes
    network.publish(peers[0], bytes(500))
    network.run(0.9)
    copies = (network.sent_bytes - before) / 40 / 600
    assert copies < 12
