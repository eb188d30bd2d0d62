"""What a node does to share what few may read, and to read what was sealed for it."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._report import reporter
from lattica.content import Kind, build_in_thread
from lattica.identity import PeerId
from lattica.results import Phase
from lattica.sealed import SEALED_BYTES, Unsealing, open_sealed, seal, sealed_segments
from lattica.ticket import is_plain_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from lattica.cid import CID, HashFunction
    from lattica.content import Built, ObjectReader
    from lattica.identity import Identity
    from lattica.results import ProgressCallback

_BATCH_BYTES = 4 << 20  # written by one thread at once
_TAG_CHARACTERS = 8  # of the CID, in the name of what is unfinished


def recipients_of(texts: Iterable[PeerId | str]) -> list[PeerId]:
    """Return peer IDs. Raises InvalidInput."""
    return [text if isinstance(text, PeerId) else PeerId.parse(text) for text in texts]


async def seal_and_hash(
    source: Path,
    total: int,
    folder: Path,
    recipients: list[PeerId],
    *,
    name: str | None,
    hash_function: HashFunction,
    progress: ProgressCallback | None,
) -> Built:
    """Seal `source` into a new file in `folder`, and hash that. Cancelled, nothing is left there.

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
    await trio.to_thread.run_sync(
        partial(seal, source, path, recipients, name=name, progress=sealed)
    )
    try:
        return await build_in_thread(path, segments=sealed_segments, hash_function=hash_function)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))
        raise


class Unsealed:
    """What was unsealed.

    Attributes:
        path: where it is.
        name: what its sealer called it.
        kind: a file or a directory.
        size: bytes of all files.
        received_bytes: sealed bytes that were read in this call.
    """

    def __init__(self, path: Path, name: str, kind: Kind, size: int, received_bytes: int) -> None:
        self.path, self.name, self.kind = path, name, kind
        self.size, self.received_bytes = size, received_bytes


async def unseal_into(
    reader: ObjectReader,
    identity: Identity,
    cid: CID,
    place: Callable[[str], Path],
    *,
    overwrite: bool,
    progress: ProgressCallback | None,
) -> Unsealed:
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
    return Unsealed(path, table.name, kind, table.total, received)


def _write(output: Unsealing, chunks: list[bytes]) -> None:
    for chunk in chunks:
        output.write(chunk)
