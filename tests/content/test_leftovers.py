"""Unfinished downloads: what they have left is served, after a restart, too; what is empty goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.content import (
    Availability,
    Built,
    Download,
    FetchProgress,
    NoProvider,
    ObjectState,
    Store,
    build,
)
from lattica.content._messages import unpack_bitmap

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.cid import CID

LEAF = 256 << 10


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A file elsewhere, of ten leaves that all differ."""
    path = tmp_path / "elsewhere.bin"
    path.write_bytes(b"".join(bytes([number]) * LEAF for number in range(1, 11)))
    return build(path)


@pytest.fixture
def tree(tmp_path: Path) -> Built:
    """A directory elsewhere: three leaves, an empty file, one leaf."""
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_bytes(b"a" * LEAF + b"b" * LEAF + b"c")
    (top / "none").write_bytes(b"")
    (top / "sub" / "b").write_bytes(b"d" * 10)
    return build(top)


def begin(store: Store, built: Built, destination: Path) -> Download:
    download = store.download(built.root, destination)
    for cid, block in built.index.items():
        download.add_index(cid, block)
    return download


def receive(store: Store, built: Built, destination: Path, *leaves: int) -> None:
    """Receive some leaves of a file, and stop."""
    content = built.files[0].path.read_bytes()
    with begin(store, built, destination) as download:
        part = download.open_part(built.files[0].leaves)
        for leaf in leaves:
            part.write(leaf, [content[leaf * LEAF : (leaf + 1) * LEAF]])


def here(store: Store, root: CID) -> list[int]:
    """The numbers of the leaves that are here, as told."""
    held = store.availability(root)
    if held is None:
        return []
    return [leaf for leaf, flag in enumerate(unpack_bitmap(held.bitmap, held.leaf_count)) if flag]


def served(store: Store, built: Built) -> list[int]:
    """The numbers of the leaves that are given."""
    given = []
    for leaf in built.files[0].leaves:
        with store.read_blocks([leaf.multihash]) as batch:
            if isinstance(batch.blocks[0], memoryview):
                given.append(leaf.index)
    return given


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "store"


