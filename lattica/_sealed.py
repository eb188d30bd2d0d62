"""What a node does to share what few may read, and to read what was sealed for it."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._deadline import deadline
from lattica._reference import destination_of, read_reference, source_of
from lattica._report import reporter
from lattica.content import Kind, Symlinks, build_in_thread
from lattica.identity import PeerId
from lattica.results import Fetched, Phase, Share
from lattica.sealed import SEALED_BYTES, Unsealing, open_sealed, seal, sealed_segments
from lattica.ticket import is_plain_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from lattica._read_calls import ReadCalls
    from lattica._share_calls import ShareCalls
    from lattica.cid import CID, HashFunction
    from lattica.content import Built, ObjectReader, Selection
    from lattica.identity import Identity
    from lattica.results import ProgressCallback
    from lattica.sealed import SealedReader
    from lattica.ticket import Ticket
    from lattica.transport import Multiaddr

_BATCH_BYTES = 4 << 20  # written by one thread at once
_TAG_CHARACTERS = 8  # of the CID, in the name of what is unfinished


def recipients_of(texts: Iterable[PeerId | str]) -> list[PeerId]:
    """Return peer IDs. Raises InvalidInput."""
    return [text if isinstance(text, PeerId) else PeerId.parse(text) for text in texts]


async def share_sealed(
    node: ShareCalls,
    path: Path | str,
    recipients: list[PeerId],
    *,
    name: str | None,
    hash_function: HashFunction,
    symlinks: Symlinks,
    selection: Selection,
    progress: ProgressCallback | None,
    limit_s: float | None,
) -> Share:
    """Do what `AsyncNode.share` does with `encrypt_to`."""
    with deadline(limit_s, f"share {path}"):
        started = trio.current_time()
        source, total = await trio.to_thread.run_sync(
            partial(
                source_of,
                path,
                node._home.key,
                follow_symlinks=symlinks is Symlinks.FOLLOW,
                takes=selection.takes,
            )
        )
        built = await _seal_and_hash(
            source,
            total,
            node._home.sealing,
            partial(seal, name=name, symlinks=symlinks, selection=selection),
            recipients,
            hash_function=hash_function,
            progress=progress,
        )
        outside = f"{str(built.root)[-_TAG_CHARACTERS:]}.sealed"  # tells nothing of what is in it
        try:
            stored = await trio.to_thread.run_sync(
                partial(node.store.add, built, name=outside, take=True)
            )
        except BaseException:
            await _remove(built.path)
            raise
        seconds = trio.current_time() - started
    await node._provide()
    await node._swarms.announce(stored)
    return Share(
        cid=stored.root,
        ticket=node.ticket(stored, {"sealed": True}),
        name=stored.name,
        path=stored.path,
        kind=stored.kind,
        size=stored.size,
        segments=len(built.files[0].segments),
        seconds=seconds,
    )


async def get_sealed(
    node: ReadCalls,
    ref: Ticket | CID | str,
    destination: Path | str | None,
    peers: Sequence[Multiaddr | str],
    overwrite: bool,
    progress: ProgressCallback | None,
    limit_s: float | None,
) -> Fetched:
    """Do what `AsyncNode.get` does with what is to be opened."""
    cid, _ = read_reference(ref)
    place = partial(destination_of, destination)
    with deadline(limit_s, f"get {cid}", cid):
        started = trio.current_time()
        async with node._reader(ref, "", peers) as reader:
            found = await _unseal(
                reader, node.mesh.identity, cid, place, overwrite=overwrite, progress=progress
            )
        return Fetched(
            cid=cid,
            path=found.path,
            name=found.name,
            kind=found.kind,
            size=found.size,
            received_bytes=found.received_bytes,
            seconds=trio.current_time() - started,
            sources=(),
            bad_leaves=0,
            wire_bytes=found.received_bytes,
        )


async def _seal_and_hash(
    source: Path,
    total: int,
    folder: Path,
    seal_it: Callable[..., object],
    recipients: list[PeerId],
    *,
    hash_function: HashFunction,
    progress: ProgressCallback | None,
) -> Built:
    """Have `seal_it` seal `source` into a new file in `folder`, and hash that.

    Cancelled, nothing is left there.

    Raises:
        InvalidInput: it cannot be sealed to these, or is not there to be sealed.
        SourceChanged: it changed meanwhile.
        StorageError: the disk refuses.
    """
    path = folder / secrets.token_hex(16)
    count = reporter(progress, Phase.HASH, total)

    def sealed(size: int) -> None:
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(count, size)

    await trio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, exist_ok=True))
    await trio.to_thread.run_sync(partial(seal_it, source, path, recipients, progress=sealed))
    try:
        return await build_in_thread(path, segments=sealed_segments, hash_function=hash_function)
    except BaseException:
        await _remove(path)
        raise


async def _remove(path: Path) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))


async def unsealed_file(reader: ObjectReader, identity: Identity, path: str) -> UnsealedFile:
    """Read a file that `reader` has sealed; of its chunks only those that a read needs.

    Raises:
        NotARecipient: it is sealed to others; nothing but its header was read.
        SealBroken: it is not what a sealer has made.
        NotInObject: nothing is sealed at `path`.
    """
    return UnsealedFile(await open_sealed(reader, identity), reader.root, path)


class UnsealedFile:
    """One file of a sealed object, read as `content.ObjectReader` reads one that is not.

    Attributes:
        root: of the object.
        path: where it is in that.
        size: bytes of the file.
    """

    def __init__(self, sealed: SealedReader, root: CID, path: str) -> None:
        self.root, self.path, self._sealed = root, path, sealed
        self.size = sealed.entry(path).size

    @asynccontextmanager
    async def stream(self, offset: int, length: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give a range in pieces. Raises RangeOutside, SealBroken."""
        async with self._sealed.stream(offset, length, path=self.path) as pieces:
            yield pieces

    async def read(
        self, offset: int, length: int, *, out: bytearray | memoryview | None = None
    ) -> bytes | memoryview:
        """Return a range; with `out`, in there."""
        async with self.stream(offset, length) as pieces:
            data = b"".join([piece async for piece in pieces])
        if out is None:
            return data
        target = memoryview(out).cast("B")[:length]
        target[:] = data
        return target


