"""Damaged objects are mended in place, leaf by leaf, from whoever has what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lattica.content import NoProvider, ObjectState

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

LEAF = 256 << 10


def damage(path: Path, *offsets: int) -> None:
    """Flip a bit at each offset."""
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))


async def test_damaged_leaves_are_fetched_and_no_others(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("x", 20 * LEAF + 9))
        fetched = await peer.fetch(shared.root, seed)
        before = peer.exchange.stats.total.received_leaves
        damage(peer.got, 0, 5 * LEAF + 7, 5 * LEAF + 8, 20 * LEAF)
        report, mended = await peer.exchange.repair(shared.root, providers=[seed.info])
        assert (report.damaged_count, mended) == (0, 2 * LEAF + 9)
        assert peer.exchange.stats.total.received_leaves == before + 3
        assert peer.got.read_bytes() == shared.path.read_bytes()
        stored = peer.store.object(fetched.stored.root)
        assert stored is not None
        assert stored.state is ObjectState.COMPLETE


@pytest.mark.parametrize("harm", ["cut", "grown over", "gone"])
async def test_a_file_that_was_cut_or_removed_comes_back(
    swarm: Any, autojump_clock: MockClock, harm: str
) -> None:
    async with swarm.peers(2) as (seed, peer):
        seed.file("tree/a", 5 * LEAF)
        seed.file("tree/b", 700, seed=1)
        shared = seed.share(seed.folder / "tree")
        await peer.exchange.fetch_to_store(shared.root, providers=[seed.info])
        path = peer.store.cache_path(shared.root) / "a"
        if harm == "cut":
            path.write_bytes(path.read_bytes()[: 2 * LEAF + 1])
        elif harm == "gone":
            path.unlink()
        else:
            path.write_bytes(b"\0" * (5 * LEAF))
        report, _ = await peer.exchange.repair(shared.root, providers=[seed.info])
        assert report.damaged_count == 0
        assert path.read_bytes() == (seed.folder / "tree" / "a").read_bytes()
        await seed.fetch(shared.root, peer, segments=None)  # and it is served again


async def test_a_damaged_index_is_mended(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("x", 5 * LEAF))
        await peer.fetch(shared.root, seed)
        with peer.store._index.writing() as transaction:
            transaction._connection.execute("UPDATE blocks SET data = x'00'")
        assert peer.store.verify(shared.root).damaged_count == 1
        report, _ = await peer.exchange.repair(shared.root, providers=[seed.info])
        assert report.damaged_count == 0


async def test_what_another_file_here_holds_is_mended_without_peers(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        shared = peer.share(peer.file("x", 5 * LEAF))
        longer = peer.folder / "longer"
        longer.write_bytes(shared.path.read_bytes() + b"more")
        peer.share(longer)
        damage(shared.path, 3 * LEAF)
        report, mended = await peer.exchange.repair(shared.root)
        assert (report.damaged_count, mended) == (0, LEAF)


async def test_what_nobody_has_stays_damaged_and_is_said_to_be(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        shared = peer.share(peer.file("x", 5 * LEAF))
        damage(shared.path, 3 * LEAF)
        with pytest.raises(NoProvider):
            await peer.exchange.repair(shared.root)
        assert peer.store.verify(shared.root).damaged_count == 1


async def test_a_sound_object_is_left_as_it_is(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(1) as (peer,):
        shared = peer.share(peer.file("x", 5 * LEAF))
        stamp = shared.path.stat()
        assert (await peer.exchange.repair(shared.root))[1] == 0
        assert shared.path.stat().st_mtime_ns == stamp.st_mtime_ns


async def test_what_the_store_lost_is_mended_when_it_is_fetched_again(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        shared = seed.share(seed.file("x", 5 * LEAF))
        await peer.exchange.fetch_to_store(shared.root, providers=[seed.info])
        path = peer.store.cache_path(shared.root)
        damage(path, 7)
        peer.store.verify(shared.root)
        again = await peer.exchange.fetch_to_store(shared.root, providers=[seed.info])
        assert again.stored.state is ObjectState.COMPLETE
        assert path.read_bytes() == shared.path.read_bytes()
