"""Others may write where files are received: what they swap, link or leave there leads nowhere."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from lattica.content import StorageError, Store, build
from lattica.content._below import folder_below, open_file_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lattica.content import Built


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def tree(tmp_path: Path) -> Built:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "keys").write_bytes(b"the attacker's")
    return build(tmp_path / "tree")


def when(
    monkeypatch: pytest.MonkeyPatch, name: str, is_due: Callable[[object], bool], act: object
) -> None:
    """Have `act` done once, right before a call of `os` for a path that `is_due`."""
    call = getattr(os, name)
    left = [act]

    def wrapped(path: object, *args: object, **options: object) -> object:
        if left and is_due(path):
            left.pop()()  # type: ignore[operator]  # a callable
        return call(path, *args, **options)

    monkeypatch.setattr(os, name, wrapped)


@pytest.mark.parametrize("level", [0, 1])
def test_a_directory_that_is_swapped_for_a_symlink_at_any_instant_is_not_followed(
    store: Store, tree: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    home = tmp_path / "home"  # of the victim, who runs the get
    (home / "sub").mkdir(parents=True)
    (home / "sub" / "keys").write_bytes(b"the victim's")
    with store.download(tree.root, tmp_path / "out") as download:
        download.make_directory("sub")
        target = [download.part_path, download.part_path / "sub"][level]

        def swap() -> None:
            target.rename(tmp_path / "moved")
            target.symlink_to([home, home / "sub"][level])

        when(monkeypatch, "open", lambda path: str(path).endswith("keys"), swap)
        part = download.open_part(tree.files[0].leaves, "sub/keys")
        with pytest.raises(StorageError, match=r"replaced|No such file"):
            part.write(0, [b"the attacker's"])
    assert (home / "sub" / "keys").read_bytes() == b"the victim's"
    assert os.path.islink(target)  # it was swapped


def test_a_part_file_with_another_name_is_written_anew_and_that_one_stays_as_it_is(
    store: Store, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    (tmp_path / "model").write_bytes(b"weights")
    built = build(tmp_path / "model")
    with store.download(built.root, tmp_path / "out") as download:
        os.link(precious, download.part_path)
        part = download.open_part(built.files[0].leaves)
        part.write(0, [b"weights"])
        download.finish()
    assert precious.read_bytes() == b"mine"
    assert (tmp_path / "out").read_bytes() == b"weights"


def give_away(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have a file or directory seem to belong to somebody else."""
    inode, look = path.stat().st_ino, os.fstat

    def seen(descriptor: int) -> os.stat_result:
        status = look(descriptor)
        fields = list(status)
        fields[stat.ST_UID] += status.st_ino == inode
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", seen)


@pytest.mark.parametrize("what", ["", "sub", "sub/keys"])
def test_what_belongs_to_another_user_is_not_written_to(
    store: Store, tree: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with store.download(tree.root, tmp_path / "out") as download:
        (download.part_path / "sub").mkdir(parents=True)
        (download.part_path / "sub" / "keys").write_bytes(b"")
        give_away(monkeypatch, download.part_path / what)
        with pytest.raises(StorageError, match="another user"):
            download.open_part(tree.files[0].leaves, "sub/keys")


def test_a_file_of_the_folders_owner_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").write_bytes(b"")
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
    with folder_below(tmp_path, []) as folder:
        os.close(open_file_below(folder, "here"))


def test_folders_that_are_opened_are_closed_whatever_happens(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with folder_below(tmp_path, ["a", "b"]):
            pass
        with pytest.raises(NotADirectoryError), folder_below(tmp_path, ["a", "..", "file", "c"]):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
