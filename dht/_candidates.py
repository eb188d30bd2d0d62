"""The peers that a lookup knows of: their order, their paths, how far each is believed. Pure.

Whatever a peer answers is hearsay, and a lookup must not be led by it (spec/dht.md §5):

- **Paths.** A peer that was asked on one path is never asked, and so never listened to, on another.
  A hostile answer can only mislead the path it came on (S/Kademlia, Baumgart and Mies, 2007, §4.4).
- **Hearsay.** Of the peers that one answerer alone has named, `HEARSAY` may be asked and silent at
  a time; each that answers makes room for one more. So a liar has us knock at a handful of
  doors, while who tells the truth is believed without end. A peer that two have named, from
  different networks, is no longer hearsay; nor is one from our own table. One that was not there
  where the first said is asked once more where another says: so nobody hides a peer by naming it
  first, at addresses that lead nowhere.
- **Groups.** Of one network (`transport.ip_group`) the answers of `GROUP_ANSWERS` peers count, and
  twice as many are asked by the addresses that they are said to have. In what is found, and where
  the lookup decides that it has arrived, its nearest `GROUP_FOUND` count.
- **Bounds.** So many candidates in all; the furthest that was not asked gives way.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from lattica.transport import PeerInfo

from ._keys import place_of
from ._messages import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lattica.identity import PeerId
    from lattica.transport import Multiaddr

MAX_CANDIDATES = 256  # peers remembered per lookup
HEARSAY = 5  # peers named by one alone that are asked and have not answered
GROUP_ANSWERS = 10  # peers of one network that are listened to in a lookup
GROUP_FOUND = 4  # of them among the k nearest


class State(enum.Enum):
    """What became of a candidate."""

    NEW = enum.auto()
    ASKED = enum.auto()
    SLOW = enum.auto()  # asked, silent beyond the soft deadline
    ANSWERED = enum.auto()
    FAILED = enum.auto()
    CROWDED = enum.auto()  # answered from a network of which enough have


class Candidate:
    """A peer that may be asked.

    Attributes:
        peer: who.
        distance: from the target.
        hops: steps from our own contacts.
        addresses: what was said about where it is.
        paths: a bit for each path on which it was heard of.
        path: the path on which it was asked; -1 before.
        namer: who alone has named it; None: it is confirmed, or from our own table.
        tried: the addresses at which it was asked.
        revived: whether it failed, and is to be asked elsewhere since.
        silent: those it alone has named that were asked and have not answered.
        truthful: those that have answered.
    """

    __slots__ = (
        "addresses",
        "asked_at",
        "charged",
        "distance",
        "group",
        "hard_at",
        "hops",
        "namer",
        "path",
        "paths",
        "peer",
        "revived",
        "silent",
        "soft_at",
        "state",
        "tried",
        "truthful",
    )

    def __init__(self, peer: PeerId, distance: int, hops: int, namer: Candidate | None) -> None:
        self.peer, self.distance, self.hops, self.namer = peer, distance, hops, namer
        self.addresses: tuple[Multiaddr, ...] = ()
        self.state = State.NEW
        self.paths, self.path = 0, -1
        self.asked_at = self.soft_at = self.hard_at = 0.0
        self.group: bytes | None = None  # from where it answered
        self.charged: Candidate | None = None  # whose word it was asked on
        self.silent = self.truthful = 0
        self.revived = False
        self.tried: tuple[Multiaddr, ...] = ()

    @property
    def info(self) -> PeerInfo:
        """The peer and where it may be."""
        return PeerInfo(self.peer, self.addresses)

    def confirm(self) -> None:
        """Take it for named by more than one."""
        self.namer = None
        if self.charged is not None:
            self.charged.silent -= 1
            self.charged = None


class Candidates:
    """All candidates of one lookup, by distance."""

    __slots__ = ("_answers_of", "_asked_of", "_by_peer", "_group_of", "_order", "_target")

    def __init__(self, target: int, *, group_of: Callable[[Multiaddr], bytes | None]) -> None:
        self._target, self._group_of = target, group_of
        self._by_peer: dict[bytes, Candidate] = {}
        self._order: list[tuple[int, Candidate]] = []  # of those that have not failed
        self._asked_of, self._answers_of = Counter[bytes](), Counter[bytes]()

    def __len__(self) -> int:
        return len(self._by_peer)

    def __iter__(self) -> Iterator[Candidate]:
        """Yield those that have not failed, the nearest first."""
        for _, candidate in self._order:
            yield candidate

    def get(self, peer: PeerId) -> Candidate | None:
        """Return the candidate, whatever became of it."""
        return self._by_peer.get(peer.raw)

    def hear(self, info: PeerInfo, *, paths: int, namer: Candidate | None, hops: int) -> None:
        """Take in a peer that `namer` has named (None: we know it ourselves) on some paths."""
        raw = info.peer.raw
        known = self._by_peer.get(raw)
        if known is None:
            distance = place_of(raw) ^ self._target
            if len(self._by_peer) >= MAX_CANDIDATES and not self._make_room(distance):
                return
            known = Candidate(info.peer, distance, hops, namer)
            self._by_peer[raw] = known
            self._order.insert(bisect_left(self._order, (distance,)), (distance, known))
        elif known.state is State.FAILED:
            if namer is not known.namer and self._revive(known, info.addresses, namer):
                known.paths |= paths
            return
        elif known.namer is not None and _is_second_source(known.namer, namer):
            known.confirm()
        known.paths |= paths
        if info.addresses and info.addresses != known.addresses:
            merged = dict.fromkeys((*known.addresses, *info.addresses))
            known.addresses = tuple(merged)[:MAX_ADDRESSES]

    def nearest(self, k: int) -> list[Candidate]:
        """Return the nearest that have answered, at most `k`, and few of each network."""
        found: list[Candidate] = []
        groups = Counter[bytes]()
        for _, candidate in self._order:
            if candidate.state is State.ANSWERED and _is_let_in(candidate.group, groups):
                found.append(candidate)
                if len(found) == k:
                    break
        return found

    def next_on(self, paths: int, k: int) -> Candidate | None:
        """Return the nearest to ask, of the `k` nearest on any of these paths that may answer.

        Slow ones do not count among the k, or a few dead peers near the target would end the lookup
        early; nor do those that may not be asked.
        """
        alive = 0
        groups = Counter[bytes]()
        for _, candidate in self._order:
            if not candidate.paths & paths:
                continue
            state = candidate.state
            if state is State.NEW:
                if self._may_ask(candidate):
                    return candidate
            elif state is not State.SLOW and _is_let_in(candidate.group, groups):
                alive += 1
                if alive == k:
                    return None
        return None

    def ask(self, candidate: Candidate, path: int) -> None:
        """Note that it is asked on this path."""
        candidate.state, candidate.path = State.ASKED, path
        candidate.tried = candidate.addresses
        if candidate.namer is not None:
            candidate.charged = candidate.namer
            candidate.charged.silent += 1
        for group in self._claimed(candidate):
            if group is not None:
                self._asked_of[group] += 1

    def answered(self, candidate: Candidate, group: bytes | None) -> bool:
        """Note that it has answered, from `group`; says whether its answer counts."""
        if candidate.charged is not None:
            candidate.charged.truthful += 1
            candidate.confirm()
        if group is not None:
            if self._answers_of[group] >= GROUP_ANSWERS:
                self._drop(candidate, State.CROWDED)
                return False
            self._answers_of[group] += 1
        candidate.state, candidate.group = State.ANSWERED, group
        return True

    def failed(self, candidate: Candidate) -> None:
        """Note that asking it failed. It stays known, and comes back once at most."""
        self._drop(candidate, State.FAILED)
        self._revive(candidate, candidate.addresses, candidate.namer)

    def _revive(
        self, known: Candidate, addresses: Sequence[Multiaddr], namer: Candidate | None
    ) -> bool:
        """Have one that failed asked again where it was not yet sought; says whether it will be."""
        news = tuple(address for address in addresses if address not in known.tried)
        if known.revived or not known.tried or not news:  # our own contacts we know better
            return False
        # Who named it before stays charged with a peer that was not there.
        known.state, known.path, known.namer, known.charged = State.NEW, -1, namer, None
        known.revived, known.addresses = True, news[:MAX_ADDRESSES]
        self._order.insert(bisect_left(self._order, (known.distance,)), (known.distance, known))
        return True

    def _may_ask(self, candidate: Candidate) -> bool:
        namer = candidate.namer
        if namer is not None and namer.silent >= HEARSAY + namer.truthful:
            return False
        if not candidate.addresses:
            return True
        return any(
            group is None
            or (
                self._answers_of[group] < GROUP_ANSWERS
                and self._asked_of[group] < 2 * GROUP_ANSWERS
            )
            for group in self._claimed(candidate)
        )

    def _claimed(self, candidate: Candidate) -> set[bytes | None]:
        return {self._group_of(address) for address in candidate.addresses}

    def _drop(self, candidate: Candidate, state: State) -> None:
        candidate.state = state
        del self._order[bisect_left(self._order, (candidate.distance,))]

    def _make_room(self, distance: int) -> bool:
        if not self._order:
            return False
        furthest_distance, furthest = self._order[-1]
        if furthest.state is not State.NEW or distance >= furthest_distance:
            return False
        self._order.pop()
        del self._by_peer[furthest.peer.raw]
        return True


def _is_let_in(group: bytes | None, groups: Counter[bytes]) -> bool:
    """Count one more of `group` in; says whether it is not one too many."""
    if group is None:
        return True
    groups[group] += 1
    return groups[group] <= GROUP_FOUND


def _is_second_source(first: Candidate, other: Candidate | None) -> bool:
    # Two keys in one network are one party, which may well agree with itself.
    if other is None:
        return True
    return other is not first and (other.group is None or other.group != first.group)
