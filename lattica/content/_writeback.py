"""What makes large writes cheaper, where the system offers it: hints, never promises.

Room that is allocated before it is written is cheaper to write to than room that the file system
has to set aside page by page and find later. And a disk that is told to begin at once writes what
came while more is coming, so that the sync at the end of a download, which waits for all of it, has
little left to wait for. What is on the disk, and when, is said by that sync alone.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST_BYTES = 1 << 20  # in small writes, all over a file, a disk is better left to sort them
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin to write back, and wait for nothing


def before_write(descriptor: int, offset: int, size: int) -> None:
    """Allocate what will be written next. Whether that works the write itself will show."""
    if size >= _LEAST_BYTES and _fallocate is not None:
        _fallocate(descriptor, _KEEP_SIZE, offset, size)


def after_write(descriptor: int, offset: int, size: int) -> None:
    """Have what was written go to the disk in the background."""
    if size >= _LEAST_BYTES and _sync_file_range is not None:
        _sync_file_range(descriptor, offset, size, _WRITE)


def _system_call(name: str, *types: Any) -> Callable[..., int] | None:
    """Return a function of Linux's C library, which Python's `os` lacks; None where it is not.

    `os.posix_fallocate` is no substitute: where a file system cannot allocate, it writes zeros.
    """
    if sys.platform != "linux":
        return None
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = types, ctypes.c_int
    return function  # type: ignore[no-any-return]


_OFFSET = ctypes.c_int64
_fallocate = _system_call("fallocate64", ctypes.c_int, ctypes.c_int, _OFFSET, _OFFSET)
_sync_file_range = _system_call("sync_file_range", ctypes.c_int, _OFFSET, _OFFSET, ctypes.c_uint)
