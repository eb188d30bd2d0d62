"""Clearing up: what no row names, what no file stands behind. After a kill, and when asked to."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ._build import Stamp
from ._download import recover

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from lattica.cid import CID

    from ._index import Index
    from ._rows import DownloadRow, SourceRow

FILES, CACHE = "files", "cache"  # of a store: bytes that had no file, and fetched objects
SCRATCH = "scratch-"  # how folders begin that go with whoever works in them

_log = logging.getLogger(__name__)


def tidy(index: Index, folder: Path, drop: Callable[[Iterable[SourceRow]], None]) -> None:
    """Clear up after a process that was killed, before anything else is done."""
    _follow_move(index, folder)
    recover(index)
    with index.writing() as transaction:
        orphans = transaction.take_orphans()
    drop(orphans)
    for left in folder.glob(f"{SCRATCH}*"):
        _delete(left)
    sweep(index, folder)


def _follow_move(index: Index, folder: Path) -> None:
    """Find the store's own files again where the whole store was moved."""
    moved = []
    for source in index.owned_sources():
        if source.path.is_relative_to(folder):
            continue
        tail = _tail(source.path)
        if tail is not None and (folder / tail).exists():
            moved.append((source.id, folder / tail))
    if moved:
        with index.writing() as transaction:
            for number, path in moved:
                transaction.move_source(number, path)


def _tail(path: Path) -> Path | None:
    """Return the part of a path from `files` or `cache` of its store on."""
    names = path.parts
    places = [place for place, name in enumerate(names) if name in (FILES, CACHE)]
    return Path(*names[places[-1] :]) if places else None


def sweep(index: Index, folder: Path) -> int:
    """Delete what stands in the store and no row names. Returns its bytes."""
    named = index.owned_paths()
    for row in index.downloads():
        named |= {row.part_path, row.destination}  # the one becomes the other at any moment
    keep = {path for owned in named for path in (owned, *owned.parents)}
    return sum(
        _delete(path)
        for part in (FILES, CACHE)
        for path in (folder / part).iterdir()
        if path not in keep
    )


def forget_gone(
    index: Index, active: Collection[int], discard: Callable[[DownloadRow], object]
) -> list[CID]:
    """Forget objects of which some file is nowhere any more, unless pinned; return their roots."""
    gone: list[CID] = []
    for row in index.downloads():
        if row.id not in active and not os.path.lexists(row.part_path):
            discard(row)
            if not index.objects(row.root):
                gone.append(row.root)
    for number, stored in index.objects():
        places: dict[str, bool] = {}
        for file in index.files(number):
            places[file.path] = places.get(file.path, False) or not _is_gone(file.source)
        if places and not all(places.values()) and not stored.pinned:
            with index.writing() as transaction:
                transaction.let_go(number)
            gone.append(stored.root)
    return gone


def _is_gone(source: SourceRow) -> bool:
    """Whether a file was deleted; a disk that is not mounted may come back with it."""
    if source.download is not None or source.path.exists():
        return False
    folder = next(folder for folder in source.path.parents if folder.exists())
    return Stamp.of(folder.stat()).device == source.stamp.device


def unlink_owned(path: Path, folder: Path) -> None:
    """Delete a file of the store, and the directories that this has left empty.

    A path that leads out of what the store keeps is none of its files, whatever its index says: an
    index can be damaged, and what is gone is gone.
    """
    if not any(path.is_relative_to(folder / part) for part in (FILES, CACHE)) or ".." in path.parts:
        _log.error("%s is noted as the store's own and is not in it: it stays", path)
        return
    with suppress(OSError):  # the next start sweeps it away
        path.unlink()
        for parent in path.parents:
            if parent.parent == folder or not parent.is_relative_to(folder):
                break
            parent.rmdir()


def _delete(path: Path) -> int:
    _log.info("removing %s, which belongs to no object", path)
    size = 0
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            size = sum(entry.lstat().st_size for entry in path.rglob("*") if entry.is_file())
            shutil.rmtree(path)
        else:
            size = path.lstat().st_size
            path.unlink()
    return size
