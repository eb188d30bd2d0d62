"""Fetching over whole meshes on an in-memory network: what arrives, from whom, and resuming."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.cid import CID
from lattica.content import (
    DestinationTaken,
    DiskFull,
    FetchDone,
    FetchProgress,
    FetchStarted,
    NoProvider,
    ProviderJoined,
    ProviderLeft,
    ProvidersBanned,
    ProvidersLost,
    ProvidersRefused,
    Segment,
    build,
)
from lattica.content.bitswap import PROTOCOLS as BITSWAP
from lattica.errors import NotFound
from lattica.testing import sample_identity
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

LEAF = 256 << 10


def tree_of(path: Path) -> dict[str, bytes | None]:
    """Everything below a directory: files with their bytes, directories with None."""
    return {
        str(entry.relative_to(path)): None if entry.is_dir() else entry.read_bytes()
        for entry in sorted(path.rglob("*"))
    }


@pytest.mark.parametrize("size", [0, 1, LEAF, LEAF + 1, 20 * LEAF + 123])
async def test_a_file_arrives_as_it_was(swarm: Any, size: int, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", size))
        fetched = await receiver.fetch(shared.root, seed, name="a model")
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert fetched.stored.name == "a model"
        assert fetched.received_bytes == size
        assert sum(fetched.sources.values()) == size
        assert [entry.name for entry in receiver.folder.iterdir()] == ["store", "got"]


async def test_a_directory_arrives_as_it_was(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, receiver):
        seed.file("tree/config.json", 700)
        seed.file("tree/empty", 0)
        seed.file("tree/weights/one.bin", 9 * LEAF + 1, seed=1)
        seed.file("tree/weights/two.bin", LEAF, seed=2)
        seed.file("tree/weights.txt", 33, seed=3)
        seed.file("tree/ünï/c", 5, seed=4)
        seed.file("tree/twice", 700)
        (seed.folder / "tree" / "hollow").mkdir()
        shared = seed.share(seed.folder / "tree")
        await receiver.fetch(shared.root, seed)
        assert tree_of(receiver.got) == tree_of(shared.path)


async def test_a_file_of_several_segments_arrives_as_it_was(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        path = seed.file("model.bin", 5 * LEAF)
        cuts = [Segment(100), Segment(2 * LEAF + 7, 2), Segment(LEAF), Segment(2 * LEAF - 107)]
        shared = seed.store.add(build(path, segments=cuts))
        await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == path.read_bytes()


async def test_what_arrived_is_served_on(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(3) as (seed, first, second):
        shared = seed.share(seed.file("model.bin", 5 * LEAF))
        await first.fetch(shared.root, seed)
        await second.fetch(shared.root, first)
        assert second.got.read_bytes() == shared.path.read_bytes()
        assert seed.exchange.stats.total.sent_leaves == 6  # and an index block


async def test_several_providers_are_used_at_once(swarm: Any, autojump_clock: MockClock) -> None:
    swarm.network.bandwidth = 10e6
    async with swarm.peers(4) as (*seeds, receiver):
        for seed in seeds:
            shared = seed.share(seed.file("model.bin", 200 * LEAF))
        started = trio.current_time()
        fetched = await receiver.fetch(shared.root, *seeds)
        taken = trio.current_time() - started
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert taken < 1.3 * 200 * LEAF / 30e6
        assert min(fetched.sources.values()) > 40 * LEAF
        assert fetched.received_bytes < 1.05 * 200 * LEAF


async def test_a_provider_that_comes_later_is_used(swarm: Any, autojump_clock: MockClock) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(3) as (first, second, receiver):
        for seed in (first, second):
            shared = seed.share(seed.file("model.bin", 100 * LEAF))

        async def later() -> AsyncIterator[PeerInfo]:
            await trio.sleep(1)
            yield second.info
            await trio.sleep_forever()

        fetched = await receiver.fetch(shared.root, first, more=later())
        assert fetched.sources[second.mesh.peer_id] > 20 * LEAF


async def test_a_receiver_feeds_another_while_it_receives(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(3) as (seed, first, second), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 60 * LEAF))
        nursery.start_soon(first.fetch, shared.root, seed)
        await trio.sleep(0.5)
        started = trio.current_time()
        fetched = await second.fetch(shared.root, first)
        assert second.got.read_bytes() == shared.path.read_bytes()
        assert set(fetched.sources) == {first.mesh.peer_id}
        assert trio.current_time() - started < 60 * LEAF / 5e6 + 1.5  # it did not wait for the end


async def test_a_peer_that_asks_for_what_we_fetch_is_asked_in_turn(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 2e6
    async with swarm.peers(3) as (seed, first, second), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 60 * LEAF))
        nursery.start_soon(first.fetch, shared.root, seed)
        await trio.sleep(1)
        await second.fetch(shared.root, seed, first)
        assert second.mesh.peer_id in [event.peer for event in first.told(ProviderJoined)]


async def test_receivers_that_only_know_the_seed_meet_and_feed_each_other(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 2e6
    async with (
        swarm.peers(4, introduce=False) as (seed, *receivers),
        trio.open_nursery() as nursery,
    ):
        shared = seed.share(seed.file("model.bin", 80 * LEAF))
        for receiver in receivers:
            nursery.start_soon(receiver.fetch, shared.root, seed)
            await trio.sleep(0.01)
    for receiver in receivers:
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        met = {event.peer for event in receiver.told(ProviderJoined)}
        assert met == {peer.mesh.peer_id for peer in (seed, *receivers)} - {receiver.mesh.peer_id}
    sent = seed.exchange.stats.total.sent_bytes
    assert sent < 2 * 80 * LEAF  # and not three times


async def test_a_banned_peer_is_asked_by_no_fetch_until_the_ban_is_over(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 3 * LEAF))
        now = trio.current_time()
        receiver.exchange.bans.add(seed.mesh.peer_id, "wrong leaf 812", now)
        with pytest.raises(ProvidersBanned, match=r"\(banned 10 min: wrong leaf 812\)"):
            await receiver.fetch(shared.root, seed)
        assert trio.current_time() - now < 1
        (left,) = receiver.told(ProviderLeft)
        assert left.banned
        await trio.sleep(601)
        await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_lone_peer_that_refuses_ends_the_fetch_when_all_around_were_asked(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async def look_around() -> AsyncIterator[PeerInfo | None]:
        while True:
            await trio.sleep(0.5)
            yield None

    async with swarm.peers(2) as (other, receiver):
        for protocol in ("/lattica/content/1.0.0", *BITSWAP):
            other.mesh.unhandle(protocol)
        started = trio.current_time()
        with pytest.raises(ProvidersRefused):
            await receiver.fetch(CID.of(b"nowhere"), other, more=look_around())
        assert 0.5 < trio.current_time() - started < 3


async def test_events_tell_the_story_and_say_100_percent_only_at_the_end(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 60 * LEAF))
        await receiver.fetch(shared.root, seed)
    (started,), (done,) = receiver.told(FetchStarted), receiver.told(FetchDone)
    assert (started.size, started.verified_bytes) == (60 * LEAF, 0)
    progress = receiver.told(FetchProgress)
    verified = [event.verified_bytes for event in progress]
    assert verified == sorted(verified)
    assert verified[-1] == 60 * LEAF
    assert 60 * LEAF not in verified[:-1]
    assert 5 < len(progress) < 60
    assert any(rate > 1e6 for event in progress for rate in event.rates.values())
    assert receiver.events[-1] is done
    assert done.received_bytes == 60 * LEAF


async def test_what_the_caller_raises_on_an_event_ends_the_fetch(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 6 * LEAF))
        for error in (NotFound("enough"), ZeroDivisionError("a bug")):

            def give_up(event: object, error: Exception = error) -> None:
                if isinstance(event, ProviderJoined):
                    raise error

            with pytest.raises(type(error), match=str(error)):
                await receiver.fetch(shared.root, seed, progress=give_up)


async def test_leaves_that_other_objects_have_are_not_fetched(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        path = seed.file("model.bin", 8 * LEAF)
        old = receiver.folder / "old.bin"
        old.write_bytes(path.read_bytes()[: 5 * LEAF] + bytes(3 * LEAF))
        receiver.share(old)
        fetched = await receiver.fetch(seed.share(path).root, seed)
        assert fetched.received_bytes == 3 * LEAF
        assert receiver.got.read_bytes() == path.read_bytes()


async def test_folders_on_the_way_to_the_destination_are_made(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 3))
        destination = receiver.folder / "a" / "b" / "c"
        await receiver.exchange.fetch(shared.root, destination, providers=[seed.info])
        assert destination.read_bytes() == shared.path.read_bytes()


async def test_what_is_there_already_needs_no_network(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 3 * LEAF))
        await receiver.fetch(shared.root, seed)
        again = await receiver.fetch(shared.root)
        assert again.received_bytes == 0
        assert again.stored.path == receiver.got
        assert receiver.store.remove(shared.root)
        again = await receiver.fetch(shared.root)
        assert again.received_bytes == 0
        assert receiver.store.object(shared.root) is not None


async def test_something_else_at_the_destination_is_left_alone_unless_told(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 3 * LEAF))
        receiver.got.write_bytes(b"precious")
        with pytest.raises(DestinationTaken):
            await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == b"precious"
        await receiver.fetch(shared.root, seed, overwrite=True)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_fetch_that_was_stopped_asks_only_for_the_rest(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 60 * LEAF + 1))
        with trio.move_on_after(1.5):
            await receiver.fetch(shared.root, seed)
        kept = receiver.told(FetchProgress)[-1].verified_bytes
        assert kept > 15 * LEAF
        receiver.events.clear()
        fetched = await receiver.fetch(shared.root, seed)
        (started,) = receiver.told(FetchStarted)
        assert started.verified_bytes >= kept
        assert fetched.received_bytes == 60 * LEAF + 1 - started.verified_bytes
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_part_file_that_was_damaged_is_mended(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 60 * LEAF))
        with trio.move_on_after(1.5):
            await receiver.fetch(shared.root, seed)
        (part,) = receiver.folder.glob("got.*")
        with part.open("r+b") as file:
            file.seek(5)
            file.write(b"damage")
        await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_finished_part_is_renamed_without_network(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 6 * LEAF))

        def stop(event: object) -> None:
            if isinstance(event, FetchProgress) and event.verified_bytes == event.size:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await receiver.fetch(shared.root, seed, progress=stop)
        assert not receiver.got.exists()
        fetched = await receiver.fetch(shared.root)
        assert fetched.received_bytes == 0
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_lost_provider_is_dialled_again(swarm: Any, autojump_clock: MockClock) -> None:
    swarm.network.bandwidth = 2e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 60 * LEAF))

        async def disturb() -> None:
            for _ in range(3):
                await trio.sleep(1.2)
                await receiver.mesh.disconnect(seed.mesh.peer_id)

        nursery.start_soon(disturb)
        fetched = await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert len(receiver.told(ProviderLeft)) == 3
        assert fetched.received_bytes == 60 * LEAF  # no leaf that had come was asked for again


async def test_nobody_to_ask_is_said_at_once(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(1) as (receiver,):
        with pytest.raises(NoProvider, match="none is known"):
            await receiver.fetch(CID.of(b"nowhere"))
        assert trio.current_time() < 1


async def test_peers_that_hold_nothing_of_it_are_named(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (*others, receiver):
        with pytest.raises(NoProvider, match=r"tried 2: .* holds nothing") as caught:
            await receiver.fetch(CID.of(b"nowhere"), *others)
        assert trio.current_time() < 5
        assert caught.value.cid == CID.of(b"nowhere")


async def test_peers_that_cannot_be_reached_are_tried_for_as_long_as_patience_lasts(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (receiver,):
        gone = Multiaddr.parse("/memory/77")
        stranger = PeerInfo(sample_identity(9).peer_id, (gone,))
        started = trio.current_time()
        with pytest.raises(ProvidersLost):
            await receiver.fetch(CID.of(b"nowhere"), providers=[stranger], patience=20)
        assert 20 <= trio.current_time() - started < 30


async def test_peers_that_do_not_speak_of_content_are_left(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (other, receiver):
        for protocol in ("/lattica/content/1.0.0", *BITSWAP):
            other.mesh.unhandle(protocol)
        with pytest.raises(ProvidersRefused):
            await receiver.fetch(CID.of(b"nowhere"), other)
        assert trio.current_time() < 5


async def test_providers_are_waited_for_while_more_may_come(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 3 * LEAF))

        async def late() -> AsyncIterator[PeerInfo]:
            await trio.sleep(15)
            yield seed.info

        await receiver.fetch(shared.root, more=late())
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_disk_without_room_is_noticed_before_anything_is_written(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 6 * LEAF))
        full = os.statvfs_result((4096, 4096, 9, 9, 9, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: full)
        with pytest.raises(DiskFull):
            await receiver.fetch(shared.root, seed)
        assert not list(receiver.folder.glob("got*"))


async def test_a_lost_source_file_is_fetched_back(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 6 * LEAF))
        await receiver.fetch(shared.root, seed)
        shutil.rmtree(seed.folder / "model.bin", ignore_errors=True)
        shared.path.unlink()
        await seed.exchange.fetch(shared.root, shared.path, providers=[receiver.info])
        assert shared.path.read_bytes() == receiver.got.read_bytes()
