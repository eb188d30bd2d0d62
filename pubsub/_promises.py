"""Promises: who announced a message that we asked for has to send it in time. Pure.

Of each announcement that made us ask, one identifier is tracked, drawn by lot: a peer that
announces what it does not have is found out soon, and tracking stays small (GossipSub v1.1, Spam
Protection Measures). A message counts as delivered whoever brought it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

MAX_PROMISES = 16_384  # more are not tracked; a peer adds at most ten a heartbeat


class Promises:
    """Messages asked for, by identifier and by peer, each with its deadline."""

    def __init__(self) -> None:
        self._deadlines: dict[bytes, dict[PeerId, float]] = {}
        self._count = 0

    def track(self, message_id: bytes, peer: PeerId, deadline: float) -> None:
        """Expect `message_id` of `peer`. An earlier deadline stands."""
        if self._count < MAX_PROMISES:
            peers = self._deadlines.setdefault(message_id, {})
            self._count += peer not in peers
            peers.setdefault(peer, deadline)

    def fulfil(self, message_id: bytes) -> None:
        """The message has arrived."""
        self._count -= len(self._deadlines.pop(message_id, ()))

    def broken(self, now: float) -> list[PeerId]:
        """Return the peers whose deadline has passed, once per promise, and forget those."""
        late = [
            (message_id, peer)
            for message_id, peers in self._deadlines.items()
            for peer, deadline in peers.items()
            if deadline <= now
        ]
        for message_id, peer in late:
            del self._deadlines[message_id][peer]
            if not self._deadlines[message_id]:
                del self._deadlines[message_id]
        self._count -= len(late)
        return [peer for _, peer in late]

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._deadlines

    def __len__(self) -> int:
        return self._count
