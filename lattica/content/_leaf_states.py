"""How far each leaf of an object is, in one byte each. Pure.

A leaf is missing, asked for of one peer or of two, arrived (here, being hashed) or verified. Runs
are found with `bytearray.find`, so that a million leaves are searched in microseconds. Which of the
missing leaves are rare is `Rarity`'s to say; it is told here what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rarity import Rarity

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING, _ASKED, _RACED, _ARRIVED, _VERIFIED = range(5)
_VERIFIED_TO_ONE = bytes(state == _VERIFIED for state in range(256))


class LeafStates:
    """The states of all leaves, and what they add up to.

    Attributes:
        verified: how many leaves are verified.
        arrived: how many are here and not verified yet.
        missing: how many nobody has been asked for.
        raced_bytes: of the leaves that two peers have been asked for.
        rarity: how rare each missing leaf is.
    """

    def __init__(self, count: int, size: Callable[[int], int]) -> None:
        """Make `count` missing leaves; `size` tells the bytes of each."""
        self._states = bytearray(count)
        self._size = size
        self.rarity = Rarity(count)
        self.missing = count
        self.verified = self.arrived = self.raced_bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def extend(self, count: int, holders: int) -> None:
        """Add missing leaves at the end, which `holders` peers hold beside those who hold all."""
        self._states.extend(bytes(count))
        self.missing += count
        self.rarity.extend(count, holders)

    # what is known

    def is_owed_by_one(self, leaf: int) -> bool:
        """Whether one peer has been asked for it, and it is not here."""
        return self._states[leaf] == _ASKED

    def is_here(self, leaf: int) -> bool:
        """Whether it is verified, or here to be."""
        return self._states[leaf] >= _ARRIVED

    def is_verified(self, leaf: int) -> bool:
        """Whether it matched its hash."""
        return self._states[leaf] == _VERIFIED

    def verified_flags(self) -> bytes:
        """Return a byte for each leaf: 1 if it is verified, else 0."""
        return bytes(self._states.translate(_VERIFIED_TO_ONE))

    # what happens to it

    def ask(self, leaf: int) -> bool:
        """Note that one more peer was asked. Returns whether another owes it already."""
        raced = self._states[leaf] == _ASKED
        self._set(leaf, self._states[leaf] + 1)
        return raced

    def release(self, leaf: int) -> bool:
        """Note that one peer less owes it. Returns whether it is missing now."""
        if self._states[leaf] not in (_ASKED, _RACED):
            return False
        self._set(leaf, self._states[leaf] - 1)
        return self._states[leaf] == _MISSING

    def arrive(self, leaf: int) -> bool:
        """Note that it came. Returns False if it was here already."""
        if self._states[leaf] >= _ARRIVED:
            return False
        self._set(leaf, _ARRIVED)
        return True

    def verify(self, leaf: int) -> bool:
        """Note that it matched. Returns False if that was known."""
        if self._states[leaf] == _VERIFIED:
            return False
        self._set(leaf, _VERIFIED)
        return True

    def reject(self, leaf: int, owing: int) -> bool:
        """Note that it did not match, while `owing` peers owe it. Returns whether it is missing."""
        if self._states[leaf] != _ARRIVED:
            return False
        self._set(leaf, min(owing, _RACED))
        return owing == 0

    def mark_verified(self, first: int, count: int) -> None:
        """Take leaves for verified that nobody has been asked for."""
        self.verified += count - self._states.count(_VERIFIED, first, first + count)
        self.missing -= self._states.count(_MISSING, first, first + count)
        self.rarity.drop_run(first, count)
        self._states[first : first + count] = bytes([_VERIFIED]) * count

    def _set(self, leaf: int, state: int) -> None:
        before = self._states[leaf]
        self._states[leaf] = state
        if state == _MISSING:
            self.missing += 1
            self.rarity.need(leaf)
        elif before == _MISSING:
            self.missing -= 1
            self.rarity.drop(leaf)
        self.arrived += (state == _ARRIVED) - (before == _ARRIVED)
        self.verified += (state == _VERIFIED) - (before == _VERIFIED)
        if _RACED in (state, before):
            self.raced_bytes += self._size(leaf) * ((state == _RACED) - (before == _RACED))
