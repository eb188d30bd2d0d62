"""Reading a sealed object wherever it is: its header, then its table, then what is asked for."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from lattica.content import NotInObject, RangeOutside

from ._format import (
    CHUNK_BYTES,
    PREFIX_BYTES,
    SEALED_BYTES,
    Header,
    Opener,
    SealBroken,
    header_size,
)
from ._table import LENGTH_BYTES, MAX_TABLE_BYTES, Table, TableEntry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from lattica.identity import Identity

_MAX_NAMED = 5  # files that an error names


class Source(Protocol):
    """The sealed bytes: `content.ObjectReader` is one."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    async def read(self, offset: int, length: int) -> bytes:
        """Return a range."""

    def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[memoryview]]:
        """Give a range in pieces."""


class SealedReader:
    """Reads what is sealed. Made by `open_sealed`.

    Attributes:
        table: what there is.
        opener: opens chunks.
        header_bytes: length of the header.
    """

    def __init__(self, source: Source, opener: Opener, header_bytes: int) -> None:
        self._source, self.opener, self.header_bytes = source, opener, header_bytes
        self.table: Table

    async def read(self, offset: int, length: int, *, path: str = "") -> bytes:
        """Return `length` bytes from `offset` of the file at `path`; no other chunks are read.

        Raises:
            NotInObject: there is no such file.
            RangeOutside: the range leaves it.
            SealBroken: a chunk is not what its sealer made.
        """
        start = self._start(offset, length, path)
        return await self._plain(start, length)

    def entry(self, path: str) -> TableEntry:
        """Return what is said of the file at `path`. Raises NotInObject."""
        found = next((entry for entry in self.table.entries() if entry.path == path), None)
        if found is None:
            some = ", ".join(list(self.table.sizes)[:_MAX_NAMED])
            more = ", …" if len(self.table.sizes) > _MAX_NAMED else ""
            raise NotInObject(
                f"no file is sealed at {path!r}" if path else "what is sealed is a directory",
                hint=f"name a file in it (--file PATH): {some}{more}",
            )
        return found

    @asynccontextmanager
    async def stream(
        self, offset: int, length: int, *, path: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give a range of the file at `path` in pieces; raises as `read`."""
        start = self._start(offset, length, path)
        async with aclosing(self._pieces(start, start + length)) as pieces:
            yield pieces

    def _start(self, offset: int, length: int, path: str) -> int:
        """Return where a range begins in what is sealed. Raises NotInObject, RangeOutside."""
        entry = self.entry(path)
        if not (offset >= 0 and length >= 0 and offset + length <= entry.size):
            raise RangeOutside(f"{length} bytes at {offset} of a file of {entry.size}")
        return entry.offset + offset

    async def _pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        if start == end:
            return
        first, last = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
        begin, count = self.header_bytes + first * SEALED_BYTES, last - first + 1
        async with (
            self._source.stream(begin, count * SEALED_BYTES) as pieces,
            aclosing(self._open_all(pieces, first)) as chunks,
        ):
            at = first * CHUNK_BYTES
            async for chunk in chunks:
                yield chunk[max(0, start - at) : end - at]
                at += len(chunk)

    @asynccontextmanager
    async def chunks(self, first: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give what is sealed, chunk by chunk, from chunk `first` on: table, files, padding."""
        start = self.header_bytes + first * SEALED_BYTES
        async with (
            self._source.stream(start) as pieces,
            aclosing(self._open_all(pieces, first)) as chunks,
        ):
            yield chunks

    async def load_table(self) -> None:
        """Read the table. Raises SealBroken."""
        head = await self._plain(0, LENGTH_BYTES)
        size = int.from_bytes(head, "big")
        if size > min(MAX_TABLE_BYTES, self.opener.count * CHUNK_BYTES - LENGTH_BYTES):
            raise SealBroken(f"a table of {size} bytes")
        self.table = Table.parse(await self._plain(LENGTH_BYTES, size))
        if self.table.chunk_count != self.opener.count:
            raise SealBroken(
                f"{self.opener.count} chunks where {self.table.chunk_count} would hold it all"
            )

    async def _plain(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        if last >= self.opener.count:
            raise SealBroken("it ends before what its table says")
        start = self.header_bytes + first * SEALED_BYTES
        sealed = memoryview(await self._source.read(start, (last - first + 1) * SEALED_BYTES))
        plain = b"".join(
            self.opener.open(first + number, sealed[number * SEALED_BYTES :][:SEALED_BYTES])
            for number in range(last - first + 1)
        )
        return plain[offset - first * CHUNK_BYTES :][:length]

    async def _open_all(
        self, pieces: AsyncIterator[memoryview], number: int
    ) -> AsyncGenerator[bytes, None]:
        buffer = bytearray()
        async for piece in pieces:
            buffer += piece
            while len(buffer) >= SEALED_BYTES:
                yield self.opener.open(number, bytes(buffer[:SEALED_BYTES]))
                del buffer[:SEALED_BYTES]
                number += 1


async def open_sealed(source: Source, identity: Identity) -> SealedReader:
    """Open a sealed object; of its chunks only those that the table is in are read.

    Raises:
        NotARecipient: it is sealed to others; nothing but the header was read.
        SealBroken: it is no sealed object, or none by our rules.
    """
    if source.size < PREFIX_BYTES:
        raise SealBroken("it is not a sealed object")
    size = header_size(await source.read(0, PREFIX_BYTES))
    if size > source.size:
        raise SealBroken("it ends inside its header")
    header = await source.read(0, size)
    key = await trio.to_thread.run_sync(Header.parse(header).find_key, identity)
    reader = SealedReader(source, Opener(key, header, source.size - size), size)
    await reader.load_table()
    return reader
