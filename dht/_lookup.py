"""An iterative lookup: whom to ask next, and when to stop. Pure.

A lookup starts from the contacts nearest to its target and asks several of them at once for peers
nearer still. What they name is asked in turn, nearest first, until the `k` nearest peers that are
alive have all answered (spec/dht.md §5; the Kademlia paper §2.3). Each step at least halves the
distance, so this takes about log2(n) steps.

It walks on `paths` disjoint paths at once, among which its first peers are dealt. What a peer
names is heard on its path alone, and no peer is asked on two; so who lies to us leads one path
astray, and the others arrive. Each path goes on until it knows its own part of the neighbourhood,
and all of them until they know all of it together. The rules of belief are those of `_candidates`.

The service drives it: `next_requests` says whom to ask now, `receive` and `fail` say what came of
it, `handle_timeout` what did not come in time, `next_timeout` when to call that. Two deadlines
(`_patience`) keep a dead peer from costing more than a moment: after the soft one a request no
longer counts as one of the few in flight, so another peer is asked beside it, while a late answer
is still welcome; after the hard one it has failed.

A lookup for providers takes only a share of those it wants from any one peer before it has heard
all. A lookup for values is judged by its owner, who hears each answer and the path it came on
(`path_of`), and calls `stop` when it is sure.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from lattica.transport import ip_group

from ._candidates import Candidate, Candidates, State
from ._keys import KEY_BITS, K, place_of, position, shared_bits
from ._lookup_report import TIMED_OUT, LookupReport, Outcome
from ._patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lattica.identity import PeerId
    from lattica.transport import Multiaddr, PeerInfo

PARALLELISM = 6  # requests in flight; Kademlia's alpha
PATHS = 3  # disjoint paths
MAX_REQUESTS = 160  # peers asked per lookup; a network of a million nodes needs some 50
SOURCES = 8  # at least so many have to name providers before there are enough of them
MAX_FOUND = 1024  # providers collected per lookup


class Lookup:
    """One lookup for the peers nearest to a key, and what they know of it.

    Args:
        key: a peer ID or multihash, in bytes.
        local: ourselves; never a candidate.
        seeds: the contacts to start from; `seed` adds more.
        now: the time, in seconds, as in all methods.
        k: how many nearest peers have to answer.
        parallelism: requests in flight.
        paths: disjoint paths; 1 makes it a plain lookup.
        patience: deadlines; shared between lookups, which teach it.
        wanted: stop when so many providers were found. None: look until the nearest have answered.
        until_certain: ask no more peers at once than it may take to be certain; see `is_certain`,
            which the owner has to look at.
        group_of: the network an address belongs to, see `transport.ip_group`; None is not counted.
    """

    __slots__ = (
        "_all_paths",
        "_answered",
        "_asked",
        "_asked_on",
        "_candidates",
        "_ended_at",
        "_failures",
        "_flying",
        "_found",
        "_hops",
        "_in_flight",
        "_k",
        "_k_of_path",
        "_local",
        "_parallelism",
        "_paths",
        "_paths_answered",
        "_paths_begun",
        "_patience",
        "_seeds",
        "_started_at",
        "_stopped",
        "_surplus",
        "_until_certain",
        "_waiting",
        "_wanted",
        "key",
        "target",
    )

    def __init__(
        self,
        key: bytes,
        *,
        local: PeerId,
        seeds: Iterable[PeerInfo] = (),
        now: float,
        k: int = K,
        parallelism: int = PARALLELISM,
        paths: int = PATHS,
        patience: Patience | None = None,
        wanted: int | None = None,
        until_certain: bool = False,
        group_of: Callable[[Multiaddr], bytes | None] = ip_group,
    ) -> None:
        self.key = key
        self.target = position(key)
        self._local, self._k, self._parallelism = local, k, parallelism
        self._paths, self._all_paths = paths, (1 << paths) - 1
        # Half the neighbourhood shows a path that it has arrived; the other half is asked once.
        self._k_of_path = -(-k // 2)
        self._patience = patience if patience is not None else Patience()
        self._started_at = self._ended_at = now
        self._candidates = Candidates(self.target, group_of=group_of)
        self._waiting: dict[bytes, Candidate] = {}  # asked or slow, in the order asked
        self._in_flight = 0  # asked, not slow
        self._flying = [0] * paths  # of these, on each path
        self._asked_on = [0] * paths  # in all, on each path
        self._seeds = self._paths_begun = self._paths_answered = 0
        self._asked = self._answered = self._hops = 0
        self._failures: Counter[str] = Counter()
        self._stopped: Outcome | None = None
        self._wanted, self._until_certain = wanted, until_certain
        self._found: dict[PeerId, PeerInfo] = {}
        self._surplus: dict[PeerId, PeerInfo] = {}
        self.seed(seeds)

    def seed(self, seeds: Iterable[PeerInfo]) -> None:
        """Start from these peers as well. We know them ourselves, so they are no hearsay."""
        for info in self._by_distance(seeds):
            if info.peer != self._local:
                path = 1 << self._seeds % self._paths
                self._seeds += 1
                self._paths_begun |= path
                self._candidates.hear(info, paths=path, namer=None, hops=1)

    @property
    def finished(self) -> bool:
        """True when there is nothing more to ask, or to wait for."""
        if self._stopped is not None:
            return True
        if self._in_flight or self._next() is not None:
            return False
        # Only slow peers are left. They matter where too few others have answered.
        return not self._waiting or self._answered >= self._k

    def next_requests(self, now: float) -> list[PeerInfo]:
        """Return the peers to ask now, and note them as asked. Each must end in a call below."""
        requests: list[PeerInfo] = []
        while self._stopped is None and self._in_flight < self._parallelism:
            if self._until_certain and self._may_become_certain():
                break
            found = self._next()
            if found is None:
                break
            candidate, path = found
            self._candidates.ask(candidate, path)
            soft, hard = self._patience.deadlines(candidate.peer)
            candidate.asked_at, candidate.soft_at, candidate.hard_at = now, now + soft, now + hard
            self._waiting[candidate.peer.raw] = candidate
            self._in_flight += 1
            self._flying[path] += 1
            self._asked_on[path] += 1
            self._asked += 1
            requests.append(candidate.info)
        return requests

    def receive(
        self,
        peer: PeerId,
        closer: Iterable[PeerInfo],
        providers: Iterable[PeerInfo] = (),
        *,
        now: float,
        group: bytes | None = None,
    ) -> list[PeerInfo]:
        """Take the answer of `peer`. Returns the providers that are news.

        An answer that comes after its deadline is as good as any; one that was never asked for is
        ignored, and so is one from a network of which enough peers have answered.

        Args:
            peer: who answers.
            closer: the nearer peers that it names.
            providers: the providers that it names.
            now: the time.
            group: of the address that its connection really has, see `group_of`.
        """
        candidate = self._settle(peer, now)
        if candidate is None:
            return []
        self._patience.observe(now - candidate.asked_at, peer)
        if not self._candidates.answered(candidate, group):
            self._failures["crowded"] += 1
            return []
        self._answered += 1
        self._paths_answered |= 1 << candidate.path
        self._hops = max(self._hops, candidate.hops)
        nearest = self._by_distance(closer)[: self._k]
        for info, paths in zip(nearest, self._deal(candidate.path), strict=False):
            if info.peer != self._local:
                self._candidates.hear(info, paths=paths, namer=candidate, hops=candidate.hops + 1)
        return self.found(providers)

    def found(self, providers: Iterable[PeerInfo]) -> list[PeerInfo]:
        """Take providers named by one source (an answer, or our own store). Returns the news.

        One source fills at most an eighth of what is wanted. The rest is kept for the end: the few
        liars that a lookup meets cannot end it by naming providers by the dozen.
        """
        share = MAX_FOUND if self._wanted is None else -(-self._wanted // SOURCES)
        news: list[PeerInfo] = []
        for info in providers:
            if info.peer == self._local or info.peer in self._found:
                continue
            if len(news) < share:
                news += self._take(info)
            elif len(self._surplus) < MAX_FOUND:
                self._surplus.setdefault(info.peer, info)
        return news

    def rest(self) -> list[PeerInfo]:
        """Return the providers held back, as far as they are wanted. For when it has finished."""
        news: list[PeerInfo] = []
        for info in self._surplus.values():
            if info.peer not in self._found:
                news += self._take(info)
        self._surplus.clear()
        return news

    def fail(self, peer: PeerId, why: str, *, now: float) -> None:
        """Note that asking `peer` failed. `why` is a few words, counted in the report."""
        candidate = self._settle(peer, now)
        if candidate is not None:
            self._candidates.failed(candidate)
            self._failures[why] += 1

    def stop(self, now: float, outcome: Outcome = Outcome.SATISFIED) -> None:
        """End it: the caller has what it wanted, or no more time."""
        if self._stopped is None:
            self._stopped = outcome
            self._ended_at = now

    def handle_timeout(self, now: float) -> list[PeerId]:
        """Let deadlines pass. Returns the peers whose requests have failed: cancel those."""
        late: list[PeerId] = []
        for candidate in list(self._waiting.values()):
            if now >= candidate.hard_at:
                self.fail(candidate.peer, TIMED_OUT, now=now)
                late.append(candidate.peer)
            elif now >= candidate.soft_at and candidate.state is State.ASKED:
                candidate.state = State.SLOW
                self._land(candidate)
        return late

    def next_timeout(self) -> float:
        """Return when `handle_timeout` has something to do; infinity when nobody is waited for."""
        return min(
            (
                candidate.soft_at if candidate.state is State.ASKED else candidate.hard_at
                for candidate in self._waiting.values()
            ),
            default=math.inf,
        )

    def answered(self) -> list[PeerInfo]:
        """Return all peers that have answered, on whatever path, nearest first."""
        return [each.info for each in self._candidates if each.state is State.ANSWERED]

    def closest(self) -> list[PeerInfo]:
        """Return the nearest peers that have answered, nearest first, at most `k`.

        Of one network there are a few at most (`_candidates`), however many have answered.
        """
        return [each.info for each in self._candidates.nearest(self._k)]

    def is_certain(self) -> bool:
        """Say whether more than half of the `k` nearest that may be alive have answered.

        Then a minority of them cannot hide anything that all of them should know. That it is a
        minority, no path alone can say; and several in one network are one party and have one
        voice, since keys can be mined next to the target.
        """
        if self._paths_answered != self._paths_begun:
            return False
        nearest = list(islice(self._candidates, self._k))
        answered = [each.group for each in nearest if each.state is State.ANSWERED]
        voices = answered.count(None) + len(set(answered) - {None})
        return 2 * voices > len(nearest)

    def _may_become_certain(self) -> bool:
        """Say whether those that are being asked are enough, if they answer in time."""
        paths = self._paths_answered
        for path, flying in enumerate(self._flying):
            if flying:
                paths |= 1 << path
        if paths != self._paths_begun:
            return False
        count = voices = 0
        groups: set[bytes] = set()
        for candidate in islice(self._candidates, self._k):
            count += 1
            if candidate.state is State.ASKED or candidate.state is State.ANSWERED:
                if candidate.group is None:
                    voices += 1
                else:
                    groups.add(candidate.group)
        return 2 * (voices + len(groups)) > count

    def path_of(self, peer: PeerId) -> int | None:
        """Return the path on which `peer` has answered, from 0; None: it has not, to any effect."""
        candidate = self._candidates.get(peer)
        if candidate is None or candidate.state is not State.ANSWERED:
            return None
        return candidate.path

    def addresses_of(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Return what was said about where `peer` is; hearsay."""
        candidate = self._candidates.get(peer)
        return candidate.addresses if candidate is not None else ()

    def covered_bits(self) -> int:
        """Return how many leading bits of the target name a region whose peers are all known.

        The nearest `k` have answered, so every peer nearer than the furthest of them is known, and
        with it each region that lies within. Other keys of that region have the same near peers.
        """
        nearest = self.answered()[: self._k]
        if len(nearest) < self._k:
            return 0  # there are fewer than k peers in all: we know each of them
        return min(shared_bits(place_of(nearest[-1].peer.raw), self.target) + 1, KEY_BITS)

    def report(self) -> LookupReport:
        """Say what was done so far."""
        return LookupReport(
            self._asked,
            self._answered,
            dict(self._failures),
            self._hops,
            self._ended_at - self._started_at,
            self._paths_answered.bit_count(),
            self._outcome(),
        )

    def _outcome(self) -> Outcome:
        if self._stopped is not None:
            return self._stopped
        if not self.finished:
            return Outcome.RUNNING
        if not self._asked:
            return Outcome.NOBODY_KNOWN
        if not self._answered:
            return Outcome.NO_ANSWER
        return Outcome.TOO_MANY if self._asked >= MAX_REQUESTS else Outcome.COMPLETE

    def _next(self) -> tuple[Candidate, int] | None:
        # First each path for itself, the one that has asked least first; then what is missing among
        # the nearest of all, on the path it was heard of on.
        if self._asked >= MAX_REQUESTS:
            return None
        flying, asked = self._flying, self._asked_on
        for path in sorted(range(self._paths), key=lambda path: (flying[path], asked[path])):
            if self._paths_begun >> path & 1:
                candidate = self._candidates.next_on(1 << path, self._k_of_path)
                if candidate is not None:
                    return candidate, path
        candidate = self._candidates.next_on(self._all_paths, self._k)
        if candidate is None:
            return None
        return candidate, (candidate.paths & -candidate.paths).bit_length() - 1

    def _deal(self, path: int) -> list[int]:
        # A lookup that began with fewer peers than paths has them all meet in one: the first to
        # answer names peers for the empty ones as well.
        empty = self._all_paths & ~self._paths_begun
        if not empty:
            return [1 << path] * self._k
        self._paths_begun = self._all_paths
        hands = [1 << path, *(1 << other for other in range(self._paths) if empty >> other & 1)]
        return [hands[turn % len(hands)] for turn in range(self._k)]

    def _by_distance(self, infos: Iterable[PeerInfo]) -> list[PeerInfo]:
        target = self.target
        return sorted(infos, key=lambda info: place_of(info.peer.raw) ^ target)

    def _settle(self, peer: PeerId, now: float) -> Candidate | None:
        candidate = self._waiting.pop(peer.raw, None)
        if candidate is None:
            return None
        if candidate.state is State.ASKED:
            self._land(candidate)
        if self._stopped is None:
            self._ended_at = now
        return candidate

    def _land(self, candidate: Candidate) -> None:
        self._in_flight -= 1
        self._flying[candidate.path] -= 1

    def _take(self, info: PeerInfo) -> list[PeerInfo]:
        limit = MAX_FOUND if self._wanted is None else self._wanted
        if len(self._found) >= limit:
            return []
        self._found[info.peer] = info
        if self._wanted is not None and len(self._found) >= self._wanted:
            self._stopped = Outcome.SATISFIED
        return [info]
