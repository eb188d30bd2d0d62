"""Names: which version of a model is its publisher's newest, and never an older one again.

A name belongs to the key that signs for it: `<peer id>/team/model`. Its record says which manifest
is the newest, and counts up. Records are copied by anybody (DHT, gossip, a file), so an old one
will be replayed; who has seen a later one does not go back. What was seen last is kept on disk.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.cid import CID, Codec
from lattica.errors import CodecError, InvalidInput
from lattica.identity import PeerId

from ._manifest import check_name
from ._signing import MAX_TIME, Statement, read_signed, sign

if TYPE_CHECKING:
    from pathlib import Path

    from lattica.codec import Value
    from lattica.identity import Identity

MAX_RECORD = 1024  # bytes
MAX_SEQUENCE = (1 << 53) - 1
MAX_NAMES = 10_000  # remembered; then those heard of longest ago are forgotten, but not one's own
MAX_STATEMENTS = 3000  # of one manifest: of as many approvers as a rule may have
MAX_MANIFESTS = 10_000  # with statements
_DOMAIN = b"lattica/name/1\0"
_DHT_PREFIX = "/lattica/names/"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS names (
    signer BLOB NOT NULL, name TEXT NOT NULL, sequence INTEGER NOT NULL, record BLOB NOT NULL,
    own INTEGER NOT NULL, PRIMARY KEY (signer, name)
);
CREATE TABLE IF NOT EXISTS statements (
    manifest BLOB NOT NULL, signer BLOB NOT NULL, verdict TEXT NOT NULL, created INTEGER NOT NULL,
    record BLOB NOT NULL, PRIMARY KEY (manifest, signer, verdict)
);
"""


class NameRecordError(CodecError):
    """The bytes are not the record of a name."""

    code = "name"


@dataclass(frozen=True, slots=True)
class Name:
    """A model's name, and whose it is. Its text is `<peer id>/<name>`."""

    signer: PeerId
    name: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """Read the text form. Raises InvalidInput."""
        peer, slash, name = text.removeprefix("lattica://").partition("/")
        if not slash:
            raise InvalidInput(f"{text[:80]!r} is no name", hint="<peer id>/team/model")
        try:
            signer = PeerId.parse(peer)
        except InvalidInput:
            raise InvalidInput(
                f"{text[:80]!r} does not begin with a peer ID",
                hint="a name is PEER/team/model, with the publisher's ID: 12D3KooW…/team/model",
            ) from None
        return cls(signer, check_name(name))

    @property
    def dht_key(self) -> str:
        """Under which key its record stands in the DHT."""
        return f"{_DHT_PREFIX}{self}"

    def __str__(self) -> str:
        return f"{self.signer}/{self.name}"


@dataclass(frozen=True, slots=True)
class NameRecord:
    """Says which manifest is the newest of a name.

    Attributes:
        name: which.
        sequence: a record with a greater one replaces this.
        manifest: the newest version.
        created: when it was signed, in seconds since 1970.
        encoded: the record as it travels.
    """

    name: Name
    sequence: int
    manifest: CID
    created: int
    encoded: bytes

    @classmethod
    def make(
        cls, identity: Identity, name: str, sequence: int, manifest: CID, created: int
    ) -> NameRecord:
        """Return a record signed by `identity`, whose name it is. Raises InvalidInput."""
        fields: list[Value] = [check_name(name), sequence, bytes(manifest), created]
        try:
            _record_fields(fields)
        except CodecError as error:
            raise InvalidInput(f"the record of {name} would be refused: {error}") from None
        encoded = sign(identity, _DOMAIN, fields)
        return cls(Name(identity.peer_id, name), sequence, manifest, created, encoded)

    @classmethod
    def decode(cls, data: bytes) -> NameRecord:
        """Read a record and check its signature. Raises NameRecordError, BadSignature."""
        try:
            fields, signer = read_signed(data, _DOMAIN, 4, max_size=MAX_RECORD)
            name, sequence, manifest, created = _record_fields(fields)
            return cls(Name(signer, check_name(name)), sequence, manifest, created, bytes(data))
        except (CodecError, InvalidInput) as error:
            raise NameRecordError(f"not the record of a name: {error}") from None


