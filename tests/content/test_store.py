"""The store: what it gives is what was shared, or nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lattica.cid import CID, Codec, HashFunction
from lattica.content import (
    Absent,
    Kind,
    ObjectState,
    Segment,
    Store,
    StoreError,
    StoreLocked,
    build,
)
from lattica.content._dag import SMALL_LEAF
from lattica.content._sources import MAX_GAPS
from lattica.content._unixfs import MAX_BLOCK_BYTES
from lattica.errors import InvalidInput, NotFound, SourceChanged

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def a_file(path: Path, size: int, seed: int = 0) -> Path:
    """A file whose leaves all differ."""
    period = bytes((byte + seed) % 256 for byte in range(251))
    path.write_bytes((period * (size // 251 + 1))[:size])
    return path


def shared(store: Store, path: Path, **options: object) -> tuple[CID, list[bytes]]:
    """Share a file: its root and the multihashes of its leaves."""
    built = build(path, **options)  # type: ignore[arg-type]
    store.add(built)
    return built.root, [leaf.multihash for file in built.files for leaf in file.leaves]


def read(store: Store, multihashes: list[bytes]) -> list[bytes | Absent]:
    """Read blocks, batch by batch."""
    blocks: list[bytes | Absent] = []
    while len(blocks) < len(multihashes):
        with store.read_blocks(multihashes[len(blocks) :]) as batch:
            assert len(batch) == len(batch.blocks) > 0
            blocks += [
                block if isinstance(block, Absent) else bytes(block) for block in batch.blocks
            ]
    return blocks


def given(store: Store, multihashes: list[bytes]) -> bytes:
    """Read blocks that are all there, joined."""
    blocks = read(store, multihashes)
    assert all(isinstance(block, bytes) for block in blocks)
    return b"".join(block for block in blocks if isinstance(block, bytes))


def test_a_shared_file_is_read_back_leaf_by_leaf_from_where_it_is(
    store: Store, tmp_path: Path
) -> None:
    path = a_file(tmp_path / "f", 5 * MIB + 3)
    root, leaves = shared(store, path)
    assert given(store, leaves) == path.read_bytes()
    stored = store.object(root)
    assert stored is not None
    assert (stored.kind, stored.size, stored.name) == (Kind.FILE, 5 * MIB + 3, "f")
    assert (stored.path, stored.state, stored.pinned) == (path, ObjectState.COMPLETE, False)
    assert store.objects() == [stored]
    on_disk = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*"))
    assert on_disk < 512 * 1024


def test_index_blocks_are_kept_and_given_like_leaves(store: Store, tmp_path: Path) -> None:
    built = build(a_file(tmp_path / "f", 3 * SMALL_LEAF))
    store.add(built)
    assert store.read_index(built.root) == built.index[built.root]
    assert given(store, [built.root.multihash]) == built.index[built.root]
    assert store.has(built.root.multihash)
    assert store.read_index(CID.of(b"other", Codec.DAG_PB)) is None


def test_objects_survive_a_restart(tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", MIB)
    with Store.open(tmp_path / "store") as store:
        root, leaves = shared(store, path)
    with Store.open(tmp_path / "store") as store:
        assert store.object(root) is not None
        assert given(store, leaves) == path.read_bytes()


def test_a_directory_is_one_object_of_many_files(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    one = a_file(top / "one", MIB)
    two = a_file(top / "sub" / "two", 3, seed=9)
    root, leaves = shared(store, top)
    stored = store.object(root)
    assert stored is not None
    assert (stored.kind, stored.size, stored.path) == (Kind.DIRECTORY, MIB + 3, top)
    assert given(store, leaves) == one.read_bytes() + two.read_bytes()
    one.unlink()
    read(store, leaves)
    changed = store.object(root)
    assert changed is not None
    assert changed.state is ObjectState.CHANGED


# Files that are no longer what was shared


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def replace_by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)


def flip_a_bit_unseen(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(SMALL_LEAF + 7)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        rewrite,
        replace_by_rename,
        Path.unlink,
        lambda path: os.truncate(path, 100),
        lambda path: os.utime(path, ns=(0, 0)),
        lambda path: path.rename(path.with_name("moved")),
    ],
    ids=["rewritten", "replaced", "deleted", "truncated", "touched", "moved"],
)
@pytest.mark.parametrize("opened", [False, True], ids=["unopened", "open"])
def test_a_file_that_has_changed_is_not_served_any_more(
    store: Store, tmp_path: Path, change: object, opened: bool
) -> None:
    path = a_file(tmp_path / "f", 3 * SMALL_LEAF)
    root, leaves = shared(store, path)
    if opened:
        given(store, leaves)
    assert callable(change)
    change(path)
    assert read(store, leaves) == [Absent.SOURCE_CHANGED] * 3
    assert not store.has(leaves[0])
    assert store.availability(root) is None
    stored = store.object(root)
    assert stored is not None
    assert stored.state is ObjectState.CHANGED


def test_a_flipped_bit_costs_its_leaf_and_no_other(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", 4 * SMALL_LEAF)
    root, leaves = shared(store, path)
    data = path.read_bytes()
    flip_a_bit_unseen(path)
    for _ in range(2):
        blocks = read(store, leaves)
        assert blocks[1] is Absent.SOURCE_CHANGED
        assert [blocks[0], *blocks[2:]] == [
            data[start : start + SMALL_LEAF] for start in (0, 2 * SMALL_LEAF, 3 * SMALL_LEAF)
        ]
    stored = store.object(root)
    assert stored is not None
    assert stored.state is ObjectState.CHANGED
    assert not store.has(leaves[1])
    assert store.has(leaves[0])


def test_a_file_with_too_many_damaged_leaves_counts_as_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.content._sources._MAX_DAMAGED", 2)
    path = a_file(tmp_path / "f", 5 * SMALL_LEAF)
    status = path.stat()
    _, leaves = shared(store, path)
    path.write_bytes(bytes(4 * SMALL_LEAF) + path.read_bytes()[4 * SMALL_LEAF :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read(store, leaves[:4])
    assert read(store, leaves) == [Absent.SOURCE_CHANGED] * 5


def test_what_is_here_twice_is_found_in_the_other_place(store: Store, tmp_path: Path) -> None:
    one, two = a_file(tmp_path / "one", MIB), a_file(tmp_path / "two", MIB)
    root, leaves = shared(store, one)
    shared(store, two)
    one.unlink()
    assert given(store, leaves) == two.read_bytes()
    flip_a_bit_unseen(two)
    assert Absent.SOURCE_CHANGED in read(store, leaves)
    stored = store.object(root)
    assert stored is not None
    assert stored.path == two


def test_a_changed_file_can_be_shared_again_beside_its_old_self(
    store: Store, tmp_path: Path
) -> None:
    path = a_file(tmp_path / "f", MIB)
    old, old_leaves = shared(store, path)
    a_file(path, MIB, seed=1)
    new, new_leaves = shared(store, path)
    assert given(store, new_leaves) == path.read_bytes()
    assert read(store, old_leaves) == [Absent.SOURCE_CHANGED] * 4
    states = {stored.root: stored.state for stored in store.objects()}
    assert states == {old: ObjectState.CHANGED, new: ObjectState.COMPLETE}


def test_changes_are_remembered_over_a_restart(tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", MIB)
    status = path.stat()
    with Store.open(tmp_path / "store") as store:
        root, leaves = shared(store, path)
        os.utime(path, ns=(0, 0))
        read(store, leaves)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with Store.open(tmp_path / "store") as store:
        stored = store.object(root)
        assert stored is not None
        assert stored.state is ObjectState.CHANGED
        assert store.verify(root).damaged_count == 0
        assert given(store, leaves) == path.read_bytes()


# Batches


def test_a_batch_answers_what_fits_and_at_least_one(store: Store, tmp_path: Path) -> None:
    _, leaves = shared(store, a_file(tmp_path / "f", 4 * MIB))
    for max_bytes, count in [
        (0, 1),
        (1, 1),
        (SMALL_LEAF, 1),
        (SMALL_LEAF * 2, 2),
        (SMALL_LEAF * 3 - 1, 2),
        (MAX_BLOCK_BYTES, 8),
        (1 << 30, 8),
    ]:
        with store.read_blocks(leaves, max_bytes=max_bytes) as batch:
            assert len(batch) == len(batch.blocks) == count
    with store.read_blocks([]) as batch:
        assert batch.blocks == []


def test_a_gap_before_each_leaf_is_free_for_the_caller(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", 3 * SMALL_LEAF)
    root, leaves = shared(store, path)
    wanted = [leaves[0], leaves[1], CID.of(b"not here").multihash, root.multihash, leaves[2]]
    with store.read_blocks(wanted, gap=40) as batch:
        first, second, absent, index, third = batch.offsets
        assert (first, second, third) == (40, 80 + SMALL_LEAF, 120 + 2 * SMALL_LEAF)
        assert (absent, index) == (-1, -1)
        for offset, number in zip((first, second, third), (0, 1, 4), strict=True):
            batch.buffer[offset - 40 : offset] = b"h" * 40
            assert batch.buffer[offset : offset + SMALL_LEAF] == batch.blocks[number]
        assert bytes(batch.buffer) == b"".join(
            b"h" * 40 + path.read_bytes()[start : start + SMALL_LEAF]
            for start in (0, SMALL_LEAF, 2 * SMALL_LEAF)
        )


def test_many_tiny_leaves_share_a_batch_of_bounded_size(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"".join(number.to_bytes(2, "big") for number in range(3000)))
    _, leaves = shared(store, path, segments=[Segment(2)] * 3000)
    assert given(store, leaves) == path.read_bytes()
    with store.read_blocks(leaves) as batch:
        assert len(batch) == 1024
    with store.read_blocks(leaves, gap=1000) as batch:
        assert len(batch) == MAX_GAPS // 1000
        assert bytes(batch.blocks[-1]) == path.read_bytes()[128:130]  # type: ignore[arg-type]


def test_buffers_are_used_again_once_released(store: Store, tmp_path: Path) -> None:
    _, leaves = shared(store, a_file(tmp_path / "f", MIB))
    with store.read_blocks(leaves) as batch:
        first = batch._pooled
        assert store.read_blocks(leaves)._pooled is not first
    batch.release()
    assert store.read_blocks(leaves)._pooled is first
    assert batch.blocks == []


def test_strides_come_with_the_leaves(store: Store, tmp_path: Path) -> None:
    segments = [Segment(10, 1), Segment(SMALL_LEAF + 5, 4, "w"), Segment(6, 2, "b")]
    path = a_file(tmp_path / "f", sum(part.length for part in segments))
    root, leaves = shared(store, path, segments=segments)
    with store.read_blocks([*leaves, root.multihash]) as batch:
        assert batch.strides == [1, 4, 4, 2, 1]


@pytest.mark.parametrize(
    "multihash", [b"", b"\x1e", b"\x1e\x20", b"\x00\x03abc", b"\x13\x40" + bytes(64)]
)
def test_an_odd_multihash_is_not_here(store: Store, multihash: bytes) -> None:
    assert read(store, [multihash]) == [Absent.NOT_HERE]
    assert not store.has(multihash)


def test_the_empty_leaf_is_given_when_it_is_here(store: Store, tmp_path: Path) -> None:
    empty = CID.of(b"")
    assert read(store, [empty.multihash]) == [Absent.NOT_HERE]
    root, leaves = shared(store, a_file(tmp_path / "f", 0))
    assert root == empty
    assert read(store, leaves) == [b""]


def test_few_files_stay_open_however_many_are_read(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(40):
        a_file(top / str(number), 100, seed=number)
    with Store.open(tmp_path / "store", max_open_files=4) as store:
        _, leaves = shared(store, top)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            given(store, leaves)
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert len(os.listdir("/proc/self/fd")) < before


def test_threads_read_while_one_adds_and_one_removes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(12):
        a_file(top / str(number), SMALL_LEAF + number, seed=number)
    errors: list[BaseException] = []
    with Store.open(tmp_path / "store", max_open_files=2) as store:
        _, leaves = shared(store, top)
        other = build(a_file(tmp_path / "other", MIB, seed=99))

        def reading() -> None:
            for _ in range(20):
                given(store, leaves)

        def writing() -> None:
            for _ in range(20):
                store.add(other)
                assert store.remove(other.root)

        def run(work: object) -> None:
            assert callable(work)
            try:
                work()
            except BaseException as error:
                errors.append(error)
                raise

        threads = [threading.Thread(target=run, args=(work,)) for work in [reading] * 3 + [writing]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert errors == []


# Objects


def test_removing_an_object_leaves_the_users_file_and_what_others_need(
    store: Store, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    path = a_file(top / "f", 3 * SMALL_LEAF)
    file_root, leaves = shared(store, path)
    directory_root, _ = shared(store, top)
    assert store.remove(directory_root)
    assert given(store, leaves) == path.read_bytes()
    assert store.read_index(file_root) is not None
    assert store.read_index(directory_root) is None
    assert store.remove(file_root)
    assert not store.remove(file_root)
    assert read(store, [*leaves, file_root.multihash]) == [Absent.NOT_HERE] * 4
    assert path.exists()
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as database:
        for table in ("objects", "blocks", "object_blocks", "sources", "files", "leaves", "names"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_sharing_again_updates_the_name_and_keeps_the_pin(store: Store, tmp_path: Path) -> None:
    built = build(a_file(tmp_path / "f", 10))
    first = store.add(built, name="one", pinned=True)
    again = store.add(built, name="two")
    assert (again.name, again.pinned, again.added) == ("two", True, first.added)
    store.pin(built.root, False)
    [stored] = store.objects()
    assert not stored.pinned


def test_a_moved_file_that_is_shared_again_replaces_its_old_place(
    store: Store, tmp_path: Path
) -> None:
    path = a_file(tmp_path / "f", MIB)
    root, leaves = shared(store, path)
    path.rename(tmp_path / "moved")
    assert shared(store, tmp_path / "moved") == (root, leaves)
    assert len(given(store, leaves)) == MIB
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM sources").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM leaves").fetchone() == (4,)


def test_bytes_without_a_file_get_one_in_the_store(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 * SMALL_LEAF)
    stored = store.add_bytes(data, name="delta", hash_function=HashFunction.SHA2_256)
    assert stored.root == build(stored.path, hash_function=HashFunction.SHA2_256).root
    assert stored.path.is_relative_to(tmp_path / "store")
    again = store.add_bytes(data, name="delta 2", hash_function=HashFunction.SHA2_256)
    assert again.root == stored.root
    assert len(list((tmp_path / "store" / "files").iterdir())) == 1
    assert store.verify(stored.root).checked_bytes == 3 * SMALL_LEAF
    store.remove(stored.root)
    assert list((tmp_path / "store" / "files").iterdir()) == []


def test_a_copy_outlives_the_file_it_was_made_of(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", MIB)
    data = path.read_bytes()
    built = build(path)
    store.add(built, copy=True)
    path.unlink()
    assert given(store, [leaf.multihash for leaf in built.files[0].leaves]) == data


def test_a_copy_of_a_file_that_has_changed_is_refused(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", MIB)
    built = build(path)
    for size in (MIB, MIB + 1):
        a_file(path, size, seed=3)
        with pytest.raises(SourceChanged):
            store.add(built, copy=True)
    assert store.objects() == []
    assert list((tmp_path / "store" / "files").iterdir()) == []


def test_roots_of_objects_and_named_segments_are_provided(store: Store, tmp_path: Path) -> None:
    segments = [Segment(10), Segment(20, 4, "w"), Segment(30, 2, "b")]
    built = build(a_file(tmp_path / "f", 60), segments=segments)
    store.add(built)
    other, _ = shared(store, a_file(tmp_path / "g", 5, seed=7))
    _, w, b = built.files[0].segments
    expected = {built.root, w.root, b.root, other}
    assert set(store.provided()) == {root.multihash for root in expected}
    assert [(part.name, part.root) for part in store.named(built.root)] == [
        ("w", w.root),
        ("b", b.root),
    ]


def test_a_file_that_came_without_names_gets_them_from_its_cut(
    store: Store, tmp_path: Path
) -> None:
    segments = [Segment(10), Segment(2 * SMALL_LEAF, 4, "w"), Segment(30, 2, "b")]
    path = a_file(tmp_path / "f", sum(part.length for part in segments))
    unnamed = [Segment(part.length) for part in segments]
    root, leaves = shared(store, path, segments=unnamed)
    assert store.label(root, lambda _path: None) == 0
    assert store.label(root, lambda _path: [Segment(path.stat().st_size, 1, "no")]) == 0
    assert store.label(root, lambda _path: [*segments[:2], Segment(29, 1, "no"), Segment(1)]) == 0
    assert store.label(root, lambda _path: segments) == 2
    roots = {part.name: part.root for part in build(path, segments=segments).files[0].segments}
    assert {part.name: part.root for part in store.named(root)} == {
        "w": roots["w"],
        "b": roots["b"],
    }
    with store.read_blocks(leaves) as batch:
        assert batch.strides == [1, 4, 4, 2]


def test_availability_tells_how_many_leaves_a_file_has(store: Store, tmp_path: Path) -> None:
    root, _ = shared(store, a_file(tmp_path / "f", 10 * SMALL_LEAF))
    held = store.availability(root)
    assert held is not None
    assert (held.leaf_count, held.complete, held.bitmap) == (10, True, b"\xff\x03")
    assert store.availability(CID.of(b"other")) is None


def test_what_is_not_here_is_named(store: Store) -> None:
    absent = CID.of(b"absent")
    assert store.object(absent) is None
    for question in (store.named, store.verify, store.pin):
        with pytest.raises(NotFound) as caught:
            question(absent)
        assert caught.value.cid == absent


# Verification


def test_verify_hashes_everything_and_names_what_is_damaged(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    path = a_file(top / "f", 4 * SMALL_LEAF)
    a_file(top / "g", 100, seed=5)
    root, leaves = shared(store, top)
    counts: list[int] = []
    report = store.verify(root, counts.append)
    assert (report.damaged_count, report.checked_bytes) == (0, 4 * SMALL_LEAF + 100)
    assert sum(counts) == report.checked_bytes
    flip_a_bit_unseen(path)
    report = store.verify(root)
    assert report.damaged_count == 1
    [damage] = report.damaged
    assert (damage.path, damage.offset, damage.length) == ("f", SMALL_LEAF, SMALL_LEAF)
    assert damage.cid.multihash == leaves[1]
    assert not store.has(leaves[1])
    flip_a_bit_unseen(path)
    assert store.verify(root).damaged_count == 0
    assert store.has(leaves[1])


def test_a_touched_file_is_offered_again_once_verified(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", MIB)
    root, leaves = shared(store, path)
    os.utime(path, ns=(0, 0))
    assert read(store, leaves) == [Absent.SOURCE_CHANGED] * 4
    assert store.verify(root).damaged_count == 0
    assert given(store, leaves) == path.read_bytes()
    stored = store.object(root)
    assert stored is not None
    assert stored.state is ObjectState.COMPLETE


def test_verify_names_a_changed_copy_while_another_is_sound(store: Store, tmp_path: Path) -> None:
    path, copy = a_file(tmp_path / "f", MIB), a_file(tmp_path / "copy", MIB)
    root, leaves = shared(store, path)
    assert shared(store, copy)[0] == root
    assert store.verify(root).differing == ()
    copy.write_bytes(b"edited on purpose")
    report = store.verify(root)
    assert (report.damaged_count, report.differing) == (0, (copy,))
    assert given(store, leaves) == path.read_bytes()
    path.write_bytes(b"and this one, too")
    report = store.verify(root)
    assert report.damaged_count > 0
    assert report.differing == ()


def test_what_the_store_takes_is_listed_where_it_is_then(store: Store, tmp_path: Path) -> None:
    built = build(a_file(tmp_path / "f", MIB))
    stored = store.add(built, name="taken", take=True)
    assert not built.path.exists()
    assert stored.path.stat().st_size == MIB


def test_verify_reports_a_file_that_is_gone_or_short(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "f", 4 * SMALL_LEAF)
    root, leaves = shared(store, path)
    os.truncate(path, SMALL_LEAF + 1)
    report = store.verify(root)
    assert [damage.offset for damage in report.damaged] == [
        SMALL_LEAF,
        2 * SMALL_LEAF,
        3 * SMALL_LEAF,
    ]
    assert read(store, leaves) == [Absent.SOURCE_CHANGED] * 4
    path.unlink()
    [damage] = store.verify(root).damaged
    assert (damage.cid, damage.length) == (root, 4 * SMALL_LEAF)
    assert "cannot open" in damage.reason


def test_a_damaged_index_block_is_never_given_and_is_reported(tmp_path: Path) -> None:
    built = build(a_file(tmp_path / "f", 4 * SMALL_LEAF))
    root = built.root
    with Store.open(tmp_path / "store") as store:
        store.add(built)
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as database, database:
        database.execute("UPDATE blocks SET data = x'00'")
    with Store.open(tmp_path / "store") as store:
        assert store.read_index(root) is None
        assert read(store, [root.multihash]) == [Absent.NOT_HERE]
        [damage] = store.verify(root).damaged
        assert damage.cid == root
        store.add(built)
        assert store.verify(root).damaged_count == 0


def test_a_damaged_directory_block_is_reported(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    a_file(top / "f", 3 * SMALL_LEAF)
    with Store.open(tmp_path / "store") as store:
        root, _ = shared(store, top)
        sub = build(top / "sub").root
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as database, database:
        database.execute("DELETE FROM blocks WHERE multihash = ?", (sub.multihash,))
    with Store.open(tmp_path / "store") as store:
        report = store.verify(root)
        assert [damage.cid for damage in report.damaged] == [sub]
        assert report.checked_bytes == 3 * SMALL_LEAF


# The directory of the store


def test_a_second_process_is_told_who_has_the_store(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from lattica.content import Store, StoreLocked
try:
    Store.open(Path({str(tmp_path / "store")!r}))
except StoreLocked as error:
    print(error)
"""
    with Store.open(tmp_path / "store"):
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            Store.open(tmp_path / "store")
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert f"process {os.getpid()} has the store" in output.stdout
    Store.open(tmp_path / "store").close()


