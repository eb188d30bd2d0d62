"""The store's index: a SQLite database that says what is here and where. No file contents.

An *object* is what a root names. Its *blocks* (index blocks) are kept whole in the database; its
leaves are not: a *source* is a file on disk, and a *leaf* row says where in a source a leaf is. A
file of an object may have several sources, and a leaf several places: content that is here twice is
indexed twice and found either way. A *download* owns the sources that it writes.

The database is in WAL mode: a process that dies at any instant leaves the last whole transaction,
and readers never wait for a writer. Two connections, each under a lock, serve all threads.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ._rows import (
    SOURCE_COLUMNS,
    DownloadRow,
    FileRow,
    OwnedRow,
    Place,
    SourceRow,
    cid_of,
    file_of,
    object_of,
    path_of,
    place_of,
    source_of,
)
from ._schema import open_database, store_errors
from ._transaction import Transaction
from ._values import Extent, NamedSegment, StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from lattica.cid import CID

_MAX_PLACES = 16  # sources tried for one leaf


# Of the object `o`: whether one of its files is nowhere as it was when it was hashed.
_LACKS_A_FILE = """EXISTS (SELECT 1 FROM files f WHERE f.object = o.id AND NOT EXISTS (
    SELECT 1 FROM files g JOIN sources s ON s.id = g.source
    WHERE g.object = o.id AND g.path = f.path AND s.changed = 0 AND s.download IS NULL))"""


class Index:
    """The database behind one store."""

    def __init__(self, path: Path) -> None:
        """Open or make the database file. Raises StoreError."""
        self._writer, self._reader = open_database(path)
        self._path = path
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    def close(self) -> None:
        """Close both connections, which folds the log into the database."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Run one transaction: all of it, or, when the block raises, nothing."""
        with self._write_lock, store_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with self._read_lock, store_errors(self._path):
            return self._reader.execute(statement, values).fetchall()

    # what is here

    def objects(self, root: CID | None = None) -> list[tuple[int, StoredObject]]:
        """Return all objects, oldest first, or the one of `root`, with their row numbers."""
        where, values = ("", ()) if root is None else ("WHERE o.root = ?", (bytes(root),))
        rows = self._rows(
            f"""SELECT o.id, o.root, o.kind, o.size, o.name, o.path, o.added, o.pinned, o.complete,
                {_LACKS_A_FILE}
                FROM objects o {where} ORDER BY o.added, o.id""",
            values,
        )
        return [(row[0], object_of(row[1:])) for row in rows]

    def files(self, object_id: int) -> list[FileRow]:
        """Return an object's files, once per source, sorted by path."""
        rows = self._rows(
            f"""SELECT f.path, f.root, f.leaf_count, {SOURCE_COLUMNS}
                FROM files f JOIN sources s ON s.id = f.source
                WHERE f.object = ? ORDER BY f.path, s.id""",
            (object_id,),
        )
        return [file_of(row) for row in rows]

    def files_of_root(self, root: CID) -> list[FileRow]:
        """Return the places of the file `root`, in whatever objects it is."""
        rows = self._rows(
            f"""SELECT f.path, f.root, f.leaf_count, {SOURCE_COLUMNS}
                FROM files f JOIN sources s ON s.id = f.source WHERE f.root = ?""",
            (bytes(root),),
        )
        return [file_of(row) for row in rows]

    def objects_of_sources(self, sources: Iterable[int]) -> set[int]:
        """Return the row numbers of the objects that have files in any of `sources`."""
        return {
            row[0]
            for source in sources
            for row in self._rows("SELECT object FROM files WHERE source = ?", (source,))
        }

    def source(self, source: int) -> SourceRow | None:
        """Return one source."""
        rows = self._rows(f"SELECT {SOURCE_COLUMNS} FROM sources s WHERE s.id = ?", (source,))
        return source_of(rows[0]) if rows else None

    def owned(self) -> list[OwnedRow]:
        """Return the objects that the store has bytes of its own for, the least used first."""
        rows = self._rows(
            """SELECT o.id, o.root, o.pinned, max(o.used, o.added), sum(t.size), t.download
               FROM objects o JOIN (
                   SELECT DISTINCT f.object, s.id, s.size, s.download
                   FROM files f JOIN sources s ON s.id = f.source WHERE s.owned = 1
               ) t ON t.object = o.id
               GROUP BY o.id, t.download ORDER BY 4, o.id"""
        )
        return [OwnedRow(row[0], cid_of(row[1]), bool(row[2]), *row[3:]) for row in rows]

    def file_bytes(self) -> int:
        """Return how large the database is, its log included."""
        return sum(
            path.stat().st_size
            for path in (self._path, self._path.with_name(self._path.name + "-wal"))
            if path.exists()
        )

    def compact(self) -> None:
        """*Slow.* Give the space of deleted rows back to the disk."""
        with self._write_lock, store_errors(self._path):
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def sources(self) -> Iterator[SourceRow]:
        """Give the files that nobody writes, a page at a time."""
        after = 0
        while True:
            rows = self._rows(
                f"""SELECT {SOURCE_COLUMNS} FROM sources s
                    WHERE s.download IS NULL AND s.id > ? ORDER BY s.id LIMIT 1000""",
                (after,),
            )
            if not rows:
                return
            yield from map(source_of, rows)
            after = rows[-1][0]

    def owned_sources(self) -> list[SourceRow]:
        """Return the files that belong to the store."""
        rows = self._rows(f"SELECT {SOURCE_COLUMNS} FROM sources s WHERE s.owned = 1")
        return [source_of(row) for row in rows]

    def owned_paths(self) -> set[Path]:
        """Return the paths of all files that belong to the store."""
        rows = self._rows("SELECT path FROM sources WHERE owned = 1")
        return {path_of(row[0]) for row in rows}

    def changed_objects(self) -> set[int]:
        """Return the row numbers of complete objects with a file that is nowhere as it was."""
        rows = self._rows(
            f"SELECT o.id FROM objects o WHERE o.complete = 1 AND {_LACKS_A_FILE}",
        )
        return {row[0] for row in rows}

    def roots(self, after: bytes, limit: int, without: Iterable[int] = ()) -> list[bytes]:
        """Return a page of the binary CIDs to provide, in their order: complete objects, names.

        `without`: row numbers of objects that are left out.
        """
        left_out = json.dumps(sorted(without))
        rows = self._rows(
            """SELECT root FROM objects WHERE complete = 1 AND root > ?
               AND id NOT IN (SELECT value FROM json_each(?))
               UNION SELECT n.root FROM names n JOIN objects o ON o.id = n.object
               WHERE o.complete = 1 AND n.root > ?
               AND o.id NOT IN (SELECT value FROM json_each(?)) ORDER BY 1 LIMIT ?""",
            (after, left_out, after, left_out, limit),
        )
        return [row[0] for row in rows]

    def extent(self, object_id: int) -> Extent:
        """Return what an object consists of."""
        ((files, leaves),) = self._rows(
            """SELECT count(*), coalesce(sum(leaf_count), 0) FROM (
                   SELECT DISTINCT path, leaf_count FROM files WHERE object = ?)""",
            (object_id,),
        )
        ((blocks, size),) = self._rows(
            """SELECT count(*), coalesce(sum(length(b.data)), 0) FROM object_blocks o
               JOIN blocks b ON b.multihash = o.multihash WHERE o.object = ?""",
            (object_id,),
        )
        return Extent(files, leaves, blocks, size)

    def names(self, object_id: int) -> list[NamedSegment]:
        """Return an object's named segments, by file and offset."""
        rows = self._rows(
            """SELECT path, name, offset, length, root FROM names WHERE object = ?
               ORDER BY path, offset""",
            (object_id,),
        )
        return [
            NamedSegment(path, name, offset, length, cid_of(cid))
            for path, name, offset, length, cid in rows
        ]

    def has_parts(self, download: DownloadRow) -> bool:
        """Say whether a download has begun to write."""
        rows = self._rows(
            """SELECT 1 FROM files f JOIN sources s ON s.id = f.source
               WHERE f.object = ? AND s.download = ? LIMIT 1""",
            (download.object, download.id),
        )
        return bool(rows)

    def downloads(self) -> list[DownloadRow]:
        """Return the downloads that have not been finished.

        What they write is written over, and deleted with them; so it has to be what a download of
        that object to that place is called. A row that says otherwise is damaged, and left out.
        """
        rows = self._rows(
            """SELECT d.id, d.object, o.root, d.destination, d.part_path, d.inode, d.finishing
               FROM downloads d JOIN objects o ON o.id = d.object"""
        )
        found = [
            DownloadRow(
                id=row[0],
                object=row[1],
                root=cid_of(row[2]),
                destination=path_of(row[3]),
                part_path=path_of(row[4]),
                inode=row[5],
                finishing=bool(row[6]),
            )
            for row in rows
        ]
        return [row for row in found if row.is_sound]

    def has_block(self, multihash: bytes) -> bool:
        """Whether an index block is here."""
        return bool(self._rows("SELECT 1 FROM blocks WHERE multihash = ?", (multihash,)))

    def block_size(self, multihash: bytes) -> int | None:
        """Return the length of an index block, which is not read."""
        rows = self._rows("SELECT length(data) FROM blocks WHERE multihash = ?", (multihash,))
        return rows[0][0] if rows else None

    def block(self, multihash: bytes) -> bytes | None:
        """Return an index block as it was stored."""
        rows = self._rows("SELECT data FROM blocks WHERE multihash = ?", (multihash,))
        return rows[0][0] if rows else None

    def places(self, multihash: bytes) -> Iterator[Place]:
        """Give where a leaf is, usable or not: its first place in each source."""
        after = -1
        for _ in range(_MAX_PLACES):
            rows = self._rows(
                """SELECT l.source, l.offset, l.length, l.stride, s.changed, s.download
                   FROM leaves l INDEXED BY leaves_by_multihash JOIN sources s ON s.id = l.source
                   WHERE l.multihash = ? AND l.source > ?
                   ORDER BY l.source, l.offset LIMIT 1""",
                (multihash, after),
            )
            if not rows:
                return
            place = place_of(rows[0])
            yield place
            after = place.source
