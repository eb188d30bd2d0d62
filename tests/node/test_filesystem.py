"""`lattica://` as programs that open files through fsspec see it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import fsspec
import pytest

import lattica
from lattica.errors import InvalidInput
from lattica.filesystem import LatticaFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


@pytest.fixture
def seed(tmp_path: Path) -> Iterator[lattica.Node]:
    with lattica.Node(tmp_path / "seed", listen=LOOPBACK, bootstrap=[], mdns=False) as node:
        yield node


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LatticaFileSystem]:
    monkeypatch.setenv("LATTICA_HOME", str(tmp_path / "reader"))
    monkeypatch.setenv("LATTICA_MDNS", "false")
    monkeypatch.setenv("LATTICA_LISTEN", LOOPBACK[0])
    opened = LatticaFileSystem(skip_instance_cache=True)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({"layers": 2}))
    (root / "weights.bin").write_bytes(bytes(range(256)) * 8192)
    (root / "deep" / "er" / "notes.txt").write_text("one\ntwo\n")
    return root


def ref_of(share: lattica.Share) -> str:
    return str(share.ticket).removeprefix("lattica:")


def test_a_file_is_read_in_ranges(
    seed: lattica.Node, files: LatticaFileSystem, folder: Path
) -> None:
    ref = ref_of(seed.share(folder / "weights.bin"))
    content = (folder / "weights.bin").read_bytes()
    assert files.info(f"lattica://{ref}") == {"name": ref, "size": len(content), "type": "file"}
    assert files.cat_file(f"lattica://{ref}", 1000, 1010) == content[1000:1010]
    assert files.cat_file(f"lattica://{ref}", -5) == content[-5:]
    with files.open(f"lattica://{ref}") as file:
        file.seek(2_000_000)
        assert file.read(7) == content[2_000_000:2_000_007]
        assert file.seek(0) == 0
        assert file.read() == content


def test_directories_are_listed_walked_and_fetched(
    seed: lattica.Node, files: LatticaFileSystem, folder: Path, tmp_path: Path
) -> None:
    ref = ref_of(seed.share(folder))
    names = [entry["name"].removeprefix(f"{ref}/") for entry in files.ls(ref)]
    assert names == ["config.json", "deep", "weights.bin"]
    assert files.ls(f"{ref}/deep", detail=False) == [f"{ref}/deep/er"]
    assert files.isdir(f"{ref}/deep/er")
    assert files.find(f"lattica://{ref}") == [
        f"{ref}/config.json",
        f"{ref}/deep/er/notes.txt",
        f"{ref}/weights.bin",
    ]
    assert json.loads(files.cat_file(f"{ref}/config.json")) == {"layers": 2}
    with files.open(f"lattica://{ref}/deep/er/notes.txt", "r") as text:
        assert text.readlines() == ["one\n", "two\n"]
    files.get(f"lattica://{ref}/deep", str(tmp_path / "copy"), recursive=True)
    assert (tmp_path / "copy" / "er" / "notes.txt").read_text() == "one\ntwo\n"


def test_what_is_not_there_is_told_as_python_does(
    seed: lattica.Node, files: LatticaFileSystem, folder: Path
) -> None:
    ref = ref_of(seed.share(folder))
    for name in (f"{ref}/missing", f"{ref}/config.json/below", "lattica://"):
        with pytest.raises(FileNotFoundError):
            files.open(name)
    with pytest.raises(FileNotFoundError):
        files.ls(f"{ref}/missing")
    with pytest.raises(IsADirectoryError):
        files.open(ref)
    assert not files.exists(f"{ref}/missing")


def test_nothing_can_be_written(files: LatticaFileSystem) -> None:
    with pytest.raises(InvalidInput, match="cannot be changed"):
        files.open("lattica://x", "wb")


def test_a_cid_is_found_through_named_peers(
    seed: lattica.Node, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATTICA_MDNS", "false")
    cid = seed.share(folder).cid
    files = LatticaFileSystem(
        home=tmp_path / "other",
        peers=[str(seed.addresses[0])],
        bootstrap=[],
        skip_instance_cache=True,
    )
    try:
        assert json.loads(files.cat_file(f"lattica://{cid}/config.json")) == {"layers": 2}
    finally:
        files.close()


def test_beside_a_running_node_a_visitor_reads_what_that_has(
    seed: lattica.Node, files: LatticaFileSystem, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = seed.share(folder).cid
    monkeypatch.setenv("LATTICA_HOME", str(seed.home))
    assert files.cat_file(f"{cid}/deep/er/notes.txt") == b"one\ntwo\n"
    assert files.cat_file(f"{cid}/weights.bin", 0, 3) == b"\x00\x01\x02"


def test_objects_that_are_open_are_bounded(
    seed: lattica.Node, files: LatticaFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.filesystem._MAX_OBJECTS", 2)
    refs = []
    for number in range(4):
        (tmp_path / f"{number}").write_text(str(number))
        refs.append(ref_of(seed.share(tmp_path / f"{number}")))
    for number, ref in enumerate(refs):
        assert files.cat_file(ref) == str(number).encode()
    assert list(files._open_objects) == refs[2:]
    assert files.cat_file(refs[0]) == b"0"


def test_fsspec_knows_the_protocol_and_a_script_that_ends_is_not_kept(
    seed: lattica.Node, folder: Path, tmp_path: Path
) -> None:
    assert fsspec.get_filesystem_class("lattica") is LatticaFileSystem
    ref = ref_of(seed.share(folder))
    script = (
        "import fsspec\n"
        f"with fsspec.open('lattica://{ref}/config.json', 'rt', home={str(tmp_path / 'h')!r},"
        " bootstrap=[]) as file:\n"
        "    print(file.read())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(ran.stdout) == {"layers": 2}
