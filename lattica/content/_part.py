"""One file of a download: written leaf by leaf, hashed again after a restart.

A directory may have more files than a process may have open. So a part is opened when it is used,
and some stay open for the next use.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._below import PART_FLAGS
from ._build import Stamp
from ._holes import Holes
from ._open_files import OpenFile, OpenFiles
from ._sources import after, before
from ._unixfs import MAX_BLOCK_BYTES, DagError
from ._values import Absent, StorageError
from ._writeback import after_write, before_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ._build import Progress
    from ._dag import Leaf, LeafTable
    from ._reading import Reader

_MAX_BUFFERS = 512  # of one system call; Linux takes 1024
# What is written in one call is cached in pages of up to 2 MiB, and free pages of that size are the
# ones that a virtual machine gives back to its host: to get them again takes longer than to write.
_MAX_WRITE_BYTES = 1 << 20


class PartFile:
    """One file of a download. Made by `Download.open_part`, closed with the download.

    Any thread may call it. One leaf has one writer at a time, and closing waits for nobody: the
    owner of the download closes it after its writers have returned.

    Attributes:
        leaves: what the file consists of.
        path: where it is until the download is finished.
        source: its number in the index.
        verified_bytes: how much of it is there.
    """

    def __init__(
        self,
        leaves: LeafTable,
        path: Path,
        stamp: Stamp,
        source: int,
        reader: Reader,
        files: OpenFiles[None],
    ) -> None:
        self.leaves, self.path, self.source = leaves, path, source
        self._stamp, self._files = stamp, files  # which file it is, whatever `path` names later
        self.verified_bytes = 0
        self._missing = len(leaves)
        self._bits = bytearray((len(leaves) + 7) // 8)
        self._lock = threading.Lock()
        self._closed = False
        self._reader = reader

    @property
    def done(self) -> bool:
        """Whether every leaf is there."""
        return self._missing == 0

    def has(self, index: int) -> bool:
        """Whether leaf `index` is there, verified."""
        return bool(self._bits[index >> 3] >> (index & 7) & 1)

    def missing(self) -> Iterator[int]:
        """Give the numbers of the leaves that are not there, ascending."""
        count = len(self.leaves)
        for position, byte in enumerate(self._bits):
            if byte != 0xFF:
                for index in range(position * 8, min(position * 8 + 8, count)):
                    if not self.has(index):
                        yield index

    def bitmap(self) -> bytes:
        """Return which leaves are there, in the form of `Availability.bitmap`."""
        return bytes(self._bits)

    def write(self, index: int, buffers: Sequence[bytes | memoryview]) -> None:
        """Write leaves `index`, `index + 1`, … in place, in one system call where possible.

        The caller has checked their hashes. From here on they are served. Leaves that are there
        already are written over with the same bytes.

        Raises:
            DagError: a leaf has not the length that the index declares: the index lies.
            StorageError: the disk refused; nothing is noted, what was written is harmless.
        """
        leaves = [self.leaves[index + number] for number in range(len(buffers))]
        for leaf, data in zip(leaves, buffers, strict=True):
            if leaf.length != len(data):
                raise DagError(
                    f"leaf {leaf.cid} has {len(data)} bytes, its index declares {leaf.length}",
                    cid=self.leaves.root,
                )
        for first in range(0, len(buffers), _MAX_BUFFERS):
            self._write_at(leaves[first].offset, buffers[first : first + _MAX_BUFFERS])
        self._note(leaves)

    def rescan(self, progress: Progress | None = None) -> None:
        """*Slow.* Hash what an earlier run left in the file, and note the leaves that match.

        Holes are skipped. `progress` is called with bytes hashed, and may raise to stop.
        """
        buffer = memoryview(bytearray(MAX_BLOCK_BYTES))
        hash_function = self.leaves.hash_function
        for start, end in self._data_extents():
            for batch in self._batches(start, end):
                size = sum(leaf.length for leaf in batch)
                rest = buffer[: self._read_at(batch[0].offset, buffer[:size])]
                for leaf in batch:
                    if hash_function.multihash(rest[: leaf.length]) == leaf.multihash:
                        self._note([leaf])
                    rest = rest[leaf.length :]
                if progress is not None:
                    progress(size)

    def fill_zeros(self) -> int:
        """*Slow.* Note the leaves that are zeros: holes as they stand, else written over.

        Returns:
            How many bytes that were.
        """
        before = self.verified_bytes
        with self._open("read") as descriptor:
            holes = Holes(descriptor)
            for index in self.leaves.zeros():
                if self.has(index):
                    continue
                leaf = self.leaves[index]
                if holes.cover(leaf.offset, leaf.length):
                    self._note([leaf])
                else:
                    self.write(index, [bytes(leaf.length)])
                    holes = Holes(descriptor)
        return self.verified_bytes - before

    def fill_from_store(self, progress: Progress | None = None) -> int:
        """*Slow.* Copy leaves that the store has in other files; returns how many bytes."""
        before = self.verified_bytes
        missing = list(self.missing())
        while missing:
            multihashes = [self.leaves[index].multihash for index in missing[:_MAX_BUFFERS]]
            with self._reader.read(multihashes, MAX_BLOCK_BYTES) as batch:
                for index, block in zip(missing, batch.blocks, strict=False):
                    if not isinstance(block, Absent) and len(block) == self.leaves[index].length:
                        self.write(index, [block])
                        if progress is not None:
                            progress(len(block))
                del missing[: len(batch)]
        return self.verified_bytes - before

    # for the reader of the store

    def has_at(self, offset: int) -> bool:
        """Whether the leaf that begins at `offset` is there."""
        return self.has(self._at(offset))

    def lose_at(self, offset: int) -> None:
        """Note that the leaf that begins at `offset` has gone bad on disk."""
        index = self._at(offset)
        with self._lock:
            if self.has(index):
                self._bits[index >> 3] &= ~(1 << (index & 7))
                self._missing += 1
                self.verified_bytes -= self.leaves[index].length

    # for the download

    def sync(self) -> None:
        """*Slow.* Put what was written on the disk. Raises StorageError."""
        with self._open("sync") as descriptor:
            os.fsync(descriptor)

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        self._closed = True
        self._files.forget(self.source)

    @contextmanager
    def _open(self, verb: str) -> Iterator[int]:
        """Use the file. What the disk refuses is a StorageError: it cannot `verb` it."""
        if self._closed:
            raise StorageError(f"{self.path} has been closed", hint="begin the download again")
        try:
            with self._files.using(self.source, self._open_file) as file:
                assert file is not None
                yield file.descriptor
        except OSError as error:
            raise StorageError(f"cannot {verb} {self.path}: {error.strerror}") from error

    def _open_file(self) -> OpenFile[None]:
        descriptor = os.open(self.path, PART_FLAGS)
        stamp = Stamp.of(os.fstat(descriptor))
        if (stamp.inode, stamp.device) != (self._stamp.inode, self._stamp.device):
            os.close(descriptor)
            raise StorageError(
                f"{self.path} was replaced while it was written", hint="begin the download again"
            )
        return OpenFile(descriptor, None)

    def _at(self, offset: int) -> int:
        # An empty file has one leaf, which no byte is in.
        return min(self.leaves.at(offset), len(self.leaves) - 1)

    def _note(self, leaves: Iterable[Leaf]) -> None:
        with self._lock:  # eight leaves share a byte
            for leaf in leaves:
                if not self.has(leaf.index):
                    self._bits[leaf.index >> 3] |= 1 << (leaf.index & 7)
                    self._missing -= 1
                    self.verified_bytes += leaf.length

    def _write_at(self, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        rest = [memoryview(data) for data in buffers if len(data)]
        start, size = offset, sum(map(len, rest))
        with self._open("write") as descriptor:
            before_write(descriptor, start, size)
            while rest:
                count = os.pwritev(descriptor, before(rest, _MAX_WRITE_BYTES), offset)
                offset += count
                rest = after(rest, count)
            after_write(descriptor, start, size)

    def _read_at(self, offset: int, into: memoryview) -> int:
        done = 0
        with self._open("read") as descriptor:
            while done < len(into):
                count = os.preadv(descriptor, [into[done:]], offset + done)
                if count == 0:
                    break
                done += count
        return done

    def _data_extents(self) -> Iterator[tuple[int, int]]:
        """Give the parts of the file that are not holes. An empty file is one empty extent."""
        if self.leaves.size == 0:
            yield 0, 0
        end = 0
        while end < self.leaves.size:
            with self._open("read") as descriptor:
                try:
                    start = os.lseek(descriptor, end, os.SEEK_DATA)
                except OSError:  # ENXIO: only a hole is left
                    return
                end = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield start, end

    def _batches(self, start: int, end: int) -> Iterator[list[Leaf]]:
        """Give the leaves that overlap bytes `start` to `end`, a buffer full at a time."""
        batch: list[Leaf] = []
        size = 0
        for index in range(self._at(start), self._at(max(start, end - 1)) + 1):
            leaf = self.leaves[index]
            if batch and size + leaf.length > MAX_BLOCK_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(leaf)
            size += leaf.length
        if batch:
            yield batch
