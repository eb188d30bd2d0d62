"""What a simulated DHT does and costs: lookups, values, providers, an hour at rest, memory.

The scenarios hold these figures against what must hold; the benchmark prints them.
"""

from __future__ import annotations

import heapq
import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lattica.dht._keys import position
from lattica.identity import Identity

from ._dht_world import DhtWorld
from ._hostile import Eclipser, Forger, Gang, Hostile, Silent, Stale, Withholder

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.dht._lookup import Lookup
    from lattica.identity import PeerId

    from ._dht_node import SimulatedDht
    from ._scenario import Run

OPERATION_SECONDS = 120.0  # of virtual time, in which a lookup must have ended


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


def kill(world: DhtWorld, part: float) -> None:
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


def measure_rest(world: DhtWorld, alive: int, *, keys: int = 10) -> dict[str, float]:
    """Let some nodes live for three and a half hours, and look at the last of them.

    The first go into getting to know each other, and into announcing at short intervals what is
    new. Each looks after its table and announces what it provides; nobody asks for anything. The
    others only answer, so that all traffic is caused by those that live, and a part of a large
    network tells what all of it would do.

    Args:
        world: warm tables.
        alive: how many nodes live.
        keys: how many each provides.

    Returns:
        Messages and bytes that a node sends in the hour, by name.
    """
    simulation = world.simulation
    for node in simulation.rng.sample(honest_nodes(world), alive):
        for _ in range(keys):
            node.schedule.add(b"\x12\x20" + node.host.rng.randbytes(32), now=simulation.now)
        node.live()
    simulation.run(2.5 * 3600.0)
    before = _sent(world)
    simulation.run(3600.0)
    messages, size = (after - then for after, then in zip(_sent(world), before, strict=True))
    return {"messages_per_hour": messages / alive, "bytes_per_hour": size / alive}


def _sent(world: DhtWorld) -> tuple[int, int]:
    hosts = world.simulation.hosts.values()
    return sum(host.sent_messages for host in hosts), sum(host.sent_bytes for host in hosts)


def memory_of_a_node(world: DhtWorld, *, sample: int = 20) -> float:
    """Return how many bytes the tables and records of a node take, on average."""
    nodes = world.simulation.rng.sample(honest_nodes(world), min(sample, len(world.nodes())))
    parts = ([node.table, node.store, node.schedule, node.keeper] for node in nodes)
    return statistics.mean(_size(part, set()) for part in parts)


def _size(thing: object, seen: set[int]) -> int:
    if id(thing) in seen or isinstance(thing, type) or callable(thing):
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, dict):
        return size + sum(_size(key, seen) + _size(value, seen) for key, value in thing.items())
    if isinstance(thing, list | tuple | set | frozenset):
        return size + sum(_size(each, seen) for each in thing)
    names = [*getattr(thing, "__dict__", ()), *getattr(thing, "__slots__", ())]
    return size + sum(_size(getattr(thing, name, None), seen) for name in names)
