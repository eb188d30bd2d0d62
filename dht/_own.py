"""Entries of this node, which it puts again until they expire. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._namespaces import Item

MAX_OWN = 4096  # entries; as many as others keep of one author


class OwnEntries:
    """Entries by key and place, bounded.

    Attributes:
        changed: called with key and place of each that came or went; for who keeps a copy.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[bytes, Item]] = {}
        self._count = 0
        self._first_expiry = math.inf  # nothing is over before
        self.changed: Callable[[bytes, bytes], object] = lambda _key, _place: None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, Item]]:
        for key, items in self._keys.items():
            for item in items.values():
                yield key, item

    @property
    def keys(self) -> list[bytes]:
        """The keys that have an entry."""
        return list(self._keys)

    def of(self, key: bytes) -> list[Item]:
        """Return the entries under `key`."""
        return list(self._keys.get(key, {}).values())

    def item(self, key: bytes, place: bytes) -> Item | None:
        """Return what stands in one place."""
        return self._keys.get(key, {}).get(place)

    def add(self, key: bytes, item: Item) -> bool:
        """Remember `item`, in the place of an older one; says whether there is room for it."""
        if self.item(key, item.place) is None:
            if self._count >= MAX_OWN:
                return False
            self._count += 1
        self._keys.setdefault(key, {})[item.place] = item
        self._first_expiry = min(self._first_expiry, item.expires)
        self.changed(key, item.place)
        return True

    def expire(self, now: float) -> list[bytes]:
        """Forget what is over at `now`, in seconds since 1970; returns the keys left with nothing.

        It costs nothing until the first is over: who writes much calls this with each entry.
        """
        if now < self._first_expiry:
            return []
        over = [(key, item) for key, item in self if item.expires <= now]
        for key, item in over:
            self.remove(key, item)
        self._first_expiry = min((item.expires for _, item in self), default=math.inf)
        return [key for key in dict(over) if key not in self._keys]

    def remove(self, key: bytes, item: Item) -> None:
        """Forget `item`, unless something else stands in its place."""
        if self.item(key, item.place) == item:
            del self._keys[key][item.place]
            self._count -= 1
            if not self._keys[key]:
                del self._keys[key]
            self.changed(key, item.place)
