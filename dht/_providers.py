"""Who has what: the records others leave with us, and the schedule of our own. Pure.

`ProviderStore` keeps what `ADD_PROVIDER` brings: a peer says that it has some content, and we tell
whoever asks, until the record's time is over (spec/dht.md §6). Only the peer itself can say it, so
a record is a pair of key and peer. Bounds hold at every size of attack: so many records of a peer,
so many providers of a key, so many in all. A peer over its quota loses its own oldest; when all is
full, whoever holds more than a fair share pays first.

`ProvideSchedule` remembers what we provide and when each key has to be announced again. A record
lives 48 h and is renewed every 22 h, as in libp2p; a young one is renewed sooner, at doubling
intervals, because the network that it was placed in may be growing: its keepers are the nearest
peers of that minute, and tomorrow's readers will ask the nearest of tomorrow. Keys come out in the
order of the key space, so that those with the same keepers are announced together.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._keys import InvalidKey, position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lattica.identity import PeerId

PROVIDER_SECONDS = 48 * 3600.0  # how long a record is good for
RENEW_SECONDS = 22 * 3600.0  # how often a settled key is announced again
RENEW_FIRST_SECONDS = 60.0  # after the first announcement; doubles up to RENEW_SECONDS
_STALE_ENTRIES = 64  # of the heap of what is due, besides one for each key
RETRY_SECONDS = 15.0  # after an announcement that reached nobody; doubles up to RETRY_MOST_SECONDS
RETRY_MOST_SECONDS = 900.0
# A key that is so late is told to the user: many hours before what others recorded of it lapses.
ALARM_SECONDS = 6 * 3600.0
MAX_RECORDS = 65_536  # in all; some 700 bytes each, so 45 MiB
MAX_RECORDS_PER_PEER = 16_384  # fifty large models, tensor by tensor
MAX_PROVIDERS_PER_KEY = 512
MAX_PROVIDER_KEY = 256  # bytes; a multihash has up to 130


def check_multihash(key: bytes) -> None:
    """Raise InvalidKey where `key` cannot be what content is provided under."""
    if not 1 <= len(key) <= MAX_PROVIDER_KEY:
        raise InvalidKey(f"a key of {len(key)} bytes, expected a multihash")


class ProviderStore:
    """Provider records of other peers, until they expire.

    Attributes:
        changed: called with key and peer of each record that came or went.
    """

    def __init__(
        self,
        *,
        seconds: float = PROVIDER_SECONDS,
        records: int = MAX_RECORDS,
        per_peer: int = MAX_RECORDS_PER_PEER,
        per_key: int = MAX_PROVIDERS_PER_KEY,
    ) -> None:
        self._seconds, self._most = seconds, records
        self._per_peer, self._per_key = per_peer, per_key
        # All three in the order of arrival, oldest first. All records live equally long, so the
        # oldest expire first and expiry is a look at the front.
        self._expiry: dict[tuple[bytes, PeerId], float] = {}
        self._by_key: dict[bytes, dict[PeerId, bytes | None]] = {}  # and from which network
        self._by_peer: dict[PeerId, dict[bytes, None]] = {}
        self.changed: Callable[[bytes, PeerId], object] = lambda _key, _peer: None

    def __len__(self) -> int:
        return len(self._expiry)

    def __iter__(self) -> Iterator[tuple[bytes, PeerId]]:
        """Yield all records, those that expire first at the front."""
        return iter(self._expiry)

    @property
    def keys(self) -> int:
        """How many keys have a provider here."""
        return len(self._by_key)

    def expires_at(self, key: bytes, peer: PeerId) -> float | None:
        """Return when that record is over; None: there is none."""
        return self._expiry.get((key, peer))

    def add(self, key: bytes, peer: PeerId, *, now: float, group: bytes | None = None) -> None:
        """Keep, or renew, the record that `peer` provides `key`. Raises ValueError: a bad key.

        `group` is the network from which it says so, see `transport.ip_group`.
        """
        self._add(key, peer, self._seconds, now, group)

    def group(self, key: bytes, peer: PeerId) -> bytes | None:
        """Return the network from which `peer` said that it provides `key`, where that counts."""
        return self._by_key.get(key, {}).get(peer)

    def restore(
        self, key: bytes, peer: PeerId, *, left: float, now: float, group: bytes | None = None
    ) -> None:
        """Keep a record from before, with so many seconds `left`.

        Those that expire first come first, and all of them before the first `add`. Raises
        ValueError: a bad key.
        """
        if left > 0:
            self._add(key, peer, min(left, self._seconds), now, group)

    def _add(
        self, key: bytes, peer: PeerId, seconds: float, now: float, group: bytes | None
    ) -> None:
        if not 1 <= len(key) <= MAX_PROVIDER_KEY:
            raise ValueError(f"a key of {len(key)} bytes, expected 1 to {MAX_PROVIDER_KEY}")
        self.expire(now)
        self._discard(key, peer)
        if len(self._by_peer.get(peer, ())) >= self._per_peer:
            self._discard_oldest_of(peer)
        if len(self._by_key.get(key, ())) >= self._per_key:
            self._make_room_in_key(key)
        if len(self._expiry) >= self._most:
            self._make_room(peer)
        self._expiry[key, peer] = now + seconds
        self._by_key.setdefault(key, {})[peer] = group
        self._by_peer.setdefault(peer, {})[key] = None
        self.changed(key, peer)

    def providers(self, key: bytes, *, now: float) -> list[PeerId]:
        """Return who provides `key`, the latest to say so first."""
        self.expire(now)
        return list(reversed(self._by_key.get(key, ())))

    def expire(self, now: float) -> None:
        """Drop what has lapsed."""
        while self._expiry:
            (key, peer), expires_at = next(iter(self._expiry.items()))
            if expires_at > now:
                return
            self._discard(key, peer)

    def _make_room_in_key(self, key: bytes) -> None:
        # Peer IDs cost nothing. So the oldest goes of those from the network that has most there.
        groups = self._by_key[key]
        ((most, _),) = Counter(groups.values()).most_common(1)
        self._discard(key, next(peer for peer, group in groups.items() if group == most))

    def _make_room(self, peer: PeerId) -> None:
        fair_share = self._most / (len(self._by_peer) + (peer not in self._by_peer))
        if len(self._by_peer.get(peer, ())) >= fair_share:
            self._discard_oldest_of(peer)
        else:
            self._discard(*next(iter(self._expiry)))

    def _discard_oldest_of(self, peer: PeerId) -> None:
        self._discard(next(iter(self._by_peer[peer])), peer)

    def _discard(self, key: bytes, peer: PeerId) -> None:
        if self._expiry.pop((key, peer), None) is None:
            return
        del self._by_key[key][peer]
        if not self._by_key[key]:
            del self._by_key[key]
        del self._by_peer[peer][key]
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        self.changed(key, peer)


@dataclass(slots=True)
class _Own:
    """A key of ours.

    `due_at` is when to announce it next, `wanted_at` when that was due first: trying again later
    makes it no less late. `interval` is what follows a success.
    """

    key: bytes
    position: int
    due_at: float
    wanted_at: float
    interval: float = RENEW_FIRST_SECONDS
    retry: float = RETRY_SECONDS
    announced_at: float | None = None
    under_way: bool = False


class ProvideSchedule:
    """The keys we provide, and when each is to be announced next."""

    def __init__(self, *, renew_seconds: float = RENEW_SECONDS) -> None:
        self._renew_seconds = renew_seconds
        self._own: dict[bytes, _Own] = {}
        # (due_at, position, key). An entry that no longer says what `_own` says is skipped.
        self._heap: list[tuple[float, int, bytes]] = []

    def __len__(self) -> int:
        return len(self._own)

    def __contains__(self, key: bytes) -> bool:
        return key in self._own

    def add(self, key: bytes, *, now: float) -> None:
        """Provide `key` from now on; it is due at once. A key already provided stays as it is."""
        if key not in self._own:
            own = self._own[key] = _Own(key, position(key), now, now)
            self._push(own)

    def remove(self, key: bytes) -> None:
        """Provide `key` no longer. Records that others hold lapse by themselves."""
        self._own.pop(key, None)

    def start(self, keys: Iterable[bytes]) -> None:
        """Note that these keys are being announced, so that they are not due meanwhile."""
        for key in keys:
            own = self._own.get(key)
            if own is not None:
                own.under_way = True

    def due(self, now: float, limit: int) -> list[bytes]:
        """Return up to `limit` keys to announce now, in the order of the key space.

        They are under way from here on: each must end in `announced` or `postpone`.
        """
        batch: list[_Own] = []
        while self._heap and self._heap[0][0] <= now and len(batch) < limit:
            own = self._valid(heapq.heappop(self._heap))
            if own is not None:
                own.under_way = True
                batch.append(own)
        return [own.key for own in sorted(batch, key=lambda own: own.position)]

    def announced(self, key: bytes, *, now: float) -> None:
        """Note that `key` was announced to somebody."""
        own = self._own.get(key)
        if own is None:
            return
        own.announced_at, own.retry, own.under_way = now, RETRY_SECONDS, False
        own.due_at = own.wanted_at = now + own.interval
        own.interval = min(own.interval * 2, self._renew_seconds)
        self._push(own)

    def postpone(self, key: bytes, *, now: float) -> None:
        """Note that announcing `key` reached nobody; it is tried again later."""
        own = self._own.get(key)
        if own is None:
            return
        own.under_way = False
        own.due_at = now + own.retry
        own.retry = min(own.retry * 2, RETRY_MOST_SECONDS)
        self._push(own)

    def hasten(self, *, now: float) -> None:
        """Make due what nobody was told, or not for the last minute: there is somebody again.

        A node that has been away cannot tell for how long, since its clock may have slept as well:
        what others recorded may have lapsed, and may name addresses that it had then.
        """
        before = now - RENEW_FIRST_SECONDS
        for own in self._own.values():
            fresh = own.announced_at is not None and own.announced_at > before
            if not fresh and not own.under_way and own.due_at > now:
                own.due_at, own.retry = now, RETRY_SECONDS
                self._push(own)

    def next_due(self) -> float:
        """Return when `due` will have something; infinity when there is nothing."""
        while self._heap:
            if self._valid(self._heap[0]) is not None:
                return self._heap[0][0]
            heapq.heappop(self._heap)
        return math.inf

    def lag(self, now: float) -> float:
        """Return by how many seconds the most overdue key is late; 0 when none is.

        It is late until somebody has been told, however often that was tried. Above
        `PROVIDER_SECONDS - RENEW_SECONDS`, records lapse before they are renewed.
        """
        return max(0.0, now - self._first_wanted())

    def alarm_at(self) -> float:
        """Return when the lag reaches `ALARM_SECONDS`, unless somebody is told before."""
        return self._first_wanted() + ALARM_SECONDS

    def _first_wanted(self) -> float:
        return min((own.wanted_at for own in self._own.values()), default=math.inf)

    def _push(self, own: _Own) -> None:
        heapq.heappush(self._heap, (own.due_at, own.position, own.key))
        # An entry that no longer holds goes when it comes due, which may be tomorrow.
        if len(self._heap) > 2 * len(self._own) + _STALE_ENTRIES:
            self._heap = [entry for entry in set(self._heap) if self._valid(entry) is not None]
            heapq.heapify(self._heap)

    def _valid(self, entry: tuple[float, int, bytes]) -> _Own | None:
        own = self._own.get(entry[2])
        if own is None or own.under_way or own.due_at != entry[0]:
            return None
        return own
