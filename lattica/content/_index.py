"""The store's index: a SQLite database that says what is here and where. No file contents.

An *object* is what a root names. Its *blocks* (index blocks) are kept whole in the database; its
leaves are not: a *source* is a file on disk, and a *leaf* row says where in a source a leaf is. A
file of an object may have several sources, and a leaf several places: content that is here twice is
indexed twice and found either way. A *download* owns the sources that it writes.

The database is in WAL mode: a process that dies at any instant leaves the last whole transaction,
and readers never wait for a writer. Two connections, each under a lock, serve all threads.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lattica.cid import CID

from ._build import Kind, Stamp
from ._schema import open_database, store_errors
from ._values import NamedSegment, ObjectState, StoredObject

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

_MAX_PLACES = 16  # sources tried for one leaf


class Place(NamedTuple):
    """Where a leaf's bytes are.

    Attributes:
        source: number of the file.
        offset: in bytes, in the file.
        length: in bytes.
        stride: element width in bytes of its segment.
        changed: whether the file is known to be no longer what was shared.
        download: the download that still writes the file, if any.
    """

    source: int
    offset: int
    length: int
    stride: int
    changed: bool
    download: int | None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A file on disk that holds leaves. `download` is the one that still writes it, if any."""

    id: int
    path: Path
    stamp: Stamp
    changed: bool
    owned: bool
    download: int | None


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file of an object, at one source."""

    path: str
    root: CID
    leaf_count: int
    source: SourceRow


@dataclass(frozen=True, slots=True)
class DownloadRow:
    """A download that has not been finished. `finishing`: it is whole, and about to be renamed."""

    id: int
    object: int
    root: CID
    destination: Path
    part_path: Path
    inode: int | None
    finishing: bool


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
                EXISTS (SELECT 1 FROM files f WHERE f.object = o.id AND NOT EXISTS (
                    SELECT 1 FROM files g JOIN sources s ON s.id = g.source
                    WHERE g.object = o.id AND g.path = f.path
                    AND s.changed = 0 AND s.download IS NULL))
                FROM objects o {where} ORDER BY o.added, o.id""",
            values,
        )
        return [(row[0], _object(row[1:])) for row in rows]

    def files(self, object_id: int) -> list[FileRow]:
        """Return an object's files, once per source, sorted by path."""
        rows = self._rows(
            f"""SELECT f.path, f.root, f.leaf_count, {_SOURCE_COLUMNS}
                FROM files f JOIN sources s ON s.id = f.source
                WHERE f.object = ? ORDER BY f.path, s.id""",
            (object_id,),
        )
        return [_file(row) for row in rows]

    def files_of_root(self, root: CID) -> list[FileRow]:
        """Return the places of the file `root`, in whatever objects it is."""
        rows = self._rows(
            f"""SELECT f.path, f.root, f.leaf_count, {_SOURCE_COLUMNS}
                FROM files f JOIN sources s ON s.id = f.source WHERE f.root = ?""",
            (bytes(root),),
        )
        return [_file(row) for row in rows]

    def objects_of_sources(self, sources: Iterable[int]) -> set[int]:
        """Return the row numbers of the objects that have files in any of `sources`."""
        return {
            row[0]
            for source in sources
            for row in self._rows("SELECT object FROM files WHERE source = ?", (source,))
        }

    def source(self, source: int) -> SourceRow | None:
        """Return one source."""
        rows = self._rows(f"SELECT {_SOURCE_COLUMNS} FROM sources s WHERE s.id = ?", (source,))
        return _source(rows[0]) if rows else None

    def owned_paths(self) -> set[Path]:
        """Return the paths of all files that belong to the store."""
        rows = self._rows("SELECT path FROM sources WHERE owned = 1")
        return {_path(row[0]) for row in rows}

    def roots(self, after: bytes, limit: int) -> list[bytes]:
        """Return a page of the binary CIDs to provide, in their order: complete objects, names."""
        rows = self._rows(
            """SELECT root FROM objects WHERE complete = 1 AND root > ?1
               UNION SELECT n.root FROM names n JOIN objects o ON o.id = n.object
               WHERE o.complete = 1 AND n.root > ?1 ORDER BY 1 LIMIT ?2""",
            (after, limit),
        )
        return [row[0] for row in rows]

    def names(self, object_id: int) -> list[NamedSegment]:
        """Return an object's named segments, by file and offset."""
        rows = self._rows(
            """SELECT path, name, offset, length, root FROM names WHERE object = ?
               ORDER BY path, offset""",
            (object_id,),
        )
        return [
            NamedSegment(path, name, offset, length, CID.from_bytes(cid))
            for path, name, offset, length, cid in rows
        ]

    def downloads(self) -> list[DownloadRow]:
        """Return the downloads that have not been finished."""
        rows = self._rows(
            """SELECT d.id, d.object, o.root, d.destination, d.part_path, d.inode, d.finishing
               FROM downloads d JOIN objects o ON o.id = d.object"""
        )
        return [
            DownloadRow(
                id=row[0],
                object=row[1],
                root=CID.from_bytes(row[2]),
                destination=_path(row[3]),
                part_path=_path(row[4]),
                inode=row[5],
                finishing=bool(row[6]),
            )
            for row in rows
        ]

    def has_block(self, multihash: bytes) -> bool:
        """Whether an index block is here."""
        return bool(self._rows("SELECT 1 FROM blocks WHERE multihash = ?", (multihash,)))

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
            place = Place(*rows[0])
            yield place
            after = place.source


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
            _object_values(stored),
        )

    def begin_object(self, stored: StoredObject) -> int:
        """Add an object that is not here yet, unless it is; returns its row number."""
        self._connection.execute(
            """INSERT INTO objects (root, kind, size, name, path, added, pinned, complete)
               VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (root) DO NOTHING""",
            _object_values(stored),
        )
        return self._number("SELECT id FROM objects WHERE root = ?", (bytes(stored.root),))

    def pin(self, object_id: int, pinned: bool) -> None:
        """Note whether an object is to be kept when space is needed."""
        self._connection.execute("UPDATE objects SET pinned = ? WHERE id = ?", (pinned, object_id))

    def delete_object(self, object_id: int) -> None:
        """Delete an object and the index blocks that only it has."""
        self._connection.execute(
            """DELETE FROM blocks WHERE multihash IN
               (SELECT multihash FROM object_blocks WHERE object = ?1) AND NOT EXISTS
               (SELECT 1 FROM object_blocks b
                WHERE b.multihash = blocks.multihash AND b.object <> ?1)""",
            (object_id,),
        )
        self._connection.execute("DELETE FROM objects WHERE id = ?", (object_id,))

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

    def put_part(self, path: Path, stamp: Stamp, download: int) -> int:
        """Note a file that `download` writes."""
        return self._number(
            """INSERT INTO sources (path, size, mtime_ns, inode, device, changed, owned, download)
               VALUES (?, ?, ?, ?, ?, 0, 0, ?) RETURNING id""",
            (os.fsencode(path), *stamp, download),
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
            f"""SELECT {_SOURCE_COLUMNS} FROM sources s
                WHERE NOT EXISTS (SELECT 1 FROM files f WHERE f.source = s.id)"""
        ).fetchall()
        orphans = [_source(row) for row in rows]
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
        self._connection.execute("UPDATE downloads SET inode = ? WHERE id = ?", (inode, download))

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


