"""Writing below a folder that others may write to as well: nothing there is reached through a link.

Whoever swaps a directory for a symlink while files are written below it would have them written
elsewhere, with our rights; and what somebody else has put where we are about to write stays theirs
to change, however well it was verified. So each directory is opened below the one before it and
never by its whole path, and what stands there already counts only if nobody else owns it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ._values import DestinationTaken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PART_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def folder_below(top: Path, names: Sequence[str], *, mode: int = 0o777) -> Iterator[int]:
    """Make and open directories, each below the one before it, and give the last one's descriptor.

    Args:
        top: a folder of the user, which links may lead to; made if it is missing.
        names: of directories below it. None of them may be a link.
        mode: of those that are made.

    Raises:
        OSError: the disk refuses, one of them is something else, or it is another user's.
    """
    top.mkdir(parents=True, exist_ok=True)
    folder = os.open(top, _FOLDER_FLAGS)
    try:
        for name in names:
            inner = _enter(folder, name, mode)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def open_file_below(folder: int, name: str) -> int:
    """Open a file in `folder` for reading and writing, made if it is missing.

    A file that has other names, too, is not written to: it makes room for a new one.

    Raises:
        OSError: the disk refuses, it is a link, or it is another user's.
    """
    with suppress(FileExistsError):
        os.close(os.open(name, PART_FLAGS | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder))
    descriptor = os.open(name, PART_FLAGS, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            _check_owner(status, folder)
            if status.st_nlink > 1:
                os.unlink(name, dir_fd=folder)
                fresh = os.open(name, PART_FLAGS | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
                os.close(descriptor)
                descriptor = fresh
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def move(
    source: Path | str, destination: Path, *, overwrite: bool, folder: int | None = None
) -> None:
    """Rename, all or nothing, and over nothing unless told so.

    `folder`: what `source` is the name in, where it is no path.

    Raises:
        DestinationTaken: something stands there.
        OSError: the disk refuses.
    """
    if overwrite and not destination.is_dir():
        os.replace(source, destination, src_dir_fd=folder)
        return
    if os.path.lexists(destination):
        raise DestinationTaken(f"{destination} exists")
    if stat.S_ISDIR(os.stat(source, dir_fd=folder, follow_symlinks=False).st_mode):
        os.rename(source, destination, src_dir_fd=folder)
        return
    try:
        # Unlike a rename, it fails if something has come between.
        os.link(source, destination, src_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise DestinationTaken(f"{destination} exists") from None
    except (OSError, NotImplementedError):
        os.rename(source, destination, src_dir_fd=folder)  # a file system without hard links
    else:
        os.unlink(source, dir_fd=folder)


def _enter(folder: int, name: str, mode: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=folder)
    try:
        inner = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:
        raise NotADirectoryError(errno.ENOTDIR, "a symlink or a file is there") from None
    try:
        _check_owner(os.fstat(inner), folder)
    except BaseException:
        os.close(inner)
        raise
    return inner


def _check_owner(status: os.stat_result, folder: int) -> None:
    # On a disk that knows no owners, a mounted one say, everything is the folder's owner's.
    if status.st_uid not in (os.geteuid(), os.fstat(folder).st_uid):
        raise PermissionError(errno.EPERM, "it belongs to another user, who could change it")
