"""What outlives the process: values and provider records, in one SQLite file (spec/dht.md §7.5).

Memory is where the DHT works; the file is a copy of it, written behind in batches by a worker
thread, so that no request ever waits for a disk. A crash loses what came in the last second, which
the network holds at other peers too. The file holds no more than the bounded stores do. Expiry is
written as wall-clock time, so what lapsed while the node was down is not served again.

A file that is damaged, or of another version, costs what was in it and nothing else: that is logged
and it is made anew. One that cannot be read now, because another process holds it or the disk is
full, is left as it is.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

VERSION = 2  # of the tables
BUSY_SECONDS = 5.0  # how long another process may hold the file
MAX_ROWS = 200_000  # read of each table: above what the stores hold, whatever the file says
_TABLES = f"""
BEGIN;
CREATE TABLE held (key BLOB, place BLOB, encoded BLOB NOT NULL, expires REAL NOT NULL,
    source BLOB NOT NULL, PRIMARY KEY (key, place)) WITHOUT ROWID;
CREATE TABLE own (key BLOB, place BLOB, encoded BLOB NOT NULL, expires REAL NOT NULL,
    source BLOB NOT NULL, PRIMARY KEY (key, place)) WITHOUT ROWID;
CREATE TABLE providers (key BLOB, peer BLOB, expires REAL NOT NULL, source BLOB,
    PRIMARY KEY (key, peer)) WITHOUT ROWID;
CREATE TABLE addresses (peer BLOB PRIMARY KEY, addresses BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A value: `held` for others, or this node's `own`, which it puts again until it expires."""

    key: bytes
    place: bytes
    encoded: bytes
    expires: float  # seconds since 1970
    source: bytes = b""  # who brought it: a network, or a peer


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """That `peer` provides `key`."""

    key: bytes
    peer: bytes
    expires: float  # seconds since 1970
    source: bytes | None = None  # the network from which it said so


@dataclass(frozen=True, slots=True)
class Saved:
    """All that a file holds, providers in the order in which they expire."""

    held: list[ValueRow]
    own: list[ValueRow]
    providers: list[ProviderRow]
    addresses: dict[bytes, bytes]


@dataclass(slots=True)
class Changes:
    """What has changed since the last batch. None: it is gone. `whole`: this is all there is."""

    held: dict[tuple[bytes, bytes], ValueRow | None]
    own: dict[tuple[bytes, bytes], ValueRow | None]
    providers: dict[tuple[bytes, bytes], ProviderRow | None]
    addresses: dict[bytes, bytes | None]
    whole: bool = False

    @classmethod
    def none(cls) -> Changes:
        """Return the changes of a moment in which nothing happened."""
        return cls({}, {}, {}, {})

    def __bool__(self) -> bool:
        return bool(self.held or self.own or self.providers or self.addresses)


# The file itself is good: another process holds it, the disk is full, or fails, or is read-only.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    }
)


def is_passing(error: sqlite3.Error) -> bool:
    """Say whether `error` is no fault of what the file holds, which therefore stays."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _PASSING  # the rest of it says more


class Database:
    """The file. Every method blocks: call them in a worker thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def load(self, *, now: float) -> Saved:
        """Open or make the file, and return what in it has not expired at `now`.

        Raises:
            OSError, sqlite3.Error: the file can be neither read nor made.
        """
        try:
            return self._load(now)
        except sqlite3.DatabaseError as error:
            if is_passing(error):
                self.close()
                raise
            _log.warning(
                "%s is not usable (%s): what it held of the DHT is lost", self._path, error
            )
        self._remove()
        return self._load(now)

    def write(self, changes: Changes) -> None:
        """Write one batch, all of it or nothing.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        connection = self._connection
        assert connection is not None
        with connection:  # one transaction
            if changes.whole:
                for table in ("held", "own", "providers", "addresses"):
                    connection.execute(f"DELETE FROM {table}")
            for table in ("held", "own"):
                rows: dict[tuple[bytes, bytes], ValueRow | None] = getattr(changes, table)
                connection.executemany(
                    f"DELETE FROM {table} WHERE key = ? AND place = ?",
                    [place for place, row in rows.items() if row is None],
                )
                connection.executemany(
                    f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)",
                    [
                        (row.key, row.place, row.encoded, row.expires, row.source)
                        for row in rows.values()
                        if row is not None
                    ],
                )
            connection.executemany(
                "DELETE FROM providers WHERE key = ? AND peer = ?",
                [place for place, row in changes.providers.items() if row is None],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO providers VALUES (?, ?, ?, ?)",
                [
                    (row.key, row.peer, row.expires, row.source)
                    for row in changes.providers.values()
                    if row is not None
                ],
            )
            connection.executemany(
                "DELETE FROM addresses WHERE peer = ?",
                [(peer,) for peer, packed in changes.addresses.items() if packed is None],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO addresses VALUES (?, ?)",
                [(peer, each) for peer, each in changes.addresses.items() if each is not None],
            )

    def rebuild(self, everything: Changes) -> None:
        """Make the file anew with what is in memory. Raises OSError, sqlite3.Error."""
        self.close()
        self._remove()
        self._open()
        self.write(everything)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _load(self, now: float) -> Saved:
        connection = self._open()
        for table in ("held", "own", "providers"):
            with connection:
                connection.execute(f"DELETE FROM {table} WHERE expires <= ?", (now,))
        with connection:
            connection.execute(
                "DELETE FROM addresses WHERE peer NOT IN (SELECT peer FROM providers)"
            )

        def rows(columns: str, table: str) -> list[Any]:
            rule = f"SELECT {columns} FROM {table} LIMIT {MAX_ROWS}"
            return connection.execute(rule).fetchall()

        value = "key, place, encoded, expires, source"
        provider = "key, peer, expires, source"
        return Saved(
            [ValueRow(*row) for row in rows(value, "held ORDER BY expires")],
            [ValueRow(*row) for row in rows(value, "own ORDER BY expires")],
            [ProviderRow(*row) for row in rows(provider, "providers ORDER BY expires")],
            dict(rows("peer, addresses", "addresses")),
        )

    def _open(self) -> sqlite3.Connection:
        self.close()
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                # Made just now, this fails for tables of another version: they are in the way.
                connection.executescript(_TABLES)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _remove(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
