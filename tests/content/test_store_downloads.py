"""Content on its way in: written in place, resumed by its hashes, served meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from lattica.cid import CID
from lattica.content import (
    Absent,
    Built,
    DagError,
    DestinationTaken,
    Download,
    Kind,
    LeafTable,
    ObjectState,
    PartFile,
    Segment,
    StorageError,
    Store,
    UnsafeName,
    _download,
    build,
)
from lattica.content._below import open_file_below
from lattica.content._dag import SMALL_LEAF
from lattica.content._index import Index
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lattica.content._rows import FileRow

SIZE = 10 * SMALL_LEAF + 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Built:
    """A file elsewhere, whose leaves all differ."""
    path = tmp_path / "elsewhere" / "model.bin"
    path.parent.mkdir()
    path.write_bytes((bytes(range(251)) * (SIZE // 251 + 1))[:SIZE])
    return build(path)


@pytest.fixture
def tree(tmp_path: Path) -> Built:
    """A directory elsewhere."""
    top = tmp_path / "elsewhere-tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "a").write_bytes(b"a" * (2 * SMALL_LEAF + 1))
    (top / "sub" / "b").write_bytes(b"b" * 10)
    (top / "none").write_bytes(b"")
    return build(top)


def leaf_of(built: Built, index: int, file: int = 0) -> bytes:
    leaf = built.files[file].leaves[index]
    with built.files[file].path.open("rb") as opened:
        opened.seek(leaf.offset)
        return opened.read(leaf.length)


def begin(store: Store, built: Built, destination: Path) -> tuple[Download, PartFile]:
    download = store.download(built.root, destination)
    for cid, block in built.index.items():
        download.add_index(cid, block)
    return download, download.open_part(built.files[0].leaves)


def fill(part: PartFile, built: Built, file: int = 0) -> None:
    for index in list(part.missing()):
        part.write(index, [leaf_of(built, index, file)])


def state(store: Store, root: CID) -> ObjectState:
    stored = store.object(root)
    assert stored is not None
    return stored.state


def test_a_download_lands_at_its_destination_and_is_served_from_there(
    store: Store, source: Built, tmp_path: Path
) -> None:
    destination = tmp_path / "new" / "folder" / "model.bin"
    download, part = begin(store, source, destination)
    assert download.part_path.parent == destination.parent
    assert state(store, source.root) is ObjectState.PARTIAL
    fill(part, source)
    assert part.done
    assert part.verified_bytes == SIZE
    stored = download.finish(name="a model")
    assert stored == store.object(source.root)
    assert (stored.path, stored.name, stored.size) == (destination, "a model", SIZE)
    assert stored.state is ObjectState.COMPLETE
    assert destination.read_bytes() == source.path.read_bytes()
    assert os.listdir(destination.parent) == ["model.bin"]
    assert store.verify(source.root).damaged_count == 0
    with store.read_blocks([source.files[0].leaves[10].multihash]) as batch:
        assert batch.blocks == [leaf_of(source, 10)]
    store.remove(source.root)
    assert destination.exists()


def test_leaves_come_in_any_order_and_several_at_once(
    store: Store, source: Built, tmp_path: Path
) -> None:
    download, part = begin(store, source, tmp_path / "out")
    assert list(part.missing()) == list(range(11))
    part.write(8, [leaf_of(source, 8), memoryview(leaf_of(source, 9)), leaf_of(source, 10)])
    part.write(0, [leaf_of(source, 0)])
    part.write(0, [leaf_of(source, 0)])
    assert list(part.missing()) == list(range(1, 8))
    assert part.bitmap() == bytes([0b00000001, 0b00000111])
    assert part.verified_bytes == 3 * SMALL_LEAF + 5
    assert part.has(8)
    assert not part.has(1)
    fill(part, source)
    download.finish()
    assert (tmp_path / "out").read_bytes() == source.path.read_bytes()


def test_what_has_arrived_is_served_and_nothing_else(
    store: Store, source: Built, tmp_path: Path
) -> None:
    download, part = begin(store, source, tmp_path / "out")
    part.write(3, [leaf_of(source, 3)])
    multihashes = [leaf.multihash for leaf in source.files[0].leaves]
    with store.read_blocks(multihashes[2:5]) as batch:
        assert batch.blocks == [Absent.NOT_HERE, leaf_of(source, 3), Absent.NOT_HERE]
    assert store.has(multihashes[3])
    assert not store.has(multihashes[2])
    held = store.availability(source.root)
    assert held is not None
    assert (held.leaf_count, held.complete, held.bitmap) == (11, False, bytes([0b1000, 0]))
    download.close()
    assert store.availability(source.root) == held
    with store.read_blocks(multihashes[2:5]) as batch:
        assert batch.blocks == [Absent.NOT_HERE, leaf_of(source, 3), Absent.NOT_HERE]
    assert source.root.multihash not in set(store.provided())


def test_a_leaf_that_rots_in_the_part_file_is_missing_again(
    store: Store, source: Built, tmp_path: Path
) -> None:
    download, part = begin(store, source, tmp_path / "out")
    part.write(3, [leaf_of(source, 3)])
    with download.part_path.open("r+b") as file:
        file.seek(3 * SMALL_LEAF)
        file.write(b"rot")
    with store.read_blocks([source.files[0].leaves[3].multihash]) as batch:
        assert batch.blocks == [Absent.NOT_HERE]
    assert not part.has(3)
    assert part.verified_bytes == 0
    fill(part, source)
    download.finish()


def test_a_download_goes_on_after_a_restart_with_every_leaf_it_had(
    source: Built, tmp_path: Path
) -> None:
    with Store.open(tmp_path / "store") as store:
        _, part = begin(store, source, tmp_path / "out")
        for index in (0, 5, 10):
            part.write(index, [leaf_of(source, index)])
    with Store.open(tmp_path / "store") as store:
        assert state(store, source.root) is ObjectState.PARTIAL
        assert store.read_index(source.root) == source.index[source.root]
        with store.download(source.root, tmp_path / "out") as download:
            part = download.open_part(source.files[0].leaves)
            assert len(list(part.missing())) == 11
            counts: list[int] = []
            part.rescan(counts.append)
            assert [index for index in range(11) if part.has(index)] == [0, 5, 10]
            assert sum(counts) <= 4 * SMALL_LEAF  # holes are not read
            fill(part, source)
            download.finish()
    assert (tmp_path / "out").read_bytes() == source.path.read_bytes()


def test_damage_done_between_two_runs_is_found(source: Built, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        download, part = begin(store, source, tmp_path / "out")
        fill(part, source)
    with download.part_path.open("r+b") as file:
        file.seek(5 * SMALL_LEAF)
        file.write(b"rot")
        file.truncate(9 * SMALL_LEAF)
    with Store.open(tmp_path / "store") as store:
        with store.download(source.root, tmp_path / "out") as download:
            part = download.open_part(source.files[0].leaves)
            part.rescan()
            assert list(part.missing()) == [5, 9, 10]


def test_a_part_file_that_was_deleted_begins_anew(source: Built, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        download, part = begin(store, source, tmp_path / "out")
        fill(part, source)
    download.part_path.unlink()
    with Store.open(tmp_path / "store") as store:
        download, part = begin(store, source, tmp_path / "out")
        part.rescan()
        assert list(part.missing()) == list(range(11))
        fill(part, source)
        download.finish()
        assert store.verify(source.root).damaged_count == 0


def test_a_rescan_can_be_stopped(store: Store, source: Built, tmp_path: Path) -> None:
    _, part = begin(store, source, tmp_path / "out")
    fill(part, source)

    def stop(_count: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        part.rescan(stop)


def test_leaves_that_are_here_already_are_copied_not_fetched(
    store: Store, source: Built, tmp_path: Path
) -> None:
    data = source.path.read_bytes()
    near = tmp_path / "near"
    near.write_bytes(data[: 4 * SMALL_LEAF])
    store.add(build(near))
    _, part = begin(store, source, tmp_path / "out")
    counts: list[int] = []
    assert part.fill_from_store(counts.append) == 4 * SMALL_LEAF
    assert sum(counts) == 4 * SMALL_LEAF
    assert list(part.missing()) == list(range(4, 11))


def test_a_whole_object_that_is_here_can_be_downloaded_to_a_second_place(
    store: Store, source: Built, tmp_path: Path
) -> None:
    store.add(source, pinned=True)
    download, part = begin(store, source, tmp_path / "out")
    assert state(store, source.root) is ObjectState.COMPLETE
    part.fill_from_store()
    stored = download.finish()
    assert stored.path == tmp_path / "out"
    source.path.unlink()
    assert store.verify(source.root).damaged_count == 0
    [again] = store.objects()
    assert again.pinned


def test_an_empty_file_is_done_once_its_empty_leaf_is(store: Store, tmp_path: Path) -> None:
    root = CID.of(b"")
    table = LeafTable(root)
    table.append(0, root.multihash)
    with store.download(root, tmp_path / "out") as download:
        part = download.open_part(table)
        assert not part.done
        part.rescan()
        assert part.done
        download.finish()
    assert (tmp_path / "out").read_bytes() == b""
    with store.read_blocks([root.multihash]) as batch:
        assert batch.blocks == [b""]


def test_a_directory_appears_at_once_and_whole(store: Store, tree: Built, tmp_path: Path) -> None:
    destination = tmp_path / "out"
    with store.download(tree.root, destination) as download:
        for cid, block in tree.index.items():
            download.add_index(cid, block)
        download.make_directory("sub/empty")
        for number, file in enumerate(tree.files):
            part = download.open_part(file.leaves, file.relative)
            assert download.open_part(file.leaves, file.relative) is part
            fill(part, tree, number)
        assert not destination.exists()
        stored = download.finish()
    assert (stored.kind, stored.size, stored.path) == (Kind.DIRECTORY, tree.size, destination)
    assert build(destination).root == tree.root
    assert store.verify(tree.root).damaged_count == 0
    for file in tree.files:
        held = store.availability(file.root)
        assert held is not None
        assert held.complete


def test_a_download_with_missing_leaves_is_not_finished(
    store: Store, tree: Built, tmp_path: Path
) -> None:
    with store.download(tree.root, tmp_path / "out") as download:
        for number, file in enumerate(tree.files):
            fill(download.open_part(file.leaves, file.relative), tree, number)
    with store.download(tree.root, tmp_path / "out") as download:
        for file in tree.files:
            with pytest.raises(InvalidInput, match="not complete"):
                download.finish()
            download.open_part(file.leaves, file.relative).rescan()
        download.finish()


def test_an_empty_directory_is_an_object(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    built = build(tmp_path / "empty")
    with store.download(built.root, tmp_path / "out") as download:
        download.add_index(built.root, built.index[built.root])
        download.make_directory()
        assert download.finish().kind is Kind.DIRECTORY
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../b", "a//b", ".", "a/", "a\0b"])
def test_a_path_does_not_lead_out_of_the_object(
    store: Store, tree: Built, tmp_path: Path, path: str
) -> None:
    with store.download(tree.root, tmp_path / "out") as download:
        with pytest.raises(UnsafeName):
            download.open_part(tree.files[0].leaves, path)
        with pytest.raises(UnsafeName):
            download.make_directory(path)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere-tree", "store"]


def test_a_symlink_in_the_place_of_a_part_file_is_not_followed(
    store: Store, source: Built, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    with store.download(source.root, tmp_path / "out") as download:
        download.part_path.symlink_to(precious)
        with pytest.raises(StorageError):
            download.open_part(source.files[0].leaves)
    assert precious.read_bytes() == b"mine"


@pytest.mark.parametrize("link", ["", "sub"])
def test_a_symlink_in_the_place_of_a_directory_is_not_followed(
    store: Store, tree: Built, tmp_path: Path, link: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    part = next(file for file in tree.files if file.relative == "sub/b")
    with store.download(tree.root, tmp_path / "out") as download:
        if link:
            download.part_path.mkdir()
        (download.part_path / link).symlink_to(precious)
        for attempt in (
            lambda: download.open_part(part.leaves, "sub/b"),
            lambda: download.make_directory("sub"),
            lambda: download.make_directory("sub/empty"),
        ):
            with pytest.raises(StorageError, match="symlink"):
                attempt()
    assert not list(precious.iterdir())


def test_a_symlink_on_the_way_to_the_destination_is_followed(
    store: Store, source: Built, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    download, part = begin(store, source, tmp_path / "models" / "out")
    with download:
        fill(part, source)
        download.finish()
    assert (tmp_path / "disk" / "out").read_bytes() == source.path.read_bytes()


def test_a_file_that_has_two_names_on_this_disk_is_refused(
    store: Store, tree: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_case(folder: int, name: str) -> int:
        return open_file_below(folder, name.lower())

    monkeypatch.setattr(_download, "open_file_below", without_case)
    with store.download(tree.root, tmp_path / "out") as download:
        download.open_part(tree.files[0].leaves, "weights")
        with pytest.raises(StorageError, match="under another name"):
            download.open_part(tree.files[1].leaves, "Weights")


def test_a_directory_of_more_files_than_may_be_open_is_received(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "_MAX_OPEN", 3)
    (tmp_path / "many").mkdir()
    for number in range(40):
        (tmp_path / "many" / str(number)).write_bytes(bytes([number]))
    built = build(tmp_path / "many")
    before = len(os.listdir("/dev/fd"))
    with store.download(built.root, tmp_path / "out") as download:
        for cid, block in built.index.items():
            download.add_index(cid, block)
        parts = [download.open_part(file.leaves, file.relative) for file in built.files]
        for number, part in enumerate(parts):
            part.rescan()
            fill(part, built, number)
        assert len(os.listdir("/dev/fd")) <= before + 3
        download.finish()
    assert build(tmp_path / "out").root == built.root


def test_the_work_for_a_part_does_not_grow_with_their_number(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[int] = []
    files = Index.files

    def listed(index: Index, number: int) -> list[FileRow]:
        listings.append(number)
        return files(index, number)

    monkeypatch.setattr(Index, "files", listed)
    (tmp_path / "many").mkdir()
    for number in range(20):
        (tmp_path / "many" / str(number)).write_bytes(bytes([number]))
    built = build(tmp_path / "many")
    with store.download(built.root, tmp_path / "out") as download:
        for file in built.files:
            download.open_part(file.leaves, file.relative)
    assert len(listings) == 1


def test_a_part_file_that_is_replaced_while_it_is_written_is_noticed(
    store: Store, source: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "_MAX_OPEN", 0)
    download, part = begin(store, source, tmp_path / "out")
    with download:
        part.write(0, [leaf_of(source, 0)])
        other = tmp_path / "other"
        other.write_bytes(b"mine")
        other.rename(part.path)
        with pytest.raises(StorageError, match="replaced"):
            part.write(1, [leaf_of(source, 1)])
        assert part.path.read_bytes() == b"mine"


def test_a_directory_is_never_written_over(store: Store, source: Built, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DestinationTaken, match="is a directory"):
        store.download(source.root, tmp_path / "out", overwrite=True)


def test_a_directory_replaces_no_file(store: Store, tree: Built, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with store.download(tree.root, tmp_path / "out", overwrite=True) as download:
        with pytest.raises(DestinationTaken, match="replaces nothing"):
            download.make_directory()
    assert not download.part_path.exists()


def test_a_full_disk_is_told_apart_from_a_damaged_index(
    store: Store, source: Built, tmp_path: Path
) -> None:
    writer = store._index._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        for number in range(100):
            other = tmp_path / f"{number}"
            other.write_bytes(bytes([number]) * 100)
            store.add(build(other))
    writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.add(source)


def test_a_destination_that_is_taken_is_left_alone(
    store: Store, source: Built, tmp_path: Path
) -> None:
    destination = tmp_path / "out"
    destination.write_bytes(b"mine")
    with pytest.raises(DestinationTaken):
        store.download(source.root, destination)
    destination.unlink()
    download, part = begin(store, source, destination)
    with pytest.raises(DestinationTaken, match="already"):
        store.download(source.root, destination)
    fill(part, source)
    destination.write_bytes(b"came in between")
    with pytest.raises(DestinationTaken):
        download.finish()
    assert destination.read_bytes() == b"came in between"
    assert download.part_path.stat().st_size == SIZE
    destination.unlink()
    download.finish()
    assert destination.read_bytes() == source.path.read_bytes()


def test_a_file_is_overwritten_only_when_told_and_only_at_the_end(
    store: Store, source: Built, tmp_path: Path
) -> None:
    destination = tmp_path / "out"
    destination.write_bytes(b"old")
    with store.download(source.root, destination, overwrite=True) as download:
        part = download.open_part(source.files[0].leaves)
        fill(part, source)
        assert destination.read_bytes() == b"old"
        download.finish()
    assert destination.read_bytes() == source.path.read_bytes()


def test_two_versions_can_be_on_their_way_to_one_destination(
    store: Store, source: Built, tmp_path: Path
) -> None:
    destination = tmp_path / "out"
    one, part = begin(store, source, destination)
    part.write(0, [leaf_of(source, 0)])
    one.close()
    other = store.add_bytes(b"another version", name="v2")
    with store.download(other.root, destination) as two:
        assert two.part_path != one.part_path
        table = LeafTable(other.root)
        table.append(15, other.root.multihash)
        assert two.open_part(table).fill_from_store() == 15
        two.finish()
    assert destination.read_bytes() == b"another version"


def test_a_discarded_download_leaves_nothing(store: Store, source: Built, tmp_path: Path) -> None:
    download, part = begin(store, source, tmp_path / "out")
    fill(part, source)
    with pytest.raises(InvalidInput, match="being downloaded"):
        store.remove(source.root)
    download.discard()
    assert store.objects() == []
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "store"]
    assert store.read_index(source.root) is None


def test_removing_a_stopped_download_deletes_what_it_wrote(
    store: Store, tree: Built, tmp_path: Path
) -> None:
    with store.download(tree.root, tmp_path / "out") as download:
        download.open_part(tree.files[0].leaves, "a")
        assert download.part_path.is_dir()
    assert store.remove(tree.root)
    assert not download.part_path.exists()


def test_a_leaf_of_the_wrong_length_is_the_indexs_lie(
    store: Store, source: Built, tmp_path: Path
) -> None:
    _, part = begin(store, source, tmp_path / "out")
    with pytest.raises(DagError):
        part.write(0, [leaf_of(source, 0)[:-1]])
    with pytest.raises(IndexError):
        part.write(10, [leaf_of(source, 10), b"more"])
    assert part.verified_bytes == 0


def test_a_full_disk_is_a_typed_error_and_keeps_what_was_there(
    store: Store, source: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download, part = begin(store, source, tmp_path / "out")
    part.write(0, [leaf_of(source, 0)])

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        with pytest.raises(StorageError, match="No space"):
            part.write(1, [leaf_of(source, 1)])
        assert not part.has(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        fill(part, source)
        with pytest.raises(StorageError, match="No space"):
            download.finish()
    download.finish()


def test_an_object_larger_than_the_disk_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    root = CID.of(b"huge")
    table = LeafTable(root)
    table.append(1 << 60, root.multihash)
    with store.download(root, tmp_path / "out") as download:
        with pytest.raises(StorageError, match="more bytes"):
            download.open_part(table)


def test_short_writes_are_completed(
    store: Store, source: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return real(descriptor, [buffers[0][:100_000]], offset)

    download, part = begin(store, source, tmp_path / "out")
    monkeypatch.setattr(os, "pwritev", short)
    part.write(0, [leaf_of(source, index) for index in range(11)])
    monkeypatch.undo()
    download.finish()
    assert (tmp_path / "out").read_bytes() == source.path.read_bytes()


def test_threads_may_write_leaves_of_one_byte_of_the_bitmap(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    path.write_bytes(os.urandom(2000))
    built = build(path, segments=[Segment(1)] * 2000)
    _, part = begin(store, built, tmp_path / "out")
    data = path.read_bytes()

    def write(first: int) -> None:
        for index in range(first, 2000, 4):
            part.write(index, [data[index : index + 1]])

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert part.done


def test_a_closed_part_refuses_writes(store: Store, source: Built, tmp_path: Path) -> None:
    download, part = begin(store, source, tmp_path / "out")
    download.close()
    download.close()
    with pytest.raises(StorageError, match="closed"):
        part.write(0, [leaf_of(source, 0)])


def test_a_long_name_still_has_room_for_its_part_file(
    store: Store, source: Built, tmp_path: Path
) -> None:
    destination = tmp_path / ("é" * 127)
    download, part = begin(store, source, destination)
    fill(part, source)
    download.finish()
    assert destination.exists()
