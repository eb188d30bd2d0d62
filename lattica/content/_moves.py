"""Whether shared files are still where they were, and as they were: asked without reading them.

A file that was renamed in its folder is found again by its inode. What is gone or looks otherwise
is not served until it is back, shared again, or verified.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ._build import Stamp
from ._sources import same_file

if TYPE_CHECKING:
    from ._index import Index
    from ._rows import SourceRow
    from ._sources import Sources

_MAX_ENTRIES = 100_000  # of a folder that is searched for a file that has gone from it


def look(index: Index, sources: Sources) -> int:
    """Compare every file with how it looked, and note what has changed or is back.

    Returns:
        How many files were found under another name.
    """
    folders: dict[Path, dict[int, Path]] = {}
    moved: list[tuple[SourceRow, Path]] = []
    back: list[SourceRow] = []
    for source in index.sources():
        try:
            unchanged = same_file(source.stamp, Stamp.of(source.path.stat()))
        except OSError:
            place = _find(source, folders)
            if place is None:
                sources.changed.add(source.id)
            else:
                moved.append((source, place))
            continue
        if not unchanged:
            sources.changed.add(source.id)
        elif source.changed or source.id in sources.changed:
            back.append(source)  # whoever reads it hashes it: nothing is believed
    if moved or back:
        with index.writing() as transaction:
            for source, place in moved:
                transaction.rename_source(source.id, source.path, place)
            for source in back:
                transaction.update_source(source.id, source.path, source.stamp)
        for source in (*back, *(source for source, _ in moved)):
            sources.forget(source.id)
    return len(moved)


def _find(source: SourceRow, folders: dict[Path, dict[int, Path]]) -> Path | None:
    """Return where a file that is gone stands now, in the same folder, unchanged."""
    folder = source.path.parent
    if folder not in folders:
        folders[folder] = _inodes(folder)
    place = folders[folder].get(source.stamp.inode)
    if place is not None:
        with suppress(OSError):
            if same_file(source.stamp, Stamp.of(place.stat())):
                return place
    return None


def _inodes(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry, _ in zip(entries, range(_MAX_ENTRIES), strict=False):
            if entry.is_file(follow_symlinks=False):
                found[entry.inode()] = Path(entry.path)
    return found
