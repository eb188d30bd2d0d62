"""Putting values, and getting them back, whoever lies. The rules are pure and elsewhere.

A value goes to the k peers nearest to its key. A reader asks those peers, checks each answer by
itself, and takes the newest valid entry of each place: one honest holder is enough for it, and a
forger cannot add anything. It stops once more than half of the nearest have answered, so that a
minority that holds back what is newest changes nothing. Peers that should hold something newer are
told it. The writer puts its entries again, at doubling intervals and until they expire: the nearest
peers of tomorrow are others.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica import codec
from lattica._nursery import private_nursery
from lattica.errors import CodecError, InvalidInput, Unreachable
from lattica.transport import PeerInfo

from ._keeper import requests_for
from ._keys import K, position
from ._messages import MAX_MESSAGE, Message, MessageType
from ._namespaces import MAX_VALUES, Item, Reason, SignedEntries, ValueRefused
from ._own import MAX_OWN, OwnEntries
from ._providers import ProvideSchedule
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
    from collections.abc import Awaitable, Callable, Sequence

    from lattica.identity import PeerId
    from lattica.transport import Mesh

    from ._client import Client
    from ._clock import Clock
    from ._keeper import Keeper
    from ._lookup import Lookup

_log = logging.getLogger(__name__)

TTL = 24 * 3600.0  # seconds that a value lives where its writer does not say
RENEW_SECONDS = 3600.0  # at most between two puttings of the same entry
ASK_SECONDS = 10.0  # for one peer to keep a value
SLOW_SECONDS = 1.0  # so long are the last few waited for, once most have taken it
REPAIRS = 16  # peers being told something newer at once; beyond them, another reader will
RENEWALS = 4  # keys put again at once


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

    Attributes:
        own: what this node has put, and puts again until it expires.

    Args:
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
        *,
        server: Callable[[], bool],
        first_contact: Callable[[], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        self._mesh, self._client, self._keeper, self._clock = mesh, client, keeper, clock
        self._server, self._first_contact, self._nursery = server, first_contact, nursery
        self._namespaces = keeper.namespaces
        self.own = OwnEntries()
        self._schedule = ProvideSchedule(renew_seconds=RENEW_SECONDS)
        self._changed = trio.Event()
        self._repairs = 0

    # Putting.

    async def put(
        self, key: bytes, value: codec.Value, *, ttl: float, subkey: bytes = b""
    ) -> PutResult:
        """See `Dht.put`."""
        started = trio.current_time()
        packed = self._check(key, value, ttl, subkey)
        await self._first_contact()
        peers = await self._holders_of(key)
        self._clock.check()
        item = self._make(key, packed, ttl, subkey)
        told, refused, newer = await self._tell_all(key, [item], peers)
        if newer and item.entry is not None:
            # A sequence beyond ours: this node has written here before, and has forgotten it.
            item = self._make(key, packed, ttl, subkey, above=newer)
            told, refused, _ = await self._tell_all(key, [item], peers)
        holders = len(told) + self._keep(key, item, peers)
        if item.entry is not None:
            self._remember(key, item)
        if not holders:
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
            for known in (self.own.item(key, place), self._keeper.store.item(key, place)):
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
            return self._namespaces.read(key, encoded, now=now)
        except ValueRefused as error:
            raise InvalidValue(f"not valid under {shown(key)}: {error}") from error

    async def _holders_of(self, key: bytes) -> list[PeerInfo]:
        table = self._client.table
        if table.holds_everybody(trio.current_time()):  # a small network: nobody need be looked for
            return [PeerInfo(peer, ()) for peer in table.closest(position(key))]
        return (await self._client.find_node(key)).closest()

    def _is_holder(self, key: bytes, peers: Sequence[PeerInfo]) -> bool:
        """Say whether this node is among the k nearest, those `peers` being the nearest others."""
        is_server = self._server()
        if not is_server or len(peers) < K:
            return is_server
        target = position(key)
        ours = position(self._mesh.peer_id.raw) ^ target
        return ours < position(peers[K - 1].peer.raw) ^ target

    def _keep(self, key: bytes, item: Item, peers: Sequence[PeerInfo]) -> bool:
        if not self._is_holder(key, peers):
            return False
        try:
            self._keeper.store.add(key, item, now=self._clock.now())
        except ValueRefused as error:
            _log.debug("not kept here: %s", error)
            return False
        return True

    async def _tell_all(
        self, key: bytes, items: Sequence[Item], peers: Sequence[PeerInfo]
    ) -> tuple[list[PeerId], Counter[str], int]:
        """Put `items` to all; returns who took them, why others did not, and a newer sequence."""
        told: list[PeerId] = []
        refused: Counter[str] = Counter()
        newer = 0
        requests = requests_for(self._namespaces, key, items)
        waiting = len(peers)

        async def tell(peer: PeerInfo) -> None:
            nonlocal newer, waiting
            why, sequence = await self._tell(peer, key, requests, items)
            if why is None:
                told.append(peer.peer)
            else:
                refused[why] += 1
                newer = max(newer, sequence)
            waiting -= 1
            if 2 * len(told) > len(peers):
                nursery.cancel_scope.deadline = min(
                    nursery.cancel_scope.deadline, trio.current_time() + SLOW_SECONDS
                )

        async with private_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(tell, peer)
        if waiting:
            refused["slow"] += waiting
        return told, refused, newer

    async def _tell(
        self, peer: PeerInfo, key: bytes, requests: Sequence[Message], items: Sequence[Item]
    ) -> tuple[str | None, int]:
        """Put to one peer. Returns why it did not take it, and a newer sequence that it holds."""
        for request in requests:
            answer: Message | str = "timed out"
            with trio.move_on_after(ASK_SECONDS):
                answer = await self._client.ask(peer, request)
            if isinstance(answer, str):
                return answer, 0
            if answer.refusal == Reason.STALE.value:
                return answer.refusal, self._newer_in(key, answer, items)
            if answer.refusal or answer.record is None:
                return answer.refusal or "no-record", 0
        return None, 0

    def _newer_in(self, key: bytes, answer: Message, items: Sequence[Item]) -> int:
        """Return the sequence of the valid entry in `answer` that stands where ours should."""
        if answer.record is None:
            return 0
        valid, _ = self._keeper.read(key, answer.record.value, now=self._clock.now())
        places = {item.place for item in items}
        return max(
            (each.entry.sequence for each in valid if each.entry and each.place in places),
            default=0,
        )

    # Putting again.

    def _remember(self, key: bytes, item: Item) -> None:
        self._forget_expired()
        if not self.own.add(key, item):
            _log.warning("%d entries are put again until they expire; this one is not", MAX_OWN)
            return
        self._schedule.remove(key)
        now = trio.current_time()
        self._schedule.add(key, now=now)
        self._schedule.start([key])
        self._schedule.announced(key, now=now)
        self._changed.set()

    def resume(self) -> None:
        """Put again what this node has written in an earlier life."""
        for key in self.own.keys:
            self._schedule.add(key, now=trio.current_time())
        self._changed.set()

    def _forget_expired(self) -> None:
        before = self.own.keys
        self.own.expire(self._clock.now())
        for key in before:
            if not self.own.of(key):
                self._schedule.remove(key)

    def hasten(self) -> None:
        """Put again soon: there is somebody, after there was nobody."""
        self._schedule.hasten(now=trio.current_time())
        self._changed.set()

    async def run(self) -> None:
        """Put what this node has written again when it is due. Runs until cancelled."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(self._schedule.next_due()):
                await self._changed.wait()
            await self._client.met.wait()
            self._forget_expired()
            async with private_nursery() as nursery:
                for key in self._schedule.due(trio.current_time(), RENEWALS):
                    nursery.start_soon(self._renew, key)

    async def _renew(self, key: bytes) -> None:
        told = False
        try:
            peers = await self._holders_of(key)
            if items := self.own.of(key):
                took, _, _ = await self._tell_all(key, items, peers)
                told = bool(took)
        finally:
            now = trio.current_time()
            if told:
                self._schedule.announced(key, now=now)
            else:
                self._schedule.postpone(key, now=now)

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
        lookup = self._client.new_lookup(key)

        def heard(peer: PeerId, answer: Message) -> None:
            value = answer.record.value if answer.record is not None else None
            reading.hear(peer, value, now=self._clock.now())

        await self._client.walk(
            lookup,
            Message(MessageType.GET_VALUE, key, room=MAX_MESSAGE),
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
        if self._is_holder(key, peers):
            for item in reading.missing_at(self._mesh.peer_id):
                self._keep(key, item, peers)
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
            why, _ = await self._tell(peer, key, requests, items)
            if why is not None:
                _log.debug("%s was not told what it lacks: %s", peer.peer, why)
        finally:
            self._repairs -= 1


def _why_not_stored(key: bytes, peers: Sequence[PeerInfo], refused: Counter[str]) -> str:
    if not peers:
        return f"nobody keeps {shown(key)}: no peer is known"
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
    return f"nobody keeps {shown(key)}: of {len(peers)} peers {why}"
