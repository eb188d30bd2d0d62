"""Every bound of the transport in one place.

A bound is there so that no stranger can make this node hold more memory, tasks or descriptors than
its owner allowed. Reaching one is a typed `LimitExceeded` (or a closed link, where nobody can be
told) and never a stall. The defaults fit a laptop and a server with a few hundred peers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lattica.errors import InvalidInput

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one mesh. Fields ending in `_s` are seconds, in `_bytes` bytes; others are counts.

    Attributes:
        connections: open connections in all. Each is a descriptor, and a shell's usual limit is
            1 024 of those.
        crowded_at: open connections from which on idle ones are closed, the oldest first, so that
            newcomers find room.
        idle_after_s: age from which on a connection without streams counts as idle.
        connections_per_ip: open connections that others opened from one IP address (of IPv6: from
            one /64), so that no single machine fills the node under many names.
        connections_per_peer: open connections to one peer. Two arise when both dial at once;
            striping over several cores wants a few more.
        pending_inbound: inbound links whose handshake is not done. Each costs a task and a key
            exchange, before we know whom we talk to.
        pending_inbound_per_ip: the same, from one remote IP address (of IPv6: from one /64).
        accept_backlog: connections the operating system completes ahead of us, per listener.
        connect_timeout_s: one address, until the link is open; name lookup included.
        handshake_timeout_s: one link, until it is secured and has a muxer; each direction.
        dial_timeout_s: one peer, all its addresses.
        dial_head_start_s: how long a better address is tried before the next one joins it; about
            the round trip of a good path, so that a slow but working address costs little.
        dial_addresses: addresses tried per dial; the best ones, when a peer has more.
        dial_attempts: addresses being tried at once, of all dials; each is a descriptor (of a name,
            up to four), and peers choose which addresses we are told of them.
        dials: peers being dialled at once. What exceeds it waits within its own deadline.
        negotiation_timeout_s: one stream, until its protocol is agreed.
        streams_per_connection: streams open at once on a connection, per direction.
        handlers_per_peer: inbound streams of one peer being served at once.
        handlers: the same, of all peers together. The last quarter is for peers that have few.
        handler_grace_s: how long a handler may go on once its connection is gone.
        stream_unread_bytes: unread bytes of a stream, the receive window that self-tunes up to it.
        stream_unread_max_bytes: the same, on a path whose round trip asks for more.
        connection_unread_bytes: credit granted on a connection, all streams together.
        connection_unread_max_bytes: the same, on a path whose round trip asks for more.
        node_unread_bytes: credit granted on all connections together.
        keep_alive_s: silence after which a connection is probed.
        keep_alive_timeout_s: how long a probe may go unanswered before the connection is lost.
        close_timeout_s: how long a connection may take to say goodbye.
        identify_timeout_s: one exchange of identify messages.
        identify_push_delay_s: how long changes are gathered before peers are told.
        identify_push_interval_s: how soon after one push of a peer the next one is read; of those
            that come in between the last one counts.
        identify_bytes: an identify answer in all; libp2p allows several messages in one answer.
        identify_protocols: protocols remembered of a peer.
        swarm_key_check_s: how often it is looked whether a private swarm's key has ended.
        swarm_key_grace_s: how long streams may go on after the key of their connection has ended.
        pings_per_peer: ping streams of one peer served at once.
        ping_timeout_s: one ping.
        ping_idle_s: how long a served ping stream may be silent.
        book_peers: peers in the address book; those heard of longest ago give way.
        book_addresses: addresses remembered of a peer.
        events: events queued for a reader; a slow one loses the oldest.
        observed_addresses: addresses of ours that peers claim to see.
    """

    connections: int = 512
    crowded_at: int = 448
    idle_after_s: float = 60.0
    connections_per_ip: int = 128
    connections_per_peer: int = 8
    pending_inbound: int = 128
    pending_inbound_per_ip: int = 32
    accept_backlog: int = 512
    connect_timeout_s: float = 5.0
    handshake_timeout_s: float = 10.0
    dial_timeout_s: float = 20.0
    dial_head_start_s: float = 0.15
    dial_addresses: int = 24
    dial_attempts: int = 96
    dials: int = 64
    negotiation_timeout_s: float = 10.0
    streams_per_connection: int = 1024
    handlers_per_peer: int = 512
    handlers: int = 4096
    handler_grace_s: float = 5.0
    stream_unread_bytes: int = 16 * _MIB
    stream_unread_max_bytes: int = 64 * _MIB
    connection_unread_bytes: int = 32 * _MIB
    connection_unread_max_bytes: int = 64 * _MIB
    node_unread_bytes: int = 128 * _MIB
    keep_alive_s: float = 15.0
    keep_alive_timeout_s: float = 15.0
    close_timeout_s: float = 1.0
    identify_timeout_s: float = 10.0
    identify_push_delay_s: float = 0.05
    identify_push_interval_s: float = 0.5
    identify_bytes: int = 64 << 10
    identify_protocols: int = 256
    swarm_key_check_s: float = 30.0
    swarm_key_grace_s: float = 600.0
    pings_per_peer: int = 2
    ping_timeout_s: float = 10.0
    ping_idle_s: float = 60.0
    book_peers: int = 4096
    book_addresses: int = 16
    events: int = 256
    observed_addresses: int = 64

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 < value < math.inf:
                raise InvalidInput(f"limit {entry.name} is {value!r}, expected more than 0")
