"""What went through the exchange, and the bounds it keeps. Values only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId

_MAX_PEERS = 1024  # whose traffic is told apart; the longest unheard of is dropped from the list


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """The bounds of serving and fetching.

    Attributes:
        streams_per_peer: streams that one peer may have open to be served.
        busy_streams: streams served at the same time; more are answered BUSY.
        read_bytes: read ahead of the sending, for all streams; a stream gets its share of it, at
            least one leaf being sent and one read.
        queued_hashes: blocks asked for and not answered, on all streams, about 80 bytes each; who
            asks for more is answered BUSY.
        queued_hashes_of_one: the same, of one peer, or a few of them would keep the others out.
        batch_bytes: most that one stream reads, or a provider's leaves write, at once.
        send_seconds: how long a peer may take to accept one batch.
        pushes_per_stream: HAVE requests with `push` on one stream.
        push_seconds: least time between two pushes to one peer.
        providers: peers that one fetch is connected to at the same time.
        candidates: peers that one fetch remembers, whatever became of them.
        wasted_per_peer: bytes a second that are read for one peer and then not taken, because it
            cancels or hangs up; who has more of them read is BUSY until that is made up for.
        stall_seconds: a fetch that gains nothing for so long gives up, though somebody is asked: a
            leaf of 1 MiB takes that long at 3.5 kB/s. Patience that is longer counts instead.
        write_bytes: of leaves that are hashed and written at once, in all; a provider's share of
            them is at most `batch_bytes` and at least a mebibyte.
        max_up, max_down: bytes of content a second, sent and asked for, in all; None: no limit.
        max_up_per_peer, max_down_per_peer: the same for each peer.
    """

    streams_per_peer: int = 8
    busy_streams: int = 64
    read_bytes: int = 32 << 20
    queued_hashes: int = 1 << 18
    queued_hashes_of_one: int = 1 << 14
    batch_bytes: int = 2 << 20
    send_seconds: float = 60.0
    pushes_per_stream: int = 16
    push_seconds: float = 0.25
    providers: int = 16
    candidates: int = 256
    wasted_per_peer: float = 64 << 20
    stall_seconds: float = 300.0
    write_bytes: int = 32 << 20
    max_up: float | None = None
    max_down: float | None = None
    max_up_per_peer: float | None = None
    max_down_per_peer: float | None = None


@dataclass(slots=True)
class Traffic:
    """Content bytes and leaves, index blocks among them; `wire` bytes are those after packing."""

    sent_bytes: int = 0
    sent_wire_bytes: int = 0
    sent_leaves: int = 0
    received_bytes: int = 0
    received_wire_bytes: int = 0
    received_leaves: int = 0

    def sent(self, size: int, wire: int) -> None:
        """Count a leaf that went out."""
        self.sent_bytes += size
        self.sent_wire_bytes += wire
        self.sent_leaves += 1

    def received(self, size: int, wire: int) -> None:
        """Count a leaf that came in."""
        self.received_bytes += size
        self.received_wire_bytes += wire
        self.received_leaves += 1


@dataclass(slots=True)
class ExchangeStats:
    """Counters since the exchange was opened: in all, and of each peer dealt with lately."""

    total: Traffic = field(default_factory=Traffic)
    peers: OrderedDict[PeerId, Traffic] = field(default_factory=OrderedDict)

    def of(self, peer: PeerId) -> Traffic:
        """Return the counters of one peer."""
        traffic = self.peers.get(peer)
        if traffic is None:
            traffic = self.peers[peer] = Traffic()
            if len(self.peers) > _MAX_PEERS:
                self.peers.popitem(last=False)
        self.peers.move_to_end(peer)
        return traffic

    def sent(self, peer: PeerId, size: int, wire: int) -> None:
        """Count a leaf that went to `peer`."""
        self.total.sent(size, wire)
        self.of(peer).sent(size, wire)

    def received(self, peer: PeerId, size: int, wire: int) -> None:
        """Count a leaf that came from `peer`."""
        self.total.received(size, wire)
        self.of(peer).received(size, wire)
