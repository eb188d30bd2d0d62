"""How long to wait for an answer, learnt from those that came. Pure.

Estimates are those of RFC 6298 §2: a smoothed round trip and how far it strays. There is one for
everybody and one for each peer that answered lately. Two deadlines come of them: after the *soft*
one somebody else is asked beside the silent peer, and a wrong guess costs one request more, so the
quicker of both estimates holds; after the *hard* one the request has failed, and a wrong guess
costs a living peer, so the slower holds. Both have bounds, whatever the peers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

PEERS = 1024  # that have an estimate of their own: the latest to answer


class RoundTrip:
    """An estimate of how long answers take, in seconds."""

    __slots__ = ("_deviation", "_mean")

    def __init__(self, first: float) -> None:
        self._mean, self._deviation = first, first / 2

    def observe(self, seconds: float) -> None:
        """Take one more measurement."""
        self._deviation += (abs(seconds - self._mean) - self._deviation) / 4
        self._mean += (seconds - self._mean) / 8

    @property
    def usual(self) -> float:
        """What hardly an answer takes longer than."""
        return self._mean + 4 * self._deviation


class Patience:
    """Deadlines for one node's requests."""

    SOFT_LEAST, SOFT_MOST, SOFT_FIRST = 0.25, 3.0, 1.0
    HARD_LEAST, HARD_MOST = 2.0, 10.0

    __slots__ = ("_everybody", "_peers")

    def __init__(self) -> None:
        self._everybody: RoundTrip | None = None
        self._peers: dict[bytes, RoundTrip] = {}  # the one that answered last at the end

    def observe(self, seconds: float, peer: PeerId | None = None) -> None:
        """Note how long an answer took, the time to connect included."""
        if self._everybody is None:
            self._everybody = RoundTrip(seconds)
        else:
            self._everybody.observe(seconds)
        if peer is None:
            return
        known = self._peers.pop(peer.raw, None)
        if known is None:
            known = RoundTrip(seconds)
            if len(self._peers) >= PEERS:
                del self._peers[next(iter(self._peers))]
        else:
            known.observe(seconds)
        self._peers[peer.raw] = known

    @property
    def soft(self) -> float:
        """After so long we ask somebody else beside a silent peer of which nothing is known."""
        return self._soft(self._usual)

    @property
    def hard(self) -> float:
        """After so long a request to such a peer has failed."""
        return self._hard(self._usual)

    def deadlines(self, peer: PeerId) -> tuple[float, float]:
        """Return the soft and the hard deadline of a request to `peer`, in seconds from it."""
        everybody, known = self._usual, self._peers.get(peer.raw)
        if known is None:
            return self._soft(everybody), self._hard(everybody)
        usual = known.usual
        return self._soft(min(usual, everybody)), self._hard(max(usual, everybody))

    @property
    def _usual(self) -> float:
        return self.SOFT_FIRST if self._everybody is None else self._everybody.usual

    def _soft(self, usual: float) -> float:
        return min(max(usual, self.SOFT_LEAST), self.SOFT_MOST)

    def _hard(self, usual: float) -> float:
        return min(max(4 * self._soft(usual), self.HARD_LEAST), self.HARD_MOST)
