"""Scenarios of the DHT: joining, finding, surviving the dead and the hostile.

The functions that measure are the benchmark's as well; the scenarios hold their figures against
what must hold.
"""

from __future__ import annotations

import heapq
import math
import statistics
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lattica.dht._keys import K, position

from ._dht import DhtWorld, random_peer
from ._faults import Heal, Partition, churn
from ._hostile import Eclipser, Forger, Gang, Hostile, Silent, Withholder
from ._scenario import Run, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.dht._lookup import Lookup
    from lattica.identity import PeerId

    from ._dht import SimulatedDht

OPERATION_SECONDS = 120.0  # of virtual time, in which a lookup must have ended
LOOKUPS = 40  # in one run of a scenario


@dataclass(slots=True)
class Tally:
    """What a number of lookups came to."""

    hops: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    successes: int = 0

    @property
    def success(self) -> float:
        """The part that found what there was to find."""
        return self.successes / max(1, len(self.asked))

    def add(self, lookup: Lookup, *, success: bool) -> None:
        """Count one."""
        report = lookup.report()
        self.hops.append(report.hops)
        self.asked.append(report.asked)
        self.seconds.append(report.seconds)
        self.successes += success

    def figures(self, run: Run, prefix: str = "") -> None:
        """Note the means."""
        run.figure(f"{prefix}success", self.success)
        run.figure(f"{prefix}hops", statistics.mean(self.hops))
        run.figure(f"{prefix}requests", statistics.mean(self.asked))
        run.figure(f"{prefix}seconds", statistics.mean(self.seconds))


# What is measured.


def warm_world(run: Run, *, hostile: float = 0.0, **conditions: float) -> DhtWorld:
    """Return a network that has been up for long: all tables are full.

    Args:
        run: which seed, how many nodes.
        hostile: part of the nodes that are: equal parts silent, withholding, forging, eclipsing.
        conditions: of the network.
    """
    world = DhtWorld(run.simulation(**conditions), wire=False)
    gang = Gang()
    bad = round(run.nodes * hostile)
    kinds = (Silent, Withholder, Forger, Eclipser)
    for number in range(run.nodes):
        kind = kinds[number % len(kinds)] if number < bad else None
        options: dict[str, Any] = {"gang": gang} if kind not in (None, Silent) else {}
        world.add(kind=kind, upkeep=False, **options)
    world.warm()
    return world


def honest_nodes(world: DhtWorld) -> list[SimulatedDht]:
    """Return the nodes that run and mean no harm."""
    return [node for node in world.nodes() if not isinstance(node, Silent | Hostile)]


def kill(run: Run, world: DhtWorld, part: float) -> None:
    """Crash a part of all nodes. The others are not told."""
    peers = list(world.simulation.hosts)
    for peer in world.simulation.rng.sample(peers, round(len(peers) * part)):
        world.simulation.crash(peer)


def wait_for(world: DhtWorld, begin: Callable[[Callable[..., None]], None]) -> tuple[Any, ...]:
    """Let time pass until what `begin` began has called back; returns with what."""
    ended: list[tuple[Any, ...]] = []
    begin(lambda *results: ended.append(results))
    if not world.simulation.run(OPERATION_SECONDS, until=lambda: bool(ended)):
        raise RuntimeError(f"no end after {OPERATION_SECONDS} s")
    return ended[0]


def measure_lookups(world: DhtWorld, count: int) -> Tally:
    """Look for random keys from random honest nodes.

    Of the k nearest nodes that run, the honest ones matter. A lookup succeeds when it finds the
    nearest of them, and more than half of them: so any two that succeed have one in common, and who
    gets a record meets somebody who was there when it was put.
    """
    tally = Tally()
    honest = honest_nodes(world)
    good = {node.peer for node in honest}
    places = {node.peer: position(node.peer.raw) for node in world.nodes()}
    rng = world.simulation.rng
    for _ in range(count):
        key = b"\x12\x20" + rng.randbytes(32)
        node = rng.choice(honest)
        (lookup,) = wait_for(world, partial(node.find_node, key))
        expected = [peer for peer in _nearest(places, key, but=node.peer) if peer in good]
        found = {info.peer for info in lookup.answered()}
        met = sum(peer in found for peer in expected)
        tally.add(lookup, success=expected[0] in found and 2 * met > len(expected))
    return tally


def measure_providers(world: DhtWorld, count: int) -> Tally:
    """Provide random keys from random honest nodes; look for each from another.

    A lookup succeeds when the one true provider is among what it found.
    """
    tally = Tally()
    honest = honest_nodes(world)
    rng = world.simulation.rng
    for _ in range(count):
        key = b"\x12\x20" + rng.randbytes(32)
        provider, seeker = rng.sample(honest, 2)
        wait_for(world, partial(provider.provide, key))
        world.simulation.run(1.0)
        lookup, found = wait_for(world, partial(seeker.find_providers, key))
        tally.add(lookup, success=provider.peer in found)
    return tally


def _nearest(places: dict[PeerId, int], key: bytes, *, but: PeerId) -> list[PeerId]:
    target = position(key)
    nearest = heapq.nsmallest(K + 1, places, key=lambda peer: places[peer] ^ target)
    return [peer for peer in nearest if peer != but][:K]


