"""Bringing back what was saved, and saving what changes, behind the event loop's back.

The stores tell which of their places have changed; once a second at most those are copied and
handed to a worker thread that writes them. Nothing waits for that, and nothing that goes wrong with
the file stops the DHT: it is logged, and tried again with the next change.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lattica import codec
from lattica.errors import LatticaError
from lattica.identity import PeerId
from lattica.transport import Multiaddr

from ._database import Changes, Database, ProviderRow, Saved, ValueRow, is_passing
from ._providers import PROVIDER_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from lattica.transport import AddressBook

    from ._clock import Clock
    from ._namespaces import Item
    from ._own import OwnEntries
    from ._providers import ProviderStore
    from ._record_store import RecordStore

_log = logging.getLogger(__name__)

BATCH_SECONDS = 1.0  # what a crash may cost
RETRY_SECONDS = 60.0  # after the file could not be written
MAX_CHANGES = 32_768  # noted one by one; beyond, everything is written anew
SLICE = 256  # rows read at a time: others are to have their turn
_MAX_ADDRESSES = 16  # of one provider
_Place = tuple[bytes, bytes]


class Persistence:
    """Keeps the file in step with the stores."""

    def __init__(
        self,
        path: Path,
        *,
        held: RecordStore,
        own: OwnEntries,
        providers: ProviderStore,
        book: AddressBook,
        clock: Clock,
    ) -> None:
        self._database = Database(path)
        self._path = path
        self._held, self._own, self._providers = held, own, providers
        self._book, self._clock = book, clock
        self._dirty: tuple[dict[_Place, None], ...] = ({}, {}, {})  # held, own, providers
        self._everything = False
        self._changed = trio.Event()
        self._usable = self._damaged = False

    async def load(self) -> None:
        """Open the file, and put what it holds into the stores, which are empty."""
        now = self._clock.wall()
        try:
            saved = await trio.to_thread.run_sync(lambda: self._database.load(now=now))
        except (OSError, sqlite3.Error) as error:
            _log.warning("%s: %s; records will not outlive this process", self._path, error)
            return
        self._usable = True
        await self._restore(saved, now)
        held, own, providers = self._dirty
        self._held.changed = lambda key, place, _item: self._note(held, (key, place))
        self._own.changed = lambda key, place: self._note(own, (key, place))
        self._providers.changed = lambda key, peer: self._note(providers, (key, peer.raw))

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Write what changes, until cancelled; then once more."""
        task_status.started()
        if not self._usable:
            return
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(BATCH_SECONDS)
                if not await self._write():
                    await trio.sleep(RETRY_SECONDS)
        finally:
            with trio.CancelScope(shield=True):
                if self._changed.is_set():
                    await self._write()
                await trio.to_thread.run_sync(self._database.close)

    async def _write(self) -> bool:
        self._changed = trio.Event()
        changes = self._whole() if self._everything else self._take()
        self._everything = False
        for places in self._dirty:
            places.clear()
        write = self._database.rebuild if self._damaged else self._database.write
        try:
            with trio.CancelScope(shield=True):  # it is milliseconds, and lost where it is not done
                await trio.to_thread.run_sync(write, changes)
        except (OSError, sqlite3.Error) as error:
            _log.warning("%s cannot be written: %s; it is tried again", self._path, error)
            self._damaged = isinstance(error, sqlite3.Error) and not is_passing(error)
            self._everything = True
            self._changed.set()
            return False
        self._damaged = False
        return True

    def _note(self, places: dict[_Place, None], place: _Place) -> None:
        if not self._everything:
            places[place] = None
            if len(places) > MAX_CHANGES:
                self._everything = True
                for each in self._dirty:
                    each.clear()
        self._changed.set()

    # From memory to rows.

    def _take(self) -> Changes:
        held, own, providers = self._dirty
        changes = Changes.none()
        for key, place in held:
            changes.held[key, place] = self._held_row(key, self._held.item(key, place))
        for key, place in own:
            changes.own[key, place] = _value_row(key, self._own.item(key, place))
        for key, peer in providers:
            self._add_provider(changes, key, PeerId(peer))
        return changes

    def _whole(self) -> Changes:
        changes = Changes.none()
        changes.whole = True
        for key, item in self._held:
            changes.held[key, item.place] = self._held_row(key, item)
        for key, item in self._own:
            changes.own[key, item.place] = _value_row(key, item)
        for key, peer in self._providers:
            self._add_provider(changes, key, peer)
        return changes

    def _held_row(self, key: bytes, item: Item | None) -> ValueRow | None:
        row = _value_row(key, item)
        return None if row is None else replace(row, source=self._held.source(key, row.place))

    def _add_provider(self, changes: Changes, key: bytes, peer: PeerId) -> None:
        expires_at = self._providers.expires_at(key, peer)
        if expires_at is None:
            changes.providers[key, peer.raw] = None
            return
        left = expires_at - trio.current_time()
        changes.providers[key, peer.raw] = ProviderRow(
            key, peer.raw, self._clock.wall() + left, self._providers.group(key, peer)
        )
        if peer.raw not in changes.addresses:
            known = self._book.addresses(peer, hearsay=False)[:_MAX_ADDRESSES]
            changes.addresses[peer.raw] = codec.pack([bytes(address) for address in known])

    # From rows to memory. The file is ours, but what is in it came from strangers.

    async def _restore(self, saved: Saved, now: float) -> None:
        lost = 0
        for rows, add in ((saved.held, self._restore_held), (saved.own, self._restore_own)):
            for number, row in enumerate(rows):
                if number % SLICE == 0:
                    await trio.lowlevel.checkpoint()
                try:
                    add(row, now)
                except (LatticaError, TypeError) as error:
                    lost += 1
                    _log.debug("a saved value is of no use: %s", error)
        monotonic = trio.current_time()
        known: dict[bytes, PeerId] = {}
        for number, provided in enumerate(saved.providers):
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
            try:
                peer = known.get(provided.peer) or PeerId.from_bytes(provided.peer)
                known[provided.peer] = peer
                self._providers.restore(
                    provided.key,
                    peer,
                    left=provided.expires - now,
                    now=monotonic,
                    group=provided.source,
                )
            except (LatticaError, TypeError, ValueError):
                lost += 1
        for raw, packed in saved.addresses.items():
            if raw in known:
                self._restore_addresses(known[raw], packed, monotonic)
        if lost:
            _log.warning("%d records in %s were of no use and are dropped", lost, self._path)

    def _restore_held(self, row: ValueRow, now: float) -> None:
        item = self._held.reopen(row.key, row.encoded, row.expires)
        self._held.add(row.key, item, now=now, source=row.source)

    def _restore_own(self, row: ValueRow, now: float) -> None:
        self._own.add(row.key, self._held.reopen(row.key, row.encoded, row.expires))

    def _restore_addresses(self, peer: PeerId, packed: bytes, now: float) -> None:
        with suppress(LatticaError, TypeError):  # it is found again where it announces itself
            raws = codec.unpack(packed, max_size=1 << 14, max_values=_MAX_ADDRESSES)
            known = [Multiaddr.from_bytes(raw) for raw in raws]  # type: ignore[union-attr,arg-type]
            self._book.add(peer, known, now=now, ttl=PROVIDER_SECONDS)


def _value_row(key: bytes, item: Item | None) -> ValueRow | None:
    return None if item is None else ValueRow(key, item.place, item.encoded, item.expires)
