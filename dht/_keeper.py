"""What this node answers when values are put and asked for. Pure. spec/dht.md §7.

A `Keeper` is the rules, the store and the two requests about values. Whatever is put is checked as
if an enemy had sent it, also by the program's own `put`; what is held is merged, never replaced as
a whole. An answer names why nothing was kept, so that a program can tell its user.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ._messages import MAX_ANSWER, MAX_VALUE, Message, MessageType, Record
from ._namespaces import Item, Reason, UnknownNamespace, ValueRefused
from ._record_store import SET_COST, RecordStore
from ._records import MAX_ENTRIES, RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lattica.identity import PeerId

    from ._namespaces import Namespaces

_log = logging.getLogger(__name__)

MAX_INVALID = 8  # items of one answer; who sends more is not read on, for each costs a verification
ROOM_FOR_PEERS = 4 << 10  # bytes of an answer that a set leaves to the closer peers, if it can
MAX_PUT = 128  # items of one request, each of which costs a verification; more do not fit in 15 KiB
MAX_CROWDING = 8  # items of one request for a key that is full: each has all others looked at
PUT_BYTES = MAX_ANSWER - 2048  # of the items in one request: some peers read no more than 16 KiB


class Keeper:
    """Keeps values for others.

    Attributes:
        namespaces: the rules.
        store: what is kept.
        on_put: called with the key of each request that brought something, and nothing but what
            is kept now.
    """

    def __init__(self, namespaces: Namespaces, store: RecordStore | None = None) -> None:
        self.namespaces = namespaces
        self.store = store if store is not None else RecordStore(namespaces)
        self.on_put: Callable[[bytes], object] = lambda _key: None

    def put(
        self, request: Message, *, now: float, sender: PeerId | None = None, source: bytes = b""
    ) -> Message:
        """Keep what a `PUT_VALUE` brings, as far as it is valid, and return the answer.

        Args:
            request: what a peer asks.
            now: the wall clock, in seconds since 1970.
            sender: which peer.
            source: from where, see `RecordStore.add`.
        """
        key, record = request.key, request.record
        try:
            brought = self._keep_all(key, _value_in(request), now, sender, source)
        except ValueRefused as error:
            _log.debug("%r is not kept: %s", key[:64], error)
            newer = self.get(key, now=now) if error.reason is Reason.STALE else None
            return Message(MessageType.PUT_VALUE, key, newer, refusal=error.reason.value)
        if brought:
            self.on_put(key)
        if request.brief:
            return Message(MessageType.PUT_VALUE, key, brief=True)
        # The record comes back as it was: go-libp2p and js-libp2p take this for the proof.
        return Message(MessageType.PUT_VALUE, key, record)

    def get(self, key: bytes, *, now: float, room: int = 0) -> Record | None:
        """Return what stands under `key` as far as it fits, the latest first.

        Args:
            key: what is asked for.
            now: as in `put`.
            room: bytes that the asker reads in one message; none said: as much as all read.
        """
        try:
            rules = self.namespaces.rules(key)
        except UnknownNamespace:
            return None
        left = max(min(room, MAX_VALUE + MAX_ANSWER), MAX_ANSWER) - ROOM_FOR_PEERS - len(key)
        chosen: list[Item] = []
        for item in self.store.items(key, now=now):
            left -= SET_COST + len(item.encoded)
            if chosen and left < 0:
                break
            chosen.append(item)
        return Record(key, rules.join(chosen)) if chosen else None

    def read(
        self, key: bytes, value: bytes, *, now: float, known: Iterable[Item] = ()
    ) -> tuple[list[Item], int]:
        """Return the valid items of a record's value that a peer sent, and how many are not.

        Items that are held already, or among the `known`, are not verified again.
        """
        valid: list[Item] = []
        invalid = 0
        try:
            encoded_items = self.namespaces.rules(key).split(value)
        except (UnknownNamespace, RecordError):
            return [], 1
        held = {item.encoded: item for item in (*known, *self.store.items(key, now=now))}
        for encoded in encoded_items[:MAX_ENTRIES]:
            try:
                item = held.get(encoded) or self.namespaces.read(key, encoded, now=now)
            except ValueRefused as error:
                _log.debug("under %r: %s", key[:64], error)
                invalid += error.reason is not Reason.EXPIRED
                if invalid >= MAX_INVALID:
                    break
            else:
                valid.append(item)
        return valid, invalid

    def _keep_all(
        self, key: bytes, value: bytes, now: float, sender: PeerId | None, source: bytes
    ) -> bool:
        """Keep what is valid; says whether there was anything. Raises ValueRefused."""
        try:
            encoded_items = self.namespaces.rules(key).split(value)
        except UnknownNamespace as error:
            raise ValueRefused(str(error), Reason.NAMESPACE) from None
        except RecordError as error:
            raise ValueRefused(str(error)) from None
        if len(encoded_items) > MAX_PUT:
            raise ValueRefused(f"{len(encoded_items)} values at once, limit {MAX_PUT}")
        held = {item.encoded: item for item in self.store.items(key, now=now)}
        refusal: ValueRefused | None = None
        crowding = 0
        for encoded in encoded_items:
            if (kept := held.get(encoded)) is not None:
                if kept.entry is not None and kept.entry.author == sender:
                    self.store.vouch(key, kept.place, source)
                continue
            try:
                item = self.namespaces.read(key, encoded, now=now)
                crowding += not self.store.has_room(key, item)
                if crowding > MAX_CROWDING:
                    refusal = ValueRefused(f"{MAX_CROWDING} values for a full key", Reason.FULL)
                    break
                self.store.add(key, item, now=now, source=source)
            except ValueRefused as error:
                refusal = error
                if error.reason is Reason.INVALID:
                    break  # an honest peer sends what it has verified, so this one is not
        if refusal is not None:
            raise refusal
        return bool(encoded_items)


def requests_for(namespaces: Namespaces, key: bytes, items: Sequence[Item]) -> list[Message]:
    """Return the `PUT_VALUE` requests that carry `items`, each small enough for every peer."""
    rules = namespaces.rules(key)
    return [
        Message(MessageType.PUT_VALUE, key, Record(key, rules.join(batch)), brief=True)
        for batch in _batches(items, PUT_BYTES - 2 * len(key))
    ]


def _value_in(request: Message) -> bytes:
    record = request.record
    if record is None or record.key != request.key:
        raise ValueRefused("the record is not for the key of the request")
    return record.value


def _batches(items: Iterable[Item], size: int) -> Iterable[list[Item]]:
    batch: list[Item] = []
    left = size
    for item in items:
        left -= SET_COST + len(item.encoded)
        if batch and left < 0:
            yield batch
            batch, left = [], size - SET_COST - len(item.encoded)
        batch.append(item)
    if batch:
        yield batch
