"""Reading parts of objects: from peers, from the store, from both; verified, and no more."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.content import (
    LeafMismatch,
    NoProvider,
    NotInObject,
    RangeOutside,
    Segment,
    build,
)
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from trio.testing import MockClock

LEAF = 256 << 10


@pytest.mark.parametrize("size", [0, 1, LEAF, LEAF + 1, 5 * LEAF + 123])
async def test_any_range_of_a_remote_file_is_read(
    swarm: Any, size: int, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, reader_peer):
        shared = seed.share(seed.file("model.bin", size))
        content = shared.path.read_bytes()
        chooser = random.Random(size)
        async with reader_peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            assert (reader.size, reader.is_directory) == (size, False)
            assert await reader.read(0, size) == content
            for _ in range(20):
                start = chooser.randint(0, size)
                length = chooser.randint(0, size - start)
                assert await reader.read(start, length) == content[start : start + length]


async def test_a_range_touches_only_the_leaves_it_lies_in(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        path = seed.file("model.bin", 40 * LEAF)
        cuts = [Segment(100), Segment(39 * LEAF), Segment(LEAF - 100)]
        shared = seed.store.add(build(path, segments=cuts))
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            data = await reader.read(20 * LEAF + 99, 2)  # the segment's leaves begin at 100
            assert data == path.read_bytes()[20 * LEAF + 99 : 20 * LEAF + 101]
        received = peer.exchange.stats.total
        assert received.received_leaves == 4  # the root's block, the segment's, and two leaves
        assert received.received_bytes < 2 * LEAF + 4096


async def test_what_was_read_is_not_fetched_again(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 8 * LEAF))
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            await reader.read(3 * LEAF, 10)
            before = peer.exchange.stats.total.received_bytes
            await reader.read(3 * LEAF + 500, LEAF - 500)
            assert peer.exchange.stats.total.received_bytes == before


async def test_blocks_are_remembered_up_to_a_bound(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 8 * LEAF))
        opened = peer.exchange.open(shared.root, providers=[seed.info], cache_bytes=2 * LEAF + 1000)
        async with opened as reader:
            await reader.read(0, 8 * LEAF)
            assert reader._blocks._cached <= 2 * LEAF + 1000
            before = peer.exchange.stats.total.received_leaves
            await reader.read(6 * LEAF, 2 * LEAF)
            assert peer.exchange.stats.total.received_leaves == before
            await reader.read(0, 1)
            assert peer.exchange.stats.total.received_leaves == before + 1


async def test_a_read_fills_the_memory_it_is_given(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 4 * LEAF))
        out = bytearray(b"\xff" * (2 * LEAF + 7))
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            filled = await reader.read(LEAF - 5, 2 * LEAF, out=out)
            content = shared.path.read_bytes()[LEAF - 5 : 3 * LEAF - 5]
            assert (filled, out) == (content, content + b"\xff" * 7)
            with pytest.raises(InvalidInput, match="a buffer of 3 bytes for 4"):
                await reader.read(0, 4, out=bytearray(3))


async def test_a_stream_gives_the_range_in_pieces(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 9 * LEAF))
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            async with reader.stream(LEAF // 2) as stream:
                pieces = [bytes(piece) async for piece in stream]
        assert b"".join(pieces) == shared.path.read_bytes()[LEAF // 2 :]
        assert len(pieces) == 9


async def test_a_stream_that_nobody_takes_from_fetches_a_bounded_part(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 100 * LEAF))
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            async with reader.stream() as stream:
                await anext(stream)
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert peer.exchange.stats.total.received_bytes < (17 << 20)


async def test_reads_that_run_at_once_hold_a_bounded_number_of_leaves(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 16 * LEAF))
        content = shared.path.read_bytes()
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            reader._ahead = trio.Semaphore(3)
            done = []

            async def read(start: int) -> None:
                done.append(await reader.read(start, 6 * LEAF) == content[start:][: 6 * LEAF])

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(read, number * LEAF + number)
            assert done == [True] * 8
            assert reader._ahead.value == 3
        assert peer.exchange.stats.total.received_leaves < 16 + 2 + 8  # asked for once, mostly


async def test_files_of_a_directory_are_listed_without_their_leaves(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        seed.file("tree/config.json", 700)
        big = seed.file("tree/weights/one.bin", 9 * LEAF + 1, seed=1)
        shared = seed.share(seed.folder / "tree")
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            assert reader.is_directory
            with pytest.raises(InvalidInput, match="is a directory"):
                await reader.read(0, 1)
            found = [(file.path, file.size) for file in await reader.files()]
            assert found == [("config.json", 700), ("weights/one.bin", 9 * LEAF + 1)]
            assert peer.exchange.stats.total.received_bytes < 4096
            file = await reader.open("weights/one.bin")
            assert await file.read(5, 10) == big.read_bytes()[5:15]


async def test_a_file_of_a_directory_is_opened_by_its_path(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        path = seed.file("tree/a/config.json", 700)
        shared = seed.share(seed.folder / "tree")
        providers = [seed.info]
        opened = peer.exchange.open(shared.root, path="a/config.json", providers=providers)
        async with opened as reader:
            assert (reader.size, reader.path) == (700, "a/config.json")
            assert await reader.read(600, 100) == path.read_bytes()[600:]
        for wrong in ("b", "a/config.json/x", "a/..", "../a", "/a", "a/" * 40 + "x"):
            with pytest.raises(NotInObject):
                async with peer.exchange.open(shared.root, path=wrong, providers=providers):
                    pass


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, -1), (0, 11), (11, 0), (5, 6)])
async def test_a_range_outside_the_file_is_refused(
    swarm: Any, autojump_clock: MockClock, offset: int, length: int
) -> None:
    async with swarm.peers(1) as (peer,):
        shared = peer.share(peer.file("x", 10))
        async with peer.exchange.open(shared.root) as reader:
            with pytest.raises(RangeOutside, match="of a file of 10"):
                await reader.read(offset, length)


async def test_what_is_here_is_read_here(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(1) as (peer,):
        shared = peer.share(peer.file("x", 5 * LEAF))
        async with peer.exchange.open(shared.root) as reader:
            assert await reader.read(7, 3 * LEAF) == shared.path.read_bytes()[7 : 3 * LEAF + 7]
        assert peer.exchange.stats.total.received_bytes == 0


async def test_leaves_that_another_object_holds_here_are_not_fetched(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        path = seed.file("x", 6 * LEAF)
        shared = seed.share(path)
        half = peer.folder / "half"
        half.write_bytes(path.read_bytes()[: 3 * LEAF])
        peer.share(half)
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            assert await reader.read(0, 6 * LEAF) == path.read_bytes()
        assert peer.exchange.stats.total.received_leaves == 1 + 3


async def test_what_a_stopped_fetch_has_left_is_read_here(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("x", 6 * LEAF))
        content, built = shared.path.read_bytes(), build(shared.path)
        with peer.store.download(shared.root, peer.got) as download:
            part = download.open_part(built.files[0].leaves)
            for index in (1, 4):
                part.write(index, [content[index * LEAF : (index + 1) * LEAF]])
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            assert await reader.read(0, 6 * LEAF) == content
        assert peer.exchange.stats.total.received_leaves == 1 + 4
        here = [peer.store.has(leaf.multihash) for leaf in built.files[0].leaves]
        assert here == [index in (1, 4) for index in range(6)]  # what was read is not kept


async def test_several_providers_are_read_from(swarm: Any, autojump_clock: MockClock) -> None:
    swarm.network.bandwidth = 10e6
    async with swarm.peers(4) as (*seeds, peer):
        for seed in seeds:
            shared = seed.share(seed.file("model.bin", 100 * LEAF))
        started = trio.current_time()
        infos = [seed.info for seed in seeds]
        async with peer.exchange.open(shared.root, providers=infos) as reader:
            assert await reader.read(0, reader.size) == shared.path.read_bytes()
        assert trio.current_time() - started < 1.5 * 100 * LEAF / 30e6


async def test_a_provider_that_lies_is_left_for_one_that_does_not(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (liar, seed, peer):
        shared = liar.share(liar.file("model.bin", 20 * LEAF))
        lie(liar)
        async with peer.exchange.open(shared.root, providers=[liar.info]) as reader:
            with pytest.raises(LeafMismatch, match="offset") as caught:
                await reader.read(3 * LEAF, 10)
            assert caught.value.peer == liar.mesh.peer_id
        seed.share(seed.file("model.bin", 20 * LEAF))
        infos = [liar.info, seed.info]
        async with peer.exchange.open(shared.root, providers=infos) as reader:
            assert await reader.read(0, 20 * LEAF) == shared.path.read_bytes()


async def test_a_read_without_a_provider_fails_and_the_next_one_tries_again(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 4 * LEAF))
        content = shared.path.read_bytes()
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            await reader.read(0, 1)
            seed.store.remove(shared.root)
            with pytest.raises(NoProvider):
                await reader.read(2 * LEAF, 1)
            seed.share(shared.path)
            assert await reader.read(2 * LEAF, 10) == content[2 * LEAF :][:10]


async def test_a_cancelled_read_leaves_the_reader_whole(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 1e6
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("model.bin", 20 * LEAF))
        async with peer.exchange.open(shared.root, providers=[seed.info]) as reader:
            with trio.move_on_after(0.5) as scope:
                await reader.read(0, 20 * LEAF)
            assert scope.cancelled_caught
            assert await reader.read(19 * LEAF, 9) == shared.path.read_bytes()[19 * LEAF :][:9]
            assert reader._ahead.value == 128


def lie(peer: Any) -> None:
    """Have a peer send wrong leaves: one bit of each is flipped."""
    honest = peer.store.read_blocks

    def read_blocks(hashes: Any, **options: Any) -> Any:
        batch = honest(hashes, **options)
        for block, offset in zip(batch.blocks, batch.offsets, strict=True):
            if offset >= 0:
                block[0] ^= 1
        return batch

    peer.store.read_blocks = read_blocks
