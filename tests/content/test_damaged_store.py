"""A store whose index the disk has spoilt: nothing wrong is served, nothing foreign is deleted."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from lattica.cid import CID, Codec
from lattica.content import Absent, Segment, Store, StoreError, build, part_path
from lattica.errors import LatticaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lattica.content import Built

LEAF = 256 << 10


@dataclass
class Lab:
    """A store with a bit of everything, to be copied, spoilt and used."""

    folder: Path
    built: list[Built] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "store"

    @property
    def master(self) -> Path:
        return self.folder / "master"

    @property
    def victims(self) -> list[Path]:
        """What belongs to nobody but the user."""
        return [self.folder / "victim", self.folder / "victims" / "one", self.folder / "kept"]

    def prepare(self) -> None:
        noise = random.Random(0)
        (self.folder / "tree" / "sub").mkdir(parents=True)
        for name, size in {"tree/a": LEAF + 9, "tree/sub/b": 10, "model": 3 * LEAF}.items():
            (self.folder / name).write_bytes(noise.randbytes(size))
        (self.folder / "other").write_bytes(noise.randbytes(2 * LEAF))
        (self.folder / "victims").mkdir()
        for victim in self.victims:
            victim.write_bytes(b"mine")
        cut = [Segment(LEAF, 4, "one"), Segment(2 * LEAF, 2, "two")]
        self.built = [build(self.folder / "model", segments=cut)]
        self.built += [build(self.folder / name) for name in ("tree", "other")]
        with Store.open(self.home) as store:
            for built in self.built[:2]:
                store.add(built)
            store.add_bytes(b"hello" * 1000, name="bytes", pinned=True)
            for place in (self.folder / "got", store.cache_path(self.built[2].root)):
                self.fetch(store, place, leaves=1)
        self.home.rename(self.master)

    def fetch(self, store: Store, place: Path, *, leaves: int) -> None:
        built = self.built[2]
        content = built.path.read_bytes()
        with store.download(built.root, place, overwrite=True) as download:
            for cid, block in built.index.items():
                download.add_index(cid, block)
            part = download.open_part(built.files[0].leaves)
            part.rescan()
            for number in list(part.missing())[:leaves]:
                leaf = part.leaves[number]
                part.write(number, [content[leaf.offset :][: leaf.length]])
            if part.done:
                download.finish()

    def renew(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.master, self.home)

    def use(self) -> None:
        """Do all that a node does; nothing but a LatticaError may come out of it."""
        roots = [built.root for built in self.built]
        with suppress(LatticaError), Store.open(self.home, quota=1 << 30) as store:
            for work in (store.look, store.objects, store.usage, lambda: list(store.provided())):
                tried(work)
            tried(lambda: self.serve(store))
            for root in roots:
                for ask in (store.object, store.extent, store.named, store.verify):
                    tried(lambda ask=ask, root=root: ask(root))  # type: ignore[misc]  # mypy cannot infer it
                tried(lambda root=root: store.availability(root))  # type: ignore[misc]  # the same
            tried(lambda: self.fetch(store, self.folder / "got", leaves=9))
            tried(lambda: store.add(self.built[0]))
            tried(store.collect)
            for root in roots:
                tried(lambda root=root: store.remove(root))  # type: ignore[misc]  # the same
        assert all(victim.read_bytes() == b"mine" for victim in self.victims)
        assert all(file.path.exists() for built in self.built for file in built.files)

    def serve(self, store: Store) -> None:
        for built in self.built:
            for file in built.files:
                for leaf in file.leaves:
                    with store.read_blocks([leaf.multihash]) as batch:
                        (block,) = batch.blocks
                        assert isinstance(block, Absent) or leaf.cid.matches(block)


def tried(work: Callable[[], object]) -> None:
    with suppress(LatticaError):
        work()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Paths that lead nowhere lead here."""
    monkeypatch.chdir(tmp_path)
    lab = Lab(tmp_path)
    lab.prepare()
    yield lab
    assert (tmp_path / "kept").exists()


def spoil_file(chooser: random.Random, path: Path) -> None:
    """Change bytes of the database, or cut it, or put garbage into its log."""
    data = bytearray(path.read_bytes())
    match chooser.choice(["flip", "zero", "cut", "log"]):
        case "flip":
            for _ in range(chooser.choice([1, 3, 30])):
                data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
        case "zero":
            start = chooser.randrange(len(data))
            data[start : start + 4000] = bytes(len(data[start : start + 4000]))
        case "cut":
            del data[chooser.randrange(len(data)) :]
        case "log":
            path.with_name(f"{path.name}-wal").write_bytes(chooser.randbytes(9000))
    path.write_bytes(data)


