"""Telling which messages there were, asking for those missed, declining those on their way. Pure.

Outside the mesh of a topic only names travel: we announce what we have (IHAVE), a peer asks for
what it lacks (IWANT), and the other way round; and whoever has got a large message from one peer
tells the others not to send it (IDONTWANT). Each is bounded by peer and heartbeat, since a name
costs its sender nothing and us a message. Sources: GossipSub v1.0, v1.1 (Spam Protection Measures),
v1.2; ours: spec/gossip.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ._message_id import read_id, write_id

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from ._cache import MessageCache, SeenCache
    from ._messages import Announcement
    from ._overlay import Overlay
    from ._parameters import Parameters
    from ._peers import Peer
    from ._promises import Promises
    from ._score import Scores
    from ._values import Statistics


class Gossip:
    """One node's part in it. What it has to say goes into the outboxes of peers.

    Args:
        parameters: the bounds.
        gossip_threshold: the score below which nothing is announced to a peer, nor heard from it.
        scores: what we think of peers.
        overlay: which topics we joined, and who is in their meshes.
        cache: the messages that may be asked for.
        seen: the identifiers of messages that we had.
        promises: remembers who announced what we ask for.
        statistics: the counters to count in.
        rng: decides who is told, and of what.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        gossip_threshold: float,
        scores: Scores,
        overlay: Overlay,
        cache: MessageCache,
        seen: SeenCache,
        promises: Promises,
        statistics: Statistics,
        rng: random.Random,
    ) -> None:
        self._parameters, self._threshold, self._scores = parameters, gossip_threshold, scores
        self._overlay, self._cache, self._seen = overlay, cache, seen
        self._promises, self._statistics, self._rng = promises, statistics, rng

    def handle_ihave(self, peer: Peer, announcements: Iterable[Announcement], now: float) -> None:
        """Ask for what we have not seen, within what one peer may make us ask in a heartbeat."""
        peer.ihave_heard += 1
        if peer.ihave_heard > self._parameters.max_ihave_messages or not self._hears(peer, now):
            return
        wanted: dict[bytes, bytes] = {}  # ours: theirs
        for one in announcements:
            if not self._overlay.joined(one.topic):
                continue
            for name in one.ids:
                message_id = self._read_id(peer, name)
                if message_id is not None and message_id not in self._seen:
                    wanted[message_id] = name
        names = list(wanted.items())
        self._rng.shuffle(names)
        names = names[: max(0, self._parameters.max_ihave_ids - peer.ids_asked)]
        if not names:
            return
        peer.ids_asked += len(names)
        peer.outbox.want(name for _, name in names)
        self._promises.track(
            self._rng.choice(names)[0], peer.id, now + self._parameters.followup_seconds
        )

    def handle_iwant(self, peer: Peer, names: Iterable[bytes], now: float) -> None:
        """Send what is asked for and still here, each message a few times at most."""
        if not self._hears(peer, now):
            return
        for name in names:
            message_id = self._read_id(peer, name)
            if message_id is None:
                continue
            encoded = self._cache.serve(message_id, peer.id, limit=self._parameters.retransmissions)
            if encoded is not None:
                self._statistics.recovered += 1
                self._statistics.queue_drops += peer.outbox.message(message_id, encoded)

    def handle_idontwant(self, peer: Peer, name: bytes, now: float) -> None:
        """Do not send that message to the peer, for a while."""
        peer.ids_declined += 1
        message_id = self._read_id(peer, name)
        if message_id is not None and peer.ids_declined <= self._parameters.max_idontwant_ids:
            peer.unwanted[message_id] = now + self._parameters.followup_seconds
            peer.outbox.cancel(message_id)

    def welcome(self, peer: Peer, topic: str) -> None:
        """Tell a new subscriber which messages it has just missed, mesh or not."""
        if self._overlay.joined(topic) and topic not in peer.welcomed:
            peer.welcomed.add(topic)
            self._announce_to(peer, topic, self._cache.recent_ids(topic))

    def announce(self, topic: str, subscribers: Iterable[Peer], now: float) -> None:
        """Tell some subscribers outside the mesh which messages there were."""
        ids = self._cache.recent_ids(topic)
        others = [
            peer
            for peer in subscribers
            if not self._overlay.contains(topic, peer.id) and self._hears(peer, now)
        ]
        self._rng.shuffle(others)
        share = math.ceil(self._parameters.gossip_factor * len(others))
        for peer in others[: max(self._parameters.degree_lazy, share)]:
            self._announce_to(peer, topic, ids)

    def _announce_to(self, peer: Peer, topic: str, ids: list[bytes]) -> None:
        if len(ids) > self._parameters.max_ihave_ids:
            ids = self._rng.sample(ids, self._parameters.max_ihave_ids)
        if ids:
            peer.outbox.announce(topic, [write_id(one, peer.id_form) for one in ids])

    def _hears(self, peer: Peer, now: float) -> bool:
        """Whether gossip goes to and fro with that peer at all."""
        return self._scores.score(peer.id, now) >= self._threshold

    def _read_id(self, peer: Peer, name: bytes) -> bytes | None:
        found = read_id(name)
        if found is None:
            self._statistics.foreign_ids += 1
            return None
        message_id, peer.id_form = found
        return message_id