class NameStore:
    """What was seen last of each name, and what was said of manifests. Any thread may use it."""

    def __init__(self, path: Path | None) -> None:
        """Open, or make, the database at `path`; None keeps it in memory."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            ":memory:" if path is None else path, check_same_thread=False, isolation_level=None
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")  # who forgets the newest may go back
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def offer(self, record: NameRecord, *, own: bool = False) -> NameRecord:
        """Take a record, if it is newer than what was seen; return the newest that was seen.

        Of two records with the same sequence the first stays: a publisher who signs two has
        broken their word, and who has seen one does not change sides.
        """
        with self._lock:
            self._database.execute(
                "INSERT INTO names VALUES (?, ?, ?, ?, ?) ON CONFLICT (signer, name) DO UPDATE SET"
                " sequence = excluded.sequence, record = excluded.record,"
                " own = max(own, excluded.own) WHERE excluded.sequence > sequence",
                (record.name.signer.raw, record.name.name, record.sequence, record.encoded, own),
            )
            self._database.execute(  # so that those asked for last are forgotten last
                "UPDATE names SET rowid = (SELECT max(rowid) + 1 FROM names)"
                " WHERE signer = ? AND name = ?",
                (record.name.signer.raw, record.name.name),
            )
            self._database.execute(
                "DELETE FROM names WHERE rowid IN (SELECT rowid FROM names WHERE NOT own"
                " ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                (MAX_NAMES,),
            )
        return self.newest(record.name) or record

    def newest(self, name: Name) -> NameRecord | None:
        """Return the newest record that was seen of a name."""
        with self._lock:
            row = self._database.execute(
                "SELECT record FROM names WHERE signer = ? AND name = ?",
                (name.signer.raw, name.name),
            ).fetchone()
        return None if row is None else NameRecord.decode(row[0])

    def own(self) -> list[NameRecord]:
        """Return the records of this node's own names."""
        with self._lock:
            rows = self._database.execute("SELECT record FROM names WHERE own").fetchall()
        return [NameRecord.decode(row[0]) for row in rows]

    def add(self, statement: Statement) -> bool:
        """Keep a statement; False where it is not newer than what its signer said, or no room is.

        A signer has one statement of each kind about a manifest: the latest.
        """
        manifest = bytes(statement.manifest)
        with self._lock:
            others = self._database.execute(
                "SELECT count(*) FROM statements WHERE manifest = ? AND signer != ?",
                (manifest, statement.signer.raw),
            ).fetchone()
            if others[0] >= MAX_STATEMENTS:  # whoever has spoken can still change their mind
                return False
            done = self._database.execute(
                "INSERT INTO statements VALUES (?, ?, ?, ?, ?) ON CONFLICT (manifest, signer,"
                " verdict) DO UPDATE SET created = excluded.created, record = excluded.record"
                " WHERE excluded.created > created",
                (
                    manifest,
                    statement.signer.raw,
                    statement.verdict.value,
                    statement.created,
                    statement.encoded,
                ),
            )
            self._database.execute(
                "DELETE FROM statements WHERE manifest IN (SELECT manifest FROM statements"
                " GROUP BY manifest ORDER BY max(rowid) DESC LIMIT -1 OFFSET ?)",
                (MAX_MANIFESTS,),
            )
            return done.rowcount > 0

    def statements(self, manifest: CID) -> list[Statement]:
        """Return what was said of a manifest, the oldest first."""
        with self._lock:
            rows = self._database.execute(
                "SELECT record FROM statements WHERE manifest = ? ORDER BY created, signer",
                (bytes(manifest),),
            ).fetchall()
        return [Statement.decode(row[0]) for row in rows]


def statements_key(manifest: CID) -> str:
    """Return the DHT key under which statements about a manifest stand, one for each signer."""
    return f"/lattica/statements/{manifest}"


def _record_fields(fields: list[Value]) -> tuple[str, int, CID, int]:
    match fields:
        case [str(name), sequence, bytes(manifest), created]:
            for value, limit in ((sequence, MAX_SEQUENCE), (created, MAX_TIME)):
                if type(value) is not int or not 0 <= value <= limit:
                    raise CodecError(f"the number {value!r}")
            cid = CID.from_bytes(manifest)
            if cid.codec != Codec.MESSAGEPACK:
                raise CodecError(f"{cid} is no manifest")
            return name, sequence, cid, created  # type: ignore[return-value]  # integers, checked
    raise CodecError("its fields are name, sequence, CID and time")
