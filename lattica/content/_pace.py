"""How fast one peer delivers, how much to have on the way from it, how long to bear its silence.

Pure: `now` is passed in, in seconds. The rate is a smoothed measurement of bytes over time while
something is asked for. The window covers the way there and back twice over and a quarter of a
second, so that a pipe is full and a change of rate is noticed soon; until the first measurement it
doubles with every round trip. Patience follows from the same history, so a peer on a slow line
is not taken for a dead one, nor a fast one that died for a slow one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SAMPLE_SECONDS = 0.1  # a rate is measured over at least this long
_SMOOTHING = 0.3  # weight of the newest sample
_WINDOW_SECONDS = 0.25  # what a window holds beyond two round trips


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """The bounds of one peer's pace.

    Attributes:
        first_window_bytes: on the way from a peer of unknown rate, when it starts.
        least_window_bytes: on the way from the slowest peer.
        most_window_bytes: on the way from the fastest.
        patience: seconds of silence that are always allowed a peer whose rate is known.
        first_patience: the same for a peer that has not delivered yet.
        leaf_seconds: seconds for one leaf, however its bytes trickle in.
        silence: seconds after which a peer that stays silent is given up, at the earliest.
    """

    first_window_bytes: int = 1 << 20
    least_window_bytes: int = 512 << 10
    most_window_bytes: int = 64 << 20
    patience: float = 1.0
    first_patience: float = 4.0
    leaf_seconds: float = 20.0
    silence: float = 12.0


class Pace:
    """The measured history of one peer.

    Attributes:
        rate: bytes a second while asked; 0 until measured.
        round_trip: least seconds from a lone request to its first byte; 0 until measured.
        window_bytes: how much to have on the way.
        last_heard: when bytes came last, or waiting began.
        last_leaf: when a leaf was whole last, or waiting began.
    """

    __slots__ = (
        "_limits",
        "_sample_bytes",
        "_sample_start",
        "_stalls",
        "last_heard",
        "last_leaf",
        "rate",
        "round_trip",
        "window_bytes",
    )

    def __init__(self, limits: PaceLimits, now: float) -> None:
        self._limits = limits
        self._sample_start, self._sample_bytes, self._stalls = now, 0, 0
        self.rate = self.round_trip = 0.0
        self.window_bytes = limits.first_window_bytes
        self.last_heard = self.last_leaf = now

    def start(self, now: float) -> None:
        """Note that something was asked while nothing was on the way: time counts from here."""
        self._sample_start, self._sample_bytes = now, 0
        self.last_heard = self.last_leaf = now

    def receive_bytes(self, size: int, now: float) -> None:
        """Note bytes that came while something was on the way."""
        self.last_heard = now
        self._sample_bytes += size
        elapsed = now - self._sample_start
        if elapsed < _SAMPLE_SECONDS:
            return
        sample = self._sample_bytes / elapsed
        self.rate += (sample - self.rate) * (_SMOOTHING if self.rate else 1.0)
        self._sample_start, self._sample_bytes = now, 0
        self._set_window(self.rate * (_WINDOW_SECONDS + 2 * self.round_trip))

    def receive_first(self, seconds: float, now: float) -> None:
        """Note how long the first byte of the answer to a lone request took.

        The rate is measured from here on: waiting for the first byte is no lack of bandwidth.
        """
        self.round_trip = min(self.round_trip or math.inf, seconds)
        self._sample_start = now

    def receive_leaf(self, size: int) -> None:
        """Note that a leaf of `size` bytes is whole: the peer delivers."""
        self._stalls = 0
        self.last_leaf = self.last_heard
        if not self.rate:
            self._set_window(self.window_bytes + size)

    def stall(self) -> None:
        """Note that patience ran out: the window shrinks, the next patience is twice as long."""
        self._stalls += 1
        self._set_window(0)

    def patience(self, leaf_bytes: int) -> float:
        """Seconds of silence that the history explains, while a leaf of this size is awaited."""
        patience = self._limits.first_patience
        if self.rate:
            patience = self._limits.patience + 4 * (self.round_trip + leaf_bytes / self.rate)
        return float(patience * 2**self._stalls)

    def next_stall(self, leaf_bytes: int) -> float:
        """When the work of the peer is to be given to others, if no more comes until then."""
        leaf_due = self.last_leaf + self._limits.leaf_seconds * float(2**self._stalls)
        return min(self.last_heard + self.patience(leaf_bytes), leaf_due)

    def silence(self, leaf_bytes: int) -> float:
        """Seconds of silence after which the peer counts as gone."""
        return max(self._limits.silence, 3 * self.patience(leaf_bytes))

    def _set_window(self, size: float) -> None:
        limits = self._limits
        bounded = min(max(size, limits.least_window_bytes), limits.most_window_bytes)
        self.window_bytes = int(bounded)
