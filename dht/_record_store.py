"""The values that others left with us, until they expire. Pure.

What comes in here is valid already (`_namespaces`); the store says which of two is kept, and holds
the bounds: so much under a key, so much of one author, so much in all (spec/dht.md §7.6). Where a
bound is met, whoever takes the most room pays: an author over its quota loses its own oldest, a
full key takes from the author that has most entries there, a full store from whoever holds more
than an equal share. So a flood drowns its own, and a newcomer with one entry finds room.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

from ._namespaces import Item, Reason, ValueRefused
from ._records import MAX_ENTRIES, MAX_SET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._namespaces import Namespaces

MAX_ITEMS = 32_768  # in all
MAX_BYTES = 64 << 20  # in all, with what keeping them costs
MAX_ITEMS_PER_OWNER = 4096
MAX_BYTES_PER_OWNER = 8 << 20
ITEM_COST = 1024  # bytes of memory of an item besides its key and encoding
SET_COST = 8  # bytes of an item in a set besides its encoding
_STALE = 64  # entries of the heap that no longer hold, besides one for each item

Place = tuple[bytes, bytes]  # the key, and the place under it


class RecordStore:
    """Values by key and place, bounded.

    Args:
        namespaces: the rules, which say what replaces what.
        changed: called with key and place of each item that came or went; for who keeps a copy.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        *,
        items: int = MAX_ITEMS,
        size: int = MAX_BYTES,
        items_per_owner: int = MAX_ITEMS_PER_OWNER,
        size_per_owner: int = MAX_BYTES_PER_OWNER,
        items_per_key: int = MAX_ENTRIES,
        size_per_key: int = MAX_SET,
        changed: Callable[[bytes, bytes, Item | None], object] = lambda _key, _place, _item: None,
    ) -> None:
        self._namespaces, self._changed = namespaces, changed
        self._most_items, self._most_size = items, size
        self._most_items_per_owner, self._most_size_per_owner = items_per_owner, size_per_owner
        self._most_items_per_key, self._most_size_per_key = items_per_key, size_per_key
        self._keys: dict[bytes, dict[bytes, Item]] = {}
        # In the order of arrival, the oldest first.
        self._order: dict[Place, int] = {}  # what each costs, in bytes
        self._owners: dict[bytes, dict[Place, int]] = {}
        self._owner_sizes: Counter[bytes] = Counter()
        self._key_sizes: Counter[bytes] = Counter()
        self._size = 0
        self._expiry: list[tuple[float, bytes, bytes]] = []

    def __len__(self) -> int:
        return len(self._order)

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

    def add(self, key: bytes, item: Item, *, now: float) -> bool:
        """Keep `item`; says whether that is news. The same item again is none.

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
        set_size = SET_COST + len(item.encoded)
        if cost > min(self._most_size, self._most_size_per_owner):
            raise ValueRefused(f"an item of {cost} bytes", Reason.FULL)
        if held is None or len(item.encoded) > len(held.encoded):
            self._make_room_in_key(key, item, set_size)
        if held is not None:
            self._discard(key, item.place)
        self._make_room_of_owner(item.owner, cost)
        self._make_room(item.owner, cost)
        place = (key, item.place)
        self._keys.setdefault(key, {})[item.place] = item
        self._order[place] = cost
        self._owners.setdefault(item.owner, {})[place] = cost
        self._owner_sizes[item.owner] += cost
        self._key_sizes[key] += set_size
        self._size += cost
        self._push(item.expires, key, item.place)
        self._changed(key, item.place, item)
        return True

    def expire(self, now: float) -> None:
        """Drop what is over."""
        while self._expiry and self._expiry[0][0] <= now:
            entry = heapq.heappop(self._expiry)
            if self._holds(entry):
                self._discard(entry[1], entry[2])

    def _make_room_in_key(self, key: bytes, item: Item, size: int) -> None:
        items = self._keys.get(key, {})
        replaced = items.get(item.place)
        count = len(items) + (replaced is None)
        total = self._key_sizes[key] + size
        if replaced is not None:
            total -= SET_COST + len(replaced.encoded)
        if count <= self._most_items_per_key and total <= self._most_size_per_key:
            return
        shares = Counter[bytes]()
        for each in items.values():
            shares[each.owner] += SET_COST + len(each.encoded)
        newcomer = shares[item.owner] + size
        victims: list[bytes] = []
        while count > self._most_items_per_key or total > self._most_size_per_key:
            owner = max(shares, key=lambda each: (shares[each], each), default=None)
            if owner is None or (owner != item.owner and shares[owner] <= newcomer):
                raise ValueRefused(
                    f"the key holds {len(items)} values of {self._key_sizes[key]} bytes, as much "
                    "as it may",
                    Reason.FULL,
                )
            gone = (
                next(
                    each
                    for each in items.values()
                    if each.owner == owner and each.place not in victims and each is not replaced
                )
                if shares[owner]
                else None
            )
            if gone is None:  # only what is being replaced is left of it
                del shares[owner]
                continue
            freed = SET_COST + len(gone.encoded)
            victims.append(gone.place)
            shares[owner] -= freed
            count, total = count - 1, total - freed
        for place in victims:
            self._discard(key, place)

    def _make_room_of_owner(self, owner: bytes, cost: int) -> None:
        while (theirs := self._owners.get(owner)) is not None and (
            len(theirs) >= self._most_items_per_owner
            or self._owner_sizes[owner] + cost > self._most_size_per_owner
        ):
            self._discard(*next(iter(theirs)))

    def _make_room(self, owner: bytes, cost: int) -> None:
        while self._order and (
            len(self._order) >= self._most_items or self._size + cost > self._most_size
        ):
            fair_share = self._size / (len(self._owners) + (owner not in self._owners))
            theirs = self._owners.get(owner)
            over = theirs is not None and self._owner_sizes[owner] >= fair_share
            self._discard(*next(iter(theirs if theirs is not None and over else self._order)))

    def _discard(self, key: bytes, place: bytes) -> None:
        item = self._keys[key].pop(place)
        cost = self._order.pop((key, place))
        self._size -= cost
        self._key_sizes[key] -= SET_COST + len(item.encoded)
        if not self._keys[key]:
            del self._keys[key], self._key_sizes[key]
        theirs = self._owners[item.owner]
        del theirs[key, place]
        self._owner_sizes[item.owner] -= cost
        if not theirs:
            del self._owners[item.owner], self._owner_sizes[item.owner]
        self._changed(key, place, None)

    def _push(self, expires: float, key: bytes, place: bytes) -> None:
        heapq.heappush(self._expiry, (expires, key, place))
        # What was replaced leaves its entry behind until that comes due, in a week perhaps.
        if len(self._expiry) > 2 * len(self._order) + _STALE:
            self._expiry = [entry for entry in set(self._expiry) if self._holds(entry)]
            heapq.heapify(self._expiry)

    def _holds(self, entry: tuple[float, bytes, bytes]) -> bool:
        item = self.item(entry[1], entry[2])
        return item is not None and item.expires == entry[0]
