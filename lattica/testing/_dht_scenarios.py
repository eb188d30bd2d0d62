"""Scenarios of the DHT: joining, finding, surviving the dead and the hostile."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

from lattica.dht._keys import shared_bits
from lattica.identity import Identity
from lattica.transport import ip_group

from ._dht_world import DhtWorld, peer_near, random_peer
from ._faults import Heal, Partition, churn
from ._hostile import Eclipser, Forger, Gang, Stale, Withholder
from ._scenario import Run, Scenario
from ._simulation import Clock
from .measure_dht import (
    OPERATION_SECONDS,
    get_values,
    honest_nodes,
    is_connected,
    kill,
    measure_lookups,
    measure_providers,
    measure_values,
    put_values,
    wait_for,
    warm_world,
)

LOOKUPS = 40  # in one run of a scenario


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
    # Three losses in a row keep a peer silent for longer than a lookup waits.
    run.check(tally.success >= 0.95, f"{tally.success:.1%} of the lookups succeed, 95 % must")


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
    kill(world, 0.4)
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


def clocks(run: Run) -> None:
    """A third of the clocks are minutes off: values are read as long as they live, no longer."""
    world = DhtWorld(run.simulation(), wire=False)
    rng = world.simulation.rng
    first = random_peer(rng)
    for number in range(run.nodes):
        off = rng.choice((-1, 1)) * rng.uniform(120.0, 540.0) if number % 3 == 2 else 0.0
        bootstrap = [first] if number else []
        world.add(peer=None if number else first, bootstrap=bootstrap, clock=Clock(off))
    world.simulation.run(60.0)
    nodes = world.nodes()
    for number in range(LOOKUPS // 8):
        key, author = b"/lattica/%d" % number, Identity(rng.randbytes(32))
        writer = rng.choice(nodes)
        item = writer.sign(author, key, number, ttl=120.0)
        _, took = wait_for(world, partial(writer.put, key, item))
        written = world.simulation.now
        run.check(took > 0, f"{writer.peer} wrote what nobody kept")
        for seconds, expected in ((0.0, [number]), (110.0, [number]), (121.0, [])):
            world.simulation.run(max(0.0, written + seconds - world.simulation.now))
            _, reading = wait_for(world, partial(rng.choice(nodes).get, key))
            found = [each.value for each in reading.found(b"", author.peer_id)]
            run.check(found == expected, f"after {seconds:.0f} s {found} is read, not {expected}")
    run.figure("worst_skew", max(abs(node.clock.skew) for node in nodes))


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
    Scenario("dht-clocks", clocks.__doc__ or "", 20, clocks),
    Scenario("dht-restless", restless.__doc__ or "", 20, restless),
)
