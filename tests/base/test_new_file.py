"""A file that is made under a known name is nobody else's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lattica._new_file import open_new
from lattica.models._checkpoint import part_file, publish

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_what_stands_there_is_replaced_and_not_written_through(
    tmp_path: Path, plant: object
) -> None:
    precious, path = tmp_path / "precious", tmp_path / "out.part"
    precious.write_bytes(b"mine")
    plant(precious, path)  # type: ignore[operator]  # one of the two above
    with open_new(path) as file:
        file.write(b"ours")
        file.seek(0)
        assert file.read() == b"ours"
        assert file.name == str(path)
    assert precious.read_bytes() == b"mine"
    assert path.read_bytes() == b"ours"
    assert not path.is_symlink()


def test_a_link_that_leads_nowhere_makes_no_file_there(tmp_path: Path) -> None:
    (tmp_path / "part").symlink_to(tmp_path / "elsewhere")
    open_new(tmp_path / "part").close()
    assert not (tmp_path / "elsewhere").exists()


def test_a_checkpoint_is_not_written_through_what_was_planted_beside_it(tmp_path: Path) -> None:
    precious, out = tmp_path / "precious", tmp_path / "model.safetensors"
    precious.write_bytes(b"mine")
    out.with_name(f"{out.name}.{os.getpid()}.part").symlink_to(precious)
    with part_file(out) as file:
        file.write(b"ours")
        publish(file, out)
    assert precious.read_bytes() == b"mine"
    assert out.read_bytes() == b"ours"
