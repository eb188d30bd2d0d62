"""Writes to the store's index, inside one transaction."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._rows import SOURCE_COLUMNS, object_values, source_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from lattica.cid import CID

    from ._build import Kind, Stamp
    from ._rows import SourceRow
    from ._values import StoredObject


class Transaction:
    """Writes inside one transaction. Made by `Index.writing`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put_object(self, stored: StoredObject) -> int:
        """Add a complete object, or update the one of its root; returns its row number."""
        return self._number(
            """INSERT INTO objects (root, kind, size, name, path, added, pinned, complete)
               VALUES (?, ?, ?, ?, ?, ?, ?, 1)
               ON CONFLICT (root) DO UPDATE SET kind = excluded.kind, size = excluded.size,
               name = excluded.name, path = excluded.path,
               pinned = max(pinned, excluded.pinned), complete = 1 RETURNING id""",
            object_values(stored),
        )

    def begin_object(self, stored: StoredObject) -> int:
        """Add an object that is not here yet, unless it is; returns its row number."""
        self._connection.execute(
            """INSERT INTO objects (root, kind, size, name, path, added, pinned, complete)
               VALUES (?, ?, ?, ?, ?, ?, ?, 0)
               ON CONFLICT (root) DO UPDATE SET pinned = max(pinned, excluded.pinned)""",
            object_values(stored),
        )
        return self._number("SELECT id FROM objects WHERE root = ?", (bytes(stored.root),))

    def pin(self, object_id: int, pinned: bool) -> None:
        """Note whether an object is to be kept when space is needed."""
        self._connection.execute("UPDATE objects SET pinned = ? WHERE id = ?", (pinned, object_id))

    def note_used(self, sources: Iterable[tuple[int, float]]) -> None:
        """Note when something of the objects at some sources was read: number, time."""
        self._connection.executemany(
            """UPDATE objects SET used = max(used, ?)
               WHERE id IN (SELECT object FROM files WHERE source = ?)""",
            ((used, source) for source, used in sources),
        )

    def touch(self, root: CID, now: float) -> None:
        """Note that an object was used."""
        self._connection.execute(
            "UPDATE objects SET used = max(used, ?) WHERE root = ?", (now, bytes(root))
        )

    def drop_owned(self, object_id: int) -> bool:
        """Take an object from the store's own copies of it. Returns whether all of it is left."""
        self._connection.execute(
            """DELETE FROM files WHERE object = ?
               AND source IN (SELECT id FROM sources WHERE owned = 1)""",
            (object_id,),
        )
        left = self._number("SELECT count(*) FROM files WHERE object = ?", (object_id,))
        return left > 0

    def delete_object(self, object_id: int) -> None:
        """Delete an object and the index blocks that only it has."""
        self._connection.execute(
            """DELETE FROM blocks WHERE multihash IN
               (SELECT multihash FROM object_blocks WHERE object = ?) AND NOT EXISTS
               (SELECT 1 FROM object_blocks b
                WHERE b.multihash = blocks.multihash AND b.object <> ?)""",
            (object_id, object_id),
        )
        self._connection.execute("DELETE FROM objects WHERE id = ?", (object_id,))

    def let_go(self, object_id: int) -> None:
        """Delete an object of which nothing is left; while a download brings it, it stays, empty.

        A download may have begun and not written anything yet: to delete its object would delete
        its own row under it.
        """
        if self._number("SELECT count(*) FROM downloads WHERE object = ?", (object_id,)):
            self._connection.execute("UPDATE objects SET complete = 0 WHERE id = ?", (object_id,))
        else:
            self.delete_object(object_id)

    def put_blocks(self, object_id: int, blocks: Iterable[tuple[CID, bytes]]) -> None:
        """Keep index blocks for an object."""
        for cid, block in blocks:
            self._connection.execute(
                """INSERT INTO blocks VALUES (?, ?) ON CONFLICT (multihash) DO UPDATE
                   SET data = excluded.data WHERE data <> excluded.data""",  # damaged on disk
                (cid.multihash, block),
            )
            self._connection.execute(
                "INSERT OR IGNORE INTO object_blocks VALUES (?, ?)", (object_id, cid.multihash)
            )

    def put_source(self, path: Path, stamp: Stamp, *, owned: bool = False) -> int:
        """Note a file as it looks now. What was known of that path and looked otherwise changed."""
        encoded = os.fsencode(path)
        self._connection.execute(
            "UPDATE sources SET changed = 1 WHERE path = ? AND download IS NULL", (encoded,)
        )
        found = self._connection.execute(
            """UPDATE sources SET changed = 0 WHERE path = ? AND download IS NULL
               AND size = ? AND mtime_ns = ? AND inode = ? AND device = ? RETURNING id""",
            (encoded, *stamp),
        ).fetchall()
        if found:
            return int(found[0][0])
        return self._number(
            """INSERT INTO sources (path, size, mtime_ns, inode, device, changed, owned)
               VALUES (?, ?, ?, ?, ?, 0, ?) RETURNING id""",
            (encoded, *stamp, owned),
        )

    def put_part(self, path: Path, stamp: Stamp, download: int, *, owned: bool) -> int:
        """Note a file that `download` writes."""
        return self._number(
            """INSERT INTO sources (path, size, mtime_ns, inode, device, changed, owned, download)
               VALUES (?, ?, ?, ?, ?, 0, ?, ?) RETURNING id""",
            (os.fsencode(path), *stamp, owned, download),
        )

    def update_part(self, source: int, stamp: Stamp) -> None:
        """Note that a download writes its file anew."""
        self._connection.execute(
            "UPDATE sources SET size = ?, mtime_ns = ?, inode = ?, device = ? WHERE id = ?",
            (*stamp, source),
        )

    def grow_object(self, object_id: int, kind: Kind, size: int) -> None:
        """Note what a download has learned of an object that is not complete."""
        self._connection.execute(
            "UPDATE objects SET kind = ?, size = size + ? WHERE id = ? AND complete = 0",
            (int(kind), size, object_id),
        )

    def update_source(self, source: int, path: Path, stamp: Stamp) -> None:
        """Note that a source was found sound: at `path`, looking so, written by nobody."""
        self._connection.execute(
            """UPDATE sources SET path = ?, size = ?, mtime_ns = ?, inode = ?, device = ?,
               changed = 0, download = NULL WHERE id = ?""",
            (os.fsencode(path), *stamp, source),
        )

    def move_source(self, source: int, path: Path) -> None:
        """Note that a source stands elsewhere, as it was."""
        self._connection.execute(
            "UPDATE sources SET path = ? WHERE id = ?", (os.fsencode(path), source)
        )

    def rename_source(self, source: int, before: Path, path: Path) -> None:
        """Note that a source was found under another name, and so the object that it is."""
        self._connection.execute(
            "UPDATE sources SET path = ?, changed = 0 WHERE id = ?", (os.fsencode(path), source)
        )
        self._connection.execute(
            """UPDATE objects SET path = ? WHERE path = ?
               AND id IN (SELECT object FROM files WHERE source = ? AND path = '')""",
            (os.fsencode(path), os.fsencode(before), source),
        )

    def mark_changed(self, sources: Iterable[int]) -> None:
        """Note that files are no longer what was hashed."""
        self._connection.executemany(
            "UPDATE sources SET changed = 1 WHERE id = ?", ((source,) for source in sources)
        )

    def put_file(self, object_id: int, path: str, source: int, root: CID, leaves: int) -> None:
        """Note that a source holds a file of an object."""
        self._connection.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            (object_id, path, source, bytes(root), leaves),
        )

    def drop_file(self, object_id: int, source: int) -> None:
        """Note that a source does not hold a file of an object any more."""
        self._connection.execute(
            "DELETE FROM files WHERE object = ? AND source = ?", (object_id, source)
        )

    def put_leaves(self, rows: Iterable[tuple[int, int, bytes, int, int]]) -> None:
        """Add leaves: source, offset, multihash, length, stride."""
        self._connection.executemany("INSERT OR IGNORE INTO leaves VALUES (?, ?, ?, ?, ?)", rows)

    def put_names(
        self, object_id: int, path: str, rows: Iterable[tuple[int, int, CID, str]]
    ) -> None:
        """Add named segments of a file: offset, length, root, name."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?, ?)",
            ((object_id, path, row[0], row[1], bytes(row[2]), row[3]) for row in rows),
        )

    def put_stride(self, source: int, start: int, stop: int, stride: int) -> None:
        """Note the element width of the leaves that begin in a byte range of a source."""
        self._connection.execute(
            "UPDATE leaves SET stride = ? WHERE source = ? AND offset >= ? AND offset < ?",
            (stride, source, start, stop),
        )

    def take_orphans(self) -> list[SourceRow]:
        """Delete the sources that no object's files are at, and return them."""
        rows = self._connection.execute(
            f"""SELECT {SOURCE_COLUMNS} FROM sources s
                WHERE NOT EXISTS (SELECT 1 FROM files f WHERE f.source = s.id)"""
        ).fetchall()
        orphans = [source_of(row) for row in rows]
        for orphan in orphans:
            self._connection.execute("DELETE FROM sources WHERE id = ?", (orphan.id,))
        return orphans

    def begin_download(self, object_id: int, destination: Path, part_path: Path) -> int:
        """Note a download before it writes anything."""
        return self._number(
            """INSERT INTO downloads (object, destination, part_path) VALUES (?, ?, ?)
               RETURNING id""",
            (object_id, os.fsencode(destination), os.fsencode(part_path)),
        )

    def note_inode(self, download: int, inode: int) -> None:
        """Note what a download writes into, so that it is known again once renamed."""
        self._connection.execute(
            "UPDATE downloads SET inode = ?, finishing = 0 WHERE id = ?", (inode, download)
        )

    def note_finishing(self, download: int) -> None:
        """Note that all of a download is there and synced, and that its rename comes next."""
        self._connection.execute("UPDATE downloads SET finishing = 1 WHERE id = ?", (download,))

    def end_download(self, download: int) -> None:
        """Forget a download, and the sources that it still writes."""
        self._connection.execute("DELETE FROM downloads WHERE id = ?", (download,))

    def is_wanted(self, object_id: int) -> bool:
        """Whether an object is complete or some download still wants it."""
        return bool(
            self._number(
                """SELECT complete OR EXISTS (SELECT 1 FROM downloads d WHERE d.object = o.id)
                   FROM objects o WHERE o.id = ?""",
                (object_id,),
            )
        )

    def _number(self, statement: str, values: Sequence[object]) -> int:
        return int(self._connection.execute(statement, values).fetchone()[0])
