"""The values that others left with us, until they expire. Pure.

What comes in here is valid already (`_namespaces`); the store says which of two is kept, and holds
the bounds: so much under a key, so much of one author, so much in all (spec/dht.md §7.6). Where a
bound is met, whoever takes the most room pays: an author over its quota loses its own oldest, a
full key takes from the network that brought most of what stands there (`_crowding`), a full store
from whoever holds more than an equal share. Authors cost nothing, so it counts from which network
entries were brought. So a flood drowns its own, and a newcomer with one entry finds room.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._crowding import Claim, Crowding
from ._namespaces import Item, Reason, ValueRefused
from ._records import MAX_ENTRIES, MAX_SET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ._namespaces import Namespaces

ITEM_COST = 1024  # bytes of memory of an item besides its key and encoding
SET_COST = 8  # bytes of an item in a set besides its encoding
_STALE = 64  # entries of the heap that no longer hold, besides one for each item

Place = tuple[bytes, bytes]  # the key, and the place under it


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What a store holds at most. Sizes are in bytes, with what keeping an item costs.

    Attributes:
        items: in all.
        size: in all.
        items_per_owner: of one author.
        size_per_owner: of one author.
        items_per_key: in one set.
        size_per_key: of one set, as it travels.
    """

    items: int = 32_768
    size: int = 64 << 20
    items_per_owner: int = 4096
    size_per_owner: int = 8 << 20
    items_per_key: int = MAX_ENTRIES
    size_per_key: int = MAX_SET


_LIMITS = StoreLimits()