@dataclass(frozen=True, slots=True)
class _Unsealed:
    """What was unsealed.

    Attributes:
        path: where it is.
        name: what its sealer called it.
        kind: a file or a directory.
        size: bytes of all files.
        received_bytes: sealed bytes that were read in this call.
    """

    path: Path
    name: str
    kind: Kind
    size: int
    received_bytes: int


async def _unseal(
    reader: ObjectReader,
    identity: Identity,
    cid: CID,
    place: Callable[[str], Path],
    *,
    overwrite: bool,
    progress: ProgressCallback | None,
) -> _Unsealed:
    """Open what `reader` reads and write it to where `place` says something of its name goes.

    Cancelled or failed, what was written is resumed by the next call with the same place.

    Raises:
        NotARecipient: it is sealed to others; nothing but its header was read.
        SealBroken: it is not what a sealer has made.
        DestinationTaken, StorageError: something stands there, or the disk refuses.
    """
    sealed = await open_sealed(reader, identity)
    table = sealed.table
    name = table.name if is_plain_name(table.name) else str(cid)
    path = await trio.to_thread.run_sync(place, name)
    tag = str(cid)[-_TAG_CHARACTERS:]
    begin = partial(Unsealing, table, path, tag, overwrite=overwrite)
    count = reporter(progress, Phase.FETCH, table.chunk_count * SEALED_BYTES)
    output = await trio.to_thread.run_sync(begin)
    try:
        first = output.next_chunk
        count(first * SEALED_BYTES)
        async with sealed.chunks(first) as chunks:
            batch: list[bytes] = []
            async for chunk in chunks:
                batch.append(chunk)
                if len(batch) * SEALED_BYTES >= _BATCH_BYTES:
                    await trio.to_thread.run_sync(_write, output, batch)
                    count(len(batch) * SEALED_BYTES)
                    batch = []
            await trio.to_thread.run_sync(_write, output, batch)
            count(len(batch) * SEALED_BYTES)
        await trio.to_thread.run_sync(output.finish)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(output.close)
    received = (sealed.opener.count - first) * SEALED_BYTES + sealed.header_bytes
    kind = Kind.DIRECTORY if table.is_directory else Kind.FILE
    return _Unsealed(path, table.name, kind, table.total, received)


def _write(output: Unsealing, chunks: list[bytes]) -> None:
    for chunk in chunks:
        output.write(chunk)