def is_connected(world: DhtWorld) -> bool:
    """Say whether every running node knows every other, over however many others."""
    nodes = {node.peer: node for node in world.nodes()}
    outwards = {peer: [each.peer for each in node.table] for peer, node in nodes.items()}
    inwards: dict[PeerId, list[PeerId]] = {peer: [] for peer in nodes}
    for peer, known in outwards.items():
        for other in known:
            if other in inwards:
                inwards[other].append(peer)
    return all(
        len(_reached(next(iter(nodes)), edges, nodes)) == len(nodes)
        for edges in (outwards, inwards)
    )


def _reached(
    start: PeerId, edges: dict[PeerId, list[PeerId]], nodes: dict[PeerId, SimulatedDht]
) -> set[PeerId]:
    reached, frontier = {start}, [start]
    while frontier:
        for peer in edges[frontier.pop()]:
            if peer not in reached and peer in nodes:
                reached.add(peer)
                frontier.append(peer)
    return reached


# What must hold.


def join(run: Run) -> None:
    """Nodes that start at one instant with the same two bootstraps are one network in 10 s."""
    world = DhtWorld(run.simulation(loss=0.02, resend=0.3))
    both = [random_peer(world.simulation.rng) for _ in range(2)]
    for number in range(run.nodes):
        world.add(peer=both[number] if number < 2 else None, bootstrap=both)
    while world.simulation.now < 10.0:
        world.simulation.run(0.25)
        joined = all(node.joined_at is not None for node in world.nodes())
        if joined and is_connected(world):
            break
    run.figure("seconds", world.simulation.now)
    for node in world.nodes():
        run.check(node.joined_at is not None, f"{node.peer} has not joined after 10 s")
    run.check(is_connected(world), "the network is in parts after 10 s")
    tally = measure_lookups(world, run.nodes)
    run.figure("success", tally.success)
    run.check(tally.success == 1.0, f"{tally.success:.1%} of the lookups succeed, expected all")


def lookup(run: Run) -> None:
    """Lookups find the nearest nodes, in about log2 n steps."""
    tally = measure_lookups(warm_world(run), LOOKUPS)
    tally.figures(run)
    most = 1.0 + math.log2(run.nodes)
    run.check(tally.success == 1.0, f"{tally.success:.1%} of the lookups succeed, expected all")
    run.check(run.figures["hops"] <= most, f"{run.figures['hops']:.1f} hops, at most {most:.1f}")


def dead(run: Run) -> None:
    """Two of five nodes are dead and nobody has noticed: 95 % of the lookups succeed."""
    world = warm_world(run)
    kill(run, world, 0.4)
    tally = measure_lookups(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.95, f"{tally.success:.1%} of the lookups succeed, 95 % must")


def hostile(run: Run) -> None:
    """One of five nodes is silent, withholds, forges or eclipses: 99 % of the lookups succeed."""
    world = warm_world(run, hostile=0.2)
    tally = measure_lookups(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.99, f"{tally.success:.1%} of the lookups succeed, 99 % must")
    provided = measure_providers(world, LOOKUPS)
    provided.figures(run, "providers_")
    run.check(provided.success >= 0.99, f"{provided.success:.1%} find the provider, 99 % must")


def halves(run: Run) -> None:
    """A network that was in two halves for a minute becomes one again."""
    world = DhtWorld(run.simulation(loss=0.02, resend=0.3))
    first = random_peer(world.simulation.rng)
    peers = [world.add(peer=first), *(world.add(bootstrap=[first]) for _ in range(run.nodes - 1))]
    world.simulation.play([Partition(1.0, (tuple(peers[::2]),)), Heal(61.0)])
    world.simulation.run(61.0)
    while world.simulation.now < 1200.0:
        world.simulation.run(10.0)
        tally = measure_lookups(world, 10)
        if tally.success == 1.0:
            break
    run.figure("seconds", world.simulation.now - 61.0)
    run.check(tally.success == 1.0, "twenty minutes later lookups still end in one half")


def restless(run: Run) -> None:
    """Half the nodes come and go within minutes, messages are lost: what stays is found."""
    world = DhtWorld(run.simulation(loss=0.02, resend=0.3), wire=False)
    rng = world.simulation.rng
    both = [random_peer(rng) for _ in range(2)]
    peers = [
        world.add(peer=both[number] if number < 2 else None, bootstrap=both)
        for number in range(run.nodes)
    ]
    world.simulation.run(30.0)
    movers = rng.sample(peers[2:], run.nodes // 2)
    world.simulation.play(churn(movers, rng, seconds=600.0, up_seconds=300.0, down_seconds=60.0))
    world.simulation.run(600.0)
    tally = measure_lookups(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.95, f"{tally.success:.1%} of the lookups succeed, 95 % must")


SCENARIOS = (
    Scenario("dht-join", join.__doc__ or "", 20, join),
    Scenario("dht-lookup", lookup.__doc__ or "", 200, lookup),
    Scenario("dht-dead", dead.__doc__ or "", 200, dead),
    Scenario("dht-hostile", hostile.__doc__ or "", 200, hostile),
    Scenario("dht-halves", halves.__doc__ or "", 20, halves),
    Scenario("dht-restless", restless.__doc__ or "", 20, restless),
)
