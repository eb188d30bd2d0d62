"""One bad provider among five, of every kind: the object arrives, in time, and little is wasted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.content import BadLeaf, FetchProgress, LeafMismatch, ProviderLeft, ProviderSlow
from lattica.testing.providers import MISDEEDS, HostileProvider, after, at, silence, wrong_leaf

if TYPE_CHECKING:
    from trio.testing import MockClock

LEAF = 256 << 10
LEAVES = 80
RATE = 2e6  # of each provider


@pytest.mark.parametrize("name", MISDEEDS)
@pytest.mark.parametrize("honest_leaves", [0, pytest.param(8, marks=pytest.mark.slow)])
async def test_one_bad_provider_in_five_costs_little(
    swarm: Any, name: str, honest_leaves: int, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = RATE
    async with swarm.peers(6) as (bad, *rest):
        *_, receiver = rest
        seeds = [bad, *rest[:-1]]
        for seed in seeds:
            shared = seed.share(seed.file("model.bin", LEAVES * LEAF))
        HostileProvider(bad.mesh, bad.store, after(honest_leaves, MISDEEDS[name]))
        started = trio.current_time()
        fetched = await receiver.fetch(shared.root, *seeds)
        taken = trio.current_time() - started
        assert receiver.got.read_bytes() == shared.path.read_bytes()
    wasted = fetched.received_bytes - LEAVES * LEAF
    assert wasted < 0.05 * LEAVES * LEAF
    assert taken < LEAVES * LEAF / (4 * RATE) + 4
    if name not in ("late", "lacking", "silence", "slow loris", "chatter"):  # raced, at the end
        told = receiver.told(ProviderLeft) + receiver.told(ProviderSlow)
        assert bad.mesh.peer_id in {event.peer for event in told}
    assert len(receiver.told(BadLeaf)) == (name == "wrong leaf")


@pytest.mark.parametrize("share", [0.2, 0.9])
async def test_lies_from_one_and_silence_from_another_are_survived(
    swarm: Any, share: float, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = RATE / 4
    async with swarm.peers(6) as (*seeds, receiver):
        for seed in seeds:
            shared = seed.share(seed.file("model.bin", LEAVES * LEAF))
        HostileProvider(seeds[0].mesh, seeds[0].store, wrong_leaf)
        HostileProvider(seeds[1].mesh, seeds[1].store, after(int(share * LEAVES / 4), silence))
        started = trio.current_time()
        fetched = await receiver.fetch(shared.root, *seeds)
        taken = trio.current_time() - started
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        banned = [event for event in receiver.told(ProviderLeft) if event.banned]
        assert [event.peer for event in banned] == [seeds[0].mesh.peer_id]
        assert "banned 10 min: wrong leaf" in banned[0].reason
        if share < 0.5:  # later, what it owes is raced at the end before it is missed
            slow = receiver.told(ProviderSlow) + receiver.told(ProviderLeft)
            assert seeds[1].mesh.peer_id in {event.peer for event in slow}
    assert fetched.received_bytes < 1.05 * LEAVES * LEAF
    assert taken < LEAVES * LEAF / (3 * RATE / 4) + 4


async def test_a_byte_that_is_wrong_half_way_stops_the_receiver_a_leaf_later(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = RATE
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", LEAVES * LEAF))
        HostileProvider(seed.mesh, seed.store, at(LEAVES // 2, wrong_leaf))
        with pytest.raises(LeafMismatch) as caught:
            await receiver.fetch(shared.root, seed)
        assert caught.value.peer == seed.mesh.peer_id
        assert caught.value.offset == LEAVES // 2 * LEAF
        (part,) = receiver.folder.glob("got.*")
        kept, whole = part.read_bytes(), shared.path.read_bytes()
        for leaf in range(LEAVES):
            there = kept[leaf * LEAF : (leaf + 1) * LEAF]
            assert there in (whole[leaf * LEAF : (leaf + 1) * LEAF], bytes(LEAF))
        assert kept[LEAVES // 2 * LEAF :] == bytes(LEAVES // 2 * LEAF)
        assert receiver.told(FetchProgress)[-1].verified_bytes <= LEAVES // 2 * LEAF


async def test_a_file_that_changes_while_it_is_served_is_told_and_taken_from_others(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = RATE
    async with swarm.peers(3) as (changing, honest, receiver), trio.open_nursery() as nursery:
        for seed in (changing, honest):
            shared = seed.share(seed.file("model.bin", LEAVES * LEAF))

        async def change() -> None:
            await trio.sleep(1)
            with (changing.folder / "model.bin").open("r+b") as file:
                file.write(b"not what it was")

        nursery.start_soon(change)
        fetched = await receiver.fetch(shared.root, changing, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert 0 < fetched.sources[changing.mesh.peer_id] < LEAVES // 2 * LEAF
        assert fetched.received_bytes == LEAVES * LEAF
        assert not receiver.told(BadLeaf)
