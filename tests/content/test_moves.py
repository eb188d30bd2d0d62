"""Files that were moved, changed or removed are noticed without being read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lattica.content import Absent, ObjectState, Store, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lattica.cid import CID

LEAF = 256 << 10


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(os.urandom(2 * LEAF))
    return path


def state(store: Store, root: CID) -> ObjectState:
    found = store.object(root)
    assert found is not None
    return found.state


def is_served(store: Store, path: Path) -> bool:
    leaf = build(path).files[0].leaves[1]
    with store.read_blocks([leaf.multihash]) as batch:
        return not isinstance(batch.blocks[0], Absent)


def test_a_file_that_was_renamed_in_its_folder_is_found_again(store: Store, path: Path) -> None:
    root = store.add(build(path)).root
    new = path.rename(path.with_name("renamed"))
    assert store.look() == 1
    assert (state(store, root), store.objects()[0].path) == (ObjectState.COMPLETE, new)
    assert is_served(store, new)
    assert store.look() == 0


def test_a_file_of_a_directory_that_was_renamed_is_found_again(store: Store, path: Path) -> None:
    root = store.add(build(path.parent)).root
    path.rename(path.with_name("renamed"))
    assert store.look() == 1
    assert state(store, root) is ObjectState.COMPLETE
    assert store.objects()[0].path == path.parent
    assert store.verify(root).damaged_count == 0


def test_a_file_that_was_moved_away_is_noticed_and_healed_by_sharing_it_anew(
    store: Store, path: Path, tmp_path: Path
) -> None:
    root = store.add(build(path)).root
    new = path.rename(tmp_path / "elsewhere")
    assert store.look() == 0
    assert state(store, root) is ObjectState.CHANGED
    assert store.add(build(new)).root == root
    assert (state(store, root), store.objects()[0].path) == (ObjectState.COMPLETE, new)


def test_a_file_that_was_moved_away_and_back_is_served_again(store: Store, path: Path) -> None:
    root = store.add(build(path)).root
    away = path.rename(path.parent.parent / "away")
    store.look()
    assert state(store, root) is ObjectState.CHANGED
    away.rename(path)
    store.look()
    assert state(store, root) is ObjectState.COMPLETE
    assert is_served(store, path)


def test_a_file_that_was_written_to_is_noticed(store: Store, path: Path) -> None:
    root = store.add(build(path)).root
    with path.open("ab") as file:
        file.write(b"more")
    store.look()
    assert state(store, root) is ObjectState.CHANGED


def test_another_file_under_a_new_name_is_not_taken_for_the_one_that_is_gone(
    store: Store, path: Path
) -> None:
    root = store.add(build(path)).root
    content = path.read_bytes()
    path.unlink()
    path.with_name("other").write_bytes(content[:-1] + b"?")
    assert store.look() == 0
    assert state(store, root) is ObjectState.CHANGED


def test_what_looks_as_it_did_is_still_hashed_before_it_is_served(store: Store, path: Path) -> None:
    root = store.add(build(path)).root
    good = build(path).files[0].leaves[1].multihash
    stamp = path.stat()
    with path.open("r+b") as file:
        file.seek(LEAF + 5)
        file.write(b"?")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    store.look()
    assert state(store, root) is ObjectState.COMPLETE  # nothing can be seen from outside
    with store.read_blocks([good]) as batch:
        assert isinstance(batch.blocks[0], Absent)
