"""Hints to the system about large writes change nothing but what they cost."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from lattica.content import _writeback
from lattica.content._writeback import after_write, before_write

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="the calls are Linux's")
def test_room_for_a_large_write_is_allocated_within_the_size_and_nowhere_else(
    tmp_path: Path,
) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(8 * MIB)
        before_write(file.fileno(), 4 * MIB, MIB)
        before_write(file.fileno(), 0, 1000)
        status = os.fstat(file.fileno())
        assert status.st_size == 8 * MIB
        assert status.st_blocks * 512 <= MIB
        with pytest.raises(OSError, match=r"\[Errno 6\]"):  # it reads as a hole until written
            os.lseek(file.fileno(), 0, os.SEEK_DATA)


@pytest.mark.parametrize("answer", [-1, None])
def test_where_the_system_takes_no_hints_a_write_is_as_good(
    answer: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = None if answer is None else lambda *_: answer
    monkeypatch.setattr(_writeback, "_fallocate", function)
    monkeypatch.setattr(_writeback, "_sync_file_range", function)
    with (tmp_path / "file").open("w+b") as file:
        before_write(file.fileno(), 0, MIB)
        os.pwrite(file.fileno(), b"x" * MIB, 0)
        after_write(file.fileno(), 0, MIB)
    assert (tmp_path / "file").read_bytes() == b"x" * MIB
