"""Signs of life: pings at intervals, the round trip they measure, and when silence means death.

Whatever arrives is a sign of life; a ping only makes sure that something does. So a peer that is
busy sending, and answers late or never, is not given up.

What counts about the round trip is the path, not the queues on it, since windows are sized by it.
So the first pings follow each other quickly, while the link is hardly used, a better sample is
believed at once, and a worse one only by and by.
"""

from __future__ import annotations

from ._frames import PeerSilent

_EARLY_PINGS, _EARLY_INTERVAL_S = 3, 1.0
_RISE = 8  # a worse sample moves the estimate by this part of the difference


class Pulse:
    """Of one connection.

    Attributes:
        rtt_s: the round trip, None until the first answer.
        heard_at: when bytes last arrived.
    """

    __slots__ = (
        "_asked_at",
        "_interval_s",
        "_next_at",
        "_nonce",
        "_timeout_s",
        "heard_at",
        "rtt_s",
    )

    def __init__(self, now: float, *, interval_s: float, timeout_s: float) -> None:
        """Start with a ping that is due at once, so that the round trip is known early."""
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._next_at = self.heard_at = now
        self._asked_at: float | None = None
        self._nonce = 0
        self.rtt_s: float | None = None

    def ask(self, now: float) -> int | None:
        """Return the nonce of a ping to send, or None while the last one is unanswered."""
        if self._asked_at is not None:
            return None
        self._nonce = (self._nonce + 1) & 0xFFFFFFFF
        early = self._nonce < _EARLY_PINGS
        self._asked_at = now
        self._next_at = now + (
            min(_EARLY_INTERVAL_S, self._interval_s) if early else self._interval_s
        )
        return self._nonce

    def answered(self, nonce: int, now: float) -> float | None:
        """Take an answer; return the round trip, or None for an answer to nothing we asked."""
        if self._asked_at is None or nonce != self._nonce:
            return None
        sample, self._asked_at = now - self._asked_at, None
        known = sample if self.rtt_s is None else self.rtt_s
        self.rtt_s = min(sample, known + (sample - known) / _RISE)
        return sample

    def next_timeout(self) -> float:
        """When to call `handle_timeout`. Moves later as bytes arrive."""
        if self._asked_at is None:
            return self._next_at
        return max(self._asked_at, self.heard_at) + self._timeout_s

    def handle_timeout(self, now: float) -> int | None:
        """Return the nonce of a ping that is due. Raises PeerSilent."""
        if now < self.next_timeout():
            return None
        if self._asked_at is not None:
            silent_s = now - self.heard_at
            raise PeerSilent(f"nothing came for {silent_s:.1f} s, not even the answer to a ping")
        return self.ask(now)
