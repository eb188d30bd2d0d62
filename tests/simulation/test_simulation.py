"""The simulator itself: a seed decides everything, and faults do what they say."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lattica.testing import (
    Clock,
    Crash,
    Degrade,
    Heal,
    Host,
    LogNormal,
    Partition,
    Planet,
    Restart,
    Simulation,
    Uniform,
    churn,
)

if TYPE_CHECKING:
    from collections.abc import Hashable

    from lattica.testing import Fault


class Gossiper:
    """Passes each number on to a random other host, one higher, and remembers the highest."""

    def __init__(self, host: Host, names: list[str]) -> None:
        self.host, self.names = host, names
        self.heard: list[int] = []
        self.highest: int = host.disk.get("highest", 0)
        self.ticks = 0
        host.after(1.0, self.tick)

    def tick(self) -> None:
        self.ticks += 1
        self.pass_on(self.highest)
        self.host.after(1.0, self.tick)

    def pass_on(self, number: int) -> None:
        self.host.send(self.host.rng.choice(self.names), number.to_bytes(4, "big"))

    def receive(self, sender: Hashable, message: Any) -> None:
        number = int.from_bytes(message, "big") + 1
        self.heard.append(number)
        if number > self.highest:
            self.highest = self.host.disk["highest"] = number


def gossip(seed: int, **conditions: Any) -> Simulation:
    simulation = Simulation(seed, **conditions)
    names = [f"node-{number}" for number in range(10)]
    for name in names:
        simulation.add(name, lambda host: Gossiper(host, names))
    return simulation


def actor(simulation: Simulation, name: str) -> Gossiper:
    found = simulation.hosts[name].actor
    assert isinstance(found, Gossiper)
    return found


def stormy(seed: int) -> Simulation:
    simulation = gossip(seed, latency=LogNormal(0.05), loss=0.1)
    faults: list[Fault] = churn(
        simulation.hosts, simulation.rng, seconds=60, up_seconds=20, down_seconds=5
    )
    halves = (tuple(f"node-{number}" for number in range(5)),)
    faults += [Partition(10, halves), Heal(20), Degrade(30, loss=0.5, slowdown=4.0)]
    simulation.play(faults)
    simulation.run(60)
    return simulation


def test_one_seed_gives_one_trace_and_another_seed_another() -> None:
    one, again, other = stormy(1), stormy(1), stormy(2)
    assert one.digest == again.digest
    assert one.events == again.events
    assert one.digest != other.digest


def test_a_trace_does_not_depend_on_the_process_that_runs_it() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from tests.simulation.test_simulation import stormy; print(stormy(3).digest)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    digests = set()
    for hash_seed in ("1", "2"):  # Python orders sets by it
        done = subprocess.run(
            [sys.executable, "-c", program, root],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        digests.add(done.stdout.strip())
    assert digests == {stormy(3).digest}


def test_the_trace_hash_covers_what_was_said() -> None:
    def run(word: bytes) -> str:
        simulation = gossip(1)
        simulation.hosts["node-0"].send("node-1", word)
        simulation.run(0.5)
        return simulation.digest

    assert run(b"\0\0\0\1") != run(b"\0\0\0\2")


def test_nothing_passes_a_partition_until_it_heals() -> None:
    simulation = gossip(4, latency=Uniform(0.01, 0.02))
    island = ("node-0", "node-1")
    simulation.play([Partition(0.0, (island,)), Heal(50.0)])
    simulation.hosts["node-5"].disk["highest"] = 0
    actor(simulation, "node-5").highest = 1000
    simulation.run(50)
    assert all(actor(simulation, name).highest < 1000 for name in island)
    assert actor(simulation, "node-6").highest >= 1000
    simulation.run(20)
    assert all(actor(simulation, name).highest >= 1000 for name in island)


def test_a_crash_takes_memory_and_timers_and_leaves_the_disk() -> None:
    simulation = gossip(5)
    simulation.run(20)
    before = actor(simulation, "node-3")
    assert before.heard
    simulation.play([Crash(0.0, "node-3"), Restart(10.0, "node-3")])
    ticks = before.ticks
    simulation.run(9.0)
    assert not simulation.hosts["node-3"].running
    assert before.ticks == ticks
    assert simulation.run(2.0, until=lambda: simulation.hosts["node-3"].running)
    after = actor(simulation, "node-3")
    assert after is not before
    assert after.heard == []
    assert after.highest == before.highest > 0


def test_loss_and_crashed_hosts_lose_messages_which_are_counted() -> None:
    simulation = gossip(6, loss=0.25)
    simulation.run(200)
    sent = sum(host.sent_messages for host in simulation.hosts.values())
    received = sum(host.received_messages for host in simulation.hosts.values())
    assert 0.2 < simulation.lost_messages / sent < 0.3
    assert 0 <= sent - received - simulation.lost_messages <= 10  # on their way
    assert sum(host.sent_bytes for host in simulation.hosts.values()) == 4 * sent


def test_a_degraded_network_is_slow() -> None:
    def seconds(slowdown: float) -> float:
        simulation = gossip(7, latency=Uniform(0.1, 0.1))
        simulation.degrade(loss=0.0, slowdown=slowdown)
        simulation.hosts["node-0"].send("node-1", bytes(4))
        simulation.run(0.9, until=lambda: bool(actor(simulation, "node-1").heard))
        return simulation.now

    assert seconds(1.0) == pytest.approx(0.1)
    assert seconds(5.0) == pytest.approx(0.5)


def test_a_wrong_clock_shows_on_the_wall_and_moves_no_deadline() -> None:
    simulation = Simulation(8)
    right = simulation.add("right", lambda host: Gossiper(host, ["right"]))
    wrong = simulation.add(
        "wrong", lambda host: Gossiper(host, ["right"]), clock=Clock(offset=-300.0, rate=1.001)
    )
    simulation.run(1000)
    assert wrong.now == right.now == 1000
    assert wrong.wall_time - right.wall_time == pytest.approx(-299.0)


def test_an_ordered_network_lets_nothing_overtake() -> None:
    def order(*, ordered: bool) -> list[int]:
        simulation = gossip(9, latency=LogNormal(0.05, 1.0), ordered=ordered)
        for number in range(50):
            simulation.hosts["node-0"].send("node-1", number.to_bytes(4, "big"))
        simulation.run(0.99)
        return actor(simulation, "node-1").heard

    assert order(ordered=True) == sorted(order(ordered=True))
    assert order(ordered=False) != sorted(order(ordered=False))


def test_an_uplink_sends_one_message_after_the_other() -> None:
    simulation = Simulation(10, latency=Uniform(0.0, 0.0))
    simulation.add("there", lambda host: Gossiper(host, ["there"]))
    sender = simulation.add("here", lambda host: Gossiper(host, ["here"]), uplink=100.0)
    for _ in range(3):
        sender.send("there", bytes(4), size=20)
    arrivals = []
    heard = actor(simulation, "there").heard
    for count in (1, 2, 3):
        simulation.run(0.9, until=lambda count=count: len(heard) == count)  # type: ignore[misc]  # no: it is bound
        arrivals.append(simulation.now)
    assert arrivals == pytest.approx([0.2, 0.4, 0.6])


def test_churn_alternates_and_ends_in_time() -> None:
    faults = churn(["a", "b"], random.Random(1), seconds=500, up_seconds=30, down_seconds=10)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[-1].at < 500
    for name in ("a", "b"):
        kinds = [
            type(fault)
            for fault in faults
            if isinstance(fault, Crash | Restart) and fault.host == name
        ]
        assert len(kinds) > 10
        assert kinds == [(Crash, Restart)[turn % 2] for turn in range(len(kinds))]


def test_who_is_near_on_the_planet_stays_near() -> None:
    planet, rng = Planet(), random.Random(1)
    near = [planet((0.1, 0.1), (0.12, 0.1), rng) for _ in range(200)]
    far = [planet((0.1, 0.1), (0.9, 0.9), rng) for _ in range(200)]
    assert max(near) < min(far)
    assert min(near) >= planet.least


def test_two_hosts_of_one_name_are_refused() -> None:
    simulation = gossip(11)
    with pytest.raises(ValueError, match="node-1"):
        simulation.add("node-1", lambda host: Gossiper(host, []))
