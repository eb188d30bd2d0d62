"""Who is in which mesh. Pure: decisions go into the peers' outboxes.

A mesh is, per topic that we joined, the few peers that get every message at once. Links are
mutual: GRAFT adds one, PRUNE removes it and keeps both sides from trying again for a while (the
backoff). The heartbeat keeps each mesh between `degree_low` and `degree_high`, without peers of bad
score, and with some peers that we dialled. Rules: GossipSub v1.1, Prune Backoff, Outbound Mesh
Quotas, Peer Scoring; ours: spec/gossip.md §5.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from lattica.identity import PeerId

    from ._parameters import Parameters, ScoreParameters
    from ._peers import Peer
    from ._score import Scores

_BACKOFF_SLACK = 2  # heartbeats waited beyond a backoff before we graft: clocks and queues differ


class Overlay:
    """The meshes of all joined topics."""

    def __init__(
        self,
        parameters: Parameters,
        score_parameters: ScoreParameters,
        scores: Scores,
        rng: random.Random,
    ) -> None:
        self._parameters, self._score_parameters = parameters, score_parameters
        self._scores, self._rng = scores, rng
        self._meshes: dict[str, dict[PeerId, Peer]] = {}
        self._backoffs: dict[tuple[str, PeerId], float] = {}  # until when
        self._heartbeats = 0

    @property
    def topics(self) -> list[str]:
        """The topics we joined."""
        return list(self._meshes)

    def joined(self, topic: str) -> bool:
        """Say whether we joined the topic."""
        return topic in self._meshes

    def mesh(self, topic: str) -> list[Peer]:
        """The mesh of a topic; empty for one that we have not joined."""
        return list(self._meshes.get(topic, {}).values())

    def contains(self, topic: str, peer: PeerId) -> bool:
        """Say whether a peer is in the mesh of a topic."""
        return peer in self._meshes.get(topic, ())

    def join(self, topic: str, subscribers: Iterable[Peer], now: float) -> None:
        """Begin a mesh out of the topic's subscribers."""
        if topic not in self._meshes:
            self._meshes[topic] = {}
            self._fill(topic, list(subscribers), self._parameters.degree, now)

    def leave(self, topic: str, now: float) -> None:
        """Dissolve the mesh of a topic."""
        for peer in self._meshes.pop(topic, {}).values():
            self._send_prune(topic, peer, self._parameters.leave_backoff_seconds, now)

    def consider(self, topic: str, peer: Peer, now: float) -> None:
        """Graft a peer that has just subscribed, if the mesh is thin: now, not at a heartbeat."""
        if len(self._meshes.get(topic, ())) < self._parameters.degree:
            self._fill(topic, [peer], self._parameters.degree, now)

    def drop(self, peer: PeerId, topic: str | None = None) -> None:
        """Take a peer that is gone, or that left `topic`, out of the meshes, without a word."""
        for name, mesh in self._meshes.items():
            if topic in (None, name):
                mesh.pop(peer, None)

    def handle_graft(self, topic: str, peer: Peer, now: float) -> None:
        """A peer added us to its mesh: do the same, or prune it."""
        mesh, parameters = self._meshes.get(topic), self._parameters
        if mesh is None or peer.id in mesh:  # an unknown topic gets no answer: v1.1 spam hardening
            return
        until = self._backoffs.get((topic, peer.id), 0.0)
        if now < until:
            self._scores.misbehaved(peer.id, now)
            pruned_at = until - parameters.prune_backoff_seconds
            if now < pruned_at + parameters.graft_flood_seconds:
                self._scores.misbehaved(peer.id, now)
        full = len(mesh) >= parameters.degree_high and not peer.outbound
        if now < until or full or self._scores.score(peer.id, now) < 0:
            self._send_prune(topic, peer, parameters.prune_backoff_seconds, now)
            return
        mesh[peer.id] = peer

    def handle_prune(self, topic: str, peer: Peer, backoff_seconds: int | None, now: float) -> None:
        """A peer removed us from its mesh: do the same, and leave it alone for a while."""
        mesh, parameters = self._meshes.get(topic), self._parameters
        if mesh is None:
            return
        mesh.pop(peer.id, None)
        if not backoff_seconds:  # v1.0 says nothing; 0 would let it come back at once, and again
            backoff_seconds = parameters.prune_backoff_seconds
        self._back_off(topic, peer, min(backoff_seconds, parameters.max_backoff_seconds), now)

    def handle_heartbeat(self, subscribers: dict[str, list[Peer]], now: float) -> None:
        """Bring every mesh into shape. `subscribers` are the peers of each joined topic."""
        self._heartbeats += 1
        slack = _BACKOFF_SLACK * self._parameters.heartbeat_seconds
        self._backoffs = {key: at for key, at in self._backoffs.items() if at + slack > now}
        for topic, mesh in self._meshes.items():
            candidates = subscribers.get(topic, [])
            for peer in [one for one in mesh.values() if self._scores.score(one.id, now) < 0]:
                self._prune(topic, peer, now)
            if len(mesh) < self._parameters.degree_low:
                self._fill(topic, candidates, self._parameters.degree, now)
            if len(mesh) > self._parameters.degree_high:
                self._shrink(topic, now)
            self._fill_outbound(topic, candidates, now)
            if self._heartbeats % self._parameters.opportunistic_heartbeats == 0:
                self._fill_opportunistically(topic, candidates, now)

    def _shrink(self, topic: str, now: float) -> None:
        """Prune down to `degree`: the best stay, some by lot, and enough that we dialled."""
        mesh, parameters = self._meshes[topic], self._parameters
        peers = list(mesh.values())
        self._rng.shuffle(peers)
        peers.sort(key=lambda one: self._scores.score(one.id, now), reverse=True)
        by_lot = peers[parameters.degree_best :]
        self._rng.shuffle(by_lot)
        kept = peers[: parameters.degree_best] + by_lot
        kept, spare = kept[: parameters.degree], kept[parameters.degree :]
        missing = parameters.degree_outbound - sum(one.outbound for one in kept)
        for replacement in [one for one in spare if one.outbound][: max(0, missing)]:
            inbound = [one for one in kept if not one.outbound]
            kept.remove(inbound[-1])  # the last are those kept by lot
            kept.append(replacement)
        for peer in peers:
            if peer not in kept:
                self._prune(topic, peer, now)

    def _fill_outbound(self, topic: str, candidates: list[Peer], now: float) -> None:
        mesh, parameters = self._meshes[topic], self._parameters
        missing = parameters.degree_outbound - sum(one.outbound for one in mesh.values())
        if missing > 0 and len(mesh) >= parameters.degree_low:
            outbound = [one for one in candidates if one.outbound]
            self._fill(topic, outbound, len(mesh) + missing, now)

    def _fill_opportunistically(self, topic: str, candidates: list[Peer], now: float) -> None:
        """Offer a mesh of poor peers two that are better than its median (v1.1)."""
        mesh = self._meshes[topic]
        if len(mesh) < 2:
            return
        middle = median(self._scores.score(peer, now) for peer in mesh)
        if middle < self._score_parameters.graft_threshold:
            better = [one for one in candidates if self._scores.score(one.id, now) > middle]
            self._fill(topic, better, len(mesh) + 2, now)

    def _fill(self, topic: str, candidates: list[Peer], size: int, now: float) -> None:
        """Graft candidates, in random order, until the mesh has `size` peers."""
        mesh = self._meshes.get(topic)
        if mesh is None:
            return
        slack = _BACKOFF_SLACK * self._parameters.heartbeat_seconds
        eligible = [
            peer
            for peer in candidates
            if peer.id not in mesh
            and self._scores.score(peer.id, now) >= 0
            and now >= self._backoffs.get((topic, peer.id), now - slack) + slack
        ]
        self._rng.shuffle(eligible)
        for peer in eligible[: max(0, size - len(mesh))]:
            mesh[peer.id] = peer
            peer.outbox.graft(topic)

    def _prune(self, topic: str, peer: Peer, now: float) -> None:
        self._meshes[topic].pop(peer.id, None)
        self._send_prune(topic, peer, self._parameters.prune_backoff_seconds, now)

    def _send_prune(self, topic: str, peer: Peer, backoff_seconds: int, now: float) -> None:
        peer.outbox.prune(topic, backoff_seconds)
        self._back_off(topic, peer, backoff_seconds, now)

    def _back_off(self, topic: str, peer: Peer, seconds: int, now: float) -> None:
        key = (topic, peer.id)
        until = max(self._backoffs.pop(key, 0.0), now + seconds)
        self._backoffs[key] = until  # at the end: the first is the oldest
        if len(self._backoffs) > self._parameters.max_backoffs:
            del self._backoffs[next(iter(self._backoffs))]