def test_a_store_of_another_version_or_program_is_left_alone(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    database_path = tmp_path / "store" / "index.sqlite"
    with closing(sqlite3.connect(database_path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99"):
        Store.open(tmp_path / "store")
    database_path.unlink()
    with closing(sqlite3.connect(database_path)) as database, database:
        database.execute("CREATE TABLE other (x)")
    with pytest.raises(StoreError, match="another program"):
        Store.open(tmp_path / "store")
    for file in (tmp_path / "store").glob("index.sqlite*"):
        file.unlink()
    database_path.write_bytes(b"not a database, at any rate" * 100)
    with pytest.raises(StoreError):
        Store.open(tmp_path / "store")
    database_path.unlink()
    Store.open(tmp_path / "store").close()


def test_files_that_no_object_owns_are_swept_away_at_the_start(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        kept = store.add_bytes(b"kept", name="kept")
    (tmp_path / "store" / "files" / "stray").write_bytes(b"left by a kill")
    with Store.open(tmp_path / "store") as store:
        assert list((tmp_path / "store" / "files").iterdir()) == [kept.path]
        assert given(store, [kept.root.multihash]) == b"kept"


def test_a_partial_object_cannot_be_verified(store: Store, tmp_path: Path) -> None:
    root = CID.of(b"elsewhere", Codec.DAG_PB)
    store.download(root, tmp_path / "out").close()
    with pytest.raises(InvalidInput, match="not complete"):
        store.verify(root)


def test_what_was_left_on_its_way_into_the_store_goes_at_the_next_start(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        with store.scratch() as folder:
            built = build(a_file(folder / "x", MIB))
            stored = store.add(built, take=True)
        assert stored.path.stat().st_size == MIB
        assert not folder.exists()
        with store.scratch() as folder:
            (tmp_path / "copy").mkdir()
            folder.rename(tmp_path / "copy" / folder.name)  # as if killed before the block ended
            folder.mkdir()
        (tmp_path / "copy" / folder.name).rename(folder)
    with Store.open(tmp_path / "store"):
        assert not folder.exists()
        assert stored.path.exists()
