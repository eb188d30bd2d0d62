"""A new file under a known name, in a folder where others may have put something there before."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


def open_new(path: Path) -> BinaryIO:
    """*Slow.* Make the file `path`, empty, and open it to read and write.

    What stands there already goes: it is never written through, be it a symlink that leads to
    another file, a file with a second name, or one that somebody else has open. Raises OSError.
    """
    path.unlink(missing_ok=True)
    return path.open("x+b")
