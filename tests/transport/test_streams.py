"""Streams as programs use them, over two connections that secure nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import check_half_closeable_stream, wait_all_tasks_blocked

from lattica.errors import CodecError, LimitExceeded, ProtocolError
from lattica.transport import (
    ConnectionLost,
    IncompleteMessage,
    MemoryNetwork,
    MessageTooLong,
    Stream,
    StreamReset,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from tests.transport.conftest import OpenPair, Pair

MIB = 1 << 20


@pytest.fixture
async def pair(open_pair: OpenPair) -> AsyncIterator[Pair]:
    async with open_pair() as pair:
        yield pair


@pytest.fixture
async def ends(pair: Pair) -> tuple[Stream, Stream]:
    """A stream that `near` opened, and the other end of it."""
    return await pair.open_stream()


async def clog(stream: Stream) -> None:
    """Send until the peer lets us send no more."""
    while stream._substream.can_send:
        await stream.send_all(bytes(stream._substream.send_credit_bytes))


# A Trio stream


@pytest.mark.parametrize("security", ["plain", "noise"])
async def test_it_is_a_stream_as_trio_defines_it(open_pair: OpenPair, security: str) -> None:
    async with open_pair(security=security) as pair:

        async def make() -> tuple[Stream, Stream]:
            return await pair.open_stream()

        async def make_clogged() -> tuple[Stream, Stream]:
            ours, theirs = await pair.open_stream()
            await clog(ours)
            await clog(theirs)
            return ours, theirs

        await check_half_closeable_stream(make, make_clogged)
        await wait_all_tasks_blocked()
        assert pair.near.stream_count == pair.far.stream_count == 0
        assert [ledger.used_bytes for ledger in pair.ledgers] == [0, 0]


async def test_a_megabyte_arrives_as_it_was_sent(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    data = bytes(range(256)) * 4096

    async def send() -> None:
        await ours.send_all(memoryview(data))
        await ours.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert b"".join([piece async for piece in theirs]) == data


async def test_views_are_the_pieces_that_arrived_and_end_with_an_empty_one(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    data = bytes(range(256)) * 400
    await ours.send_all(data)
    await ours.send_eof()
    pieces = []
    while piece := await theirs.receive_view():
        pieces.append(piece)
    assert b"".join(pieces) == data
    assert any(isinstance(piece, memoryview) for piece in pieces)
    assert await theirs.receive_view() == b""


async def test_small_pieces_that_wait_are_received_together(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    for letter in (b"a", b"b", b"c"):
        await ours.send_all(letter)
    await wait_all_tasks_blocked()
    assert theirs.unread_bytes == 3
    assert await theirs.receive_some(2) == b"ab"
    assert await theirs.receive_some() == b"c"


# Exact sizes and messages


async def test_exact_sizes_are_cut_from_whatever_pieces_come(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    data = bytes(range(256)) * 1000
    await ours.send_all(data[:100_000])
    await ours.send_all(data[100_000:])
    at = 0
    for size in (0, 1, 10, 70_000, 100_000, 5):
        assert await theirs.receive_exactly(size) == data[at : at + size]
        at += size


async def test_a_stream_that_ends_short_of_a_size_says_so_and_keeps_what_there_is(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    await ours.send_all(b"abc")
    await ours.send_eof()
    with pytest.raises(IncompleteMessage) as caught:
        await theirs.receive_exactly(4)
    assert caught.value.peer == theirs.peer
    assert await theirs.receive_exactly(3) == b"abc"


async def test_a_message_larger_than_the_first_window_arrives(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    data = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_message, data)
        assert await theirs.receive_message(MIB) == data


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5000) | st.sampled_from([65_535, 65_536, 70_000]), max_size=12)
)
def test_messages_come_out_as_they_went_in(open_pair: OpenPair, sizes: list[int]) -> None:
    async def main() -> None:
        async with open_pair() as pair:
            ours, theirs = await pair.open_stream()

            async def send() -> None:
                for number, size in enumerate(sizes):
                    await ours.send_message(bytes([number]) * size)
                await ours.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                for number, size in enumerate(sizes):
                    assert await theirs.receive_message(70_000) == bytes([number]) * size
                assert await theirs.receive_message(70_000) is None

    trio.run(main)


async def test_messages_survive_being_cut_at_every_byte(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    received: list[bytes | None] = []

    async def receive() -> None:
        received.extend([await theirs.receive_message(1000), await theirs.receive_message(1000)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for byte in b"\xac\x02" + bytes(300) + b"\x01x":
            await ours.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
    assert received == [bytes(300), b"x"]


async def test_a_message_too_long_is_refused_before_any_of_it_is_read(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    await ours.send_message(bytes(101))
    with pytest.raises(MessageTooLong) as caught:
        await theirs.receive_message(100)
    assert isinstance(caught.value, LimitExceeded)
    assert (caught.value.size, caught.value.peer) == (101, theirs.peer)
    assert await theirs.receive_message(101) == bytes(101)  # the caller may think better of it


@pytest.mark.parametrize("sent", [b"\x80", b"\x05abcd", b"\xff\xff"])
async def test_a_message_cut_short_is_not_an_end(ends: tuple[Stream, Stream], sent: bytes) -> None:
    ours, theirs = ends
    await ours.send_all(sent)
    await ours.send_eof()
    with pytest.raises(IncompleteMessage):
        await theirs.receive_message(100_000)


@pytest.mark.parametrize("sent", [b"\x80\x00", b"\xff" * 10])
async def test_a_length_that_is_none_is_a_codec_error(
    ends: tuple[Stream, Stream], sent: bytes
) -> None:
    ours, theirs = ends
    await ours.send_all(sent)
    with pytest.raises(CodecError):
        await theirs.receive_message(100)


# Three ways to end


async def test_an_end_is_told_apart_from_a_reset_and_from_a_loss(pair: Pair) -> None:
    ended, cut, lost = [await pair.open_stream() for _ in range(3)]
    for ours, _ in (ended, cut, lost):
        await ours.send_all(b"some of it")
    await wait_all_tasks_blocked()
    await ended[0].send_eof()
    cut[0].reset()
    await wait_all_tasks_blocked()
    assert await ended[1].receive_exactly(10) == b"some of it"
    assert await ended[1].receive_some() == b""
    with pytest.raises(StreamReset) as reset:
        await cut[1].receive_some()
    assert reset.value.peer == cut[1].peer
    assert pair.network is not None
    pair.network.crash("near")
    await wait_all_tasks_blocked()
    assert await lost[1].receive_exactly(10) == b"some of it"  # what had arrived is not lost
    with pytest.raises(ConnectionLost) as loss:
        await lost[1].receive_some()
    assert isinstance(loss.value, trio.BrokenResourceError)
    assert loss.value.retryable
    assert await ended[1].receive_some() == b""  # an end stays an end


async def test_a_reset_wakes_a_reader_and_a_writer(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    await clog(theirs)

    async def fails(work: Callable[..., Awaitable[object]], *args: object) -> None:
        with pytest.raises(StreamReset):
            await work(*args)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, theirs.receive_some)
        nursery.start_soon(fails, theirs.send_all, b"more")
        await wait_all_tasks_blocked()
        ours.reset()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


async def test_what_was_sent_before_a_clean_end_can_be_read_though_a_reset_follows(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    await ours.send_all(b"answer")
    await theirs.send_all(bytes(1000))  # which nobody will read
    await wait_all_tasks_blocked()
    await ours.aclose()
    await theirs.send_all(b"and more")  # answered with a reset
    await wait_all_tasks_blocked()
    assert await theirs.receive_exactly(6) == b"answer"
    assert await theirs.receive_some() == b""
    with pytest.raises(StreamReset):
        await theirs.send_all(b"x")


async def test_a_block_that_fails_resets_the_stream(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    with pytest.raises(KeyError):
        async with ours:
            await ours.send_all(b"half")
            raise KeyError
    await wait_all_tasks_blocked()
    with pytest.raises(StreamReset):
        await theirs.receive_exactly(8)


async def test_a_cancelled_block_resets_the_stream(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    with trio.CancelScope() as scope:
        async with ours:
            await ours.send_all(b"half")
            scope.cancel()
            await ours.receive_some()
    await wait_all_tasks_blocked()
    with pytest.raises(StreamReset):
        await theirs.receive_exactly(8)


async def test_half_of_a_stream_closes_and_the_other_goes_on(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    await ours.send_all(b"question")
    await ours.send_eof()
    assert b"".join([piece async for piece in theirs]) == b"question"
    await theirs.send_all(b"answer")
    await theirs.aclose()
    assert b"".join([piece async for piece in ours]) == b"answer"
    await ours.aclose()


async def test_closing_gives_memory_back_at_once_even_if_the_peer_goes_on(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    await theirs.send_all(bytes(200_000))
    await wait_all_tasks_blocked()
    assert pair.ledgers[0].used_bytes == 256 * 1024
    await ours.aclose()
    assert pair.ledgers[0].used_bytes == 0
    assert ours.unread_bytes == 0
    assert ours._substream.owner is None  # no cycle keeps it until the collector comes
    await wait_all_tasks_blocked()
    await theirs.send_all(b"more")
    await wait_all_tasks_blocked()
    with pytest.raises(StreamReset):
        await theirs.send_all(b"more")
    assert pair.near.stream_count == pair.far.stream_count == 0


async def test_a_writer_without_credit_learns_that_the_reader_closed(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    await clog(theirs)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(StreamReset):
                await theirs.send_all(b"more")

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        await ours.aclose()


# Cancellation


Receive = "receive_some", "receive_view", "receive_exactly", "receive_message"


@pytest.mark.parametrize("name", Receive)
async def test_a_cancelled_receive_has_taken_nothing(
    ends: tuple[Stream, Stream], name: str
) -> None:
    ours, theirs = ends
    arguments = {"receive_exactly": [8], "receive_message": [100]}.get(name, [])
    if arguments:  # these wait with half of it in their hands
        await ours.send_all(b"\x07abc")
    await wait_all_tasks_blocked()
    with trio.move_on_after(0.01) as scope:
        await getattr(theirs, name)(*arguments)
    assert scope.cancelled_caught
    await ours.send_all(b"defg" if arguments else b"\x07abcdefg")
    assert await theirs.receive_exactly(8) == b"\x07abcdefg"


async def test_a_large_message_that_was_cancelled_half_way_is_received_later(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    data = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_message, data)
        for seconds in (0.0, 0.0002, 0.0005, 0.001, 0.002):
            with trio.move_on_after(seconds) as scope:
                await theirs.receive_exactly(2 * MIB)
            assert scope.cancelled_caught
        assert await theirs.receive_message(MIB) == data


@pytest.mark.parametrize("kernel_bytes", [None, 4096])
async def test_a_cancelled_write_harms_no_other_stream(
    open_pair: OpenPair, kernel_bytes: int | None
) -> None:
    async with open_pair(sockets=kernel_bytes, security="noise") as pair:
        steady, steady_there = await pair.open_stream()
        for round_ in range(12):
            ours, theirs = await pair.open_stream()
            with trio.move_on_after(0.0003 * round_):
                await ours.send_all(bytes(2 * MIB))
            ours.reset()
            await theirs.aclose()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(steady.send_message, bytes(100_000))
                assert await steady_there.receive_message(100_000) == bytes(100_000)
        assert await _answer(steady, steady_there)


async def test_what_a_cancelled_write_left_behind_goes_out_without_another_write(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=10_000)
    async with open_pair(network=network) as pair:
        ours, theirs = await pair.open_stream()
        await trio.sleep(5)  # no ping is due from now on, which would take it along
        network.cut("near", "far")
        with trio.move_on_after(1.0) as scope:
            await ours.send_all(bytes(250_000))
        assert scope.cancelled_caught
        assert pair.near._channel.unsent
        network.heal("near", "far")
        with trio.fail_after(1):
            assert await theirs.receive_exactly(250_000) == bytes(250_000)


async def test_a_write_cancelled_before_it_began_has_sent_nothing(
    ends: tuple[Stream, Stream],
) -> None:
    ours, theirs = ends
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.send_all(b"never")
    await ours.send_all(b"sent")
    assert await theirs.receive_exactly(4) == b"sent"


@pytest.mark.parametrize("name", ["send_all", "wait_send_all_might_not_block"])
async def test_a_writer_that_waits_for_credit_can_be_cancelled(
    ends: tuple[Stream, Stream], name: str
) -> None:
    ours, theirs = ends
    await clog(ours)
    with trio.move_on_after(0.01) as scope:
        await getattr(ours, name)(*([b"x"] if name == "send_all" else []))
    assert scope.cancelled_caught
    total = theirs.unread_bytes
    await theirs.receive_exactly(total)
    await ours.send_all(b"again")
    assert await theirs.receive_exactly(5) == b"again"


async def test_a_cancelled_close_resets(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    await ours.send_all(b"half")
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.aclose()
    await wait_all_tasks_blocked()
    with pytest.raises(StreamReset):
        await theirs.receive_exactly(8)
    assert ours._closed


# One task a direction


async def test_two_tasks_cannot_do_the_same_and_different_things_go_together(
    ends: tuple[Stream, Stream],
) -> None:
    ours, _ = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.receive_some)
        await wait_all_tasks_blocked()
        for name, arguments in {
            "receive_exactly": [1],
            "receive_view": [],
            "receive_message": [1],
        }.items():
            with pytest.raises(trio.BusyResourceError):
                await getattr(ours, name)(*arguments)
        await ours.send_all(b"meanwhile")
        nursery.cancel_scope.cancel()
    await clog(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"x")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.send_message(b"x")
        with pytest.raises(trio.BusyResourceError):
            await ours.send_eof()
        nursery.cancel_scope.cancel()


async def test_reading_what_is_there_lets_other_tasks_run(ends: tuple[Stream, Stream]) -> None:
    ours, theirs = ends
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await trio.lowlevel.checkpoint()

    for _ in range(1000):
        await ours.send_message(b"x" * 100)
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        for _ in range(1000):
            await theirs.receive_message(100)
        assert ticks > 3
        nursery.cancel_scope.cancel()


async def _answer(ours: Stream, theirs: Stream) -> bool:
    await ours.send_message(b"ping")
    assert await theirs.receive_message(10) == b"ping"
    await theirs.send_message(b"pong")
    return await ours.receive_message(10) == b"pong"


def test_errors_say_what_can_be_done() -> None:
    for error in (StreamReset, ConnectionLost, IncompleteMessage, MessageTooLong):
        assert error.hint
        assert error.code
    assert issubclass(IncompleteMessage, ProtocolError)
