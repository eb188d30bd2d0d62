"""Two hundred identities on one machine, mined to lie around what is sought: they change little."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from lattica.dht._keys import K, position
from lattica.dht._lookup import Lookup
from lattica.dht._table import GROUP_IN_BUCKET, GROUP_IN_TABLE, RoutingTable
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo, ip_group

SYBILS = 200
MINED = 4000  # keys tried for them


def random_peers(count: int, rng: random.Random) -> list[PeerId]:
    return [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(count)]


@dataclass
class Eclipse:
    """A network in which the sybils of one /24 were everywhere first."""

    seed: int
    honest_count: int = 200
    addresses: dict[PeerId, Multiaddr] = field(default_factory=dict)
    tables: dict[PeerId, RoutingTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.honest = random_peers(self.honest_count, self.rng)
        self.victim = self.honest[0]
        target = position(self.victim.raw)
        mined = random_peers(MINED, self.rng)
        self.sybils = heapq.nsmallest(SYBILS, mined, key=lambda peer: position(peer.raw) ^ target)
        for number, peer in enumerate(self.honest):
            where = f"/ip4/{20 + number % 60}.{number // 60}.1.1/tcp/4001"
            self.addresses[peer] = Multiaddr.parse(where)
        for number, peer in enumerate(self.sybils):
            self.addresses[peer] = Multiaddr.parse(f"/ip4/90.1.1.{1 + number}/tcp/4001")
        for node in self.honest:
            table = self.tables[node] = RoutingTable(node)
            for peer in (*self.sybils, *self.rng.sample(self.honest, len(self.honest))):
                table.add(peer, now=0.0, group=self.group(peer))

    def group(self, peer: PeerId) -> bytes | None:
        return ip_group(self.addresses[peer])

    def infos(self, peers: list[PeerId]) -> list[PeerInfo]:
        return [PeerInfo(peer, (self.addresses[peer],)) for peer in peers]

    def answer(self, peer: PeerId, key: bytes) -> list[PeerInfo]:
        if peer in self.tables:
            return self.infos(self.tables[peer].closest(position(key), K))
        target = position(key)  # sybils know of sybils only
        return self.infos(
            heapq.nsmallest(K, self.sybils, key=lambda each: position(each.raw) ^ target)
        )

    def run(self, lookup: Lookup) -> None:
        while requests := lookup.next_requests(0.0):
            for info in self.rng.sample(requests, len(requests)):
                closer, group = self.answer(info.peer, lookup.key), self.group(info.peer)
                lookup.receive(info.peer, closer, now=0.0, group=group)


def test_two_hundred_sybils_of_one_network_hold_two_places_of_a_bucket_and_eclipse_nobody() -> None:
    found = count = 0
    for seed in range(4):
        eclipse = Eclipse(seed)
        sybils = set(eclipse.sybils)
        for table in eclipse.tables.values():
            buckets = [table.bucket_of(each.peer) for each in table if each.peer in sybils]
            assert len(buckets) <= GROUP_IN_TABLE
            assert all(buckets.count(bucket) <= GROUP_IN_BUCKET for bucket in buckets)
        for node in eclipse.honest[1:60:3]:
            key = eclipse.victim.raw
            seeds = [PeerInfo(peer, ()) for peer in eclipse.tables[node].closest(position(key), K)]
            lookup = Lookup(key, local=node, seeds=seeds, now=0.0)
            eclipse.run(lookup)
            assert lookup.finished
            found += lookup.path_of(eclipse.victim) is not None
            assert sum(info.peer in sybils for info in lookup.closest()) <= 4
            count += 1
    assert found / count >= 0.95
