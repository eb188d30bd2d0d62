"""Scenarios of the DHT: joining, finding, surviving the dead and the hostile.

The functions that measure are the benchmark's as well; the scenarios hold their figures against
what must hold.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lattica.dht._keys import position, shared_bits
from lattica.identity import Identity
from lattica.transport import ip_group

from ._dht import DhtWorld, peer_near, random_peer
from ._faults import Heal, Partition, churn
from ._hostile import Eclipser, Forger, Gang, Hostile, Silent, Stale, Withholder
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
        hostile: part of the nodes that are: as many silent as withholding, forging, stale and
            eclipsing ones.
        conditions: of the network.
    """
    world = DhtWorld(run.simulation(**conditions), wire=False)
    gang = Gang()
    bad = round(run.nodes * hostile)
    kinds = (Silent, Withholder, Forger, Stale, Eclipser)
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

    A lookup succeeds when it finds the nearest honest node that runs.
    """
    tally = Tally()
    honest = honest_nodes(world)
    places = {node.peer: position(node.peer.raw) for node in honest}
    rng = world.simulation.rng
    for _ in range(count):
        key = b"\x12\x20" + rng.randbytes(32)
        node = rng.choice(honest)
        (lookup,) = wait_for(world, partial(node.find_node, key))
        found = {info.peer for info in lookup.answered()}
        tally.add(lookup, success=_nearest(places, key, but=node.peer) in found)
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


def measure_values(world: DhtWorld, count: int, *, gets: int = 2) -> Tally:
    """Put a value, then a newer one; get it from other nodes, `gets` times. `count` gets in all.

    A get succeeds when it returns the newer value of the author, and no other of that author.
    """
    tally = Tally()
    honest = honest_nodes(world)
    rng = world.simulation.rng
    while len(tally.asked) < count:
        key, author = f"/lattica/{rng.getrandbits(64)}".encode(), Identity(rng.randbytes(32))
        writer, *readers = rng.sample(honest, min(1 + gets, len(honest)))
        for value in ("old", "new"):
            item = writer.sign(author, key, value, sequence=1 if value == "old" else 2)
            wait_for(world, partial(writer.put, key, item))
        for reader in readers[: count - len(tally.asked)]:
            lookup, reading = wait_for(world, partial(reader.get, key))
            found = [each.value for each in reading.found(b"", author.peer_id)]
            tally.add(lookup, success=found == ["new"])
    return tally


def put_values(world: DhtWorld, count: int) -> dict[bytes, PeerId]:
    """Put as many values from random honest nodes; returns the author of each by its key."""
    rng = world.simulation.rng
    authors = {}
    for number in range(count):
        key, author = b"/lattica/%d" % number, Identity(rng.randbytes(32))
        writer = rng.choice(honest_nodes(world))
        wait_for(world, partial(writer.put, key, writer.sign(author, key, number)))
        authors[key] = author.peer_id
    return authors


def get_values(world: DhtWorld, authors: dict[bytes, PeerId]) -> Tally:
    """Get what `put_values` has put, each from a random honest node."""
    tally = Tally()
    for number, (key, author) in enumerate(authors.items()):
        reader = world.simulation.rng.choice(honest_nodes(world))
        lookup, reading = wait_for(world, partial(reader.get, key))
        found = [each.value for each in reading.found(b"", author)]
        tally.add(lookup, success=found == [number])
    return tally


def _nearest(places: dict[PeerId, int], key: bytes, *, but: PeerId) -> PeerId:
    target = position(key)
    both = heapq.nsmallest(2, places, key=lambda peer: places[peer] ^ target)
    return both[0] if both[0] != but else both[1]


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
    """Two of five nodes have died, unnoticed: 95 % of lookups and gets of old values succeed."""
    world = warm_world(run)
    values = put_values(world, LOOKUPS)
    kill(run, world, 0.4)
    tally = measure_lookups(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.95, f"{tally.success:.1%} of the lookups succeed, 95 % must")
    gets = get_values(world, values)
    gets.figures(run, "values_")
    run.check(gets.success >= 0.95, f"{gets.success:.1%} of the gets succeed, 95 % must")


def hostile(run: Run) -> None:
    """One of five nodes is silent, withholds, forges or eclipses: 99 % of the lookups succeed."""
    world = warm_world(run, hostile=0.2)
    tally = measure_lookups(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.99, f"{tally.success:.1%} of the lookups succeed, 99 % must")
    values = measure_values(world, LOOKUPS)
    values.figures(run, "values_")
    run.check(values.success >= 0.99, f"{values.success:.1%} of the gets succeed, 99 % must")
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


def poison(run: Run) -> None:
    """Two of five nodes forge, tell what is old or withhold: the newest value is found."""
    world = DhtWorld(run.simulation(), wire=False)
    gang = Gang()
    kinds = (Forger, Stale, Withholder)
    bad = run.nodes * 2 // 5
    first = random_peer(world.simulation.rng)
    for number in range(run.nodes):
        peer = first if number == 0 else None
        if 0 < number <= bad:
            world.add(bootstrap=[first], kind=kinds[number % 3], gang=gang)
        else:
            world.add(peer=peer, bootstrap=[first])
    world.simulation.run(60.0)
    tally = measure_values(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.99, f"{tally.success:.1%} of the gets find the newest, 99 % must")


def sybils(run: Run) -> None:
    """Ten times as many identities from one /24: two in a bucket at most, and 95 % is found."""
    world = warm_world(run)
    gang = Gang()
    for _ in range(10 * run.nodes):
        world.add(network="50.60.70", kind=Eclipser, gang=gang)
    victims = honest_nodes(world)
    rng = world.simulation.rng
    for node in victims:  # each sybil calls on everybody, and whoever asks it is answered
        for peer in rng.sample(gang.members, 100):
            node.consider(peer)
    world.simulation.run(60.0)
    network = ip_group(world.addresses(gang.members[0])[0])
    worst = 0
    for node in victims:
        buckets = Counter(
            shared_bits(node.table.position, contact.position)
            for contact in node.table
            if contact.group == network
        )
        worst = max([worst, *buckets.values()])
    run.figure("most_in_a_bucket", worst)
    run.check(worst <= 2, f"{worst} sybils of one /24 in one bucket, at most 2")
    tally = measure_lookups(world, LOOKUPS)
    tally.figures(run)
    run.check(tally.success >= 0.95, f"{tally.success:.1%} of the lookups succeed, 95 % must")
    values = measure_values(world, LOOKUPS)
    values.figures(run, "values_")
    run.check(values.success >= 0.95, f"{values.success:.1%} of the gets succeed, 95 % must")


def eclipse(run: Run) -> None:
    """Thirty identities mined next to a key, in three networks: its value is found all the same."""
    world = warm_world(run)
    gang, rng = Gang(), world.simulation.rng
    key, author = b"/lattica/victim", Identity(rng.randbytes(32))
    bits = math.ceil(math.log2(run.nodes)) + 2  # nearer than any honest node is likely to be
    for number in range(30):
        network = f"50.60.{number % 3}"
        world.add(peer=peer_near(key, bits, rng), network=network, kind=Eclipser, gang=gang)
    honest = honest_nodes(world)
    for node in honest:
        for peer in gang.members:
            node.consider(peer)
    world.simulation.run(60.0)
    succeeded = 0
    for number in range(LOOKUPS):
        writer, reader = rng.sample(honest, 2)
        item = writer.sign(author, key, number, sequence=number + 1)
        wait_for(world, partial(writer.put, key, item))
        _, reading = wait_for(world, partial(reader.get, key))
        succeeded += [each.value for each in reading.found(b"", author.peer_id)] == [number]
    run.figure("success", succeeded / LOOKUPS)
    run.check(succeeded >= 0.99 * LOOKUPS, f"{succeeded} of {LOOKUPS} gets succeed, 99 % must")


def writers(run: Run) -> None:
    """Everybody writes to one key at one instant, each under a subkey: all of it is read by all."""
    world = warm_world(run)
    nodes = world.nodes()
    authors = [Identity(world.simulation.rng.randbytes(32)) for _ in nodes]
    key, done = b"/lattica/all", []
    for number, (node, author) in enumerate(zip(nodes, authors, strict=True)):
        item = node.sign(author, key, number, subkey=b"%d" % number)
        node.put(key, item, lambda _lookup, took: done.append(took))
    if not world.simulation.run(OPERATION_SECONDS, until=lambda: len(done) == len(nodes)):
        raise RuntimeError(f"{len(nodes) - len(done)} puts have not ended")
    least = run.nodes
    for node in nodes:
        _, reading = wait_for(world, partial(node.get, key))
        least = min(least, len({each.value for each in reading.found(None, None)}))
    run.figure("least_read", least)
    run.check(least == run.nodes, f"a node reads {least} of {run.nodes} values")


SCENARIOS = (
    Scenario("dht-join", join.__doc__ or "", 20, join),
    Scenario("dht-lookup", lookup.__doc__ or "", 200, lookup),
    Scenario("dht-dead", dead.__doc__ or "", 200, dead),
    Scenario("dht-hostile", hostile.__doc__ or "", 200, hostile),
    Scenario("dht-poison", poison.__doc__ or "", 20, poison),
    Scenario("dht-sybils", sybils.__doc__ or "", 20, sybils),
    Scenario("dht-eclipse", eclipse.__doc__ or "", 200, eclipse),
    Scenario("dht-writers", writers.__doc__ or "", 64, writers),
    Scenario("dht-halves", halves.__doc__ or "", 20, halves),
    Scenario("dht-restless", restless.__doc__ or "", 20, restless),
)
