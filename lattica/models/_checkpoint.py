"""A safetensors file open for reading, tensor by tensor; files that become whole at once."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lattica._new_file import open_new
from lattica.content import build
from lattica.errors import InvalidInput, SourceChanged

from ._safetensors import (
    LENGTH_BYTES,
    Header,
    SafetensorsError,
    Tensor,
    cut,
    header_size,
    parse_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from pathlib import Path
    from typing import BinaryIO

    from lattica.cid import CID, HashFunction

BLOCK_BYTES = 4 << 20  # what is read, compared and written in one step


class CannotDelta(InvalidInput):
    """There is no delta between these files: one of them has no tensors to compare."""

    code = "cannot-delta"
    hint = "share the new file whole; only what is not there already travels"


class Checkpoint:
    """A safetensors file that is open for reading."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._path = path
        self._file = stack.enter_context(path.open("rb"))
        self.size = os.fstat(self._file.fileno()).st_size
        try:
            start = self._file.read(LENGTH_BYTES)
            self.header_bytes = start + self._file.read(
                header_size(start, self.size) - LENGTH_BYTES
            )
            self.header = parse_header(self.header_bytes, self.size)
        except SafetensorsError as error:
            raise CannotDelta(f"{path}: {error}") from error
        if uncovered(self.header, self.size):
            raise CannotDelta(f"{path} has bytes that belong to no tensor")
        self.tensors = {tensor.name: tensor for tensor in self.header.tensors}

    def hash(self, hash_function: HashFunction) -> CID:
        segments = cut(self.header, self.size)
        return build(self._path, segments=segments, hash_function=hash_function).root

    def like(self, tensor: Tensor) -> Tensor | None:
        """Return this file's tensor of the same name and size, if it has one."""
        found = self.tensors.get(tensor.name)
        same = found is not None and found.stop - found.start == tensor.stop - tensor.start
        return found if same else None

    def reader(self, tensor: Tensor) -> Callable[[int, int], memoryview]:
        """Return what reads a tensor's bytes, each time into the same memory."""
        buffer = memoryview(bytearray(min(BLOCK_BYTES, tensor.stop - tensor.start)))

        def read(offset: int, length: int) -> memoryview:
            view = buffer[:length]
            read_into(self._file, view, tensor.start + offset, self._path)
            return view

        return read


def uncovered(header: Header, size: int) -> bool:
    position = header.size
    for tensor in header.tensors:
        if tensor.start > position:
            return True
        position = max(position, tensor.stop)
    return position < size


def read_into(file: BinaryIO, view: memoryview, offset: int, what: object) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(file.fileno(), [view[done:]], offset + done)
        if count == 0:
            raise SourceChanged(f"{what} became shorter while it was read")
        done += count


@contextmanager
def part_file(out: Path) -> Iterator[BinaryIO]:
    """Open a file beside `out` that goes with the block, unless it was published."""
    path = out.with_name(f"{out.name}.{os.getpid()}.part")
    with open_new(path) as file:
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)


def publish(file: BinaryIO, out: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, out)
