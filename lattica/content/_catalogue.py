"""What is here, and whether it still is: rows, with what reads have found out laid over them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lattica.errors import NotFound

from ._build import Kind
from ._messages import pack_bitmap
from ._rows import cid_of
from ._values import Availability, ObjectState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lattica.cid import CID

    from ._index import Index
    from ._leftovers import Leftovers
    from ._reading import Reader
    from ._rows import FileRow
    from ._sources import Sources
    from ._values import StoredObject

_ROOTS_PAGE = 1000  # rows read at a time by `provided`


class Catalogue:
    """The objects of one store, as far as is known without reading them."""

    def __init__(
        self, index: Index, sources: Sources, reader: Reader, leftovers: Leftovers
    ) -> None:
        self._index, self._sources, self._reader = index, sources, reader
        self._leftovers = leftovers

    def objects(self, root: CID | None = None) -> list[StoredObject]:
        """Return all objects, oldest first; or the one of `root`, if there is one."""
        changed = self._index.objects_of_sources(self._suspects())
        return [
            replace(stored, state=ObjectState.CHANGED)
            if number in changed and stored.state is ObjectState.COMPLETE
            else stored
            for number, stored in self._index.objects(root)
        ]

    def number(self, root: CID) -> int:
        """Return what the index calls an object. Raises NotFound."""
        found = self._index.objects(root)
        if not found:
            raise _not_here(root)
        return found[0][0]

    def stored(self, root: CID) -> StoredObject:
        """Return the object of `root`. Raises NotFound."""
        found = self.objects(root)
        if not found:
            raise _not_here(root)
        return found[0]

    def provided(self) -> Iterator[bytes]:
        """See `Store.provided`."""
        changed = self._index.changed_objects() | self._index.objects_of_sources(self._suspects())
        after = b""
        while page := self._index.roots(after, _ROOTS_PAGE, changed):
            after = page[-1]
            yield from (cid_of(root).multihash for root in page)

    def availability(self, root: CID) -> Availability | None:
        """See `Store.availability`."""
        if (file := next(self._whole_files(root), None)) is not None:
            return Availability(file.leaf_count, True, _full_bitmap(file.leaf_count))
        for part in list(self._reader.parts.values()):
            if part.leaves.root == root:
                return Availability(len(part.leaves), part.done, part.bitmap())
        for number, stored in self._index.objects(root):
            if stored.kind is Kind.DIRECTORY and (flags := self._leftovers.flags(root, number)):
                return Availability(len(flags), False, pack_bitmap(flags))
        return None

    def file_of(self, root: CID) -> Path | None:
        """See `Store.file_of`."""
        file = next(self._whole_files(root), None)
        return file.source.path if file is not None else None

    def _whole_files(self, root: CID) -> Iterator[FileRow]:
        """Give the places of a file that has all its leaves there, and has not changed."""
        for file in self._index.files_of_root(root):
            changed = file.source.changed or file.source.id in self._sources.changed
            if file.source.download is None and not changed:
                yield file

    def _suspects(self) -> set[int]:
        """Sources that have changed, or are damaged, which may not be written down yet."""
        return {*self._sources.changed, *self._sources.damaged_sources()}


def _not_here(root: CID) -> NotFound:
    return NotFound(f"{root} is not in the store", cid=root, hint="see `lattica ls`")


def _full_bitmap(count: int) -> bytes:
    return b"\xff" * (count // 8) + bytes([(1 << count % 8) - 1] if count % 8 else [])
