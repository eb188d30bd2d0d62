"""Putting values, and getting them back, whoever lies. The rules are pure and elsewhere.

A value goes to the k peers nearest to its key, and is put once more than half of them have it; the
rest are told meanwhile, and again when it is renewed. A reader asks those peers, checks each answer
by itself, and takes the newest valid entry of each place: one honest holder is enough for it, and a
forger cannot add anything. It stops once more than half of the nearest have answered, so that a
minority that holds back what is newest changes nothing. Peers that should hold something newer are
told it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from lattica import codec
from lattica.errors import CodecError, InvalidInput, Unreachable

from ._keeper import requests_for
from ._messages import MAX_MESSAGE, Message, MessageType
from ._namespaces import MAX_VALUES, Item, SignedEntries, ValueRefused
from ._placing import ASK_SECONDS
from ._reading import Reading
from ._records import (
    MAX_SEQUENCE,
    MAX_SUBKEY,
    MAX_TTL,
    MAX_VALUE,
    sign_entry,
)
from ._results import GetResult, PutResult, shown

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Sequence

    from lattica.identity import PeerId
    from lattica.transport import Mesh, PeerInfo

    from ._client import Client
    from ._clock import Clock
    from ._keeper import Keeper
    from ._lookup import Lookup
    from ._placing import Placer, Telling
    from ._renewal import Renewal

_log = logging.getLogger(__name__)

TTL = 24 * 3600.0  # seconds that a value lives where its writer does not say
TELLINGS = 64  # values on their way to the last of their holders; beyond them a put waits for all
REPAIRS = 16  # peers being told something newer at once; beyond them, another reader will


class ValueTooLarge(InvalidInput):
    """A value, or a subkey, is larger than peers keep. Nothing was sent.

    Attributes:
        size: how large it is, encoded, in bytes.
        limit: what it may have.
    """

    code = "dht-value-too-large"
    hint = "share it (`lattica share`, `node.share`) and put its CID"

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"a {what} of {size} bytes, limit {limit}")
        self.size, self.limit = size, limit


class InvalidValue(InvalidInput):
    """The value cannot be put: it has no encoding, or is not what its namespace demands."""

    code = "dht-value"
    hint = "values are None, bool, int, float, str, bytes, and lists and maps of them"


class NotStored(Unreachable):
    """No peer keeps the value.

    Attributes:
        refused: how many did not, by why.
    """

    code = "dht-not-stored"
    hint = "check that a peer is connected (`lattica peers`), then put it again"

    def __init__(self, message: str, refused: dict[str, int]) -> None:
        super().__init__(message)
        self.refused = refused


class Values:
    """Puts and gets values, for one node.

    Args:
        placer: brings values to their holders.
        renewal: puts them again.
        server: says whether this node keeps values for others.
        first_contact: waits until there is somebody to ask.
        nursery: where repairs run.
    """

    def __init__(
        self,
        mesh: Mesh,
        client: Client,
        keeper: Keeper,
        clock: Clock,
        placer: Placer,
        renewal: Renewal,
        *,
        server: Callable[[], bool],
        first_contact: Callable[[], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        self._mesh, self._client, self._keeper, self._clock = mesh, client, keeper, clock
        self._placer, self._renewal = placer, renewal
        self._server, self._first_contact, self._nursery = server, first_contact, nursery
        self._namespaces = keeper.namespaces
        self._repairs = self._tellings = 0
        self._writing: WeakValueDictionary[tuple[bytes, bytes], trio.Lock] = WeakValueDictionary()

    # Putting.

    async def put(
        self, key: bytes, value: codec.Value, *, ttl: float, subkey: bytes = b""
    ) -> PutResult:
        """See `Dht.put`."""
        packed = self._check(key, value, ttl, subkey)
        await self._first_contact()
        # One after the other in each place, or they would overtake each other on the way.
        lock = self._writing.setdefault((key, subkey), trio.Lock())
        async with lock:
            return await self._put(key, packed, ttl, subkey)

    async def _put(self, key: bytes, packed: bytes, ttl: float, subkey: bytes) -> PutResult:
        started = trio.current_time()
        peers = await self._placer.holders_of(key)
        self._clock.check()

        def make(above: int = 0) -> Item:
            return self._make(key, packed, ttl, subkey, above=above)

        item = make()
        telling = await self._tell_most(key, item, peers, make)
        if telling.newer:
            # A sequence beyond ours: this node has written here before, and has forgotten it.
            item = make(telling.newer)
            telling = await self._tell_most(key, item, peers, make)
        refused = telling.refused
        holders = len(telling.told) + self._placer.keep(key, item, peers)
        if not holders:
            self._renewal.forget(key, item)
            raise NotStored(_why_not_stored(key, peers, refused), dict(refused))
        entry = item.entry
        return PutResult(
            key=key,
            subkey=subkey,
            author=entry.author if entry else None,
            sequence=entry.sequence if entry else 0,
            expires=item.expires,
            asked=len(peers),
            holders=holders,
            refused=dict(refused),
            seconds=trio.current_time() - started,
        )

    async def _tell_most(
        self, key: bytes, item: Item, peers: Sequence[PeerInfo], make: Callable[[int], Item]
    ) -> Telling:
        """Put `item` to all; returns when most have it. The rest are told in the background."""
        telling = self._placer.telling(key, [item], peers)
        await telling.run(until_most=self._tellings < TELLINGS)
        if telling.waiting:
            self._tellings += 1
            self._nursery.start_soon(self._tell_rest, telling, key, item, make)
        return telling

    async def _tell_rest(
        self, telling: Telling, key: bytes, item: Item, make: Callable[[int], Item]
    ) -> None:
        try:
            was_news = not telling.newer
            await telling.run()
            if telling.newer and was_news and self._is_latest(key, item):
                # The few who hold something newer would be believed by each reader.
                await self._placer.telling(key, [make(telling.newer)], telling.peers).run()
        finally:
            self._tellings -= 1

    def _is_latest(self, key: bytes, item: Item) -> bool:
        return self._renewal.own.item(key, item.place) is item

    def _check(self, key: bytes, value: codec.Value, ttl: float, subkey: bytes) -> bytes:
        """Return the value as it travels. All that can be wrong with it is said here, at once."""
        rules = self._namespaces.rules(key)
        if len(subkey) > MAX_SUBKEY:
            raise ValueTooLarge("subkey", len(subkey), MAX_SUBKEY)
        if not 0 < ttl <= MAX_TTL:
            raise InvalidInput(
                f"a ttl of {ttl} seconds, expected more than 0 and at most {MAX_TTL}"
            )
        if isinstance(rules, SignedEntries):
            try:
                packed = codec.pack(value)
                if len(packed) > MAX_VALUE:
                    raise ValueTooLarge("value", len(packed), MAX_VALUE)
                codec.unpack(packed, max_size=MAX_VALUE, max_values=MAX_VALUES)
            except CodecError as error:
                raise InvalidValue(str(error)) from None
            return packed
        if not isinstance(value, bytes) or subkey:
            raise InvalidValue(f"under {shown(key)} stands one value, which is bytes")
        if len(value) > MAX_VALUE:
            raise ValueTooLarge("value", len(value), MAX_VALUE)
        return value

    def _make(
        self, key: bytes, packed: bytes, ttl: float, subkey: bytes, *, above: int = 0
    ) -> Item:
        now = self._clock.now()
        encoded = packed
        if isinstance(self._namespaces.rules(key), SignedEntries):
            place = subkey + self._mesh.peer_id.raw
            for known in (
                self._renewal.own.item(key, place),
                self._keeper.store.item(key, place),
            ):
                if known is not None and known.entry is not None:
                    above = max(above, known.entry.sequence)
            created_ms = int(now * 1000)
            encoded = sign_entry(
                self._mesh.identity,
                scope=self._namespaces.scope,
                key=key,
                subkey=subkey,
                value=packed,
                sequence=min(max(created_ms, above + 1), MAX_SEQUENCE),
                created_ms=created_ms,
                expires_ms=created_ms + max(1, int(ttl * 1000)),
            ).encoded
        try:
            # As strictly as others will: what they refuse is told here, before it is sent.
            item = self._namespaces.read(key, encoded, now=now)
        except ValueRefused as error:
            raise InvalidValue(f"not valid under {shown(key)}: {error}") from error
        if item.entry is not None:  # at once, so that what is put beside it gets another sequence
            self._renewal.remember(key, item)
        return item

    # Getting.

    async def get(
        self, key: bytes, *, subkey: bytes | None = None, author: PeerId | None = None
    ) -> GetResult:
        """See `Dht.get`."""
        self._namespaces.rules(key)
        started = trio.current_time()
        reading = Reading(self._keeper, key)
        if self._server():
            reading.take(self._mesh.peer_id, self._keeper.store.items(key, now=self._clock.now()))
        await self._first_contact()
        lookup = self._client.new_lookup(key, until_certain=True)

        def heard(peer: PeerId, answer: Message) -> None:
            value = answer.record.value if answer.record is not None else None
            reading.hear(peer, value, now=self._clock.now())

        await self._client.walk(
            lookup,
            Message(
                MessageType.GET_VALUE,
                key,
                room=MAX_MESSAGE,
                brief=self._client.table.holds_everybody(trio.current_time()),
            ),
            heard=heard,
            enough=lookup.is_certain,
        )
        self._clock.check()
        stale = self._repair(key, reading, lookup)
        report = lookup.report()
        return GetResult(
            key=key,
            entries=reading.found(subkey, author),
            asked=report.asked,
            answered=report.answered,
            holders=reading.holders,
            stale=stale,
            invalid=reading.invalid,
            complete=report.complete or lookup.is_certain(),
            seconds=trio.current_time() - started,
        )

    def _repair(self, key: bytes, reading: Reading, lookup: Lookup) -> int:
        """Have those who should hold what was found told what they lack. Returns how many do."""
        peers = lookup.closest()
        if self._placer.is_holder(key, peers):
            for item in reading.missing_at(self._mesh.peer_id):
                self._placer.keep(key, item, peers)
        stale = 0
        for peer in peers:
            missing = reading.missing_at(peer.peer)
            stale += bool(missing) and reading.has_some(peer.peer)
            if missing and self._repairs < REPAIRS:
                self._repairs += 1
                self._nursery.start_soon(self._bring, peer, key, missing)
        return stale

    async def _bring(self, peer: PeerInfo, key: bytes, items: Sequence[Item]) -> None:
        try:
            requests = requests_for(self._namespaces, key, items)
            with trio.move_on_after(ASK_SECONDS * len(requests)):
                why, _ = await self._placer.tell_one(peer, key, requests, items)
                if why is not None:
                    _log.debug("%s was not told what it lacks: %s", peer.peer, why)
        finally:
            self._repairs -= 1


def _why_not_stored(key: bytes, peers: Sequence[PeerInfo], refused: Counter[str]) -> str:
    if not peers:
        return f"nobody keeps {shown(key)}: no peer is known"
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
    return f"nobody keeps {shown(key)}: of {len(peers)} peers {why}"