def test_what_was_received_is_served_when_the_download_stops_and_after_a_restart(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", 1, 4, 9)
        assert here(store, built.root) == served(store, built) == [1, 4, 9]
        assert store.leftovers() == []
    with Store.open(folder) as store:
        assert here(store, built.root) == served(store, built) == []
        assert store.leftovers() == [built.root]
        assert store.look_at_leftovers(built.root)
        assert here(store, built.root) == served(store, built) == [1, 4, 9]
        assert store.leftovers() == []
        assert store.object(built.root).state is ObjectState.PARTIAL  # type: ignore[union-attr]  # it is here


def test_a_leaf_that_was_changed_meanwhile_is_not_told_of(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", 1, 4, 9)
    (part,) = tmp_path.glob("out.*.part")
    with part.open("r+b") as file:
        file.seek(4 * LEAF + 7)
        file.write(b"!")
    with Store.open(folder) as store:
        assert store.look_at_leftovers(built.root)
        assert here(store, built.root) == [1, 9]
        part.unlink()
        assert served(store, built) == []  # and what goes later is not given


def test_a_part_that_is_gone_or_empty_is_no_part(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", 1)
    (part,) = tmp_path.glob("out.*.part")
    os.truncate(part, 0)
    with Store.open(folder) as store:
        assert not store.look_at_leftovers(built.root)
        assert here(store, built.root) == []
    part.unlink()
    with Store.open(folder) as store:
        assert not store.look_at_leftovers(built.root)


def test_a_download_that_goes_on_finds_its_part_and_finishes(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", 1, 4)
    with Store.open(folder) as store:
        store.look_at_leftovers(built.root)
        content = built.files[0].path.read_bytes()
        with begin(store, built, tmp_path / "out") as download:
            part = download.open_part(built.files[0].leaves)
            assert here(store, built.root) == []  # it looks for itself
            part.rescan()
            assert here(store, built.root) == [1, 4]
            for leaf in list(part.missing()):
                part.write(leaf, [content[leaf * LEAF : (leaf + 1) * LEAF]])
            download.finish()
        assert (tmp_path / "out").read_bytes() == content
        assert served(store, built) == list(range(10))


def test_what_is_removed_is_told_of_no_more(folder: Path, built: Built, tmp_path: Path) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", 1, 4)
        assert store.remove(built.root)
        assert here(store, built.root) == served(store, built) == []
        assert not list(tmp_path.glob("out*"))


def test_a_look_ends_when_the_download_runs_again(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", *range(10))
    with Store.open(folder) as store:
        hashed: list[int] = []

        def resume(size: int) -> None:
            hashed.append(size)
            if len(hashed) == 1:
                begin(store, built, tmp_path / "out")

        assert not store.look_at_leftovers(built.root, resume)
        assert len(hashed) == 1


def test_so_many_leaves_are_kept_in_mind_and_no_more(
    folder: Path, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"".join(bytes([number]) * LEAF for number in range(20, 30)))
    monkeypatch.setattr("lattica.content._leftovers._MAX_LEAVES", 15)
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "one", 1)
        receive(store, build(other), tmp_path / "two", 2)
        assert here(store, built.root) == []
        assert here(store, build(other).root) == [2]


def test_of_a_directory_it_is_told_which_of_all_its_leaves_are_here(
    folder: Path, tree: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        with begin(store, tree, tmp_path / "out") as download:
            download.make_directory()
            for file in tree.files:
                part = download.open_part(file.leaves, file.relative)
                if file.relative == "sub/b":
                    part.write(0, [b"d" * 10])
                elif file.relative == "a":
                    part.write(1, [b"b" * LEAF])
        assert here(store, tree.root) == [1, 4]
    with Store.open(folder) as store:
        assert here(store, tree.root) == []
        assert store.look_at_leftovers(tree.root)
        assert {1, 4} <= set(here(store, tree.root)) <= {1, 3, 4}  # nothing is missing of "none"
        assert store.availability(tree.root) == Availability(
            5,
            False,
            store.availability(tree.root).bitmap,  # type: ignore[union-attr]  # it is here
        )


def test_a_download_that_was_killed_before_it_wrote_anything_is_dropped(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store, begin(store, built, tmp_path / "out"):
        assert store.object(built.root) is not None
    with Store.open(folder) as store:
        assert store.objects() == []


def test_what_an_earlier_run_received_is_kept_by_one_that_receives_nothing(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        receive(store, built, tmp_path / "out", 3)
    with Store.open(folder) as store:
        with store.download(built.root, tmp_path / "out") as download:
            download.discard_if_empty()
        assert store.look_at_leftovers(built.root)
        assert here(store, built.root) == [3]


# --- whole peers


async def test_a_fetch_that_failed_before_its_first_byte_leaves_nothing(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        root = build(seed.file("model.bin", 5 * LEAF)).root
        with pytest.raises(NoProvider):
            await receiver.fetch(root, seed)
        assert receiver.store.objects() == []
        assert [path.name for path in receiver.folder.iterdir()] == ["store"]


async def test_a_node_that_restarts_serves_the_half_that_it_has(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 4e6
    async with swarm.peers(2) as (seed, half):
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        with trio.CancelScope() as scope:

            def stop(event: Any) -> None:
                if isinstance(event, FetchProgress) and event.verified_bytes > 20 * LEAF:
                    scope.cancel()

            await half.fetch(shared.root, seed, progress=stop)
        assert not half.got.exists()
    parts: list[tuple[CID, bool]] = []
    async with swarm.peers(3) as (seed, half, other):  # all of them start again
        await wait_all_tasks_blocked()
        half.exchange.watch_parts(lambda root, is_here: parts.append((root, is_here)))
        assert parts == [(shared.root, True)]
        fetched = await other.fetch(shared.root, half, seed)
        assert other.got.read_bytes() == shared.path.read_bytes()
        assert fetched.sources[half.mesh.peer_id] > 8 * LEAF


async def test_the_half_alone_is_given_and_then_it_is_said_that_the_rest_is_nowhere(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (half, other):
        built = build(half.file("model.bin", 10 * LEAF))
        receive(half.store, built, half.got, 0, 3, 5)
        with pytest.raises(NoProvider):
            await other.fetch(built.root, half)
        assert here(other.store, built.root) == [0, 3, 5]


def test_downloads_that_are_over_are_not_remembered(built: Built, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        places = [tmp_path / f"got{number}" for number in range(5)]
        for place in places:
            receive(store, built, place, 0)
        for place in places:
            with begin(store, built, place) as download:
                download.discard()
        receive(store, built, tmp_path / "another", 0)
        assert len(store._leftovers._looked) == 1
