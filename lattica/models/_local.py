"""Files of this disk, to read tensors of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from lattica.content import Segment, build_in_thread
from lattica.errors import InvalidInput

from ._view import MalformedCheckpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lattica.cid import CID


class LocalReader:
    """A file or folder on this disk, as a `Reader`. Nothing is checked: it is the user's own.

    Attributes:
        is_directory: whether it is a folder.
        root: not known.
    """

    root = None

    def __init__(self, path: Path) -> None:
        """Read what is at `path`. Raises InvalidInput when nothing is there."""
        if not path.exists():
            raise InvalidInput(f"there is no {path}")
        self._path, self.is_directory = path, path.is_dir()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._path.stat().st_size

    async def read(self, offset: int, length: int, *, out: memoryview) -> memoryview:
        """Read into `out`. Raises MalformedCheckpoint when the file has become shorter."""
        await trio.to_thread.run_sync(_pread, self._path, offset, out[:length])
        return out[:length]

    async def segments(self, lengths: Sequence[int]) -> list[CID]:
        """Hash each segment: reads the file once."""
        built = await build_in_thread(self._path, segments=[Segment(one) for one in lengths])
        return [segment.root for segment in built.files[0].segments]

    async def names(self) -> list[str]:
        """Return the names in a folder."""
        return await trio.to_thread.run_sync(os.listdir, self._path)

    async def open(self, path: str) -> LocalReader:
        """Return a reader of a file below a folder."""
        return LocalReader(self._path / path)


def _pread(path: Path, offset: int, out: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while out.nbytes:
            count = file.readinto(out)
            if not count:
                raise MalformedCheckpoint(f"{path} has become shorter while it was read")
            out = out[count:]
