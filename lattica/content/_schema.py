"""The database file of a store: its tables, and how it is opened."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._values import StorageError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DISK_ERRORS = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
)
_APPLICATION_ID = 0x4C415454  # "LATT"
_VERSION = 2
_MIGRATIONS = {  # from each version to the next
    1: "ALTER TABLE objects ADD COLUMN used REAL NOT NULL DEFAULT 0;",
}
_SCHEMA = """
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    root BLOB NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    size INTEGER NOT NULL,
    name TEXT NOT NULL,
    path BLOB NOT NULL,
    added REAL NOT NULL,
    pinned INTEGER NOT NULL,
    complete INTEGER NOT NULL,  -- 0 until every leaf has been here at once
    used REAL NOT NULL DEFAULT 0  -- when something of it was read last, about
) STRICT;
CREATE TABLE blocks (multihash BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE object_blocks (
    object INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    multihash BLOB NOT NULL,
    PRIMARY KEY (object, multihash)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_blocks_by_block ON object_blocks (multihash);
CREATE TABLE downloads (
    id INTEGER PRIMARY KEY,
    object INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    destination BLOB NOT NULL,
    part_path BLOB NOT NULL UNIQUE,
    inode INTEGER,  -- of what stands at part_path, once it does
    finishing INTEGER NOT NULL DEFAULT 0  -- 1: whole, about to be renamed to destination
) STRICT;
CREATE TABLE sources (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: memory keeps notes by it
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    device INTEGER NOT NULL,
    changed INTEGER NOT NULL,  -- 1: no longer what was hashed
    owned INTEGER NOT NULL,    -- 1: the store's own copy
    download INTEGER REFERENCES downloads ON DELETE CASCADE  -- what still writes it
) STRICT;
CREATE INDEX sources_by_path ON sources (path);
CREATE INDEX sources_by_download ON sources (download);
CREATE TABLE files (  -- of an object; a file is the one with path ''
    object INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    path TEXT NOT NULL,
    source INTEGER NOT NULL REFERENCES sources ON DELETE CASCADE,
    root BLOB NOT NULL,
    leaf_count INTEGER NOT NULL,
    PRIMARY KEY (object, path, source)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_by_root ON files (root);
CREATE INDEX files_by_source ON files (source);
CREATE TABLE leaves (
    source INTEGER NOT NULL REFERENCES sources ON DELETE CASCADE,
    offset INTEGER NOT NULL,
    multihash BLOB NOT NULL,
    length INTEGER NOT NULL,
    stride INTEGER NOT NULL,
    PRIMARY KEY (source, offset, multihash)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaves_by_multihash ON leaves (multihash, source, offset, length, stride);
CREATE TABLE names (  -- segments that somebody looks up: tensors
    object INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    path TEXT NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    root BLOB NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (object, path, offset)
) STRICT, WITHOUT ROWID;
"""


def open_database(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Open or make the database file: `(connection to write, connection to read)`.

    Raises:
        StoreError: it is damaged, of another version, or something else.
    """
    with store_errors(path):
        writer = _connect(path)
        try:
            _prepare(writer, path)
            return writer, _connect(path)
        except BaseException:
            writer.close()
            raise


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite in this block into StoreError; StorageError if the disk is full."""
    try:
        yield
    except UnicodeDecodeError as error:  # of a schema that is damaged, as SQLite tells of it
        raise StoreError(f"the store's index {path} is damaged: {error}") from error
    except sqlite3.Error as error:
        # The lower byte says which kind it is; a disk that is full, or gone, may show as any.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_ERRORS:
            raise StorageError(
                f"cannot write the store's index {path}: {error}",
                hint="see that the disk is there, has room, and may be written to; then try again",
            ) from error
        raise StoreError(f"the store's index {path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        # NORMAL: after a power cut the last transactions may be missing, the database is sound.
        # Files are synced before they are named here, so what is named is there.
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA cache_size = -16384")  # KiB: random inserts of a large object
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (_APPLICATION_ID, _VERSION):
        return
    if application == _APPLICATION_ID and version in _MIGRATIONS:
        steps = "".join(_MIGRATIONS[number] for number in range(version, _VERSION))
        connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {_VERSION}; COMMIT;")
        return
    if application == _APPLICATION_ID:
        raise StoreError(
            f"the store at {path} has format {version}, this program reads {_VERSION}",
            hint="use the newer program, or another home directory",
        )
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise StoreError(f"{path} is a database of another program")
    connection.executescript(
        f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
        f" PRAGMA user_version = {_VERSION}; COMMIT;"
    )
