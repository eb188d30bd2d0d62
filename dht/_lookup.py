"""An iterative lookup: whom to ask next, and when to stop. Pure.

A lookup starts from the contacts nearest to its target and asks several of them at once for peers
nearer still. What they name is asked in turn, nearest first, until the `k` nearest peers that are
alive have all answered (spec/dht.md §5; the Kademlia paper §2.3). Each step at least halves the
distance, so this takes about log2(n) steps.

The service drives it: `next_requests` says whom to ask now, `receive` and `fail` say what came of
it, `handle_timeout` what did not come in time, `next_timeout` when to call that. Two deadlines keep
a dead peer from costing more than a moment: after `patience.soft` seconds a request no longer
counts as one of the few in flight, so another peer is asked beside it, while a late answer is still
welcome; after `patience.hard` it has failed.

Whatever a peer answers is hearsay, so nothing it says can run the lookup away: of one answer only
the `k` nearest peers count, ourselves and repetitions are dropped, candidates and requests are
bounded, and a peer matters to the result only once it has answered itself. A lookup for providers
takes only a share of those it wants from any one peer before it has heard all.
"""

from __future__ import annotations

import enum
import math
from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.transport import PeerInfo

from ._keys import KEY_BITS, K, position, shared_bits
from ._messages import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.identity import PeerId
    from lattica.transport import Multiaddr

PARALLELISM = 6  # requests in flight; Kademlia's alpha
MAX_CANDIDATES = 256  # peers remembered per lookup
MAX_REQUESTS = 160  # peers asked per lookup; a network of a million nodes needs some 40
MAX_FOUND = 1024  # providers collected per lookup


class Patience:
    """How long to wait for an answer, learnt from those that came (RFC 6298 §2, in seconds)."""

    SOFT_LEAST, SOFT_MOST = 0.25, 3.0
    HARD_LEAST, HARD_MOST = 2.0, 10.0

    def __init__(self) -> None:
        self._mean: float | None = None
        self._deviation = 0.0

    def observe(self, seconds: float) -> None:
        """Note how long an answer took, the time to connect included."""
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(seconds - self._mean) - self._deviation) / 4
        self._mean += (seconds - self._mean) / 8

    @property
    def soft(self) -> float:
        """After so long we ask somebody else beside the silent peer."""
        if self._mean is None:
            return 1.0
        usual = self._mean + 4 * self._deviation
        return min(max(usual, self.SOFT_LEAST), self.SOFT_MOST)

    @property
    def hard(self) -> float:
        """After so long the request has failed."""
        return min(max(4 * self.soft, self.HARD_LEAST), self.HARD_MOST)


class _State(enum.Enum):
    NEW = enum.auto()
    ASKED = enum.auto()
    SLOW = enum.auto()  # asked, silent beyond the soft deadline
    ANSWERED = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True)
class _Candidate:
    peer: PeerId
    hops: int
    addresses: dict[Multiaddr, None] = field(default_factory=dict)
    state: _State = _State.NEW
    asked_at: float = 0.0

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.peer, tuple(self.addresses))


@dataclass(frozen=True, slots=True)
class LookupReport:
    """What a lookup did.

    Attributes:
        asked: peers that were sent a request.
        answered: peers that answered it.
        failures: how many of the others failed, by why.
        hops: steps from our own contacts to the furthest peer that answered.
        seconds: how long it took.
        complete: the nearest peers have all answered. False: it was stopped, or ran out.
    """

    asked: int
    answered: int
    failures: dict[str, int]
    hops: int
    seconds: float
    complete: bool

    def __str__(self) -> str:
        if not self.asked:
            return "no peer could be asked: none is known"
        text = f"asked {self.asked} peers, {self.answered} answered"
        if self.failures:
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(self.failures.items()))
            text += f" ({reasons})"
        return text


