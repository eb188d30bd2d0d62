"""Parts of objects for programs that do not use Trio: what `Node.open` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from lattica._opened import OpenObject
    from lattica.content import ObjectReader, TreeFile

_T = TypeVar("_T")
_PIECE_BYTES = 4 << 20  # of a stream, in one call to the node's thread


class Call(Protocol):
    """Has the node's loop do something, and waits."""

    def __call__(self, function: Callable[[], Awaitable[_T]]) -> _T:
        """Return what comes of `function`, or raise it."""


class BlockingReader:
    """Reads parts of one file of an object, or lists a directory; see `ObjectReader`.

    Any thread may use it, several at a time.
    """

    def __init__(self, reader: ObjectReader | OpenObject, call: Call) -> None:
        self._reader, self._call = reader, call

    @property
    def size(self) -> int:
        """Bytes of the file. Raises InvalidInput for a directory."""
        return self._reader.size

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory: then `open` a file in it."""
        return self._reader.is_directory

    def read(
        self, offset: int, length: int, *, out: bytearray | memoryview | None = None
    ) -> bytes | memoryview:
        """Return `length` bytes from `offset` of the file; see `ObjectReader.read`."""
        if out is None:
            return self._call(lambda: self._reader.read(offset, length))
        return self._call(lambda: self._reader.read(offset, length, out=out))

    def stream(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Give `length` bytes (to the end, by default) from `offset`, some mebibytes at a time."""
        end = self.size if length is None else offset + length
        while offset < end:
            piece = self.read(offset, min(_PIECE_BYTES, end - offset))
            offset += len(piece)
            yield bytes(piece)

    def files(self) -> list[TreeFile]:
        """Return every file at and below this path; see `ObjectReader.files`."""
        return self._call(self._reader.files)

    def open(self, path: str) -> BlockingReader:
        """Return a reader of what is at `path` below this directory; see `ObjectReader.open`."""
        return BlockingReader(self._call(lambda: self._reader.open(path)), self._call)