class RecordStore:
    """Values by key and place, bounded.

    Args:
        namespaces: the rules, which say what replaces what.
        limits: what it holds at most.
        crowding: who gives way where a key is full.

    Attributes:
        changed: called with key, place and item when one came, or who brought it has changed; with
            None when it went.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        *,
        limits: StoreLimits = _LIMITS,
        crowding: Crowding | None = None,
    ) -> None:
        self.changed: Callable[[bytes, bytes, Item | None], object] = lambda _key, _place, _it: None
        self._namespaces = namespaces
        self._limits, self._crowding = limits, crowding or Crowding()
        self._keys: dict[bytes, dict[bytes, Item]] = {}
        # In the order of arrival, the oldest first.
        self._order: dict[Place, int] = {}  # what each costs, in bytes
        self._owners: dict[bytes, dict[Place, int]] = {}
        self._owner_sizes: Counter[bytes] = Counter()
        self._sources: dict[bytes, dict[Place, int]] = {}
        self._source_sizes: Counter[bytes] = Counter()
        self._source_of: dict[Place, bytes] = {}
        self._key_sizes: Counter[bytes] = Counter()
        self._size = 0
        self._expiry: list[tuple[float, bytes, bytes]] = []

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: object) -> bool:
        """Say whether anything stands under `key`."""
        return key in self._keys

    @property
    def size(self) -> int:
        """Bytes that it takes, as it counts them."""
        return self._size

    @property
    def keys(self) -> list[bytes]:
        """Return the keys that have an item."""
        return list(self._keys)

    def __iter__(self) -> Iterator[tuple[bytes, Item]]:
        for key, items in self._keys.items():
            for item in items.values():
                yield key, item

    def items(self, key: bytes, *, now: float) -> list[Item]:
        """Return what stands under `key` at `now` (seconds since 1970), the latest first."""
        self.expire(now)
        return list(reversed(self._keys.get(key, {}).values()))

    def item(self, key: bytes, place: bytes) -> Item | None:
        """Return what stands in one place."""
        return self._keys.get(key, {}).get(place)

    def source(self, key: bytes, place: bytes) -> bytes:
        """Return who brought what stands in one place; empty: we did, or nothing stands there."""
        return self._source_of.get((key, place), b"")

    def reopen(self, key: bytes, encoded: bytes, expires: float) -> Item:
        """Return an item that was read before, from where it was saved. Raises LatticaError."""
        return self._namespaces.rules(key).reopen(key, encoded, expires)

    def add(self, key: bytes, item: Item, *, now: float, source: bytes = b"") -> bool:
        """Keep `item`; says whether that is news. The same item again is none.

        `source` says who brought it: a network, or a peer; empty: ourselves.

        Raises:
            ValueRefused: something newer is held, or there is no room for it.
        """
        self.expire(now)
        if item.expires <= now:
            raise ValueRefused("it has expired", Reason.EXPIRED)
        held = self.item(key, item.place)
        if held is not None:
            if held.encoded == item.encoded:
                return False
            if not self._namespaces.supersedes(key, item, held):
                raise ValueRefused("something newer is held", Reason.STALE)
        cost = ITEM_COST + len(key) + len(item.place) + len(item.encoded)
        set_size = _size_in_set(item)
        if cost > min(self._limits.size, self._limits.size_per_owner):
            raise ValueRefused(f"an item of {cost} bytes", Reason.FULL)
        self._make_room_in_key(key, item, set_size, source)
        if held is not None:
            self._discard(key, item.place)
        self._make_room_of_owner(item.owner, cost)
        self._make_room(item.owner, source, cost)
        place = (key, item.place)
        self._keys.setdefault(key, {})[item.place] = item
        self._order[place] = cost
        self._owners.setdefault(item.owner, {})[place] = cost
        self._owner_sizes[item.owner] += cost
        self._note_source(place, source, cost)
        self._key_sizes[key] += set_size
        self._size += cost
        self._push(item.expires, key, item.place)
        self.changed(key, item.place, item)
        return True

    def has_room(self, key: bytes, item: Item) -> bool:
        """Say whether `item` fits under `key` with all others; else `add` has to weigh them."""
        items = self._keys.get(key, {})
        held = items.get(item.place)
        total = self._key_sizes[key] + _size_in_set(item)
        total -= _size_in_set(held) if held is not None else 0
        count = len(items) + (held is None)
        return count <= self._limits.items_per_key and total <= self._limits.size_per_key

    def vouch(self, key: bytes, place: bytes, source: bytes) -> None:
        """Note that the author of what stands there has brought it itself, from `source`."""
        cost = self._order.get((key, place))
        if cost is not None and self._source_of[key, place] != source:
            self._forget_source((key, place), cost)
            self._note_source((key, place), source, cost)
            self.changed(key, place, self.item(key, place))

    def expire(self, now: float) -> None:
        """Drop what is over."""
        while self._expiry and self._expiry[0][0] <= now:
            entry = heapq.heappop(self._expiry)
            if self._holds(entry):
                self._discard(entry[1], entry[2])

    def _make_room_in_key(self, key: bytes, item: Item, size: int, source: bytes) -> None:
        """Have who takes most room under `key` give way. Raises ValueRefused: the newcomer does."""
        if self.has_room(key, item):
            return
        items, limits = self._keys.get(key, {}), self._limits
        claims = [
            Claim(each.place, each.owner, self._source_of[key, each.place], _size_in_set(each))
            for each in items.values()
            if each.place != item.place
        ]
        newcomer = Claim(item.place, item.owner, source, size)
        leaving = self._crowding.leaving(
            claims, newcomer, count=limits.items_per_key, size=limits.size_per_key
        )
        if leaving is None:
            raise ValueRefused(
                f"{len(items)} values of {self._key_sizes[key]} bytes stand there already",
                Reason.FULL,
            )
        for place in leaving:
            self._discard(key, place)

    def _make_room_of_owner(self, owner: bytes, cost: int) -> None:
        while (theirs := self._owners.get(owner)) is not None and (
            len(theirs) >= self._limits.items_per_owner
            or self._owner_sizes[owner] + cost > self._limits.size_per_owner
        ):
            self._discard(*next(iter(theirs)))

    def _make_room(self, owner: bytes, source: bytes, cost: int) -> None:
        while self._order and (
            len(self._order) >= self._limits.items or self._size + cost > self._limits.size
        ):
            payer: Iterable[Place] = self._order
            for name, places, sizes in (
                (source, self._sources, self._source_sizes),
                (owner, self._owners, self._owner_sizes),
            ):
                fair_share = self._size / (len(places) + (name not in places))
                if name in places and sizes[name] >= fair_share and len(places) > 1:
                    payer = places[name]
            self._discard(*next(iter(payer)))

    def _discard(self, key: bytes, place: bytes) -> None:
        item = self._keys[key].pop(place)
        cost = self._order.pop((key, place))
        self._size -= cost
        self._key_sizes[key] -= _size_in_set(item)
        if not self._keys[key]:
            del self._keys[key], self._key_sizes[key]
        theirs = self._owners[item.owner]
        del theirs[key, place]
        self._owner_sizes[item.owner] -= cost
        if not theirs:
            del self._owners[item.owner], self._owner_sizes[item.owner]
        self._forget_source((key, place), cost)
        self.changed(key, place, None)

    def _note_source(self, place: Place, source: bytes, cost: int) -> None:
        self._source_of[place] = source
        self._sources.setdefault(source, {})[place] = cost
        self._source_sizes[source] += cost

    def _forget_source(self, place: Place, cost: int) -> None:
        source = self._source_of.pop(place)
        del self._sources[source][place]
        self._source_sizes[source] -= cost
        if not self._sources[source]:
            del self._sources[source], self._source_sizes[source]

    def _push(self, expires: float, key: bytes, place: bytes) -> None:
        heapq.heappush(self._expiry, (expires, key, place))
        # What was replaced leaves its entry behind until that comes due, in a week perhaps.
        if len(self._expiry) > 2 * len(self._order) + _STALE:
            self._expiry = [entry for entry in set(self._expiry) if self._holds(entry)]
            heapq.heapify(self._expiry)

    def _holds(self, entry: tuple[float, bytes, bytes]) -> bool:
        item = self.item(entry[1], entry[2])
        return item is not None and item.expires == entry[0]


def _size_in_set(item: Item) -> int:
    return SET_COST + len(item.encoded)
