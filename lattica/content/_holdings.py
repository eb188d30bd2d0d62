"""Who holds which leaves, and what is the rarest that one peer could bring. Pure.

A peer holds everything, or what it has said so far. Those that hold everything share one view of
the missing leaves. Each of the others has its own, made when first needed, which may lag behind:
what is found in it at a level that is not the present one is put right, and the search goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._leaf_states import LeafStates
    from ._rarity import Wanted

_FEW = 1024  # leaves whose rarity changed that views may find out about one by one


class Holding:
    """What one peer holds, as far as is known.

    Attributes:
        have: a byte of 0 or 1 for each leaf; None while it holds everything.
        view: the missing leaves among them, by rarity; None until needed.
    """

    __slots__ = ("have", "view")

    def __init__(self, have: bytearray | None) -> None:
        self.have = have
        self.view: Wanted | None = None

    def holds(self, leaf: int) -> bool:
        """Whether it holds a leaf."""
        return self.have is None or bool(self.have[leaf])

    def merge(self, first: int, flags: bytes) -> bytes:
        """Add the leaves that `flags` has a 1 for, from `first` on.

        Returns:
            Those among them that are news, in the same form; b"" for none.
        """
        if self.have is None or first >= len(self.have):
            return b""
        flags = flags[: len(self.have) - first]
        end = first + len(flags)
        known = int.from_bytes(self.have[first:end], "little")
        merged = int.from_bytes(flags, "little") | known
        if merged == known:
            return b""
        self.have[first:end] = merged.to_bytes(len(flags), "little")
        return (merged ^ known).to_bytes(len(flags), "little")


class Holdings:
    """The holdings of all peers that are here.

    Attributes:
        partial: how many do not hold everything.
    """

    def __init__(self, leaves: LeafStates) -> None:
        """Start with nobody; `leaves` says what is missing."""
        self.partial = 0
        self._leaves, self._rarity = leaves, leaves.rarity
        self._all: list[Holding] = []

    def join(self, *, complete: bool) -> Holding:
        """Take up a peer that holds every leaf or, so far, none."""
        holding = Holding(None if complete else bytearray(len(self._leaves)))
        self._all.append(holding)
        self.partial += not complete
        return holding

    def leave(self, holding: Holding) -> None:
        """Forget a peer."""
        self.complete(holding)
        self._all.remove(holding)

    def complete(self, holding: Holding) -> None:
        """A peer holds every leaf: that makes none rarer than another, as if it had left."""
        if holding.have is not None:
            self.partial -= 1
            self._rarity.lose(0, holding.have)
            holding.have = None
            self._drop_views()  # they may have leaves at levels that there are no more

    def gain(self, holding: Holding, first: int, flags: bytes) -> bool:
        """A peer holds the leaves that `flags` has a 1 for, from `first` on, beside what is known.

        Returns:
            Whether that is news.
        """
        news = holding.merge(first, flags)
        if holding.have is None or not news:
            return False
        self._rarity.gain(first, news)
        self._note_changes(news.count(1))
        if holding.view is not None:
            held = holding.have[first : first + len(news)]
            self._rarity.refresh(holding.view, first, held)
        return True

    def lack(self, holding: Holding, first: int, end: int) -> None:
        """A peer does not hold leaves `first` to `end - 1`."""
        if holding.have is None:
            holding.have = bytearray(b"\1") * len(self._leaves)
            self.partial += 1
            self._rarity.gain(0, holding.have)
        self._rarity.lose(first, holding.have[first:end])
        holding.have[first:end] = bytes(end - first)
        if holding.view is not None:
            self._rarity.refresh(holding.view, first, bytes(end - first))

    def extend(self, count: int) -> None:
        """Add `count` missing leaves at the end; every peer is taken to hold them."""
        self._leaves.extend(count, self.partial)
        self._drop_views()
        for holding in self._all:
            if holding.have is not None:
                holding.have.extend(b"\1" * count)

    def need(self, leaf: int) -> None:
        """A leaf is missing again."""
        level = self._rarity.level(leaf)
        for holding in self._all:
            if holding.view is not None and holding.holds(leaf):
                holding.view.put(leaf, level)

    def rarest(self, holding: Holding, start: int) -> int:
        """Return the rarest missing leaf that a peer holds, the next from `start` on; or -1."""
        if holding.have is None:
            return self._rarity.missing.rarest(start, self.partial)
        if holding.view is None:
            holding.view = self._rarity.view(holding.have)
        while (leaf := holding.view.rarest(start, self.partial)) >= 0:
            level = self._rarity.level(leaf)
            if level == holding.view.levels[leaf]:
                break
            holding.view.put(leaf, level)
        return leaf

    def _note_changes(self, count: int) -> None:
        if count > _FEW:
            self._drop_views()

    def _drop_views(self) -> None:
        for holding in self._all:
            holding.view = None
