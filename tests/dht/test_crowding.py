"""A key that is full: who gives way, and what a flood from many networks leaves of the others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from lattica.dht._crowding import FREE_BYTES, Claim, Crowding
from lattica.dht._keys import K

PLACES, SIZE = 64, 64 * FREE_BYTES


def claim(name: str, network: bytes, *, author: str = "", size: int = 200) -> Claim:
    return Claim(name.encode(), (author or name).encode(), network, size)


class Key:
    """One key at one keeper, with room for 64 values."""

    def __init__(self, secret: int) -> None:
        self.crowding = Crowding(secret.to_bytes(16, "big"))
        self.held: dict[bytes, Claim] = {}

    def put(self, newcomer: Claim) -> bool:
        held = [each for each in self.held.values() if each.place != newcomer.place]
        leaving = self.crowding.leaving(held, newcomer, count=PLACES, size=SIZE)
        if leaving is None:
            return False
        for place in leaving:
            del self.held[place]
        self.held[newcomer.place] = newcomer
        return True


def networks(count: int, rng: random.Random) -> list[bytes]:
    """Networks of different operators."""
    return [each.to_bytes(2, "big") + b"\x07" for each in rng.sample(range(1 << 16), count)]


def readable(flood: int, *, honest_first: bool, seed: int, size: int = 200) -> float:
    """Return the share of honest writers of whom a reader of most keepers finds the value."""
    rng = random.Random(seed)
    names = networks(flood + 8, rng)
    honest = [claim(f"honest-{n}", names.pop()) for n in range(8)]
    attack = [claim(f"flood-{n}", name, size=size) for n, name in enumerate(names)]
    keepers = [Key(rng.getrandbits(64)) for _ in range(K)]
    for keeper in keepers:
        for each in (*honest, *attack) if honest_first else (*attack, *honest):
            keeper.put(each)
    found = 0
    for each in honest:
        for _ in range(20):
            asked = rng.sample(keepers, K // 2 + 1)
            found += any(each.place in keeper.held for keeper in asked)
    return found / (20 * len(honest))


@pytest.mark.parametrize("honest_first", [True, False])
def test_a_flood_from_twice_as_many_networks_as_there_are_places_hides_nobody(
    honest_first: bool,
) -> None:
    found = [readable(2 * PLACES, honest_first=honest_first, seed=seed) for seed in range(3)]
    assert sum(found) / len(found) >= 0.99


@pytest.mark.parametrize("honest_first", [True, False])
def test_of_four_times_as_many_networks_most_writers_are_still_found(honest_first: bool) -> None:
    found = [readable(4 * PLACES, honest_first=honest_first, seed=seed) for seed in range(3)]
    assert sum(found) / len(found) >= 0.85


def test_large_values_of_many_networks_give_way_to_small_ones() -> None:
    found = readable(4 * PLACES, honest_first=False, seed=1, size=4 * FREE_BYTES)
    assert found == 1.0


def test_networks_of_one_operator_count_as_one() -> None:
    key = Key(1)
    for number in range(250):
        key.put(claim(f"flood-{number}", bytes((6, 6, number))))
    for number, network in enumerate(networks(PLACES - 1, random.Random(2))):
        assert key.put(claim(f"honest-{number}", network))
    assert sum(name.startswith(b"flood") for name in key.held) == 1


def test_authors_that_one_network_invents_share_its_part_and_the_first_ones_stay() -> None:
    key = Key(1)
    for number in range(PLACES):
        assert key.put(claim(f"early-{number}", b"one"))
    assert not key.put(claim("late", b"one"))
    assert key.put(claim("elsewhere", b"two"))
    assert len(key.held) == PLACES


def test_of_a_network_the_author_with_most_loses_its_oldest() -> None:
    key = Key(1)
    for number in range(PLACES):
        key.put(claim(f"greedy-{number}", b"one", author="greedy"))
    assert key.put(claim("modest", b"one"))
    assert b"greedy-0" not in key.held
    assert b"modest" in key.held


@given(st.data())
def test_what_stays_fits_and_chance_does_not_depend_on_arrival(data: st.DataObject) -> None:
    size = st.integers(1, SIZE)
    key, other = Key(3), Key(3)
    names = networks(100, random.Random(4))
    claims = [claim(f"{number}", name) for number, name in enumerate(names)]
    for each in claims:
        key.put(each)
    for each in data.draw(st.permutations(claims)):
        other.put(each)
    assert key.held.keys() == other.held.keys(), "one each: only the keeper's secret decides"
    for number in range(3):
        key.put(claim(f"large-{number}", data.draw(st.binary(max_size=6)), size=data.draw(size)))
        assert len(key.held) <= PLACES
        assert sum(each.size for each in key.held.values()) <= SIZE
