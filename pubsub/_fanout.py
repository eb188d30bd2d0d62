"""Whom a message goes to on a topic that we did not join: a few peers, the same for a while. Pure.

Source: GossipSub v1.0, Fanout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from lattica.identity import PeerId

    from ._parameters import Parameters
    from ._peers import Peer


class Fanout:
    """The peers chosen for each such topic, until nothing was published there for long."""

    def __init__(self, parameters: Parameters, rng: random.Random) -> None:
        self._parameters, self._rng = parameters, rng
        self._chosen: dict[str, tuple[float, dict[PeerId, Peer]]] = {}  # last published, to whom

    def recipients(self, topic: str, worthy: Iterable[Peer], now: float) -> list[Peer]:
        """Return who gets what is published now; of `worthy`, the subscribers that may."""
        _, before = self._chosen.get(topic, (now, {}))
        chosen = self._fill(before, worthy)
        self._chosen[topic] = now, chosen
        return list(chosen.values())

    def handle_heartbeat(self, worthy: Callable[[str], Iterable[Peer]], now: float) -> None:
        """Forget topics that have been quiet; elsewhere put others in the place of those gone."""
        self._chosen = {
            topic: (published_at, self._fill(chosen, worthy(topic)))
            for topic, (published_at, chosen) in self._chosen.items()
            if now - published_at < self._parameters.fanout_seconds
        }

    def forget(self, topic: str) -> None:
        """We have joined that topic: its mesh gets what we publish."""
        self._chosen.pop(topic, None)

    def remove_peer(self, peer: PeerId) -> None:
        """A peer is gone."""
        for _, chosen in self._chosen.values():
            chosen.pop(peer, None)

    def __len__(self) -> int:
        return len(self._chosen)

    def _fill(self, chosen: dict[PeerId, Peer], worthy: Iterable[Peer]) -> dict[PeerId, Peer]:
        able = list(worthy)
        kept = {peer.id: peer for peer in able if peer.id in chosen}
        others = [peer for peer in able if peer.id not in chosen]
        self._rng.shuffle(others)
        kept |= {peer.id: peer for peer in others[: max(0, self._parameters.degree - len(kept))]}
        return kept
