"""Connections under attack, and cut at awkward moments: nobody waits for ever, nothing piles up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.transport.connection import ConnectionLost, StreamReset
from lattica.transport.multistream import ProtocolNotSupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.transport.conftest import OpenPair

MIB = 1 << 20
HEADER = b"\x13/multistream/1.0.0\n"


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

        pair.channels[0].send = slow_send  # type: ignore[method-assign, assignment]
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
