"""What the answers to one question about a key say, taken together. Pure.

Each answer is checked by itself; of each place the newest valid item counts, whoever had it. So one
honest holder of the newest is enough, forgers add nothing, and what each peer lacks is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica import codec

from ._namespaces import MAX_VALUES, Item, ValueRefused
from ._records import MAX_VALUE
from ._results import FoundValue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.identity import PeerId

    from ._keeper import Keeper


class Reading:
    """What the answers to one question say, taken together.

    Attributes:
        invalid: values that were refused.
    """

    def __init__(self, keeper: Keeper, key: bytes) -> None:
        self._keeper, self._key = keeper, key
        self._best: dict[bytes, Item] = {}
        self._held_by: dict[PeerId, dict[bytes, Item]] = {}
        self._read: dict[bytes, tuple[list[Item], int]] = {}  # most holders say the same
        self.invalid = 0

    @property
    def holders(self) -> int:
        """How many hold something valid."""
        return sum(bool(items) for items in self._held_by.values())

    def hear(self, peer: PeerId, value: bytes | None, *, now: float) -> None:
        """Take the answer of a peer: the value of its record, or None."""
        if value is None:
            self.take(peer, [])
            return
        known = self._read.get(value)
        if known is None:
            known = self._keeper.read(self._key, value, now=now, known=self._best.values())
            self._read[value] = known
        items, invalid = known
        self.invalid += invalid
        self.take(peer, items)

    def take(self, peer: PeerId, items: Iterable[Item]) -> None:
        """Take valid items that `peer` holds."""
        held = self._held_by.setdefault(peer, {})
        for item in items:
            held[item.place] = item
            best = self._best.get(item.place)
            if best is None or self._supersedes(item, best):
                self._best[item.place] = item

    def has_some(self, peer: PeerId) -> bool:
        """Say whether `peer` holds something valid."""
        return bool(self._held_by.get(peer))

    def missing_at(self, peer: PeerId) -> list[Item]:
        """Return what `peer`, which has answered, lacks."""
        held = self._held_by.get(peer)
        if held is None:
            return []
        return [
            item
            for place, item in self._best.items()
            if (theirs := held.get(place)) is None or theirs.encoded != item.encoded
        ]

    def found(self, subkey: bytes | None, author: PeerId | None) -> tuple[FoundValue, ...]:
        """Return the values asked for, by subkey, then author."""
        values = [_found(item) for item in self._best.values()]
        chosen = [
            each
            for each in values
            if subkey in (None, each.subkey) and author in (None, each.author)
        ]
        chosen.sort(key=lambda each: (each.subkey, each.author.raw if each.author else b""))
        return tuple(chosen)

    def _supersedes(self, item: Item, other: Item) -> bool:
        if item.encoded == other.encoded:
            return False
        try:
            return self._keeper.namespaces.supersedes(self._key, item, other)
        except ValueRefused:
            return False


def _found(item: Item) -> FoundValue:
    entry = item.entry
    if entry is None:
        return FoundValue(item.encoded, None, b"", 0, 0.0, item.expires)
    value = codec.unpack(entry.value, max_size=MAX_VALUE, max_values=MAX_VALUES)
    created = entry.created_ms / 1000
    return FoundValue(value, entry.author, entry.subkey, entry.sequence, created, entry.expires)
