"""The cheapest way to a version, held against trying all of them."""

from __future__ import annotations

from itertools import pairwise, permutations

from hypothesis import given, strategies as st

from lattica.cid import CID, Codec, HashFunction
from lattica.models import DeltaLink, cheapest_chain

VERSIONS = [CID.of(bytes([number]), Codec.RAW, HashFunction.BLAKE3) for number in range(5)]
LIMIT = 1000


def link(base: int, result: int, size: int) -> DeltaLink:
    delta = CID.of(bytes([base, result, size % 256]), Codec.RAW, HashFunction.BLAKE3)
    return DeltaLink(VERSIONS[base], VERSIONS[result], delta, size)


def test_one_long_delta_is_left_for_two_short_ones() -> None:
    one, two, three = link(0, 2, 100), link(0, 1, 30), link(1, 2, 40)
    assert cheapest_chain(VERSIONS[2], {VERSIONS[0]}, [one, two, three], LIMIT) == [two, three]
    assert cheapest_chain(VERSIONS[2], {VERSIONS[0]}, [one], LIMIT) == [one]


def test_what_costs_as_much_as_the_whole_version_is_not_taken() -> None:
    links = [link(0, 1, 60), link(1, 2, 40)]
    assert cheapest_chain(VERSIONS[2], {VERSIONS[0]}, links, 100) is None
    assert cheapest_chain(VERSIONS[2], {VERSIONS[0]}, links, 101) == links


def test_a_version_that_is_held_needs_no_delta() -> None:
    assert cheapest_chain(VERSIONS[0], {VERSIONS[0]}, [], LIMIT) == []


def test_nothing_leads_from_nothing() -> None:
    assert cheapest_chain(VERSIONS[2], set(), [link(0, 1, 1), link(1, 2, 1)], LIMIT) is None


links = st.lists(
    st.builds(link, st.integers(0, 4), st.integers(0, 4), st.integers(1, 400)), max_size=12
)


@given(links=links, held=st.sets(st.sampled_from(VERSIONS), max_size=2))
def test_no_other_way_is_shorter(links: list[DeltaLink], held: set[CID]) -> None:
    wanted = VERSIONS[4]
    chain = cheapest_chain(wanted, held, links, LIMIT)
    costs = [0] if wanted in held else []
    for start in held:
        between = [version for version in VERSIONS if version not in (start, wanted)]
        for count in range(len(between) + 1):
            middles = permutations(between, count)
            costs += [_cost([start, *middle, wanted], links) for middle in middles]
    best = min(costs, default=LIMIT)
    if chain is None:
        assert best >= LIMIT
        return
    assert sum(one.size for one in chain) == best
    versions = [one.base for one in chain] + [wanted]
    assert versions[0] in held
    assert [one.result for one in chain] == versions[1:]


def _cost(way: list[CID], links: list[DeltaLink]) -> int:
    total = 0
    for base, result in pairwise(way):
        sizes = [one.size for one in links if (one.base, one.result) == (base, result)]
        total += min(sizes, default=LIMIT)
    return total
