"""What the router remembers: messages that can be asked for, and identifiers seen.

`MessageCache` keeps messages in windows of one heartbeat each; `SeenCache` keeps identifiers for a
time. Both are bounded by number, the first by bytes as well, and lose the oldest first. No clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId


@dataclass(slots=True)
class _Kept:
    topic: str
    encoded: bytes
    served: dict[PeerId, int] = field(default_factory=dict)  # how often, by who asked


class MessageCache:
    """The messages of the last few heartbeats, for peers that missed them."""

    def __init__(
        self, *, windows: int, gossip_windows: int, messages: int, size_bytes: int
    ) -> None:
        self._gossip_windows = gossip_windows
        self._max_messages, self._max_bytes = messages, size_bytes
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # oldest first
        self._windows: deque[dict[bytes, None]] = deque([{}], maxlen=windows)  # newest first
        self._bytes = 0

    def put(self, message_id: bytes, topic: str, encoded: bytes) -> None:
        """Keep a message in the current window. The oldest go where it would exceed the bounds."""
        if message_id in self._kept:
            return
        self._kept[message_id] = _Kept(topic, encoded)
        self._windows[0][message_id] = None
        self._bytes += len(encoded)
        while len(self._kept) > self._max_messages or self._bytes > self._max_bytes:
            self._forget(next(iter(self._kept)))

    def serve(self, message_id: bytes, peer: PeerId, *, limit: int) -> bytes | None:
        """Return a message that `peer` asks for, or None: gone, or asked for `limit` times."""
        kept = self._kept.get(message_id)
        if kept is None:
            return None
        times = kept.served.get(peer, 0)
        if times >= limit:
            return None
        kept.served[peer] = times + 1
        return kept.encoded

    def recent_ids(self, topic: str) -> list[bytes]:
        """Identifiers of a topic in the windows that are announced, newest window first."""
        return [
            message_id
            for _, window in zip(range(self._gossip_windows), self._windows, strict=False)
            for message_id in window
            if self._kept[message_id].topic == topic
        ]

    def shift(self) -> None:
        """Begin a new window; the messages of the oldest are forgotten."""
        if len(self._windows) == self._windows.maxlen:
            for message_id in list(self._windows[-1]):
                self._forget(message_id)
        self._windows.appendleft({})

    def _forget(self, message_id: bytes) -> None:
        kept = self._kept.pop(message_id, None)
        if kept is not None:
            self._bytes -= len(kept.encoded)
            for window in self._windows:
                window.pop(message_id, None)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """What the kept messages take, encoded."""
        return self._bytes


class SeenCache:
    """Identifiers of messages seen, each with whether the message was a bad one."""

    def __init__(self, *, ttl_seconds: float, limit: int) -> None:
        self._ttl, self._limit = ttl_seconds, limit
        self._seen: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()  # oldest first

    def add(self, message_id: bytes, now: float, *, rejected: bool = False) -> None:
        """Remember an identifier from `now` on. A full cache forgets the oldest."""
        self._seen[message_id] = (now, rejected)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)

    def get(self, message_id: bytes) -> bool | None:
        """Say whether the message was rejected; None if it was not seen."""
        found = self._seen.get(message_id)
        return None if found is None else found[1]

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._seen

    def expire(self, now: float) -> None:
        """Forget what is older than the time to live."""
        while self._seen:
            message_id, (seen_at, _) = next(iter(self._seen.items()))
            if now - seen_at < self._ttl:
                return
            del self._seen[message_id]

    def __len__(self) -> int:
        return len(self._seen)
