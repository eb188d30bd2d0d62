"""What the store keeps of its own: within its quota, the pinned always, a user's files never."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from lattica.content import ObjectState, QuotaExceeded, Store, build
from lattica.content._schema import _SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.content import StoredObject

LEAF = 256 << 10
MIB = 1 << 20


def on_disk(folder: Path) -> int:
    """What `du` would say of a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def add(store: Store, number: int, size: int = MIB, *, pinned: bool = False) -> StoredObject:
    data = random.Random(number).randbytes(size)
    return store.add_bytes(data, name=str(number), pinned=pinned)


def used_at(store: Store, order: list[StoredObject]) -> None:
    """Have objects been used in this order."""
    with store._index.writing() as transaction:
        for number, stored in enumerate(order):
            transaction._connection.execute(
                "UPDATE objects SET used = ?, added = 0 WHERE root = ?",
                (number + 1, bytes(stored.root)),
            )


def test_the_least_used_goes_when_something_new_needs_the_room(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", quota=4 * MIB) as store:
        first, second, third = (add(store, number) for number in range(3))
        used_at(store, [second, first, third])
        new = add(store, 9)
        assert {item.root for item in store.objects()} == {first.root, third.root, new.root}
        assert store.take_evicted() == [second.root]
        assert store.usage().used_bytes <= 4 * MIB
        assert on_disk(tmp_path / "store" / "files") == 3 * MIB


def test_what_was_read_lately_stays(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", quota=4 * MIB) as store:
        first, second, third = (add(store, number) for number in range(3))
        used_at(store, [first, second, third])
        leaf = build(_file_of(store, first)).files[0].leaves
        store.read_blocks([leaf[0].multihash]).release()
        add(store, 9)
        assert store.object(first.root) is not None
        assert store.object(second.root) is None


def _file_of(store: Store, stored: StoredObject) -> Path:
    (row,) = store._index.files(store._catalogue.number(stored.root))
    return row.source.path


def test_the_pinned_stays_and_what_does_not_fit_beside_it_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", quota=4 * MIB) as store:
        pinned = add(store, 1, 2 * MIB, pinned=True)
        loose = add(store, 2)
        with pytest.raises(QuotaExceeded, match="do not fit"):
            add(store, 3, 3 * MIB)
        assert store.object(loose.root) is not None  # nothing was let go in vain
        add(store, 4)
        assert store.object(loose.root) is None
        assert store.verify(pinned.root).damaged_count == 0
        store.pin(pinned.root, pinned=False)
        add(store, 5, 3 * MIB)
        assert store.object(pinned.root) is None


def test_a_smaller_quota_is_kept_from_the_next_start_on(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        kept = add(store, 0, pinned=True)
        for number in range(1, 6):
            add(store, number)
    with Store.open(tmp_path / "store", quota=3 * MIB) as store:
        assert store.usage().used_bytes <= 3 * MIB
        assert store.object(kept.root) is not None


def test_a_users_file_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(os.urandom(5 * MIB))
    with Store.open(tmp_path / "store", quota=2 * MIB) as store:
        shared = store.add(build(path))
        add(store, 1)
        add(store, 2)
        assert store.verify(shared.root).damaged_count == 0
        assert path.stat().st_size == 5 * MIB


async def test_fetching_more_than_the_quota_keeps_to_it_and_keeps_the_pinned(
    swarm: Any, autojump_clock: MockClock
) -> None:
    """In small: a quota of 1, and 3 unpinned and a half pinned are fetched."""
    unit = 24 * MIB
    async with swarm.peers(2) as (seed, peer):
        peer.store._upkeep.room.quota = unit
        sizes = [unit // 2, *[unit // 4] * 12]
        shared = [seed.share(seed.file(f"f{n}", size, seed=n)) for n, size in enumerate(sizes)]
        peak = 0
        for number, stored in enumerate(shared):
            await peer.exchange.fetch_to_store(
                stored.root, providers=[seed.info], pinned=number == 0
            )
            peak = max(peak, on_disk(peer.folder / "store"))
        assert peak <= unit
        assert peer.store.verify(shared[0].root).damaged_count == 0
        last = peer.store.object(shared[-1].root)
        assert last is not None
        assert last.path.read_bytes() == shared[-1].path.read_bytes()
        with pytest.raises(QuotaExceeded):
            await peer.exchange.fetch_to_store(
                seed.share(seed.file("big", unit, seed=99)).root, providers=[seed.info]
            )


async def test_a_directory_in_the_store_goes_as_a_whole(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        seed.file("tree/a/one", MIB, seed=1)
        seed.file("tree/two", 700, seed=2)
        (seed.folder / "tree" / "hollow").mkdir()
        shared = seed.share(seed.folder / "tree")
        await peer.exchange.fetch_to_store(shared.root, providers=[seed.info])
        cache = peer.folder / "store" / "cache"
        assert on_disk(cache) == MIB + 700
        peer.store._upkeep.room.quota = 1
        freed, gone = peer.store.collect()
        assert (gone, list(cache.iterdir())) == ([shared.root], [])
        assert freed >= MIB + 700


async def test_what_is_in_the_store_is_served_and_survives_a_restart_and_a_move(
    swarm: Any, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm.peers(3) as (seed, peer, other):
        shared = seed.share(seed.file("x", 3 * LEAF))
        await peer.exchange.fetch_to_store(shared.root, providers=[seed.info], pinned=True)
        await other.fetch(shared.root, peer)
        assert other.got.read_bytes() == shared.path.read_bytes()
        again = await peer.exchange.fetch_to_store(shared.root)
        assert again.received_bytes == 0
        folder = peer.folder / "store"
    shutil.move(folder, tmp_path / "moved")
    with Store.open(tmp_path / "moved") as store:
        found = store.object(shared.root)
        assert found is not None
        assert (found.state, found.pinned) == (ObjectState.COMPLETE, True)
        assert store.verify(shared.root).damaged_count == 0


async def test_a_download_that_stopped_makes_room_like_anything_else(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("x", 3 * MIB))
        download = peer.store.download(shared.root, peer.store.cache_path(shared.root))
        download.open_part(build(shared.path).files[0].leaves)
        assert peer.store.usage().used_bytes > 3 * MIB
        peer.store._upkeep.room.quota = 4 * MIB
        with pytest.raises(QuotaExceeded):  # it is still running
            add(peer.store, 1, 2 * MIB)
        download.close()
        add(peer.store, 1, 2 * MIB)
        assert peer.store.object(shared.root) is None
        assert list((peer.folder / "store" / "cache").iterdir()) == []


def test_a_download_elsewhere_outlives_what_makes_room_of_the_same_object(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(5).randbytes(2 * MIB))
    built = build(path)
    leaves = built.files[0].leaves
    with Store.open(tmp_path / "store", quota=4 * MIB) as store:
        with store.download(built.root, store.cache_path(built.root)) as stopped:
            stopped.open_part(leaves).write(0, [path.read_bytes()[:LEAF]])
        with store.download(built.root, tmp_path / "got") as running:
            add(store, 1, 2 * MIB)
            add(store, 2, 1 * MIB)
            assert store.take_evicted() == [built.root]
            for cid, block in built.index.items():
                running.add_index(cid, block)
            part = running.open_part(leaves)
            for leaf in leaves:
                part.write(leaf.index, [path.read_bytes()[leaf.offset :][: leaf.length]])
            running.finish()
        assert store.verify(built.root).damaged_count == 0


def test_a_download_outlives_the_garbage_that_the_same_object_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(5).randbytes(LEAF))
    with Store.open(tmp_path / "store") as store:
        built = build(path)
        store.add(built)
        path.unlink()
        with store.download(built.root, tmp_path / "got") as running:
            store.collect()
            part = running.open_part(built.files[0].leaves)
            assert not part.done


def test_garbage_is_collected(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    path.write_bytes(b"x" * MIB)
    with Store.open(tmp_path / "store") as store:
        gone = store.add(build(path))
        kept = add(store, 1)
        path.unlink()
        (tmp_path / "store" / "files" / "stray").write_bytes(b"y" * 1000)
        freed, roots = store.collect()
        assert roots == [gone.root]
        assert freed >= 1000
        assert [item.root for item in store.objects()] == [kept.root]
        assert store.verify(kept.root).damaged_count == 0
        assert store.collect()[1] == []


def test_what_was_renamed_or_may_come_back_is_no_garbage(
    tmp_path: Path,
) -> None:
    renamed, away = tmp_path / "renamed", tmp_path / "disk" / "away"
    away.parent.mkdir()
    renamed.write_bytes(b"r" * 1000)
    away.write_bytes(b"a" * 1000)
    with Store.open(tmp_path / "store") as store:
        roots = {store.add(build(path)).root for path in (renamed, away)}
        renamed.rename(tmp_path / "new")
        away.rename(tmp_path / "away")
        with store._index.writing() as transaction:  # as if another disk had been there
            transaction._connection.execute("UPDATE sources SET device = device + 1")
        assert store.collect()[1] == []
        assert {stored.root for stored in store.objects()} == roots


def test_a_store_of_the_first_format_is_opened_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * LEAF))
    with Store.open(tmp_path / "store") as store:
        shared = store.add(build(path))
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as database:
        database.execute("ALTER TABLE objects DROP COLUMN used")
        database.execute("PRAGMA user_version = 1")
    shutil.rmtree(tmp_path / "store" / "cache")
    with Store.open(tmp_path / "store") as store:
        assert store.verify(shared.root).damaged_count == 0
        assert store.usage().kept == ()
    assert "used REAL" in _SCHEMA
