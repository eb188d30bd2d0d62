"""Connections: what goes out when, who waits for whom, how streams begin and how it all ends."""

from __future__ import annotations

import logging
import random
import struct
import weakref
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import DeadlineExceeded, InvalidInput, LatticaError, Refused
from lattica.transport import (
    ConnectionLost,
    Limits,
    MemoryNetwork,
    NegotiationTimeout,
    Stream,
    StreamReset,
)
from lattica.transport.multistream import NegotiationError, ProtocolNotSupported
from lattica.transport.yamux import PeerSilent, SessionClosing, StreamLimit, YamuxError

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.transport.conftest import OpenPair, Pair

MIB = 1 << 20
HEADER = b"\x13/multistream/1.0.0\n"
TEST = b"\x06/test\n"


@pytest.fixture
def pair(quiet_pair: Pair) -> Pair:
    return quiet_pair


async def echo(stream: Stream) -> None:
    async with stream:
        while (message := await stream.receive_message(MIB)) is not None:
            await stream.send_message(message)


def frame(kind: int, flags: int, stream_id: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return struct.pack("!BBHII", 0, kind, flags, stream_id, len(value)) + value
    return struct.pack("!BBHII", 0, kind, flags, stream_id, value)


# What travels together


async def test_a_new_stream_is_opened_negotiated_and_used_in_one_send(pair: Pair) -> None:
    stream = await pair.near.open_stream("/test")
    await stream.send_all(b"request")
    assert pair.channels[0].sent == [
        [frame(0, 1, 1, HEADER + TEST) + frame(0, 0, 1, b"request")],
    ]


async def test_the_answer_acknowledges_agrees_and_answers_in_one_send(pair: Pair) -> None:
    stream = await pair.near.open_stream("/test")

    async def serve() -> None:
        await echo(await pair.accepted.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await wait_all_tasks_blocked()
        await stream.send_message(b"hi")
        assert await stream.receive_message(10) == b"hi"
        assert pair.channels[1].sent == [
            [frame(0, 2, 1, HEADER + TEST) + frame(0, 0, 1, b"\x02hi")],
        ]
        await stream.aclose()
    await wait_all_tasks_blocked()
    assert pair.near.stream_count == pair.far.stream_count == 0


async def test_a_large_answer_takes_the_agreement_along(pair: Pair) -> None:
    async def serve(stream: Stream) -> None:
        await stream.send_message(bytes(10_000))

    pair.far._on_stream = serve
    stream = await pair.near.open_stream("/test")
    await stream.send_all(b"request")
    assert await stream.receive_message(10_000) == bytes(10_000)
    assert len(pair.channels[1].sent) == 1


async def test_a_stream_on_which_the_other_side_speaks_first_opens_when_it_is_read(
    pair: Pair,
) -> None:
    stream = await pair.near.open_stream("/test")
    assert not pair.channels[0].sent

    async def greet() -> None:
        await (await pair.accepted.receive()).send_all(b"welcome")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        assert await stream.receive_exactly(7) == b"welcome"


async def test_control_frames_go_before_the_next_batch_of_a_busy_writer(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(bandwidth=1e6)
    async with open_pair(network=network) as pair:
        ours, theirs = await pair.open_stream()
        ours._substream.send_credit_bytes = theirs._substream.credit_bytes = 16 * MIB
        sent = pair.channels[0].sent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, bytes(4 * MIB))
            await trio.sleep(0.5)
            batches = len(sent)
            pair.near._session.ping(trio.current_time())
            pair.near._outbound.kick()
            await trio.sleep(1.0)  # as long as two batches take
            assert sent[batches][0].startswith(frame(2, 1, 0, 2))
            nursery.cancel_scope.cancel()


async def test_small_writes_share_the_next_turn_of_a_busy_channel(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        streams = [await pair.open_stream() for _ in range(20)]
        bulk, _ = streams.pop()
        await wait_all_tasks_blocked()
        network.cut("near", "far")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bulk.send_all, bytes(200_000))
            await wait_all_tasks_blocked()
            pair.channels[0].sent.clear()
            for ours, _ in streams:
                nursery.start_soon(ours.send_message, b"small")
            await wait_all_tasks_blocked()
            network.heal("near", "far")
            for _, theirs in streams:
                assert await theirs.receive_message(10) == b"small"
        assert len(pair.channels[0].sent) == 1


async def test_small_writes_that_share_a_turn_keep_to_their_window(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        bulk, _ = await pair.open_stream()
        small, there = await pair.open_stream()
        await wait_all_tasks_blocked()
        network.cut("near", "far")
        small._substream.send_credit_bytes = 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bulk.send_all, bytes(200_000))
            await wait_all_tasks_blocked()
            nursery.start_soon(small.send_all, b"12345")
            await wait_all_tasks_blocked()
            network.heal("near", "far")
            await trio.sleep(0.1)
            assert small._substream.send_credit_bytes == 0
            assert await there.receive_some() == b"12"
            nursery.cancel_scope.cancel()


async def test_writes_cancelled_again_and_again_pile_nothing_up(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        streams = [await pair.open_stream() for _ in range(20)]
        await wait_all_tasks_blocked()
        network.cut("near", "far")
        for ours, _ in streams:
            with trio.move_on_after(0.01) as scope:
                await ours.send_all(bytes(200_000))
            assert scope.cancelled_caught
        assert len(pair.channels[0]._unsent) < 200_000
        network.heal("near", "far")
        assert await streams[0][1].receive_exactly(200_000) == bytes(200_000)
        assert not streams[1][1].unread_bytes


async def test_a_stream_that_is_reset_while_it_waits_for_its_turn_sends_nothing(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        (bulk, there), (other, other_there) = [await pair.open_stream() for _ in range(2)]
        await wait_all_tasks_blocked()
        gate = pair.channels[1].hold()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(StreamReset):
                    await other.send_all(bytes(100_000))

            nursery.start_soon(bulk.send_all, bytes(200_000))
            await wait_all_tasks_blocked()
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            other_there.reset()
            await wait_all_tasks_blocked()
            gate.set()
            assert await there.receive_exactly(200_000) == bytes(200_000)
        assert other._substream.send_credit_bytes > 200_000


async def test_small_writes_wait_when_too_many_share_a_turn(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        bulk, _ = await pair.open_stream()
        small, there = await pair.open_stream()
        await wait_all_tasks_blocked()
        network.cut("near", "far")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bulk.send_all, bytes(200_000))
            await wait_all_tasks_blocked()
            with trio.move_on_after(1.0) as scope:
                for _ in range(1000):
                    await small.send_all(bytes(1000))
            assert scope.cancelled_caught
            assert pair.near._session.queued_bytes < 70_000
            network.heal("near", "far")
            assert await there.receive_exactly(64_000) == bytes(64_000)


async def test_writers_take_turns(open_pair: OpenPair, autojump_clock: MockClock) -> None:
    async with open_pair(network=MemoryNetwork(bandwidth=1e7)) as pair:
        streams = [await pair.open_stream() for _ in range(3)]
        finished: list[int] = []
        for ours, theirs in streams:
            ours._substream.send_credit_bytes = theirs._substream.credit_bytes = 16 * MIB

        async def send(number: int) -> None:
            await streams[number][0].send_all(bytes(3 * MIB if number else MIB))
            finished.append(number)

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 0):
                nursery.start_soon(send, number)
        assert finished[0] == 0  # the one that had least to say, though it came last
        batches = [batch[0][4:8] for batch in pair.channels[0].sent if len(batch) > 1]
        assert all(batches[at] != batches[at + 1] for at in range(4))


# Who waits for whom


@pytest.mark.parametrize("security", ["plain", "noise"])
async def test_bulk_both_ways_on_16_streams_at_once_does_not_deadlock(
    open_pair: OpenPair, security: str
) -> None:
    total = MIB

    async def send(stream: Stream) -> None:
        data = memoryview(bytes(range(256)) * (total // 256))
        while data:
            await stream.send_all(data[:300_000])
            data = data[300_000:]
        await stream.send_eof()

    async def receive(stream: Stream) -> None:
        size = 0
        while piece := await stream.receive_view():
            size += len(piece)
        assert size == total

    with trio.fail_after(20):
        async with open_pair(sockets=4096, security=security) as pair:
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    for stream in await pair.open_stream():
                        nursery.start_soon(send, stream)
                        nursery.start_soon(receive, stream)


async def test_a_connection_receives_while_its_sends_are_stuck(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        ours, theirs = await pair.open_stream()
        await wait_all_tasks_blocked()
        # The far end stops reading its link altogether.
        gate = pair.channels[1].hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, bytes(250_000))
            await wait_all_tasks_blocked()
            assert pair.near._outbound._turn.locked()
            for _ in range(20):
                await theirs.send_all(bytes(10_000))
                assert await ours.receive_exactly(10_000) == bytes(10_000)
            gate.set()
            assert await theirs.receive_exactly(250_000) == bytes(250_000)


async def test_a_reader_that_stops_stops_nobody_else(pair: Pair) -> None:
    stuck, _ = await pair.open_stream()
    ours, theirs = await pair.open_stream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck.send_all, bytes(4 * MIB))
        await wait_all_tasks_blocked()
        nursery.start_soon(ours.send_all, bytes(4 * MIB))
        assert len(await theirs.receive_exactly(4 * MIB)) == 4 * MIB
        assert not stuck._substream.can_send
        nursery.cancel_scope.cancel()


async def test_a_flood_of_frames_lets_other_tasks_run(pair: Pair) -> None:
    flood: list[bytes | memoryview] = [frame(1, 0, 1, 0) * 2000] * 20
    ticks = 0

    async def receive() -> list[bytes | memoryview]:
        if not flood:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        pieces, flood[:] = list(flood), []
        return pieces

    pair.channels[0].receive = receive  # type: ignore[method-assign]
    await pair.channels[1].send([frame(2, 1, 0, 0)])  # so that it is looked at
    while pair.near._session.frames_received < 40_000:
        ticks += 1
        await trio.lowlevel.checkpoint()
    assert ticks >= 19


async def test_200_streams_are_open_at_once_and_all_answer(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            async for stream in pair.accepted:
                nursery.start_soon(echo, stream)

        async def ask(number: int) -> None:
            stream = await pair.near.open_stream("/test")
            await stream.send_message(b"%d" % number)
            assert await stream.receive_message(10) == b"%d" % number
            asked.append(stream)
            if len(asked) == 200:
                all_asked.set()
            await all_asked.wait()
            await stream.aclose()

        asked: list[Stream] = []
        all_asked = trio.Event()
        nursery.start_soon(serve)
        async with trio.open_nursery() as callers:
            for number in range(200):
                callers.start_soon(ask, number)
        nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert pair.near.stream_count == pair.far.stream_count == 0
    assert [ledger.used_bytes for ledger in pair.ledgers] == [0, 0]


async def test_more_streams_than_the_bounds_allow_are_a_limit_here_and_a_reset_there(
    open_pair: OpenPair,
) -> None:
    async with open_pair(limits=Limits(streams_per_connection=4)) as pair:
        for _ in range(4):
            await pair.open_stream()
        with pytest.raises(StreamLimit):
            await pair.near.open_stream("/test")
        pair.near._session._limits = Limits()
        extra = await pair.near.open_stream("/test")
        with pytest.raises(StreamReset):
            await extra.receive_some()


async def test_handlers_of_streams_that_were_reset_count_until_they_are_done(
    open_pair: OpenPair,
) -> None:
    async with open_pair(limits=Limits(streams_per_connection=4)) as pair:
        release = trio.Event()

        async def hold(stream: Stream) -> None:
            await release.wait()

        pair.far._on_stream = hold
        for _ in range(10):
            stream = await pair.near.open_stream("/test")
            await stream.send_all(b"x")
            await wait_all_tasks_blocked()
            stream.reset()
            await wait_all_tasks_blocked()
        assert pair.far._serving == 4
        release.set()
        await wait_all_tasks_blocked()
        assert pair.far._serving == 0


async def test_an_idle_connection_holds_nothing_of_what_it_received_last(pair: Pair) -> None:
    class Piece(bytearray):
        pass

    ours, _ = await pair.open_stream()
    await wait_all_tasks_blocked()
    receive = pair.channels[0].receive
    seen: list[weakref.ref[Piece]] = []

    async def receive_one() -> list[bytes | memoryview]:
        pieces = [Piece(piece) for piece in await receive()]
        seen.extend(weakref.ref(piece) for piece in pieces)
        return [memoryview(piece) for piece in pieces]

    pair.channels[0].receive = receive_one  # type: ignore[method-assign]
    await pair.channels[1].send([frame(2, 1, 0, 0)])  # so that it is looked at
    await wait_all_tasks_blocked()
    await pair.channels[1].send([frame(0, 0, 1, bytes(10_000))])
    await wait_all_tasks_blocked()
    assert ours.unread_bytes > 10_000
    ours.reset()
    assert seen
    assert not [piece for piece in seen if piece() is not None]


# How a stream begins


async def test_a_protocol_nobody_speaks_surfaces_where_the_answer_is_read(pair: Pair) -> None:
    stream = await pair.near.open_stream("/nobody/1")
    await stream.send_all(b"request that will be taken for nonsense")
    for _ in range(2):
        with pytest.raises(ProtocolNotSupported) as caught:
            await stream.receive_some()
    assert isinstance(caught.value, Refused)
    assert caught.value.peer == pair.near.peer
    with pytest.raises(ProtocolNotSupported):
        await stream.send_all(b"more")
    await stream.aclose()
    await wait_all_tasks_blocked()
    assert pair.near.stream_count == pair.far.stream_count == 0


async def test_a_refusal_ends_the_stream_so_that_any_peer_can_read_it(pair: Pair) -> None:
    stream = await pair.near.open_stream("/nobody/1")
    await stream.send_all(b"a request that will be taken for nonsense " * 10)
    await wait_all_tasks_blocked()
    refusal = frame(0, 2, 1, HEADER + b"\x03na\n")
    assert b"".join(pair.channels[1].sent[0]) == refusal + frame(1, 4, 1, 0)


async def test_a_refusal_that_a_reset_follows_is_still_told(pair: Pair) -> None:
    stream = await pair.near.open_stream("/nobody/1")
    pair.near._outbound.kick()
    await wait_all_tasks_blocked()
    (inbound,) = pair.far._session.streams
    pair.far._reset_substream(inbound)
    await wait_all_tasks_blocked()
    with pytest.raises(ProtocolNotSupported):
        await stream.send_all(b"request")


async def test_of_several_protocols_the_first_that_both_speak_is_chosen(pair: Pair) -> None:
    stream = await pair.near.open_stream("/test/3", "/test/2", "/test")
    assert stream.protocol == "/test/2"
    assert (await pair.accepted.receive()).protocol == "/test/2"
    with pytest.raises(ProtocolNotSupported):
        await pair.near.open_stream("/test/3", "/test/4")
    with pytest.raises(InvalidInput):
        await pair.near.open_stream()
    await wait_all_tasks_blocked()
    assert pair.near.stream_count == 1


async def test_a_peer_that_does_not_choose_is_a_deadline(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(latency=20.0)
    async with open_pair(network=network) as pair:
        with pytest.raises(NegotiationTimeout) as caught:
            await pair.near.open_stream("/test", "/test/2")
        assert isinstance(caught.value, DeadlineExceeded)
        with trio.move_on_after(1.0) as scope:
            await pair.near.open_stream("/test", "/test/2")
        assert scope.cancelled_caught
        assert pair.near.stream_count == 0


async def test_a_dialer_that_proposes_nothing_is_reset_in_time(
    pair: Pair, autojump_clock: MockClock
) -> None:
    raw = pair.near._session.open_stream(trio.current_time(), HEADER)
    raw.owner = Stream(pair.near, raw, "/raw")
    pair.near._outbound.kick()
    await trio.sleep(9.9)
    assert pair.far.stream_count == 1
    await trio.sleep(0.2)
    assert raw.reset_there
    assert pair.far.stream_count == 0
    assert not pair.far._negotiating


async def test_a_peer_that_never_finishes_is_reset_though_no_ping_is_due(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    async with open_pair(limits=Limits(keep_alive_s=10_000)) as pair:
        ours, theirs = await pair.open_stream()
        await trio.sleep(60)  # the early pings are over, and the alarm for their answers
        await ours.aclose()
        await trio.sleep(29)
        assert pair.near.stream_count == 1
        await trio.sleep(2)
        assert pair.near.stream_count == 0
        with pytest.raises(StreamReset):
            await theirs.send_all(b"x")


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n", HEADER + b"\xff\xff\x7f", b""])
async def test_nonsense_in_place_of_a_proposal_is_a_reset(pair: Pair, nonsense: bytes) -> None:
    session = pair.near._session
    raw = session.open_stream(trio.current_time(), nonsense)
    raw.owner = Stream(pair.near, raw, "/raw")
    session.finish(raw)
    pair.near._outbound.kick()
    await wait_all_tasks_blocked()
    assert raw.reset_there or raw.finished_there
    assert pair.far.stream_count == 0
    assert pair.accepted.statistics().current_buffer_used == 0


async def test_an_answer_that_is_not_multistream_is_a_negotiation_error(pair: Pair) -> None:
    stream = await pair.near.open_stream("/test")
    stream._substream.queue(b"HTTP/1.1 400 Bad Request\r\n", 26)
    with pytest.raises(NegotiationError) as caught:
        await stream.receive_some()
    assert caught.value.peer == pair.near.peer


async def test_a_stream_that_ends_before_a_protocol_is_agreed_is_no_clean_end(pair: Pair) -> None:
    stream = await pair.near.open_stream("/test")
    stream._substream.end()
    with pytest.raises(NegotiationError):
        await stream.receive_some()


# How it ends


async def test_a_close_says_goodbye_and_wakes_everybody_with_the_reason(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    caught: list[ConnectionLost] = []

    async def read(stream: Stream) -> None:
        with pytest.raises(ConnectionLost) as lost:
            await stream.receive_some()
        caught.append(lost.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, ours)
        nursery.start_soon(read, theirs)
        await wait_all_tasks_blocked()
        await pair.near.aclose()
    assert pair.channels[0].sent[-1][0].endswith(frame(3, 0, 0, 0))
    assert pair.near.closed.is_set()
    await pair.far.closed.wait()
    assert all(error.peer is not None for error in caught)
    assert "closed here" in str(pair.near.close_reason)
    assert "closed it" in str(pair.far.close_reason)
    with pytest.raises(ConnectionLost):
        await pair.near.open_stream("/test")
    with pytest.raises(ConnectionLost):
        await ours.send_all(b"x")
    await ours.aclose()
    await pair.near.aclose()


async def test_a_cancelled_run_says_goodbye(open_pair: OpenPair) -> None:
    async with open_pair() as pair:
        await pair.open_stream()
    # Whoever hears the other one's first has nobody left to say it to.
    goodbye = frame(3, 0, 0, 0)
    assert any(channel.sent[-1][0].endswith(goodbye) for channel in pair.channels)
    assert pair.near.closed.is_set()
    assert [ledger.used_bytes for ledger in pair.ledgers] == [0, 0]


async def test_a_close_takes_no_longer_than_it_may_though_the_peer_does_not_read(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=50_000)
    async with open_pair(network=network) as pair:
        ours, _ = await pair.open_stream()
        await wait_all_tasks_blocked()
        network.cut("near", "far")
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(ConnectionLost):
                    await ours.send_all(bytes(200_000))

            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            started = trio.current_time()
            await pair.near.aclose()
            assert trio.current_time() - started <= Limits().close_timeout_s


async def test_a_cancelled_close_closes_all_the_same(pair: Pair) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await pair.near.aclose()
    with trio.fail_after(1):
        await pair.near.closed.wait()


async def test_a_goodbye_lets_open_streams_finish_and_then_closes(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    pair.far.go_away()
    await wait_all_tasks_blocked()
    assert pair.near.closing
    assert not pair.near.closed.is_set()
    with pytest.raises(SessionClosing):
        await pair.near.open_stream("/test")
    await ours.send_message(b"question")
    assert await theirs.receive_message(10) == b"question"
    await theirs.send_message(b"answer")
    await theirs.aclose()
    assert await ours.receive_message(10) == b"answer"
    await ours.aclose()
    with trio.fail_after(1):
        await pair.near.closed.wait()
        await pair.far.closed.wait()


async def test_a_goodbye_without_open_streams_closes_at_once(pair: Pair) -> None:
    pair.far.go_away()
    with trio.fail_after(1):
        await pair.near.closed.wait()
        await pair.far.closed.wait()


async def test_a_peer_that_breaks_the_protocol_is_told_and_dropped(pair: Pair) -> None:
    ours, _ = await pair.open_stream()
    await wait_all_tasks_blocked()
    await pair.channels[1].send([b"\x01" * 12])
    with pytest.raises(ConnectionLost, match="version 1"):
        await ours.receive_some()
    await pair.near.closed.wait()
    assert isinstance(pair.near.close_reason, YamuxError)
    assert pair.channels[0].sent[-1][0].endswith(frame(3, 0, 0, 1))
    await pair.far.closed.wait()
    assert "code 1" in str(pair.far.close_reason)


async def test_a_peer_that_floods_without_reading_is_dropped(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(window_bytes=20_000)
    async with open_pair(network=network, limits=Limits(streams_per_connection=8)) as pair:
        await wait_all_tasks_blocked()

        async def never() -> list[bytes | memoryview]:
            await trio.sleep_forever()
            return []

        pair.channels[1].receive = never  # type: ignore[method-assign]
        ours, _ = await pair.open_stream()
        async with trio.open_nursery() as nursery:

            async def stuck() -> None:
                with pytest.raises(ConnectionLost):
                    await ours.send_all(bytes(200_000))

            nursery.start_soon(stuck)
            await wait_all_tasks_blocked()
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                for number in range(0, 100_000, 2):
                    await pair.channels[1].send([frame(1, 1, number + 2, 0)])
        assert isinstance(pair.near.close_reason, LatticaError)
        assert pair.near.close_reason.code == "yamux-flood"


async def test_a_silent_peer_is_given_up_and_one_that_answers_is_not(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(latency=0.03)
    async with open_pair(network=network) as pair:
        await trio.sleep(600)
        assert not pair.near.closed.is_set()
        assert pair.near.rtt == pytest.approx(0.06, abs=0.001)
        network.cut("near", "far")
        started = trio.current_time()
        await pair.near.closed.wait()
        assert isinstance(pair.near.close_reason, PeerSilent)
        assert trio.current_time() - started <= 30.1


async def test_a_link_that_breaks_inside_a_frame_is_a_loss(pair: Pair) -> None:
    ours, theirs = await pair.open_stream()
    await theirs.send_all(b"ahead")
    await wait_all_tasks_blocked()
    await pair.channels[1].send([frame(0, 0, 1, b"0123456789")[:-1]])
    pair.channels[1].close()
    with pytest.raises(ConnectionLost, match="inside a frame"):
        await ours.receive_exactly(100)
    assert await ours.receive_exactly(14) == b"ahead012345678"


async def test_streams_of_a_lost_connection_can_be_closed_and_reset(pair: Pair) -> None:
    (ours, theirs), (other, _) = [await pair.open_stream() for _ in range(2)]
    assert pair.network is not None
    pair.network.crash("far")
    await wait_all_tasks_blocked()
    await ours.aclose()
    other.reset()
    await theirs.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await other.send_all(b"x")


async def test_bytes_that_came_before_run_are_not_lost(open_pair: OpenPair) -> None:
    async with open_pair() as pair:
        pair.far._received = [frame(0, 1, 1, HEADER + TEST + b"early")]
        stream = await pair.accepted.receive()
        assert await stream.receive_exactly(5) == b"early"


# Everything at once


@pytest.mark.parametrize("seed", range(4))
async def test_random_traffic_over_a_bad_link_arrives_as_it_was_sent(
    open_pair: OpenPair, autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    network = MemoryNetwork(
        latency=0.01, jitter=0.05, bandwidth=5e7, rng=random.Random(seed), window_bytes=30_000
    )
    async with open_pair(network=network, security="noise") as pair:
        data = rng.randbytes(2 * MIB)

        async def talk(stream: Stream, size: int, pieces: random.Random) -> None:
            view = memoryview(data)[:size]
            while view:
                count = pieces.choice([1, 100, 5000, 70_000, 600_000])
                await stream.send_all(view[:count])
                view = view[count:]
            await stream.send_eof()

        async def listen(stream: Stream, size: int, pieces: random.Random) -> None:
            got = bytearray()
            while True:
                most = pieces.choice([1, 50, 4096, 100_000, None])
                piece = await stream.receive_some(most)
                if not piece:
                    break
                got += piece
                if pieces.random() < 0.02:
                    await trio.sleep(pieces.random())
            assert got == data[:size]

        async def both(stream: Stream, there: int, back: int, pieces: random.Random) -> None:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(talk, stream, there, pieces)
                nursery.start_soon(listen, stream, back, pieces)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                ours, theirs = await pair.open_stream()
                there, back = rng.randrange(MIB), rng.randrange(MIB)
                nursery.start_soon(both, ours, there, back, random.Random(rng.random()))
                nursery.start_soon(both, theirs, back, there, random.Random(rng.random()))
        await trio.sleep(1)
        assert pair.near.stream_count == pair.far.stream_count == 0
        assert [ledger.used_bytes for ledger in pair.ledgers] == [0, 0]


async def test_nothing_of_a_stream_is_logged_above_debug(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        stream = await pair.near.open_stream("/nobody/1")
        await stream.send_all(b"x" * 100)
        with pytest.raises(ProtocolNotSupported):
            await stream.receive_some()
    assert not caplog.records
