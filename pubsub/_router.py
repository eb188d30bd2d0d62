"""GossipSub, pure: RPCs, `now` and commands in; RPCs and messages for the application out.

A router keeps, for each topic it joined, a mesh of a few peers that get every message at once
(`_overlay`), and each heartbeat tells some of the other subscribers which messages there were, so
that whoever missed one can ask (`_gossip`). On a topic that it publishes to and has not joined, a
few peers stand in for the mesh (`_fanout`). What waits for a peer stands in its outbox;
`take_ready` names the peers for whom something new waits. Nothing here sends or reads a clock.

The way of a message that arrives: from a graylisted peer, unread; a topic we have not joined, or an
identifier seen before, dropped; signature checked; validator asked; remembered, passed on to the
mesh, returned to the caller. A message that fails counts against the peer that sent it, and the
identifier is remembered only once the signature held, so that a forger cannot displace the author.

Sources: libp2p/specs pubsub/gossipsub v1.0, v1.1, v1.2. Ours: spec/gossip.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._cache import MessageCache, SeenCache
from ._fanout import Fanout
from ._gossip import Gossip
from ._message_id import IdForm, write_id
from ._messages import (
    InvalidMessage,
    Rpc,
    RpcError,
    SignedMessage,
    check_topic,
    decode_rpc,
    peek_id,
)
from ._outbox import Outbox
from ._overlay import Overlay
from ._parameters import Parameters, ScoreParameters
from ._peers import Peer, Version
from ._promises import Promises
from ._score import Scores
from ._values import Message, Statistics, Verdict

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from lattica.identity import Identity, PeerId

    from ._values import Validator


class Router:
    """One node's part in the gossip.

    Args:
        identity: signs what we publish.
        now: the present, in seconds of any clock; later calls pass the same clock's.
        rng: decides who is grafted, pruned and told.
        first_sequence: the number before our first message. Must not fall from one run of a node to
            the next, as receivers may refuse numbers they have seen: nanoseconds since 1970 do.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        now: float,
        rng: random.Random,
        first_sequence: int,
        parameters: Parameters | None = None,
        score_parameters: ScoreParameters | None = None,
    ) -> None:
        self.parameters = parameters or Parameters()
        self.score_parameters = score_parameters or ScoreParameters()
        self.statistics = Statistics()
        self._identity, self._rng = identity, rng
        self._sequence = first_sequence
        self._peers: dict[PeerId, Peer] = {}
        self._ready: dict[PeerId, None] = {}
        self._fanout = Fanout(self.parameters, rng)
        self._validators: dict[str, Validator] = {}
        self._scores = Scores(self.score_parameters)
        self._overlay = Overlay(self.parameters, self.score_parameters, self._scores, rng)
        self._promises = Promises()
        self._cache = MessageCache(
            windows=self.parameters.history_windows,
            gossip_windows=self.parameters.gossip_windows,
            messages=self.parameters.cache_messages,
            size_bytes=self.parameters.cache_bytes,
        )
        self._seen = SeenCache(
            ttl_seconds=self.parameters.seen_seconds, limit=self.parameters.seen_messages
        )
        self._gossip = Gossip(
            self.parameters,
            gossip_threshold=self.score_parameters.gossip_threshold,
            scores=self._scores,
            overlay=self._overlay,
            cache=self._cache,
            seen=self._seen,
            promises=self._promises,
            statistics=self.statistics,
            rng=rng,
        )
        self._next_heartbeat = now + rng.uniform(0.1, 1.0) * self.parameters.heartbeat_seconds

    # Peers come and go.

    def add_peer(
        self,
        peer: PeerId,
        version: Version,
        *,
        outbound: bool,
        now: float,
        id_form: IdForm = IdForm.PEER_ID,
    ) -> None:
        """A peer is connected; our subscriptions wait for it from now on.

        Args:
            peer: who.
            version: what it speaks.
            outbound: whether we dialled it.
            now: the present.
            id_form: how it may spell message names, until it has named one.
        """
        if peer in self._peers:
            return
        outbox = Outbox(
            lambda: self._ready.setdefault(peer),
            messages=self.parameters.queue_messages,
            size_bytes=self.parameters.queue_bytes,
            ids=self.parameters.max_ihave_ids,
        )
        for topic in self._overlay.topics:
            outbox.subscription(topic, wanted=True)
        self._peers[peer] = Peer(peer, version, outbound, outbox, id_form=id_form)
        self._scores.add_peer(peer, now)

    def remove_peer(self, peer: PeerId, now: float) -> None:
        """A peer is gone, with what waited for it."""
        if self._peers.pop(peer, None) is None:
            return
        self._ready.pop(peer, None)
        self._overlay.drop(peer)
        self._fanout.remove_peer(peer)
        self._scores.remove_peer(peer, now)

    def greet(self, peer: PeerId) -> None:
        """The stream to a peer is a new one: it may have forgotten us. Say again what we want."""
        state = self._peers.get(peer)
        if state is not None:
            self._overlay.drop(peer)
            for topic in self._overlay.topics:
                state.outbox.subscription(topic, wanted=True)

    @property
    def peers(self) -> list[PeerId]:
        """The connected peers."""
        return list(self._peers)

    def take_ready(self) -> list[PeerId]:
        """The peers for whom something new waits, each named once until the next call."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def next_rpc(self, peer: PeerId) -> bytes | None:
        """Take the next RPC for a peer, without its length prefix; None when nothing waits."""
        state = self._peers.get(peer)
        return None if state is None else state.outbox.next_rpc()

    # Commands of the application.

    def join(self, topic: str, now: float) -> None:
        """Subscribe to a topic. Raises InvalidTopic."""
        check_topic(topic)
        if self._overlay.joined(topic):
            return
        for peer in self._peers.values():
            peer.outbox.subscription(topic, wanted=True)
        self._fanout.forget(topic)
        self._overlay.join(topic, self._subscribers(topic), now)

    def leave(self, topic: str, now: float) -> None:
        """Give a subscription up."""
        if not self._overlay.joined(topic):
            return
        for peer in self._peers.values():
            peer.outbox.subscription(topic, wanted=False)
        self._overlay.leave(topic, now)

    def set_validator(self, topic: str, validator: Validator | None) -> None:
        """Ask `validator` about each message of a topic, or about none any more."""
        if validator is None:
            self._validators.pop(topic, None)
        else:
            self._validators[topic] = validator

    def publish(self, topic: str, data: bytes, now: float) -> int:
        """Sign a message and queue it. Returns for how many peers.

        With none it is still kept for the peers that subscribe within `gossip_windows` heartbeats,
        if we joined the topic ourselves.

        Raises:
            InvalidTopic, MessageTooLarge: nothing was published.
        """
        self._sequence += 1
        message = SignedMessage.sign(self._identity, topic=topic, data=data, seqno=self._sequence)
        encoded = message.encode()
        self._seen.add(message.id, now)
        if self._overlay.joined(topic):
            self._cache.put(message.id, topic, encoded)
        self.statistics.published += 1
        recipients = self._recipients(topic, now)
        for peer in recipients:
            self.statistics.queue_drops += peer.outbox.message(message.id, encoded)
        return len(recipients)

    def congested(self, topic: str, now: float) -> bool:
        """Whether most of a topic's recipients are slow to take what waits for them."""
        recipients = self._recipients(topic, now)
        return 2 * sum(peer.outbox.congested for peer in recipients) > len(recipients)

    def subscribers(self, topic: str) -> list[PeerId]:
        """The connected peers that subscribed to a topic."""
        return [peer.id for peer in self._subscribers(topic)]

    def mesh(self, topic: str) -> list[PeerId]:
        """The peers in our mesh of a topic."""
        return [peer.id for peer in self._overlay.mesh(topic)]

    def score(self, peer: PeerId, now: float) -> float:
        """What we think of a peer; below 0 it is in no mesh."""
        return self._scores.score(peer, now)

    # What peers send.

    def receive(self, peer: PeerId, data: bytes | memoryview, now: float) -> list[Message]:
        """Take one RPC of a peer in. Returns the messages for the application.

        Raises:
            RpcError: not an RPC, or beyond its bounds. It counts against the peer.
        """
        state = self._peers.get(peer)
        if state is None:
            return []
        if self._scores.graylisted(peer, now):
            self.statistics.graylisted += 1
            return []
        try:
            rpc = decode_rpc(data)
        except RpcError:
            self.statistics.malformed += 1
            self._scores.misbehaved(peer, now)
            raise
        rpc = self._without_flood(state, rpc, now)
        for topic, wanted in rpc.subscriptions:
            self._handle_subscription(state, topic, wanted, now)
        delivered = self._handle_messages(state, rpc.publish, now)
        self._handle_control(state, rpc, now)
        return delivered

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return self._next_heartbeat

    def handle_timeout(self, now: float) -> None:
        """Do the upkeep, if it is time. Beats that were missed are not made up for."""
        if now < self._next_heartbeat:
            return
        self._next_heartbeat = max(self._next_heartbeat, now) + self.parameters.heartbeat_seconds
        for late in self._promises.broken(now):
            self.statistics.broken_promises += 1
            self._scores.misbehaved(late, now)
        for peer in self._peers.values():
            peer.start_heartbeat(now)
        subscribers = {topic: self._subscribers(topic) for topic in self._overlay.topics}
        self._overlay.handle_heartbeat(subscribers, now)
        self._fanout.handle_heartbeat(lambda topic: self._worthy(topic, now), now)
        for topic in self._overlay.topics:
            self._gossip.announce(topic, subscribers[topic], now)
        self._cache.shift()
        self._seen.expire(now)

    def _subscribers(self, topic: str) -> list[Peer]:
        return [peer for peer in self._peers.values() if topic in peer.topics]

    def _recipients(self, topic: str, now: float) -> list[Peer]:
        """Who gets a message of ours at once."""
        if self.parameters.flood_publish:
            return self._worthy(topic, now)
        if self._overlay.joined(topic):
            return self._overlay.mesh(topic)
        return self._fanout.recipients(topic, self._worthy(topic, now), now)

    def _worthy(self, topic: str, now: float) -> list[Peer]:
        """Which subscribers may have messages of ours."""
        threshold = self.score_parameters.publish_threshold
        return [
            peer
            for peer in self._subscribers(topic)
            if self._scores.score(peer.id, now) >= threshold
        ]

    def _without_flood(self, peer: Peer, rpc: Rpc, now: float) -> Rpc:
        """Hold an RPC against what the peer may say in a heartbeat; return what is heard of it."""
        before = peer.items_heard
        peer.items_heard += rpc.items
        if peer.items_heard <= self.parameters.max_items:
            return rpc
        self.statistics.floods += 1
        if before <= self.parameters.max_items:  # once a heartbeat: ours may be late
            self._scores.misbehaved(peer.id, now)
        return replace(rpc, ihave=(), iwant=(), idontwant=())

    def _handle_subscription(self, peer: Peer, topic: str, wanted: bool, now: float) -> None:
        if not wanted:
            peer.unsubscribe(topic)
            self._overlay.drop(peer.id, topic)
        elif topic in peer.topics or self._has_room(peer, topic):
            peer.subscribe(topic)
            self._overlay.consider(topic, peer, now)
            self._gossip.welcome(peer, topic)

    def _has_room(self, peer: Peer, topic: str) -> bool:
        fits = peer.topics_bytes + len(topic.encode()) <= self.parameters.max_peer_topics_bytes
        return fits and len(peer.topics) < self.parameters.max_peer_topics

    def _handle_messages(self, peer: Peer, published: Iterable[bytes], now: float) -> list[Message]:
        delivered = []
        for encoded in published:
            try:
                message = self._handle_message(peer, encoded, now)
            except InvalidMessage:
                self.statistics.invalid += 1
                self._scores.invalid_message(peer.id, now)
                if self._scores.graylisted(peer.id, now):
                    break  # the rest of its RPC is not worth a signature check each
                continue
            if message is not None:
                delivered.append(message)
        return delivered

    def _handle_message(self, peer: Peer, encoded: bytes, now: float) -> Message | None:
        """Judge one message, remember it and pass it on. Raises InvalidMessage."""
        name = peek_id(encoded)
        if name is not None and self._seen.get(name) is False:
            self.statistics.duplicates += 1
            return None
        signed = SignedMessage.decode(encoded)
        message_id = signed.id
        if not self._overlay.joined(signed.topic):
            if message_id in self._promises:  # asked for before we left: nobody's fault
                signed.verify()
                self._promises.fulfil(message_id)
            self.statistics.ignored += 1
            return None
        rejected = self._seen.get(message_id)
        if rejected is not None:
            self.statistics.duplicates += 1
            if rejected:
                raise InvalidMessage("the message was rejected before")
            return None
        signed.verify()
        if signed.author == self._identity.peer_id:
            self.statistics.ignored += 1  # ours, from before we forgot it
            return None
        self._promises.fulfil(message_id)
        message = Message(
            signed.topic,
            signed.data or b"",
            signed.author,
            int.from_bytes(signed.seqno, "big"),
            peer.id,
        )
        verdict = self._validate(message)
        self._seen.add(message_id, now, rejected=verdict is Verdict.REJECT)
        if verdict is Verdict.REJECT:
            raise InvalidMessage("the topic's validator rejected the message")
        if verdict is Verdict.IGNORE:
            self.statistics.ignored += 1
            return None
        self._scores.delivered_first(peer.id, now)
        self._forward(signed, came_from=peer)
        self.statistics.delivered += 1
        return message

    def _validate(self, message: Message) -> Verdict:
        validator = self._validators.get(message.topic)
        return Verdict.ACCEPT if validator is None else validator(message)

    def _forward(self, signed: SignedMessage, *, came_from: Peer) -> None:
        message_id, encoded = signed.id, signed.encode()
        self._cache.put(message_id, signed.topic, encoded)
        decline = len(encoded) >= self.parameters.idontwant_bytes
        for peer in self._overlay.mesh(signed.topic):
            if peer is came_from or peer.id == signed.author:
                continue
            if decline and peer.version >= Version.V1_2:
                peer.outbox.decline(write_id(message_id, peer.id_form))
            if message_id not in peer.unwanted:
                self.statistics.queue_drops += peer.outbox.message(message_id, encoded)

    def _handle_control(self, peer: Peer, rpc: Rpc, now: float) -> None:
        for topic in rpc.graft:
            self._overlay.handle_graft(topic, peer, now)
        for prune in rpc.prune:
            self._overlay.handle_prune(prune.topic, peer, prune.backoff_seconds, now)
        if rpc.ihave:
            self._gossip.handle_ihave(peer, rpc.ihave, now)
        if rpc.iwant:
            self._gossip.handle_iwant(peer, rpc.iwant, now)
        for name in rpc.idontwant:
            self._gossip.handle_idontwant(peer, name, now)
