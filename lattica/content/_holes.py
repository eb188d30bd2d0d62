"""Zeros that are nowhere: holes of sparse files, and the leaves that consist of zeros.

A hole reads as zeros and takes no room. So a leaf that lies in one need not be read to be hashed,
nor fetched to be written: every leaf of so many zeros has the same hash, computed once.
"""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.cid import HashFunction

_BLOCK = 512  # bytes that `st_blocks` counts in


@lru_cache(maxsize=64)
def zero_multihash(function: HashFunction, length: int) -> bytes:
    """Return the multihash of `length` zeros."""
    return function.multihash(bytes(length))


class Holes:
    """Where an open file has no data. Asked in ascending order, it costs a look now and then."""

    def __init__(self, descriptor: int) -> None:
        """Look into the file behind `descriptor`, whose position is moved."""
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._size = status.st_size
        self._looked = self._start = self._end = 0  # where, and the data at or after that
        if status.st_blocks * _BLOCK >= status.st_size:  # no hole, as nearly every file
            self._end = self._size

    def cover(self, offset: int, length: int) -> bool:
        """Whether the `length` bytes at `offset` lie in a hole."""
        if length == 0 or offset + length > self._size:
            return False
        if not self._looked <= offset < self._end:
            self._look(offset)
        return offset + length <= self._start

    def left(self, offset: int) -> int:
        """How many bytes of a hole follow `offset`, for which `cover` has just said yes."""
        return self._start - offset

    def _look(self, offset: int) -> None:
        self._looked = offset
        try:
            self._start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
            self._end = os.lseek(self._descriptor, self._start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                self._start, self._end = self._size, self._size
            else:  # a file system that cannot tell: all is data
                self._start, self._end = offset, self._size
