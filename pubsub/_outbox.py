"""What waits to be sent to one peer, bounded, and how it is packed into RPCs.

Control goes first and is held as state, not as a queue: of a subscription, graft or prune only the
last word per topic waits, announcements replace older ones, so a stuck peer costs a fixed amount.
Messages wait in order. Where their bounds are reached the oldest goes: it has had the longest to
arrive over another path, and the next announcement still names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ._messages import MAX_RPC, Announcement, Prune, Rpc, encode_rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_FIELD_BYTES = 16  # more than the tags and lengths around one item can take
_SLACK_BYTES = 64  # for the lengths of the parts that hold them
_ENOUGH_BYTES = 128 << 10  # of messages in an RPC that has one: a stuck peer holds a copy of it


class Outbox:
    """The outgoing side of one peer. Calls `wake` for all that is put in; `next_rpc` empties it."""

    def __init__(
        self, wake: Callable[[], object], *, messages: int, size_bytes: int, ids: int
    ) -> None:
        self._wake = wake
        self._max_messages, self._max_bytes, self._max_ids = messages, size_bytes, ids
        self._subscriptions: dict[str, bool] = {}
        self._links: dict[str, Prune | None] = {}  # None grafts
        self._iwant: dict[bytes, None] = {}
        self._idontwant: dict[bytes, None] = {}
        self._ihave: dict[str, list[bytes]] = {}
        self._messages: dict[bytes, bytes] = {}
        self._bytes = 0

    def subscription(self, topic: str, *, wanted: bool) -> None:
        """Tell the peer that we joined or left a topic."""
        self._subscriptions.pop(topic, None)
        self._subscriptions[topic] = wanted
        self._wake()

    def graft(self, topic: str) -> None:
        """Add the peer to our mesh of a topic."""
        self._links[topic] = None
        self._wake()

    def prune(self, topic: str, backoff_seconds: int) -> None:
        """Remove the peer from our mesh of a topic."""
        self._links[topic] = Prune(topic, backoff_seconds)
        self._wake()

    def want(self, ids: Iterable[bytes]) -> None:
        """Ask for messages; more than an outbox may hold are not asked for."""
        self._iwant.update(dict.fromkeys(ids))
        _trim(self._iwant, self._max_ids)
        self._wake()

    def decline(self, message_id: bytes) -> None:
        """Tell the peer not to send a message."""
        self._idontwant[message_id] = None
        _trim(self._idontwant, self._max_ids)
        self._wake()

    def announce(self, topic: str, ids: list[bytes]) -> None:
        """Tell the peer which messages we have; replaces what still waits for the topic."""
        self._ihave[topic] = ids
        self._wake()

    def message(self, message_id: bytes, encoded: bytes) -> int:
        """Queue a message. Returns how many older ones were dropped for it."""
        if message_id in self._messages:
            return 0
        self._messages[message_id] = encoded
        self._bytes += len(encoded)
        self._wake()
        dropped = 0
        while len(self._messages) > self._max_messages or self._bytes > self._max_bytes:
            self.cancel(next(iter(self._messages)))
            dropped += 1
        return dropped

    def cancel(self, message_id: bytes) -> None:
        """Take back a message that still waits: the peer has it."""
        self._bytes -= len(self._messages.pop(message_id, b""))

    @property
    def congested(self) -> bool:
        """Whether half of a bound is used up: a publisher that waits now loses nothing."""
        return 2 * len(self._messages) > self._max_messages or 2 * self._bytes > self._max_bytes

    @property
    def size_bytes(self) -> int:
        """What the waiting messages take."""
        return self._bytes

    def __bool__(self) -> bool:
        return bool(
            self._subscriptions
            or self._links
            or self._iwant
            or self._idontwant
            or self._ihave
            or self._messages
        )

    def next_rpc(self) -> bytes | None:
        """Take control first, then messages, as much as suits one RPC; None if nothing waits.

        An RPC is at most `MAX_RPC` bytes, and not much above 128 KiB where its messages are small.
        """
        if not self:
            return None
        room = _Room(MAX_RPC - _SLACK_BYTES)
        subscriptions = room.take(self._subscriptions, lambda topic, _: 4 * len(topic))
        links = room.take(self._links, lambda topic, _: 4 * len(topic))
        iwant = room.take(self._iwant, lambda one, _: len(one))
        idontwant = room.take(self._idontwant, lambda one, _: len(one))
        ihave = room.take(self._ihave, lambda topic, ids: 4 * len(topic) + _ids_size(ids))
        messages = room.take(self._messages, lambda _, encoded: len(encoded), _ENOUGH_BYTES)
        self._bytes -= sum(map(len, messages.values()))
        rpc = Rpc(
            subscriptions=tuple(subscriptions.items()),
            publish=tuple(messages.values()),
            ihave=tuple(Announcement(topic, tuple(ids)) for topic, ids in ihave.items()),
            iwant=tuple(iwant),
            graft=tuple(topic for topic, prune in links.items() if prune is None),
            prune=tuple(prune for prune in links.values() if prune is not None),
            idontwant=tuple(idontwant),
        )
        return encode_rpc(rpc)


class _Room:
    """The bytes and identifiers left in an RPC."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes

    def take(
        self,
        waiting: dict[_Key, _Value],
        size: Callable[[_Key, _Value], int],
        enough_bytes: int = MAX_RPC,
    ) -> dict[_Key, _Value]:
        """Move the first items of `waiting` that fit, in order, until they are enough."""
        taken: dict[_Key, _Value] = {}
        if not waiting:
            return taken
        used = 0
        for key, value in waiting.items():
            cost = size(key, value) + _FIELD_BYTES
            if cost > self._left or used >= enough_bytes:
                break
            self._left -= cost
            used += cost
            taken[key] = value
        for key in taken:
            del waiting[key]
        return taken


def _ids_size(ids: list[bytes]) -> int:
    return sum(map(len, ids)) + _FIELD_BYTES * len(ids)


def _trim(waiting: dict[bytes, None], limit: int) -> None:
    while len(waiting) > limit:
        del waiting[next(reversed(waiting))]
