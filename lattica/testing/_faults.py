"""What can go wrong in a network, and when: one vocabulary for both levels of simulation. Pure.

A scenario is a list of faults with their times. `Simulation.play` carries them out among state
machines, `Cluster.play` among whole nodes. Hosts go by the names that the scenario gave them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Hashable, Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens `at` so many seconds after the faults begin to be played."""

    at: float


@dataclass(frozen=True, slots=True)
class Partition(Fault):
    """From now on only hosts of one group reach each other.

    Hosts in no group form one of their own. A further partition takes the place of the one before.
    """

    groups: tuple[tuple[Hashable, ...], ...]


@dataclass(frozen=True, slots=True)
class Heal(Fault):
    """Everybody reaches everybody again."""


@dataclass(frozen=True, slots=True)
class Crash(Fault):
    """A host stops between two instructions: what it had in memory is gone, its disk stays."""

    host: Hashable


@dataclass(frozen=True, slots=True)
class Restart(Fault):
    """A crashed host starts again from its disk. One that runs goes on running."""

    host: Hashable


@dataclass(frozen=True, slots=True)
class Degrade(Fault):
    """The network loses this part of all messages, and takes so many times as long for the rest."""

    loss: float = 0.0
    slowdown: float = 1.0


class Faults(Protocol):
    """What a world must be able to do, to have faults played on it."""

    def partition(self, groups: Sequence[Sequence[Hashable]]) -> None:
        """See `Partition`."""

    def heal(self) -> None:
        """See `Heal`."""

    def crash(self, host: Hashable) -> None:
        """See `Crash`."""

    def restart(self, host: Hashable) -> None:
        """See `Restart`."""

    def degrade(self, *, loss: float, slowdown: float) -> None:
        """See `Degrade`."""


def apply(fault: Fault, world: Faults) -> None:
    """Carry out one fault now."""
    match fault:
        case Partition(groups=groups):
            world.partition(groups)
        case Heal():
            world.heal()
        case Crash(host=host):
            world.crash(host)
        case Restart(host=host):
            world.restart(host)
        case Degrade(loss=loss, slowdown=slowdown):
            world.degrade(loss=loss, slowdown=slowdown)
        case _:
            raise TypeError(f"no such fault: {fault!r}")


def churn(
    hosts: Iterable[Hashable],
    rng: random.Random,
    *,
    seconds: float,
    up_seconds: float,
    down_seconds: float,
) -> list[Fault]:
    """Return crashes and restarts of `hosts`, in order of time.

    Args:
        hosts: who comes and goes. All run at the beginning.
        rng: chance.
        seconds: how long it goes on; nothing happens afterwards.
        up_seconds: how long a host stays, on average (exponential: a few stay very long).
        down_seconds: how long it is away, on average.
    """
    faults: list[Fault] = []
    for host in hosts:
        when = rng.expovariate(1 / up_seconds)
        while when < seconds:
            faults.append(Crash(when, host))
            when += rng.expovariate(1 / down_seconds)
            if when < seconds:
                faults.append(Restart(when, host))
                when += rng.expovariate(1 / up_seconds)
    return sorted(faults, key=lambda fault: fault.at)
