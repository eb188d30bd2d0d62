"""A disk that is full, read-only or failing: what is said of it, and how to get out of it."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from lattica.content import StorageError, Store, StoreError
from lattica.content._index import Index
from lattica.content._schema import store_errors
from lattica.content._spare import SPARE, SPARE_BYTES
from lattica.content._values import ObjectState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lattica.content._transaction import Transaction


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


class FullDisk:
    """No transaction succeeds while the store's spare room is there, or `spent` does not help."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spare, self.spent_helps = store.path / SPARE, True
        self._writing = Index.writing
        disk = self

        def writing(index: Index) -> AbstractContextManager[Transaction]:
            if disk.spare.exists() or not disk.spent_helps:
                raise StorageError("cannot write the store's index: database or disk is full")
            return disk._writing(index)

        monkeypatch.setattr(Index, "writing", writing)
        monkeypatch.setattr(Index, "compact", self._refuse)

    @staticmethod
    def _refuse(_index: Index) -> None:
        raise StorageError("cannot write the store's index: database or disk is full")


def test_something_can_be_deleted_from_a_full_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.add_bytes(b"x" * 5000, name="bytes").root
    assert (store.path / SPARE).stat().st_blocks * 512 >= SPARE_BYTES
    disk = FullDisk(store, monkeypatch)
    with pytest.raises(StorageError):
        store.pin(root)
    assert store.remove(root)
    assert not list((store.path / "files").iterdir())
    assert disk.spare.exists()  # there is room again


def test_garbage_can_be_collected_on_a_full_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.path / "files" / "stray").write_bytes(b"x" * 5000)
    FullDisk(store, monkeypatch)
    freed, _ = store.collect()
    assert freed >= 5000


def test_a_disk_that_is_fuller_than_that_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.add_bytes(b"x" * 5000, name="bytes").root
    disk = FullDisk(store, monkeypatch)
    disk.spent_helps = False
    for _ in range(2):
        with pytest.raises(StorageError, match="full"):
            store.remove(root)
    disk.spare.unlink(missing_ok=True)
    disk.spent_helps = True
    assert store.remove(root)


def test_a_disk_without_room_to_set_aside_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with Store.open(tmp_path / "store") as store:
            assert not (store.path / SPARE).exists()
            assert store.objects() == []


def test_a_store_closes_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path / "store") as store:
        root = store.add_bytes(b"x" * 5000, name="bytes").root
        store.read_blocks([root.multihash]).release()  # which is noted at the end
        FullDisk(store, monkeypatch)
    monkeypatch.undo()
    with Store.open(tmp_path / "store") as store:
        assert [stored.state for stored in store.objects()] == [ObjectState.COMPLETE]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StorageError),
        (sqlite3.SQLITE_IOERR_SHMSIZE, StorageError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StorageError),
        (sqlite3.SQLITE_CANTOPEN, StorageError),
        (sqlite3.SQLITE_CORRUPT, StoreError),
        (sqlite3.SQLITE_NOTADB, StoreError),
    ],
)
def test_a_disk_that_refuses_is_not_taken_for_a_store_that_is_damaged(
    tmp_path: Path, code: int, kind: Any
) -> None:
    error = sqlite3.OperationalError("it does not work")
    error.sqlite_errorcode = code
    with pytest.raises(kind) as raised, store_errors(tmp_path):
        raise error
    assert ("removed" in raised.value.hint) == (kind is StoreError)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_may_not_be_written_to_is_not_called_full(code: int) -> None:
    error = StorageError.of("cannot write x", OSError(code, os.strerror(code)))
    assert "may write to" in error.hint
    assert "space" in StorageError.of("cannot write x", OSError(errno.ENOSPC, "full")).hint


def test_a_new_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Store.open(tmp_path / "deep" / "store") as store:
            assert store.path.stat().st_mode & 0o077 == 0
    finally:
        os.umask(before)
