"""How content that is on this machine gets into a store: in place, copied, moved, or written anew.

Files come first, then the rows of their leaves, then, in one transaction, the object: killed
half-way, the object is not here, and the next start sweeps away what no row names.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from ._adding import copy_file, join_sources, put_source
from ._build import Kind, build
from ._download import storage_errors
from ._tidy import CACHE, FILES
from ._values import ObjectState, StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from lattica.cid import CID, HashFunction

    from ._build import Built, BuiltFile, Segments
    from ._index import Index
    from ._upkeep import Upkeep


class Intake:
    """The way into one store."""

    def __init__(self, index: Index, upkeep: Upkeep, folder: Path, active: Collection[int]) -> None:
        """Add to the store in `folder`; downloads that are `active` keep their room."""
        self._index, self._upkeep, self._folder, self._active = index, upkeep, folder, active

    def add(self, built: Built, *, name: str | None, pinned: bool, copy: bool, take: bool) -> None:
        """*Slow.* See `Store.add`."""
        stored = _described(built, built.name if name is None else name, pinned)
        with self._upkeep.lock:
            if copy or take:
                self._upkeep.room.make(built.size, self._active)
            if take:
                taken = [self._take_source(file) for file in built.files]
                sources = [source for source, _ in taken]
                if built.kind is Kind.FILE:
                    stored = replace(stored, path=taken[0][1])
            else:
                sources = [self._add_source(file, copy=copy) for file in built.files]
            self._upkeep.drop(join_sources(self._index, stored, built, sources))
            self._upkeep.forget(sources)

    def add_written(
        self,
        write: Callable[[BinaryIO], object],
        size: int,
        *,
        name: str,
        segments: Segments | None,
        hash_function: HashFunction,
        pinned: bool,
    ) -> CID:
        """*Slow.* See `Store.add_written`; returns the root."""
        path = self._new_file()
        with self._upkeep.lock:
            self._upkeep.room.make(size, self._active)
            with storage_errors(path), _removed_on_failure(path):
                with path.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                built = build(path, segments=segments, hash_function=hash_function)
                source = put_source(self._index, built.files[0], path, owned=True)
            stored = _described(built, name, pinned)
            self._upkeep.drop(join_sources(self._index, stored, built, [source]))
        return built.root

    def _add_source(self, file: BuiltFile, *, copy: bool) -> int:
        if not copy:
            owned = file.path.is_relative_to(self._folder / CACHE)
            return put_source(self._index, file, file.path, owned=owned)
        path = self._new_file()
        with storage_errors(path), _removed_on_failure(path):
            copy_file(file, path)
            return put_source(self._index, file, path, owned=True)

    def _take_source(self, file: BuiltFile) -> tuple[int, Path]:
        path = self._new_file()
        with storage_errors(path), _removed_on_failure(path):
            os.rename(file.path, path)
            return put_source(self._index, file, path, owned=True), path

    def _new_file(self) -> Path:
        return self._folder / FILES / secrets.token_hex(16)


def _described(built: Built, name: str, pinned: bool) -> StoredObject:
    return StoredObject(
        root=built.root,
        kind=built.kind,
        size=built.size,
        name=name,
        path=built.path,
        added=time.time(),
        pinned=pinned,
        state=ObjectState.COMPLETE,
    )


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
