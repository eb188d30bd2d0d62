"""How rare each missing leaf is, in one byte each, and which is the rarest. Pure.

A leaf's *level* is the number of peers known to hold it, beside those that hold everything, who
would only add the same to each. The rarest leaf is the first byte of the lowest level there is:
`bytearray.find` searches a million leaves in some microseconds. Levels of many leaves change in one
addition of long integers, a byte a leaf.

A peer that does not hold everything has a view of its own, in which what it lacks is not wanted. It
is made when first needed, and may lag behind: whoever finds a leaf in it at a level that is not the
present one puts that right and searches on. That costs no more than keeping it right would.
"""

from __future__ import annotations

NOT_WANTED = 255  # the level of a leaf that is not missing, or not held by whose view it is
MAX_HOLDERS = 250  # peers whose holdings are counted: levels are bytes

_WANTED_TO_ONE = bytes(level != NOT_WANTED for level in range(256))
_LACKED_TO_NOT_WANTED = bytes([NOT_WANTED]) + bytes(255)


class Wanted:
    """Leaves by level: of all that are missing, or of those that one peer holds."""

    __slots__ = ("_first", "_floor", "levels")

    def __init__(self, levels: bytearray) -> None:
        self.levels = levels
        self._floor = self._first = 0  # nothing is below `_floor`, nor at it before `_first`

    def rarest(self, start: int, top: int) -> int:
        """Return a leaf of the lowest level up to `top`, the next from `start` on; or -1."""
        while self._floor <= top:
            first = self._first
            leaf = self.levels.find(self._floor, max(start, first))
            if leaf < 0 and start > first:
                leaf = self.levels.find(self._floor, first, start)
            elif start <= first:
                self._first = leaf if leaf >= 0 else first
            if leaf >= 0:
                return leaf
            self._floor, self._first = self._floor + 1, 0
        return -1

    def put(self, leaf: int, level: int) -> None:
        """Note the level of a leaf."""
        self.levels[leaf] = level
        if level < self._floor:
            self._floor, self._first = level, leaf
        elif level == self._floor:
            self._first = min(self._first, leaf)

    def look_again(self) -> None:
        """Note that levels may have become lower anywhere."""
        self._floor = self._first = 0


class Rarity:
    """The levels of all leaves, as they go missing and peers gain and lose them.

    Attributes:
        missing: the missing leaves by level: what a peer that holds everything may be asked for.
    """

    def __init__(self, count: int) -> None:
        """Make `count` missing leaves that nobody is known to hold."""
        self._holders = bytearray(count)  # of each leaf, but for those who hold everything
        self.missing = Wanted(bytearray(count))

    def extend(self, count: int, holders: int) -> None:
        """Add missing leaves at the end, which `holders` peers hold."""
        self._holders.extend(bytes([holders]) * count)
        self.missing.levels.extend(bytes([holders]) * count)
        self.missing.look_again()

    def need(self, leaf: int) -> None:
        """Note that a leaf is missing."""
        self.missing.put(leaf, self._holders[leaf])

    def drop(self, leaf: int) -> None:
        """Note that a leaf is not missing: it is here, or on its way."""
        self.missing.levels[leaf] = NOT_WANTED

    def drop_run(self, first: int, count: int) -> None:
        """Note that a run of leaves is not missing."""
        self.missing.levels[first : first + count] = bytes([NOT_WANTED]) * count

    def level(self, leaf: int) -> int:
        """Return the level of a leaf, `NOT_WANTED` if it is not missing."""
        return self.missing.levels[leaf]

    def gain(self, first: int, flags: bytes | bytearray) -> None:
        """One peer more holds the leaves that `flags` has a 1 for, from `first` on."""
        self._add(first, flags, 1)

    def lose(self, first: int, flags: bytes | bytearray) -> None:
        """One peer less holds the leaves that `flags` has a 1 for, from `first` on."""
        self._add(first, flags, -1)
        self.missing.look_again()

    def view(self, have: bytes | bytearray) -> Wanted:
        """Return the view of a peer that holds the leaves that `have` has a 1 for."""
        return Wanted(bytearray(self._masked(have, 0)))

    def refresh(self, view: Wanted, first: int, flags: bytes | bytearray) -> None:
        """Put right, in the view of a peer, the leaves from `first` on: it holds those `flags`."""
        view.levels[first : first + len(flags)] = self._masked(flags, first)
        view.look_again()

    def _masked(self, flags: bytes | bytearray, first: int) -> bytes:
        lacked = int.from_bytes(flags.translate(_LACKED_TO_NOT_WANTED), "little")
        levels = self.missing.levels[first : first + len(flags)]
        return (int.from_bytes(levels, "little") | lacked).to_bytes(len(flags), "little")

    def _add(self, first: int, flags: bytes | bytearray, sign: int) -> None:
        # No byte overflows or runs below zero, so the sums of all bytes are one sum.
        end, size = first + len(flags), len(flags)
        change = int.from_bytes(flags, "little")
        holders = int.from_bytes(self._holders[first:end], "little") + sign * change
        self._holders[first:end] = holders.to_bytes(size, "little")
        levels = self.missing.levels
        wanted = int.from_bytes(levels[first:end].translate(_WANTED_TO_ONE), "little")
        changed = int.from_bytes(levels[first:end], "little") + sign * (change & wanted)
        levels[first:end] = changed.to_bytes(size, "little")