_SOURCE_COLUMNS = (
    "s.id, s.path, s.size, s.mtime_ns, s.inode, s.device, s.changed, s.owned, s.download"
)


def _object(row: Sequence[Any]) -> StoredObject:
    root, kind, size, name, path, added, pinned, complete, broken = row
    state = ObjectState.CHANGED if broken else ObjectState.COMPLETE
    return StoredObject(
        root=CID.from_bytes(root),
        kind=Kind(kind),
        size=size,
        name=name,
        path=_path(path),
        added=added,
        pinned=bool(pinned),
        state=state if complete else ObjectState.PARTIAL,
    )


def _object_values(stored: StoredObject) -> tuple[object, ...]:
    return (
        bytes(stored.root),
        int(stored.kind),
        stored.size,
        stored.name,
        os.fsencode(stored.path),
        stored.added,
        stored.pinned,
    )


def _file(row: Sequence[Any]) -> FileRow:
    return FileRow(row[0], CID.from_bytes(row[1]), row[2], _source(row[3:]))


def _source(row: Sequence[Any]) -> SourceRow:
    source, path, *stamp, changed, owned, download = row
    return SourceRow(source, _path(path), Stamp(*stamp), bool(changed), bool(owned), download)


def _path(encoded: bytes) -> Path:
    return Path(os.fsdecode(encoded))
