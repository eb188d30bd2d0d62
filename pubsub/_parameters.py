"""Every number of the gossip protocol in one place, with its unit and why it has this value.

Names and defaults follow the GossipSub v1.0 and v1.1 specifications (libp2p/specs,
pubsub/gossipsub); bounds that the specifications leave open carry their reason here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """How one router behaves. Two routers need not agree on any of it, but on message sizes.

    Attributes:
        degree: `D`, mesh peers wanted per topic.
        degree_low: `D_lo`, below which the heartbeat grafts more.
        degree_high: `D_hi`, above which it prunes, and refuses grafts of peers that dialled us.
        degree_best: `D_score`, how many of the best peers survive such a prune.
        degree_outbound: `D_out`, mesh peers that we dialled: an attacker who dials us in numbers
            never owns the whole mesh.
        degree_lazy: `D_lazy`, the least number of peers outside the mesh told of new messages.
        gossip_factor: the part of those peers told when that is more than `degree_lazy`.
        flood_publish: send own messages to every peer of the topic, not to the mesh alone.
        heartbeat_seconds: time between two rounds of upkeep.
        history_windows: heartbeats for which a message can be asked for.
        gossip_windows: heartbeats for which it is announced; the difference is time to ask.
        seen_seconds: how long a message is remembered as a duplicate.
        fanout_seconds: how long peers are kept for a topic we publish to and have not joined.
        prune_backoff_seconds: how long after a prune neither side grafts again.
        leave_backoff_seconds: the same when the prune says that we left the topic.
        max_backoff_seconds: the longest backoff we let a peer impose.
        graft_flood_seconds: a graft this soon after a prune is punished twice.
        followup_seconds: a message asked for has to arrive within this.
        retransmissions: how often one peer may ask for the same message.
        max_items: subscriptions, messages, names and links that a peer may speak of in a
            heartbeat. Each takes some microseconds, however few bytes it has. Beyond it, gossip of
            the peer is not heard and the flood is held against it.
        max_ihave_ids: identifiers announced to, and asked of, one peer in one heartbeat.
        max_ihave_messages: RPCs with announcements heard from one peer in one heartbeat.
        max_idontwant_ids: identifiers one peer may decline in one heartbeat.
        idontwant_bytes: size from which a duplicate costs more than declining it.
        opportunistic_heartbeats: how often a poor mesh is offered two better peers.
        max_peer_topics: topics remembered per peer.
        max_peer_topics_bytes: their size in UTF-8; thirty times what ours take.
        cache_messages: messages kept for others to ask for.
        cache_bytes: their size.
        seen_messages: identifiers remembered; 65 536 are about 15 MB.
        queue_messages: messages waiting for one slow peer.
        queue_bytes: their size. With `degree_high` stuck peers this is what they can make us hold.
        max_backoffs: (topic, peer) pairs that wait out a prune.
    """

    degree: int = 6
    degree_low: int = 5
    degree_high: int = 12
    degree_best: int = 4
    degree_outbound: int = 2
    degree_lazy: int = 6
    gossip_factor: float = 0.25
    flood_publish: bool = True
    heartbeat_seconds: float = 1.0
    history_windows: int = 5
    gossip_windows: int = 3
    seen_seconds: float = 120.0
    fanout_seconds: float = 60.0
    prune_backoff_seconds: int = 60
    leave_backoff_seconds: int = 10
    max_backoff_seconds: int = 600
    graft_flood_seconds: float = 10.0
    followup_seconds: float = 3.0
    retransmissions: int = 3
    max_items: int = 20_000
    max_ihave_ids: int = 5000
    max_ihave_messages: int = 10
    max_idontwant_ids: int = 512
    idontwant_bytes: int = 1024
    opportunistic_heartbeats: int = 60
    max_peer_topics: int = 1024
    max_peer_topics_bytes: int = 64 << 10
    cache_messages: int = 8192
    cache_bytes: int = 16 << 20
    seen_messages: int = 65_536
    queue_messages: int = 1024
    queue_bytes: int = 4 << 20
    max_backoffs: int = 16_384


@dataclass(frozen=True, slots=True)
class ScoreParameters:
    """What behaviour is worth (GossipSub v1.1, Peer Scoring).

    A counter falls by its decay factor each second. One invalid message keeps a peer out of every
    mesh for three minutes; the third in a row graylists it for half a minute, and so does each one
    after that. Penalties up to `penalty_threshold` are forgiven: an honest peer breaks a promise
    now and then.

    Attributes:
        invalid_weight: P4, times the square of the invalid messages.
        invalid_decay: factor per second.
        penalty_weight: P7, times the square of what exceeds the threshold.
        penalty_threshold: penalties forgiven.
        penalty_decay: factor per second.
        delivery_weight: P2, times the messages a peer brought first.
        delivery_cap: the most of them that count.
        delivery_decay: factor per second.
        gossip_threshold: below it nothing is announced to the peer, nor heard from it.
        publish_threshold: below it our own messages are not sent to the peer.
        graylist_threshold: below it all that the peer sends is thrown away unread.
        graft_threshold: a mesh whose median is below it is offered better peers.
        retain_seconds: how long a bad score outlives the connection.
        max_retained: bad scores of absent peers kept.
    """

    invalid_weight: float = -20.0
    invalid_decay: float = 0.985
    penalty_weight: float = -10.0
    penalty_threshold: float = 4.0
    penalty_decay: float = 0.99
    delivery_weight: float = 0.1
    delivery_cap: float = 100.0
    delivery_decay: float = 0.97
    gossip_threshold: float = -10.0
    publish_threshold: float = -50.0
    graylist_threshold: float = -80.0
    graft_threshold: float = 1.0
    retain_seconds: float = 600.0
    max_retained: int = 4096
