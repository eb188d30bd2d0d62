"""How long a message takes from one host to another: seeded distributions. Pure.

A latency is anything callable with two places and a random source. A place is a point in the unit
square that each host is given once, so that who is near stays near.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random

Place = tuple[float, float]


class Latency(Protocol):
    """Seconds from one place to another, one way."""

    def __call__(self, one: Place, other: Place, rng: random.Random) -> float:
        """Return how long this message takes."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between two bounds, whoever speaks to whom: a data centre."""

    least: float
    most: float

    def __call__(self, one: Place, other: Place, rng: random.Random) -> float:
        return self.least + (self.most - self.least) * rng.random()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Most near the median, a few far beyond it: an overloaded network."""

    median: float
    sigma: float = 0.5

    def __call__(self, one: Place, other: Place, rng: random.Random) -> float:
        return self.median * math.exp(rng.gauss(0.0, self.sigma))


@dataclass(frozen=True, slots=True)
class Planet:
    """Hosts spread over a flat earth: light in fibre, and a queue now and then.

    With the defaults one way takes 5 to 150 ms, 60 in the middle: the pairs that were measured
    between hosts on the internet (Dabek et al., *Vivaldi*, SIGCOMM 2004, §4) are much like it.
    """

    least: float = 0.005
    across: float = 0.110
    jitter: float = 0.1

    def __call__(self, one: Place, other: Place, rng: random.Random) -> float:
        distance = math.hypot(one[0] - other[0], one[1] - other[1])
        return (self.least + self.across * distance) * (1 + rng.expovariate(1 / self.jitter))
