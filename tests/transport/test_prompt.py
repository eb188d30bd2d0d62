"""Small messages that need no turn of the scheduler: sent at once, answered where they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import wait_all_tasks_blocked

from lattica.transport import (
    ConnectionLost,
    IncompleteMessage,
    MemoryNetwork,
    MessageTooLong,
    Stream,
    StreamReset,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from tests.transport.conftest import OpenPair, Pair

KIB = 1 << 10


@pytest.fixture
def pair(quiet_pair: Pair) -> Pair:
    return quiet_pair


async def serve(
    stream: Stream, answer: Callable[[bytes], bytes | None], woken: list[bytes]
) -> None:
    """Answer at once what can be; note, and echo, what the task is woken for."""

    def prompt(message: bytes) -> bool:
        reply = answer(message)
        return reply is not None and stream.send_message_now(reply)

    async with stream:
        while (message := await stream.receive_message(MAX, prompt=prompt)) is not None:
            woken.append(message)
            await stream.send_message(message)


MAX = 300 * KIB


async def test_a_message_is_answered_without_waking_who_waits_for_it(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    woken: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, bytes.upper, woken)
        await wait_all_tasks_blocked()
        for number in range(300):
            await ours.send_message(b"question %d" % number)
            assert await ours.receive_message(100) == b"QUESTION %d" % number
        await ours.send_eof()
    assert not woken


async def test_a_message_that_is_declined_is_returned(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    woken: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, lambda _: None, woken)
        await ours.send_message(b"hard")
        assert await ours.receive_message(100) == b"hard"
        await ours.send_eof()
    assert woken == [b"hard"]


async def test_of_a_crowd_of_messages_each_is_served_once_and_others_get_their_turn(
    pair: Pair,
) -> None:
    ours, theirs = await pair.open_stream()
    woken: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, bytes.upper, woken)
        await wait_all_tasks_blocked()
        await ours.send_all(b"\x01a" * 500)
        got = [await ours.receive_message(100) for _ in range(500)]
        await ours.send_eof()
    assert got.count(b"A") == 1
    assert got.count(b"a") == 499
    assert len(woken) == 499, "one of each arrival is answered where it arrives"


async def test_what_answering_raises_is_raised_where_the_message_was_waited_for(
    pair: Pair,
) -> None:
    ours, theirs = await pair.open_stream()

    def answer(_: bytes) -> bytes:
        raise KeyError("a bug")

    await ours.send_message(b"question")
    with pytest.raises(KeyError, match="a bug"):
        await serve(theirs, answer, [])
    with pytest.raises(StreamReset):
        await ours.receive_message(100)


async def test_a_message_that_is_too_long_is_not_offered(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()

    async def wait() -> None:
        with pytest.raises(MessageTooLong):
            await theirs.receive_message(10, prompt=lambda _: pytest.fail("it was offered"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await ours.send_message(bytes(11))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.data())
@settings(max_examples=30, deadline=None)
def test_messages_that_come_in_pieces_are_the_same(
    open_pair: OpenPair, messages: list[bytes], data: st.DataObject
) -> None:
    async def main() -> None:
        async with open_pair() as pair:
            ours, theirs = await pair.open_stream()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, theirs, bytes.upper, [])
                wire = b"".join(_framed(message) for message in messages)
                while wire:
                    size = data.draw(st.integers(1, len(wire)))
                    await ours.send_all(wire[:size])
                    await wait_all_tasks_blocked()
                    wire = wire[size:]
                got = [await ours.receive_message(MAX) for _ in messages]
                await ours.send_eof()
            assert [each.upper() for each in got if each is not None] == [
                each.upper() for each in messages
            ]

    trio.run(main)


def _framed(message: bytes) -> bytes:
    size = len(message)
    return (bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))) + message


async def test_a_message_larger_than_the_window_is_left_to_the_task(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    woken: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, bytes.upper, woken)
        await ours.send_message(bytes(280 * KIB))
        assert await ours.receive_message(MAX) == bytes(280 * KIB)
        await ours.send_eof()
    assert woken == [bytes(280 * KIB)]


async def test_the_first_small_messages_go_at_once_and_those_behind_them_share_a_frame(
    pair: Pair,
) -> None:
    streams = [await pair.open_stream() for _ in range(10)]
    await wait_all_tasks_blocked()
    sent = pair.channels[0].sent
    sent.clear()
    pair.near._outbound.heard()
    for ours, _ in streams:
        assert ours.send_message_now(b"small")
    assert len(sent) == 4
    for _, theirs in streams:
        assert await theirs.receive_message(10) == b"small"
    assert len(sent) == 5


async def test_what_a_full_link_does_not_take_at_once_follows_later_in_order(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=1000)
    async with open_pair(network=network) as pair:
        ours, theirs = await pair.open_stream()
        await wait_all_tasks_blocked()
        network.cut("near", "far")
        pair.near._outbound.heard()
        assert ours.send_message_now(b"a" * 2000)
        assert pair.channels[0].unsent
        pair.near._outbound.heard()
        assert not ours.send_message_now(b"b"), "no more is taken than one message"
        network.heal("near", "far")
        await ours.send_message(b"b")
        assert await theirs.receive_message(5000) == b"a" * 2000
        assert await theirs.receive_message(10) == b"b"


async def test_what_is_large_or_finds_the_stream_closed_does_not_go_at_once(pair: Pair) -> None:
    ours, _ = await pair.open_stream()
    assert not ours.send_message_now(bytes(100 * KIB))
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        ours.send_message_now(b"late")


async def test_a_sender_of_small_messages_lets_others_run(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def swallow() -> None:
        while await theirs.receive_message(10) is not None:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(swallow)
        for _ in range(1000):
            await ours.send_message(b"small")
        assert turns >= 3
        nursery.cancel_scope.cancel()


# Instead of a task that waits


async def test_who_attends_to_a_stream_takes_messages_where_they_arrive(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    taken: list[bytes | None] = []
    theirs.attend(lambda: taken.append(theirs.take_message(100)))
    with pytest.raises(trio.BusyResourceError):
        await theirs.receive_message(100)
    await ours.send_message(b"one")
    await wait_all_tasks_blocked()
    await ours.send_all(b"\x03tw")
    await wait_all_tasks_blocked()
    await ours.send_all(b"o\x05three"[:2])
    await wait_all_tasks_blocked()
    assert taken == [b"one", None, b"two"]
    theirs.leave()
    await ours.send_all(b"three")
    assert await theirs.receive_message(100) == b"three"


@pytest.mark.parametrize("end", ["finish", "reset", "cut", "lose", "too long"])
async def test_who_attends_to_a_stream_learns_how_it_ends(pair: Pair, end: str) -> None:
    ours, theirs = await pair.open_stream()
    ends: list[type[BaseException]] = []

    def heard() -> None:
        try:
            theirs.take_message(100)
        except Exception as error:  # noqa: BLE001  # it is looked at below
            ends.append(type(error))
            theirs.leave()
            theirs.reset()

    theirs.attend(heard)
    match end:
        case "finish":
            await ours.send_eof()
        case "reset":
            ours.reset()
        case "cut":
            await ours.send_all(b"\x03tw")
            await ours.send_eof()
        case "lose":
            await pair.near.aclose()
        case "too long":
            await ours.send_message(bytes(101))
    await wait_all_tasks_blocked()
    expected = {
        "finish": trio.EndOfChannel,
        "reset": StreamReset,
        "cut": IncompleteMessage,
        "lose": ConnectionLost,
        "too long": MessageTooLong,
    }
    assert ends == [expected[end]]
