"""Making damaged objects whole again: each damaged leaf is fetched and written where it belongs.

Only whole leaves that do not match are written, with bytes that do. So a repair that is killed has
harmed nothing: what was sound is untouched, what was damaged is either still so or mended. The file
counts as sound again when all of it has been hashed once more.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica.cid import Codec

from ._blocks import Want
from ._download import storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lattica.cid import CID

    from ._blocks import Blocks
    from ._build import Progress
    from ._values import Damage, VerifyReport
    from .store import Store

_MOST = 1 << 16  # damages mended between two looks at the whole: 16 GiB in small leaves
_MAX_ROUNDS = 20  # an index of 16 levels comes back level by level
_BATCH_BYTES = 16 << 20  # fetched before they are written


async def repair(
    store: Store, blocks: Blocks, root: CID, progress: Progress | None
) -> tuple[VerifyReport, int]:
    """Hash an object and mend what is damaged, until it is sound or nothing more can be done.

    Returns:
        How it is in the end, and how many content bytes were mended.

    Raises:
        NoProvider and others, as `Exchange.fetch`: what is damaged is nowhere to be had.
        StorageError: the disk refuses.
    """
    mended = 0
    check = partial(store.verify, root, progress, most=_MOST)
    report = await trio.to_thread.run_sync(check)
    for _ in range(_MAX_ROUNDS):
        if not report.damaged_count:
            break
        mended += await _mend(store, blocks, root, report.damaged)
        report = await trio.to_thread.run_sync(check)
    return report, mended


async def _mend(store: Store, blocks: Blocks, root: CID, damages: Sequence[Damage]) -> int:
    leaves: dict[Path, list[Damage]] = {}
    for damage in damages:
        if damage.place is None:
            block = await blocks.get(damage.cid.multihash)
            await trio.to_thread.run_sync(store.mend_index, root, damage.cid, block)
        elif damage.cid.codec == Codec.RAW:
            leaves.setdefault(damage.place, []).append(damage)
        else:  # the whole file is gone: what it lacks is all of it, as the next look shows
            await trio.to_thread.run_sync(_write, damage.place, [])
    mended = 0
    for place, found in leaves.items():
        for batch in _batches(found):
            wants = [
                Want(item.cid.multihash, item.length, item.offset, item.path) for item in batch
            ]
            data = [await want.wait() for want in await blocks.request(wants)]
            pieces = [(item.offset, block) for item, block in zip(batch, data, strict=True)]
            await trio.to_thread.run_sync(_write, place, pieces)
            mended += sum(map(len, data))
    return mended


def _write(place: Path, pieces: Sequence[tuple[int, bytes]]) -> None:
    """*Slow.* Write leaves into a file, which is made if it is gone, and sync it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    with storage_errors(place):
        descriptor = os.open(place, flags, 0o666)
        try:
            for offset, block in pieces:
                done = 0
                while done < len(block):
                    done += os.pwrite(descriptor, block[done:], offset + done)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _batches(damages: Sequence[Damage]) -> list[list[Damage]]:
    batches: list[list[Damage]] = []
    size = _BATCH_BYTES
    for damage in damages:
        if size + damage.length > _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(damage)
        size += damage.length
    return batches
