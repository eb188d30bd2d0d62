"""What downloads that do not run have left: known leaf by leaf, so that it can be served.

A download that stops in this process knows what it has verified; that is kept. What an earlier
process left counts for nothing until `look` has hashed it. Either way a leaf is hashed once more
when it is read, like any other.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from ._dag import LeafTable
from ._messages import unpack_bitmap
from ._open_files import OpenFiles
from ._part import PartFile
from ._unixfs import DagError
from ._values import StorageError
from ._walk import Tree, Walker

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from lattica.cid import CID

    from ._build import Progress
    from ._index import Index
    from ._reading import Reader
    from ._rows import DownloadRow, FileRow

_MAX_LEAVES = 1 << 20  # of all that is kept, some 50 bytes each; the oldest makes room
_MAX_FILES = 10_000  # of a directory whose leaves are told by number: to count them takes long
_log = logging.getLogger(__name__)


class _ResumedError(Exception):
    """The download runs again: it looks for itself."""


class Leftovers:
    """The unfinished parts of one store. Safe to use from any thread."""

    def __init__(self, index: Index, reader: Reader, active: Container[int]) -> None:
        """Keep what is left in `reader.parts`; downloads that are `active` are not looked at."""
        self._index, self._reader, self._active = index, reader, active
        self._files: OpenFiles[None] = OpenFiles(1)
        self._kept: dict[int, PartFile] = {}  # by source, the oldest first
        self._looked: set[int] = set()  # downloads
        self._lock = threading.Lock()

    def unknown(self) -> list[CID]:
        """Return the objects of which nobody knows yet what an earlier process left."""
        return [row.root for row in self._rows() if row.id not in self._looked]

    def look(self, root: CID, progress: Progress | None = None) -> bool:
        """*Slow.* Hash what was left of an object; what matches is served from then on.

        Args:
            root: the object.
            progress: called with bytes hashed; what it raises ends the look.

        Returns:
            Whether any of it is here.
        """
        found = False
        for row in self._rows():
            if row.root == root:
                self._looked.add(row.id)
                for file in self._index.files(row.object):
                    if file.source.download == row.id:
                        found |= self._look_at(row, file, progress)
        return found

    def keep(self, download: int, parts: Iterable[PartFile]) -> bool:
        """Serve on what a download that stops has verified. Returns whether that is anything."""
        self._looked &= {row.id for row in self._index.downloads()}  # others are over
        self._looked.add(download)
        left = [part for part in parts if part.verified_bytes]
        for part in left:
            self._keep(part)
        return bool(left)

    def forget(self, row: DownloadRow) -> None:
        """Serve what a download has left no longer: it runs again, or is about to be discarded."""
        files = self._index.files(row.object)
        with self._lock:
            for file in files:
                if file.source.download == row.id:
                    self._drop(file.source.id)

    def flags(self, root: CID, number: int) -> bytes | None:
        """*Slow.* Return a byte for each leaf of a directory: 1 if it is here, else 0.

        None: nothing is, or it is not known how many leaves there are.
        """
        files = {file.path: file for file in self._index.files(number)}
        if len(files) > _MAX_FILES or not any(self._part(file) for file in files.values()):
            return None
        tree = Tree(root)
        if not self._walk(tree) or any(file.path not in files for file in tree.files):
            return None
        return b"".join(self._flags(files[file.path]) for file in tree.files)

    def _rows(self) -> list[DownloadRow]:
        return [row for row in self._index.downloads() if row.id not in self._active]

    def _look_at(self, row: DownloadRow, file: FileRow, progress: Progress | None) -> bool:
        source = file.source
        if source.id in self._reader.parts or file.leaf_count > _MAX_LEAVES:
            return source.id in self._reader.parts
        try:
            leaves = self._leaves(file)
            if leaves is None:
                return False
            part = PartFile(leaves, source.path, source.stamp, source.id, self._reader, self._files)
            if row.id in self._active:
                return False
            self._keep(part)
            part.rescan(partial(self._check, part, progress))
        except (DagError, StorageError, _ResumedError) as error:
            _log.info("cannot tell what is left at %s: %s", source.path, error)
            return False
        if not part.verified_bytes:
            with self._lock:
                self._drop(part.source)
        return part.verified_bytes > 0

    def _check(self, part: PartFile, progress: Progress | None, size: int) -> None:
        if self._reader.parts.get(part.source) is not part:
            raise _ResumedError
        if progress is not None:
            progress(size)

    def _leaves(self, file: FileRow) -> LeafTable | None:
        """Read which leaves a file has from its index; None where that is not here."""
        walker = Walker(file.root, size=file.source.stamp.size if file.leaf_count == 1 else None)
        table = LeafTable(file.root)
        while not walker.done:
            if not self._walk(walker):
                return None
            for leaf in walker.leaves():
                table.append(leaf.length, leaf.multihash)
        return table

    def _walk(self, walker: Tree | Walker) -> bool:
        """Give index blocks of the store to `walker` for as long as it needs some."""
        while cids := walker.needed():
            for cid in cids:
                block = self._reader.index_block(cid.multihash)
                if block is None:
                    return False
                walker.receive(cid, block)
        return True

    def _keep(self, part: PartFile) -> None:
        with self._lock:
            self._drop(part.source)
            self._kept[part.source] = self._reader.parts[part.source] = part
            while sum(len(kept.leaves) for kept in self._kept.values()) > _MAX_LEAVES:
                self._drop(next(iter(self._kept)))

    def _drop(self, source: int) -> None:
        part = self._kept.pop(source, None)
        if part is not None and self._reader.parts.get(source) is part:
            del self._reader.parts[source]

    def _part(self, file: FileRow) -> PartFile | None:
        return self._reader.parts.get(file.source.id)

    def _flags(self, file: FileRow) -> bytes:
        part = self._part(file)
        return (
            bytes(file.leaf_count)
            if part is None
            else unpack_bitmap(part.bitmap(), file.leaf_count)
        )