def spoil_row(chooser: random.Random, path: Path, lab: Lab) -> None:
    """Put something else into one column, of one row or of all."""
    far = [os.fsencode(victim) for victim in (*lab.victims, lab.folder / "victims")]
    values: dict[str, list[object]] = {
        "INTEGER": [0, -1, 1, 7, 1 << 31, 1 << 62, -(1 << 62)],
        "BLOB": [b"", b"\0", b"\x01\x70\0", b"../../x", b"a" * 5000, chooser.randbytes(36), *far],
        "TEXT": ["", "..", "/x", "../x", "a\0b", "x" * 3000],
        "REAL": [0.0, -1e300, 1e300],
    }
    with closing(sqlite3.connect(path)) as database, database:
        tables = [
            row[0]
            for row in database.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
        ]
        table = chooser.choice(sorted(tables))
        columns = [row[1:3] for row in database.execute(f"PRAGMA table_info({table})")]
        name, kind = chooser.choice(columns)
        one = f"WHERE {name} = (SELECT max({name}) FROM {table})" if chooser.random() < 0.5 else ""
        value = chooser.choice(values[kind])
        database.execute(f"UPDATE OR IGNORE {table} SET {name} = ? {one}", (value,))


def spoil_and_use(lab: Lab, seeds: range) -> None:
    for seed in seeds:
        chooser = random.Random(seed)
        lab.renew()
        index = lab.home / "index.sqlite"
        if chooser.random() < 0.4:
            spoil_file(chooser, index)
        else:
            spoil_row(chooser, index, lab)
        lab.use()


def test_whatever_is_spoilt_in_the_index_is_told_and_harms_nothing(lab: Lab) -> None:
    spoil_and_use(lab, range(60))


@pytest.mark.slow
def test_a_thousand_indices_that_were_spoilt_harm_nothing(lab: Lab) -> None:
    spoil_and_use(lab, range(100, 1100))


def change(lab: Lab, statement: str, *values: object) -> None:
    lab.renew()
    with closing(sqlite3.connect(lab.home / "index.sqlite")) as database, database:
        assert database.execute(statement, values).rowcount > 0


def test_a_file_outside_the_store_is_never_deleted_as_its_own(lab: Lab) -> None:
    for victim in (lab.victims[0], lab.folder / "store" / "files" / ".." / ".." / "victim"):
        change(lab, "UPDATE sources SET path = ? WHERE owned = 1", os.fsencode(victim))
        with Store.open(lab.home) as store:
            store.collect()
            for stored in store.objects():
                store.remove(stored.root)
        assert lab.victims[0].read_bytes() == b"mine"


@pytest.mark.parametrize("what", ["victim", "victims", ""])
def test_a_download_writes_and_deletes_nothing_but_its_part(lab: Lab, what: str) -> None:
    statement = "UPDATE downloads SET part_path = ? WHERE destination = ?"
    place = lab.folder / "got"
    change(lab, statement, os.fsencode(lab.folder / what if what else ""), os.fsencode(place))
    with Store.open(lab.home) as store:
        assert place not in {row.destination for row in store._index.downloads()}
        lab.fetch(store, place, leaves=9)
        store.remove(lab.built[2].root)
    assert [victim.read_bytes() for victim in lab.victims] == [b"mine"] * 3
    assert place.exists()


def test_a_row_that_means_nothing_is_told_as_damage_of_the_store(lab: Lab) -> None:
    for statement in (
        "UPDATE objects SET kind = 77",
        "UPDATE objects SET path = x'61006200'",
        "UPDATE objects SET root = x'00' WHERE pinned = 1",
    ):
        change(lab, statement)
        with Store.open(lab.home) as store, pytest.raises(StoreError, match="means nothing"):
            store.objects()
    change(lab, "UPDATE files SET leaf_count = ?", 1 << 62)
    with Store.open(lab.home) as store, pytest.raises(StoreError, match="leaves"):
        store.availability(lab.built[0].root)


def test_the_place_of_a_leaf_that_is_none_is_not_read(lab: Lab) -> None:
    leaf = lab.built[0].files[0].leaves[0]
    for column, value in {"offset": -5, "length": 1 << 50}.items():
        change(lab, f"UPDATE leaves SET {column} = ? WHERE multihash = ?", value, leaf.multihash)
        with Store.open(lab.home) as store, pytest.raises(StoreError, match="means nothing"):
            store.read_blocks([leaf.multihash])


def test_a_part_is_named_after_its_destination_and_its_object(tmp_path: Path) -> None:
    root = CID.of(b"x", Codec.RAW)
    assert part_path(tmp_path / "got", root).name.startswith("got.")
    assert len(os.fsencode(part_path(tmp_path / ("x" * 255), root).name)) == 255