class Lookup:
    """One lookup for the peers nearest to a key, and what they know of it.

    Args:
        key: a peer ID or multihash, in bytes.
        local: ourselves; never a candidate.
        seeds: the contacts to start from, in any order; `seed` adds more.
        now: the time, in seconds, as in all methods.
        k: how many nearest peers have to answer.
        parallelism: requests in flight.
        patience: deadlines; shared between lookups, which teach it.
        wanted: stop when so many providers were found. None: look until the nearest have answered.
    """

    def __init__(
        self,
        key: bytes,
        *,
        local: PeerId,
        seeds: Iterable[PeerInfo] = (),
        now: float,
        k: int = K,
        parallelism: int = PARALLELISM,
        patience: Patience | None = None,
        wanted: int | None = None,
    ) -> None:
        self.key = key
        self.target = position(key)
        self._local, self._k, self._parallelism = local, k, parallelism
        self._patience = patience if patience is not None else Patience()
        self._started_at = self._ended_at = now
        self._candidates: dict[PeerId, _Candidate] = {}
        self._order: list[tuple[int, PeerId]] = []  # by distance; of those that have not failed
        self._waiting: dict[PeerId, _Candidate] = {}  # asked or slow, in the order asked
        self._in_flight = 0  # asked, not slow
        self._asked = self._answered = self._hops = 0
        self._failures: Counter[str] = Counter()
        self._stopped = False
        self._wanted = wanted
        self._found: dict[PeerId, PeerInfo] = {}
        self._surplus: dict[PeerId, PeerInfo] = {}
        self.seed(seeds)

    def seed(self, seeds: Iterable[PeerInfo]) -> None:
        """Start from these peers as well."""
        for info in seeds:
            self._consider(info, hops=1)

    @property
    def finished(self) -> bool:
        """True when there is nothing more to ask, or to wait for."""
        if self._stopped:
            return True
        if self._in_flight or self._next_candidate() is not None:
            return False
        # Only slow peers are left. They matter where too few others have answered.
        return not self._waiting or self._answered >= self._k

    def next_requests(self, now: float) -> list[PeerInfo]:
        """Return the peers to ask now, and note them as asked. Each must end in a call below."""
        requests: list[PeerInfo] = []
        while not self._stopped and self._in_flight < self._parallelism:
            candidate = self._next_candidate()
            if candidate is None:
                break
            candidate.state, candidate.asked_at = _State.ASKED, now
            self._waiting[candidate.peer] = candidate
            self._in_flight += 1
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
    ) -> list[PeerInfo]:
        """Take the answer of `peer`. Returns the providers that are news.

        An answer that comes after its deadline is as good as any; one that was never asked for is
        ignored.
        """
        candidate = self._settle(peer, now, _State.ANSWERED)
        if candidate is None:
            return []
        self._patience.observe(now - candidate.asked_at)
        self._answered += 1
        self._hops = max(self._hops, candidate.hops)
        nearest = sorted(closer, key=lambda info: position(info.peer.raw) ^ self.target)
        for info in nearest[: self._k]:
            self._consider(info, hops=candidate.hops + 1)
        return self.found(providers)

    def found(self, providers: Iterable[PeerInfo]) -> list[PeerInfo]:
        """Take providers named by one source (an answer, or our own store). Returns the news.

        One source fills at most half of what is wanted. The rest is kept for the end: a single
        peer that names providers by the dozen cannot end the search.
        """
        share = MAX_FOUND if self._wanted is None else max(1, -(-self._wanted // 2))
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
        if self._settle(peer, now, _State.FAILED) is not None:
            self._failures[why] += 1

    def stop(self, now: float) -> None:
        """End it: the caller has what it wanted, or no more time."""
        self._stopped = True
        self._ended_at = now

    def handle_timeout(self, now: float) -> list[PeerId]:
        """Let deadlines pass. Returns the peers whose requests have failed: cancel those."""
        late: list[PeerId] = []
        soft, hard = self._patience.soft, self._patience.hard
        for candidate in list(self._waiting.values()):
            # The same sums as in `next_timeout`: a difference would round the other way.
            if now >= candidate.asked_at + hard:
                self.fail(candidate.peer, "timed out", now=now)
                late.append(candidate.peer)
            elif now >= candidate.asked_at + soft and candidate.state is _State.ASKED:
                candidate.state = _State.SLOW
                self._in_flight -= 1
        return late

    def next_timeout(self) -> float:
        """Return when `handle_timeout` has something to do; infinity when nobody is waited for."""
        soft, hard = self._patience.soft, self._patience.hard
        return min(
            (
                candidate.asked_at + (soft if candidate.state is _State.ASKED else hard)
                for candidate in self._waiting.values()
            ),
            default=math.inf,
        )

    def answered(self) -> list[PeerInfo]:
        """Return all peers that have answered, nearest first."""
        candidates = (self._candidates[peer] for _, peer in self._order)
        return [each.info for each in candidates if each.state is _State.ANSWERED]

    def closest(self) -> list[PeerInfo]:
        """Return the nearest peers that have answered, nearest first, at most `k`."""
        return self.answered()[: self._k]

    def is_certain(self) -> bool:
        """Say whether more than half of the `k` nearest that may be alive have answered.

        Then a minority of them cannot hide anything that all of them should know.
        """
        nearest = [self._candidates[peer].state for _, peer in self._order[: self._k]]
        return 2 * nearest.count(_State.ANSWERED) > len(nearest)

    def addresses_of(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Return what was said about where `peer` is; hearsay."""
        candidate = self._candidates.get(peer)
        return tuple(candidate.addresses) if candidate is not None else ()

    def covered_bits(self) -> int:
        """Return how many leading bits of the target name a region whose peers are all known.

        The nearest `k` have answered, so every peer nearer than the furthest of them is known, and
        with it each region that lies within. Other keys of that region have the same near peers.
        """
        nearest = self.closest()
        if len(nearest) < self._k:
            return 0  # there are fewer than k peers in all: we know each of them
        return min(
            shared_bits(position(nearest[-1].peer.raw), self.target) + 1,
            KEY_BITS,
        )

    def report(self) -> LookupReport:
        """Say what was done so far."""
        complete = not self._stopped and self._asked < MAX_REQUESTS and self._answered > 0
        return LookupReport(
            self._asked,
            self._answered,
            dict(self._failures),
            self._hops,
            self._ended_at - self._started_at,
            complete,
        )

    def _next_candidate(self) -> _Candidate | None:
        # Of the k nearest that may yet answer, the nearest that was not asked. Slow ones do not
        # count among the k, or a few dead peers near the target would end the lookup early.
        if self._asked >= MAX_REQUESTS:
            return None
        alive = 0
        for _, peer in self._order:
            candidate = self._candidates[peer]
            if candidate.state is _State.NEW:
                return candidate
            alive += candidate.state is not _State.SLOW
            if alive == self._k:
                return None
        return None

    def _consider(self, info: PeerInfo, *, hops: int) -> None:
        known = self._candidates.get(info.peer)
        if known is None:
            if info.peer == self._local:
                return
            if len(self._candidates) >= MAX_CANDIDATES and not self._make_room(info.peer):
                return
            known = self._candidates[info.peer] = _Candidate(info.peer, hops)
            insort(self._order, (position(info.peer.raw) ^ self.target, info.peer))
        for address in info.addresses:
            if len(known.addresses) < MAX_ADDRESSES:
                known.addresses.setdefault(address)

    def _make_room(self, peer: PeerId) -> bool:
        # The furthest candidate gives way, if it is further than the newcomer and was not asked.
        furthest = self._candidates[self._order[-1][1]] if self._order else None
        if furthest is None or furthest.state is not _State.NEW:
            return False
        if position(peer.raw) ^ self.target >= self._order[-1][0]:
            return False
        self._order.pop()
        del self._candidates[furthest.peer]
        return True

    def _settle(self, peer: PeerId, now: float, state: _State) -> _Candidate | None:
        candidate = self._waiting.pop(peer, None)
        if candidate is None:
            return None
        if candidate.state is _State.ASKED:
            self._in_flight -= 1
        candidate.state = state
        if state is _State.FAILED:
            # It stays known, so that nobody can bring it back, and leaves the order.
            self._order.remove((position(peer.raw) ^ self.target, peer))
        if not self._stopped:
            self._ended_at = now
        return candidate

    def _take(self, info: PeerInfo) -> list[PeerInfo]:
        limit = MAX_FOUND if self._wanted is None else self._wanted
        if len(self._found) >= limit:
            return []
        self._found[info.peer] = info
        if self._wanted is not None and len(self._found) >= self._wanted:
            self._stopped = True
        return [info]
