"""What a store lets go of: what it is told to, what nobody needs, what has to make room."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from lattica.errors import InvalidInput

from ._download import discard
from ._moves import look
from ._room import Room
from ._spare import Spare, unless_full
from ._tidy import forget_gone, sweep, unlink_owned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lattica.cid import CID

    from ._download import Download
    from ._index import Index
    from ._leftovers import Leftovers
    from ._rows import DownloadRow, OwnedRow, SourceRow
    from ._sources import Sources
    from ._values import Usage

_log = logging.getLogger(__name__)


class Upkeep:
    """The upkeep of one store. Its methods take `lock`, unless they say otherwise.

    Attributes:
        lock: serialises what works in several transactions, so that one does not sweep away the
            rows that another is still joining together.
        room: what keeps to the quota; to be called under the lock.
    """

    def __init__(
        self,
        index: Index,
        sources: Sources,
        leftovers: Leftovers,
        folder: Path,
        active: Mapping[int, Download],
        quota: int | None,
    ) -> None:
        """Look after the store in `folder`, and leave the downloads that are `active` alone."""
        self.lock = threading.Lock()
        self.room = Room(index, sources, quota, self._evict)
        self._index, self._sources, self._folder = index, sources, folder
        self._leftovers, self._active = leftovers, active
        self._spare = Spare(folder)
        self._evicted: list[CID] = []

    def remove(self, root: CID) -> bool:
        """*Slow.* See `Store.remove`."""
        return self._spare.spend_on(lambda: self._remove(root))

    def _remove(self, root: CID) -> bool:
        with self.lock:
            found = self._index.objects(root)
            if not found:
                return False
            if any(download.root == root for download in self._active.values()):
                raise InvalidInput(f"{root} is being downloaded", cid=root, hint="stop that first")
            for row in self._index.downloads():
                if row.object == found[0][0]:
                    self._discard(row)
            with self._index.writing() as transaction:
                transaction.delete_object(found[0][0])
                orphans = transaction.take_orphans()
            self.drop(orphans)
        return True

    def usage(self) -> Usage:
        """*Slow.* See `Store.usage`."""
        with self.lock:
            return self.room.usage()

    def collect(self) -> tuple[int, list[CID]]:
        """*Slow.* See `Store.collect`."""
        return self._spare.spend_on(self._collect)

    def _collect(self) -> tuple[int, list[CID]]:
        with self.lock:
            before = self.room.usage().used_bytes
            look(self._index, self._sources)  # what was renamed is not gone
            gone = forget_gone(self._index, self._active, self._discard)
            with self._index.writing() as transaction:
                orphans = transaction.take_orphans()
            self.drop(orphans)
            strays = sweep(self._index, self._folder)
            self.room.shrink(self._active)
            unless_full(self._index.compact)  # it needs the room of a copy
            evicted = [root for root in self._evicted if not self._index.objects(root)]
            freed = before - self.room.usage().used_bytes
        return max(0, freed) + strays, [*gone, *evicted]

    def take_evicted(self) -> list[CID]:
        """Return the objects that have made room since the last call. Needs no lock."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def forget(self, sources: Iterable[int]) -> None:
        """Remember nothing of sources that are others now. Needs no lock."""
        for source in sources:
            self._sources.forget(source)

    def drop(self, orphans: Iterable[SourceRow]) -> None:
        """Let go of sources whose rows are gone, and of the files that were the store's own.

        To be called under the lock.
        """
        for orphan in orphans:
            self._sources.forget(orphan.id)
            if orphan.owned:
                unlink_owned(orphan.path, self._folder)

    def _discard(self, row: DownloadRow) -> None:
        self._leftovers.forget(row)
        discard(self._index, row)

    def _evict(self, row: OwnedRow) -> None:
        """Let go of what the store keeps for an object, and of the object if that was all of it."""
        for download in self._index.downloads():
            if download.id == row.download:
                self._discard(download)
        with self._index.writing() as transaction:
            if not transaction.drop_owned(row.object):
                transaction.let_go(row.object)
            orphans = transaction.take_orphans()
        self.drop(orphans)
        sweep(self._index, self._folder)  # directories without files in them
        self._evicted.append(row.root)
        _log.info("%s made room", row.root)
