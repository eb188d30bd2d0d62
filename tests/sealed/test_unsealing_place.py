"""What was sealed reaches nobody else's files on its way to the disk, and nobody else's eyes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from lattica import codec
from lattica.content import DestinationTaken, StorageError
from lattica.sealed import CHUNK_BYTES, Sealer, Table, Unsealing, _sealing, open_sealed, seal

from .test_sealed_form import ADA, Bytes, noise, sealed, unsealed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lattica.identity import PeerId
    from lattica.sealed import SealedReader


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    noise(tmp_path / "tree" / "sub" / "secret", 100)
    noise(tmp_path / "tree" / "weights", 3 * CHUNK_BYTES)
    return tmp_path / "tree"


async def opened(tree: Path) -> tuple[SealedReader, list[bytes]]:
    reader = await open_sealed(Bytes(sealed(tree, ADA)), ADA)
    async with reader.chunks() as chunks:
        return reader, [chunk async for chunk in chunks]


async def test_a_planted_folder_is_not_used(tree: Path, tmp_path: Path) -> None:
    reader, _ = await opened(tree)
    (tmp_path / "theirs").mkdir()
    (tmp_path / ".out.tag.unsealing").symlink_to(tmp_path / "theirs")
    with pytest.raises(StorageError, match="symlink"):
        Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False)
    assert not list((tmp_path / "theirs").iterdir())


async def test_a_folder_of_another_user_is_not_used_be_it_the_owner_of_the_place(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, _ = await opened(tree)
    (tmp_path / ".out.tag.unsealing").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StorageError, match="another user"):
        Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False)


async def test_a_folder_that_others_may_enter_is_shut_first(tree: Path, tmp_path: Path) -> None:
    reader, _ = await opened(tree)
    folder = tmp_path / ".out.tag.unsealing"
    folder.mkdir()
    folder.chmod(0o777)
    with Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_nothing_is_written_elsewhere_when_the_folder_is_swapped_on_the_way(
    tree: Path, tmp_path: Path
) -> None:
    reader, plain = await opened(tree)
    victim = tmp_path / "victim"
    (victim / "data" / "sub").mkdir(parents=True)
    for name in ("sub/secret", "weights"):
        (victim / "data" / name).write_bytes(b"mine")
    folder = tmp_path / ".out.tag.unsealing"
    with Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False) as output:
        for number, chunk in enumerate(plain):
            if number == 1:
                folder.rename(tmp_path / "moved")
                folder.symlink_to(victim)
            output.write(chunk)
        output.finish()
    assert {(victim / "data" / name).read_bytes() for name in ("sub/secret", "weights")} == {
        b"mine"
    }
    assert (tmp_path / "out" / "weights").read_bytes() == (tree / "weights").read_bytes()


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_comes_to_stand_there_meanwhile_is_not_written_over(
    tree: Path, tmp_path: Path, kind: str
) -> None:
    source = tree if kind == "folder" else tree / "weights"
    reader, plain = await opened(source)
    with Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False) as output:
        for chunk in plain:
            output.write(chunk)
        (tmp_path / "out").write_bytes(b"mine")
        with pytest.raises(DestinationTaken):
            output.finish()
    assert (tmp_path / "out").read_bytes() == b"mine"
    (tmp_path / "out").unlink()
    with Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False) as output:
        assert output.next_chunk == len(plain)  # all was kept
        output.finish()
    assert (tmp_path / "out").exists()
    assert not (tmp_path / ".out.tag.unsealing").exists()


async def test_the_longest_name_there_is_can_be_unsealed(tmp_path: Path) -> None:
    data, name = noise(tmp_path / "source", 10), "é" * 127
    got = tmp_path / "got" / name
    await unsealed(sealed(tmp_path / "source", ADA, name=name), ADA, got)
    assert got.read_bytes() == data
    assert os.listdir(got.parent) == [name]


async def test_what_a_later_version_says_in_the_table_moves_no_byte(tmp_path: Path) -> None:
    fields = {"name": "file", "tree": False, "directories": [], "files": [["", 5]], "new": "x" * 9}
    body = codec.pack(fields)  # type: ignore[arg-type]  # a dict of values
    sealer = Sealer([ADA.peer_id])
    plain = len(body).to_bytes(4, "big") + body + b"hello"
    wire = sealer.header + sealer.seal(plain.ljust(CHUNK_BYTES, b"\0"), last=True)
    assert (await unsealed(wire, ADA, tmp_path / "out")).read_bytes() == b"hello"
    reader = await open_sealed(Bytes(wire), ADA)
    assert await reader.read(1, 3) == b"ell"
    assert reader.table == Table("file", {"": 5})


async def test_a_symlink_that_was_named_is_sealed_as_what_it_leads_to(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(tree / "weights")
    reader = await open_sealed(Bytes(sealed(tmp_path / "model", ADA)), ADA)
    assert reader.table.name == "model"
    assert await reader.read(0, 10) == (tree / "weights").read_bytes()[:10]


def test_a_directory_that_becomes_a_symlink_while_it_is_sealed_is_not_followed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_bytes(bytes(100))

    class Swapper(Sealer):  # begins once the tree has been listed
        def __init__(self, recipients: Sequence[PeerId]) -> None:
            super().__init__(recipients)
            (tree / "sub").rename(tmp_path / "moved")
            (tree / "sub").symlink_to(tmp_path / "home")

    monkeypatch.setattr(_sealing, "Sealer", Swapper)
    with pytest.raises(StorageError):
        seal(tree, tmp_path / "sealed", [ADA.peer_id])
    assert not (tmp_path / "sealed").exists()
