"""Holes of sparse files: shared unread, fetched without travelling, verified as zeros."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings, strategies as st

from lattica.content import Absent, Segment, Store, build
from lattica.content._holes import Holes
from lattica.content._unixfs import decode

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from trio.testing import MockClock

LEAF = 256 << 10
TIB = 1 << 40


def sparse(path: Path, size: int, *data: tuple[int, bytes]) -> Path:
    """Make a file of `size` bytes that has data at some offsets, and holes elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in data:
            file.seek(offset)
            file.write(content)
    return path


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 40 * LEAF),
    st.lists(st.tuples(st.integers(0, 40 * LEAF), st.integers(1, LEAF)), max_size=5),
)
def test_a_sparse_file_has_the_identifier_of_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, size: int, places: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("sparse")
    data = [(offset, b"\7" * length) for offset, length in places if offset + length <= size]
    path = sparse(folder / "sparse", size, *data)
    dense = folder / "dense"
    dense.write_bytes(path.read_bytes())
    cuts = [Segment(1), Segment(size // 2), Segment(size - 1 - size // 2)] if size > 3 else None
    for segments in (None, cuts):
        built, expected = build(path, segments=segments), build(dense, segments=segments)
        assert (built.root, built.index) == (expected.root, expected.index)
        assert list(built.files[0].leaves) == list(expected.files[0].leaves)


def test_where_the_holes_are_is_asked_of_the_file(tmp_path: Path) -> None:
    path = sparse(tmp_path / "x", 10 << 20, (4 << 20, b"x" * 4096))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        holes = Holes(descriptor)
        assert holes.cover(0, 4 << 20)
        assert not holes.cover((4 << 20) - 1, 2)
        assert not holes.cover(4 << 20, 4096)
        assert holes.cover((4 << 20) + 4096, (6 << 20) - 4096)
        assert not holes.cover(10 << 20, 1)
        assert holes.cover(0, 1)  # asked again from the front
    finally:
        os.close(descriptor)


def test_a_tebibyte_of_nothing_is_shared_at_once(tmp_path: Path) -> None:
    path = sparse(tmp_path / "huge", TIB, (TIB // 2 + 5, b"needle" * 1000))
    built = build(path)
    root_block = built.index[built.root]
    assert len(root_block) < 64 << 10  # what a receiver fetches first
    assert decode(built.root, root_block).total_size - TIB < TIB // 10_000  # the whole index
    assert len(built.files[0].leaves) == 1 << 20
    with Store.open(tmp_path / "store") as store:
        store.add(built)
        assert (tmp_path / "store" / "index.sqlite").stat().st_size < 4 << 20
        needle = built.files[0].leaves[1 << 19]
        with store.read_blocks([needle.multihash]) as batch:
            (block,) = batch.blocks
            assert not isinstance(block, Absent)
            assert bytes(block[5:17]) == b"needleneedle"


async def test_a_range_of_a_tebibyte_takes_a_few_blocks(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        path = sparse(seed.folder / "huge", TIB, (TIB // 2 + 5, b"needle" * 1000))
        shared = seed.share(path)
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            assert peer.exchange.stats.total.received_bytes < 64 << 10  # before any leaf
            assert reader.size == TIB
            assert await reader.read(TIB // 2, 4096) == b"\0" * 5 + (b"needle" * 700)[:4091]
            assert await reader.read(TIB // 4, 4096) == bytes(4096)
        assert peer.exchange.stats.total.received_bytes < (1 << 20) + 4 * (64 << 10)


async def test_four_kibibytes_of_three_gibibytes_take_less_than_one_mebibyte(
    swarm: Any, autojump_clock: MockClock
) -> None:
    gib = 1 << 30
    async with swarm.peers(2) as (seed, peer):
        noise = random.Random(5).randbytes(LEAF)
        places = [(number * 64 * LEAF + number, noise) for number in range(1, 190)]
        at = 2 * gib - 100
        path = sparse(seed.folder / "big", 3 * gib, *places, (at, noise[:8192]))
        shared = seed.share(path)
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            assert await reader.read(2 * gib, 4096) == noise[100:4196]
        assert 0 < peer.exchange.stats.total.received_bytes < 1 << 20


async def test_zeros_do_not_travel_and_take_no_room(swarm: Any, autojump_clock: MockClock) -> None:
    size = 2000 * LEAF + 5
    noise = random.Random(6).randbytes(3 * LEAF)
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(
            sparse(seed.folder / "tree" / "x", size, (700 * LEAF - 9, noise)).parent
        )
        fetched = await peer.fetch(shared.root, seed)
        assert fetched.received_bytes == 4 * LEAF
        got = peer.got / "x"
        status = got.stat()
        assert (status.st_size, status.st_blocks * 512 < 8 * LEAF) == (size, True)
        assert peer.store.verify(shared.root).damaged_count == 0
        with got.open("rb") as file:
            file.seek(700 * LEAF - 9)
            assert file.read(3 * LEAF + 9) == noise + bytes(9)
        again = await seed.fetch(shared.root, peer)  # what has holes is served like anything else
        assert again.stored.size == size


async def test_what_stands_where_zeros_belong_is_written_over(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(sparse(seed.folder / "x", 20 * LEAF, (0, b"begin")))
        with peer.store.download(shared.root, peer.got) as download:
            part = download.open_part(build(shared.path).files[0].leaves)
            with part.path.open("r+b") as file:
                file.seek(7 * LEAF + 3)
                file.write(b"left by somebody")
        await peer.fetch(shared.root, seed)
        assert peer.got.read_bytes() == shared.path.read_bytes()
