"""What the node does to read parts of objects, and to say what its store keeps."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica._new_file import open_new
from lattica.content import DestinationTaken, StorageError
from lattica.results import KeptObject, RangeRead, StoreUsage
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lattica._sealed import UnsealedFile
    from lattica.content import ObjectReader, Usage

_TAG = ".part"


class Lookup:
    """Peers that may hold an object, looked for from the first time that they are asked for.

    An object that is here needs nobody, and the DHT is not troubled for it.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        look: Callable[[trio.MemorySendChannel[PeerInfo | None]], Awaitable[None]],
    ) -> None:
        """Run `look`, which sends what it finds, in `nursery`."""
        self._nursery, self._look = nursery, look
        self._found: trio.MemoryReceiveChannel[PeerInfo | None] | None = None

    def __aiter__(self) -> AsyncIterator[PeerInfo | None]:
        if self._found is None:
            sender, self._found = trio.open_memory_channel[PeerInfo | None](0)
            self._nursery.start_soon(self._run, sender)
        return self._found

    async def _run(self, sender: trio.MemorySendChannel[PeerInfo | None]) -> None:
        async with sender:  # a fetch that outlives its caller then knows that no more will come
            await self._look(sender)


async def write_range(
    reader: ObjectReader | UnsealedFile,
    offset: int,
    length: int | None,
    destination: Path | str,
    *,
    overwrite: bool,
) -> RangeRead:
    """Write a range into a file of its own, which appears when it is whole.

    Raises:
        DestinationTaken: something stands there, and is not to be overwritten.
        StorageError: the disk refuses.
    """
    path = _absolute(destination)
    if not overwrite and await trio.to_thread.run_sync(os.path.lexists, path):
        raise DestinationTaken(f"{path} exists")
    length = reader.size - offset if length is None else length
    part = path.with_name(path.name + _TAG)
    try:
        async with trio.wrap_file(await trio.to_thread.run_sync(open_new, part)) as file:
            async with reader.stream(offset, length) as pieces:
                async for piece in pieces:
                    await file.write(piece)
        await trio.to_thread.run_sync(os.replace, part, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return RangeRead(reader.root, reader.path, path, offset, length)


def usage_of(usage: Usage) -> StoreUsage:
    """Return what the store uses, as results tell it."""
    kept = (KeptObject(item.root, item.size, item.pinned, item.used) for item in usage.kept)
    return StoreUsage(usage.quota, usage.used_bytes, usage.index_bytes, tuple(kept))


def _absolute(path: Path | str) -> Path:
    return Path(path).expanduser().absolute()
