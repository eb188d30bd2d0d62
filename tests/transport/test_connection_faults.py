"""Connections under attack, and cut at awkward moments: nobody waits for ever, nothing piles up."""

from __future__ import annotations

import struct
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.transport import ConnectionLost, StreamReset
from lattica.transport.multistream import ProtocolNotSupported
from lattica.transport.yamux import PeerFlood, YamuxError
from lattica.transport.yamux._control import MAX_ANSWERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.transport.conftest import OpenPair

MIB = 1 << 20
HEADER = b"\x13/multistream/1.0.0\n"
DATA, WINDOW, SYN, RST = 0, 1, 1, 8


def frame(kind: int, flags: int, stream_id: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return struct.pack("!BBHII", 0, kind, flags, stream_id, len(value)) + value
    return struct.pack("!BBHII", 0, kind, flags, stream_id, value)


def flood(*_: object, **__: object) -> None:
    raise PeerFlood("too many answers wait")


async def stuck(_: object) -> int:
    await trio.sleep_forever()
    raise AssertionError


# Writers


@pytest.mark.parametrize("who", ["the peer resets", "the stream is closed here", "the link dies"])
async def test_a_writer_whose_stream_ends_while_its_batch_is_sent_is_told(
    open_pair: OpenPair, autojump_clock: trio.testing.MockClock, who: str
) -> None:
    async with open_pair() as pair:
        ours, theirs = await pair.open_stream()
        errors: list[Exception] = []
        gate = trio.Event()
        send = pair.channels[0].send

        async def slow_send(buffers: object) -> None:
            await gate.wait()
            await send(buffers)  # type: ignore[arg-type]

        async def write() -> None:
            try:
                await ours.send_all(bytes(MIB))  # four times the window
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                errors.append(error)

        pair.channels[0].send = slow_send  # type: ignore[method-assign]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await wait_all_tasks_blocked()
                if who == "the peer resets":
                    theirs.reset()
                elif who == "the stream is closed here":
                    await ours.aclose()
                else:
                    pair.near._fail(ConnectionLost("gone"))
                await wait_all_tasks_blocked()
                gate.set()
        expected = {
            "the peer resets": StreamReset,
            "the stream is closed here": trio.ClosedResourceError,
            "the link dies": ConnectionLost,
        }
        assert [type(error) for error in errors] == [expected[who]]


async def test_a_blocked_writer_learns_of_the_refusal_that_a_reader_found(
    open_pair: OpenPair, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pair() as pair:
        ours = await pair.near.open_stream("/unheard-of")
        ours._substream.send_credit_bytes = 0
        errors: list[Exception] = []

        async def run(call: Callable[[], Awaitable[object]]) -> None:
            try:
                await call()
            except ProtocolNotSupported as error:
                errors.append(error)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, lambda: ours.send_all(b"x"))
                await wait_all_tasks_blocked()
                nursery.start_soon(run, ours.receive_some)
        assert len(errors) == 2


# Answers


async def test_a_peer_that_opens_streams_with_garbage_and_reads_nothing_is_cut_off(
    open_pair: OpenPair,
) -> None:
    async with open_pair() as pair:
        await wait_all_tasks_blocked()
        pair.channels[1].link.send_some = stuck  # type: ignore[method-assign, assignment]
        for first in range(1, 4001, 40):
            flood = b"".join(
                frame(DATA, SYN, number, b"GET /") for number in range(first, first + 40, 2)
            )
            if pair.far.close_reason is not None:
                break
            await pair.channels[0].send([flood])
            await wait_all_tasks_blocked()
        assert isinstance(pair.far.close_reason, PeerFlood)
        assert pair.far._session.queued_bytes < 64 << 10


@pytest.mark.parametrize("fault", ["a flood", "no frame"])
async def test_a_reader_is_told_of_its_reset_though_the_peer_is_cut_off_in_the_same_moment(
    open_pair: OpenPair, autojump_clock: trio.testing.MockClock, fault: str
) -> None:
    async with open_pair() as pair:
        ours, _ = await pair.open_stream()
        errors: list[Exception] = []

        async def read() -> None:
            try:
                await ours.receive_some()
            except trio.BrokenResourceError as error:
                errors.append(error)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                reset = frame(WINDOW, RST, ours._substream.id, 0)
                if fault == "a flood":
                    pair.near._session._control._answers = MAX_ANSWERS
                    await pair.channels[1].send([frame(DATA, SYN, 2, HEADER) + reset])
                else:
                    await pair.channels[1].send([reset + frame(9, 0, 0, 0)])
        assert isinstance(pair.near.close_reason, YamuxError)
        assert [type(error) for error in errors] == [StreamReset]


# What is left


async def test_a_lost_connection_does_not_keep_what_it_received(open_pair: OpenPair) -> None:
    class Piece(bytearray):
        pass

    async with open_pair() as pair:
        await wait_all_tasks_blocked()
        pieces: list[Any] = [Piece(frame(9, 0, 0, bytes(MIB)))]
        alive = weakref.ref(pieces[0])
        link_receive = pair.channels[0].receive

        async def receive() -> list[bytes | memoryview]:
            await link_receive()
            found, pieces[:] = list(pieces), []
            return found

        pair.channels[0].receive = receive  # type: ignore[method-assign]
        await pair.channels[1].send([frame(2, 1, 0, 0)])
        await wait_all_tasks_blocked()
        await pair.channels[1].send([frame(2, 1, 0, 0)])
        await pair.near.closed.wait()
        await wait_all_tasks_blocked()
        assert pair.near.close_reason is not None
        assert not pieces
        assert alive() is None


async def test_a_connection_is_over_even_if_its_goodbye_is_interrupted(
    open_pair: OpenPair,
) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt):
        async with open_pair() as pair:
            pair.near._outbound.send_control = interrupted  # type: ignore[method-assign]
            pair.near._close_here()
            await trio.sleep_forever()
    assert pair.near.closed.is_set()
