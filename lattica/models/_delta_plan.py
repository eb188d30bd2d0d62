"""Which deltas to take: the cheapest way from what is held to what is wanted. Pure.

Versions are places and deltas roads between them, each as long as it has bytes. A version that is
held costs nothing to start from, so the answer is a shortest path (Dijkstra 1959), walked backwards
from the wanted version until one that is held is met.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lattica.cid import CID


@dataclass(frozen=True, slots=True)
class DeltaLink:
    """A delta that somebody has made.

    Attributes:
        base: the version it starts from.
        result: the version it gives.
        delta: the CID of the delta.
        size: bytes of the delta.
    """

    base: CID
    result: CID
    delta: CID
    size: int


def cheapest_chain(
    wanted: CID, held: Collection[CID], links: Iterable[DeltaLink], limit: int
) -> list[DeltaLink] | None:
    """Return the deltas that lead from a held version to the wanted one, in order of their use.

    Args:
        wanted: the version to reach.
        held: versions that are here.
        links: deltas that may be had.
        limit: bytes that all deltas together must stay below: what the wanted version costs whole.

    Returns:
        The chain with the fewest bytes, or None where none is below the limit.
    """
    into: defaultdict[CID, list[DeltaLink]] = defaultdict(list)
    for one in links:
        into[one.result].append(one)
    onwards: dict[CID, DeltaLink] = {}  # the first link of the best way from a version
    queue: list[tuple[int, int, CID, DeltaLink | None]] = [(0, 0, wanted, None)]
    settled: set[CID] = set()
    pushed = 0
    while queue:
        cost, _, version, link = heapq.heappop(queue)
        if version in settled:
            continue
        settled.add(version)
        if link is not None:
            onwards[version] = link
        if version in held:
            return _follow(version, wanted, onwards)
        for way in into[version]:
            total = cost + way.size
            if total < limit and way.base not in settled:
                pushed += 1  # breaks ties in the order given; CIDs are not compared
                heapq.heappush(queue, (total, pushed, way.base, way))
    return None


def _follow(version: CID, wanted: CID, onwards: dict[CID, DeltaLink]) -> list[DeltaLink]:
    chain = []
    while version != wanted:
        chain.append(onwards[version])
        version = onwards[version].result
    return chain
