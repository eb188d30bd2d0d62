"""Promises that name a size, held at that size; and, in the default suite, at a fraction of it."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from lattica.content import LeafMismatch, Segment, Store, build
from lattica.errors import IntegrityError, SourceChanged
from lattica.testing.providers import HostileProvider, at, wrong_leaf

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

MIB = 1 << 20
GIB = 1 << 30
_NOISE = random.Random(1).randbytes(MIB)
AT_FULL_SIZE = pytest.mark.slow


def distinct(path: Path, size: int, seed: int) -> Path:
    """Write a file of which no two MiB are equal, nor equal to those of another seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for number in range(0, size, MIB):
            block = bytearray(_NOISE)
            for start in range(0, MIB, 4096):
                block[start : start + 16] = (seed << 64 | number | start).to_bytes(16, "little")
            file.write(memoryview(block)[: min(MIB, size - number)])
    return path


def islands(path: Path, size: int, every: int) -> Path:
    """Write a sparse file with one MiB of data at the start of each `every` bytes."""
    with path.open("wb") as file:
        for start in range(0, size, every):
            file.seek(start)
            file.write(start.to_bytes(8, "little") + _NOISE[8:])
        file.truncate(size)
    return path


def on_disk(folder: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in folder.rglob("*") if entry.is_file())


@pytest.mark.parametrize("quota", [32 * MIB, pytest.param(GIB, marks=AT_FULL_SIZE)])
async def test_three_times_the_quota_passes_through_beside_what_is_pinned(
    swarm: Any, autojump_clock: MockClock, quota: int
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        receiver.store._upkeep.room.quota = quota
        sizes = [quota * 45 // 100, *[quota * 49 // 100] * 6]
        pinned = None
        for number, size in enumerate(sizes):
            shared = seed.share(distinct(seed.folder / f"{number}", size, number + 1))
            await receiver.exchange.fetch_to_store(
                shared.root, providers=[seed.info], pinned=pinned is None
            )
            pinned = pinned or shared.root
            assert receiver.store.usage().used_bytes <= quota
            assert on_disk(receiver.folder / "store") <= quota * 101 // 100
            seed.store.remove(shared.root)
            shared.path.unlink()
        assert receiver.exchange.stats.total.received_bytes >= sum(sizes)
        assert receiver.store.verify(pinned).damaged_count == 0
        here = {stored.root for stored in receiver.store.objects()}
        assert here == {pinned, shared.root}  # the newest fits beside it, and no other


def test_sharing_in_place_takes_less_than_a_hundredth_of_the_disk(tmp_path: Path) -> None:
    size = 64 * MIB
    path = distinct(tmp_path / "model.bin", size, 1)
    with Store.open(tmp_path / "store") as store:
        before = on_disk(tmp_path / "store")
        store.add(build(path, segments=[Segment(MIB)] * 64))
        assert on_disk(tmp_path / "store") - before < size // 100
    assert on_disk(tmp_path / "store") < size // 100


@pytest.mark.parametrize("size", [192 * MIB, pytest.param(3 * GIB, marks=AT_FULL_SIZE)])
async def test_a_bit_that_flips_on_the_disk_of_a_provider_is_told_as_a_change(
    swarm: Any, autojump_clock: MockClock, size: int
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(islands(seed.folder / "model.bin", size, 48 * MIB))
        stamp = shared.path.stat()
        place = size // 2 + 77
        with shared.path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        os.utime(shared.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # nobody was told
        with pytest.raises(SourceChanged):
            await receiver.fetch(shared.root, seed)
        assert not receiver.got.exists()
        _holds_nothing_wrong(receiver, shared.path, but=place)


@pytest.mark.parametrize("size", [192 * MIB, pytest.param(3 * GIB, marks=AT_FULL_SIZE)])
async def test_a_provider_that_lies_is_named_and_nothing_wrong_is_written(
    swarm: Any, autojump_clock: MockClock, size: int
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(islands(seed.folder / "model.bin", size, 48 * MIB))
        HostileProvider(seed.mesh, seed.store, at(2, wrong_leaf))
        with pytest.raises(IntegrityError) as caught:
            await receiver.fetch(shared.root, seed)
        assert isinstance(caught.value, LeafMismatch)
        assert caught.value.peer == seed.mesh.peer_id
        assert not receiver.got.exists()
        _holds_nothing_wrong(receiver, shared.path)


def _holds_nothing_wrong(receiver: Any, original: Path, but: int | None = None) -> None:
    """Compare what the part file holds with the original, hole or not there aside."""
    (part,) = receiver.folder.glob("got*")
    compared = 0
    with part.open("rb") as ours, original.open("rb") as theirs:
        for start in range(0, original.stat().st_size, 48 * MIB):
            ours.seek(start)
            theirs.seek(start)
            got, right = ours.read(MIB), theirs.read(MIB)
            for leaf in range(0, MIB, 4096):
                place = start + leaf
                mine = got[leaf : leaf + 4096]
                if mine.strip(b"\0") and not (but is not None and place <= but < place + 4096):
                    assert mine == right[leaf : leaf + 4096]
                    compared += 1
    assert compared > 0
