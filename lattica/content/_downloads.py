"""The downloads of a store: begun, resumed, one to a place, and closed with the store."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ._build import Kind
from ._download import Download
from ._rows import DownloadRow, part_path
from ._tidy import CACHE
from ._values import DestinationTaken, ObjectState, StoredObject

if TYPE_CHECKING:
    from lattica.cid import CID

    from ._index import Index
    from ._leftovers import Leftovers
    from ._part import PartFile
    from ._reading import Reader
    from ._sources import Sources
    from ._upkeep import Upkeep


class Downloads:
    """What is on its way into one store."""

    def __init__(
        self,
        index: Index,
        sources: Sources,
        reader: Reader,
        leftovers: Leftovers,
        upkeep: Upkeep,
        folder: Path,
        active: dict[int, Download],
    ) -> None:
        """Receive into the store in `folder`, or beside it; keep those that run in `active`."""
        self._index, self._sources, self._reader = index, sources, reader
        self._leftovers = leftovers
        self._upkeep, self._folder, self._active = upkeep, folder, active

    def begin(self, root: CID, destination: Path, *, overwrite: bool, pinned: bool) -> Download:
        """*Slow.* See `Store.download`; pins nothing that is here already."""
        destination = Path(os.path.abspath(destination))
        if os.path.lexists(destination) and not overwrite:
            raise DestinationTaken(f"{destination} exists")
        if destination.is_dir():  # told before anything is fetched, not after
            raise DestinationTaken(f"{destination} is a directory, which is not written over")
        with self._upkeep.lock:
            rows = [row for row in self._index.downloads() if row.destination == destination]
            if any(row.id in self._active for row in rows):
                raise DestinationTaken(f"{destination} is being downloaded already")
            known = [row for row in rows if row.root == root]
            download = Download(
                known[0] if known else self._note(root, destination, pinned),
                index=self._index,
                sources=self._sources,
                reader=self._reader,
                overwrite=overwrite,
                owned=destination.is_relative_to(self._folder / CACHE),
                reserve=lambda size: self._reserve(download, size),
                on_close=self._closed,
            )
            self._active[download.id] = download
            for row in known:
                self._leftovers.forget(row)
        return download

    def close(self) -> None:
        """Close those that run; they stay for later."""
        with ExitStack() as each:  # even if one before it fails
            for download in list(self._active.values()):
                each.callback(download.close)

    def _note(self, root: CID, destination: Path, pinned: bool) -> DownloadRow:
        stored = StoredObject(
            root=root,
            kind=Kind.FILE,
            size=0,
            name=destination.name,
            path=destination,
            added=time.time(),
            pinned=pinned,
            state=ObjectState.PARTIAL,
        )
        target = part_path(destination, root)
        with self._index.writing() as transaction:
            number = transaction.begin_object(stored)
            download = transaction.begin_download(number, destination, target)
        return DownloadRow(download, number, root, destination, target, None, finishing=False)

    def _reserve(self, download: Download, size: int) -> None:
        with self._upkeep.lock:
            self._upkeep.room.reserve(download.id, size, self._active)

    def _closed(self, download: Download, left: list[PartFile]) -> None:
        self._active.pop(download.id, None)
        self._upkeep.room.release(download.id)
        self._leftovers.keep(download.id, left)
