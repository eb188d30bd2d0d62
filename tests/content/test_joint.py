"""Calls that fetch the same object to the same place, at the same time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.content import (
    DestinationTaken,
    Fetched,
    FetchEvent,
    FetchProgress,
    FetchStarted,
    NoProvider,
)
from lattica.errors import NotFound

if TYPE_CHECKING:
    from trio.testing import MockClock

LEAF = 256 << 10


class Call:
    """One `fetch` in a task that can be cancelled."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.fetched: Fetched | None = None
        self.error: Exception | None = None
        self.events: list[FetchEvent] = []

    async def run(self, receiver: Any, *arguments: Any, **options: Any) -> None:
        options.setdefault("progress", self.events.append)
        with self.scope:
            try:
                self.fetched = await receiver.fetch(*arguments, **options)
            except Exception as error:  # noqa: BLE001  # looked at by the test
                self.error = error


async def test_a_second_call_gets_what_the_first_fetches(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        first, second = Call(), Call()
        nursery.start_soon(first.run, receiver, shared.root, seed)
        await trio.sleep(0.5)
        await second.run(receiver, shared.root)  # it knows no provider of its own
        await wait_all_tasks_blocked()
        assert second.fetched is not None
        assert first.fetched is second.fetched
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert seed.exchange.stats.total.sent_leaves == 41  # with an index block, and none twice
        (started,) = [event for event in second.events if isinstance(event, FetchStarted)]
        assert started.verified_bytes > 0
        assert any(isinstance(event, FetchProgress) for event in second.events)


@pytest.mark.parametrize("leaves", ["first", "second"])
async def test_who_is_cancelled_does_not_stop_the_other(
    swarm: Any, autojump_clock: MockClock, leaves: str
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        calls = {"first": Call(), "second": Call()}
        for call in calls.values():
            nursery.start_soon(call.run, receiver, shared.root, seed)
            await trio.sleep(0.5)
        gone = calls.pop(leaves)
        gone.scope.cancel()
        (stays,) = calls.values()
        await trio.sleep(0.1)
        assert gone.scope.cancelled_caught
        assert stays.fetched is None
        await trio.sleep(10)
        assert stays.fetched is not None
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert seed.exchange.stats.total.sent_leaves == 41


async def test_when_all_are_cancelled_the_fetch_is_over_and_can_be_resumed(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(Call().run, receiver, shared.root, seed)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        sent = seed.exchange.stats.total.sent_leaves
        await trio.sleep(10)
        assert seed.exchange.stats.total.sent_leaves == sent
        assert len(receiver.exchange._running) == 0
        fetched = await receiver.fetch(shared.root, seed)
        assert 0 < fetched.received_bytes < 40 * LEAF


async def test_what_one_raises_on_an_event_is_raised_to_it_alone(
    swarm: Any, autojump_clock: MockClock
) -> None:
    def give_up(_event: object) -> None:
        raise NotFound("enough")

    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 20 * LEAF))
        patient, other = Call(), Call()
        nursery.start_soon(patient.run, receiver, shared.root, seed)
        await trio.sleep(0.5)
        await other.run(receiver, shared.root, progress=give_up)
        assert isinstance(other.error, NotFound)
        await trio.sleep(10)
        assert patient.fetched is not None


async def test_an_error_is_told_to_all(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (stranger, receiver):
        root = stranger.share(stranger.file("model.bin", LEAF)).root
        stranger.store.remove(root)
        calls = [Call(), Call()]
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run, receiver, root, stranger)
        assert all(isinstance(call.error, NoProvider) for call in calls)


async def test_a_later_call_brings_the_providers_that_it_knows(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async def never() -> Any:
        await trio.sleep_forever()
        yield

    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 5 * LEAF))
        alone, knowing, more = Call(), Call(), never()
        nursery.start_soon(lambda: alone.run(receiver, shared.root, more=more, patience=1000))
        await trio.sleep(5)
        await knowing.run(receiver, shared.root, seed)
        await wait_all_tasks_blocked()
        assert alone.fetched is knowing.fetched is not None
        await more.aclose()


async def test_who_must_not_overwrite_waits_for_who_may(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 20 * LEAF))
        receiver.got.write_bytes(b"something else")
        writer, reader = Call(), Call()
        nursery.start_soon(lambda: writer.run(receiver, shared.root, seed, overwrite=True))
        await trio.sleep(0.5)
        await reader.run(receiver, shared.root, seed)
        await wait_all_tasks_blocked()
        assert writer.fetched is not None
        assert reader.fetched is not None
        assert reader.fetched.received_bytes == 0  # it found what the other had fetched
        receiver.got.write_bytes(b"changed since")
        again = Call()
        await again.run(receiver, shared.root, seed)
        assert isinstance(again.error, DestinationTaken)


async def test_another_object_at_the_same_place_is_refused(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        one = seed.share(seed.file("one.bin", 20 * LEAF))
        two = seed.share(seed.file("two.bin", 20 * LEAF, seed=1))
        first, second = Call(), Call()
        nursery.start_soon(first.run, receiver, one.root, seed)
        await trio.sleep(0.5)
        await second.run(receiver, two.root, seed)
        assert isinstance(second.error, DestinationTaken)
        await trio.sleep(10)
        assert receiver.got.read_bytes() == one.path.read_bytes()


async def test_of_two_that_fetch_to_the_store_one_may_ask_to_keep_it(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 5 * LEAF))
        fetch = partial(receiver.exchange.fetch_to_store, shared.root, providers=[seed.info])
        for pinned in (False, True):
            nursery.start_soon(partial(fetch, pinned=pinned))
        nursery.cancel_scope.deadline = trio.current_time() + 10
        await wait_all_tasks_blocked()
        await trio.sleep(5)
        stored = receiver.store.object(shared.root)
        assert stored is not None
        assert stored.pinned
        assert seed.exchange.stats.total.sent_leaves == 6
