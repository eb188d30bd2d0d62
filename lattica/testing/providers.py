"""Providers of content that misbehave, for tests of whoever fetches from them.

    HostileProvider(mesh, store, at(20, wrong_leaf))

takes over the content protocol of a mesh and answers from a store like any other provider, but for
its misdeed: the 21st leaf is wrong. A fetch is to survive every misdeed here: nothing wrong is
written, nothing hangs, and little is wasted while one honest provider is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lattica.content._messages import (
    PROTOCOL,
    AnswerHead,
    AnswerKind,
    BlocksRequest,
    CancelRequest,
    HaveRequest,
    Status,
    decode_request,
    encode_end,
    encode_have,
    encode_have_all,
)
from lattica.content._values import Absent
from lattica.errors import LatticaError

if TYPE_CHECKING:
    from lattica.content import Store
    from lattica.transport import Mesh, Stream

_MAX_REQUEST = 1 << 20  # bytes; more patient than the protocol


class HostileProvider:
    """A provider that answers like any other, but for its misdeed.

    Attributes:
        stream: that of the peer it answers now.
        sent: leaves that went out so far, the misdeeds among them.
    """

    def __init__(
        self, mesh: Mesh, store: Store, misdeed: Misdeed, *, index_too: bool = False
    ) -> None:
        """Serve `store` on `mesh`, in place of whoever did.

        Args:
            mesh: where peers come from.
            store: what the answers are read from.
            misdeed: given each leaf that is about to be sent, with its head, it returns what goes
                on the wire instead.
            index_too: hand it index blocks as well.
        """
        self.sent = 0
        self.stream: Stream
        self._store, self._misdeed, self._index_too = store, misdeed, index_too
        mesh.unhandle(PROTOCOL)
        mesh.handle(PROTOCOL, self.serve)

    async def serve(self, stream: Stream) -> None:
        """Handle one stream."""
        self.stream = stream
        with suppress(LatticaError, trio.BrokenResourceError, trio.ClosedResourceError):
            while (data := await stream.receive_message(_MAX_REQUEST)) is not None:
                request = decode_request(data)
                if isinstance(request, HaveRequest):
                    end = encode_end(request.id, Status.OK)
                    await stream.send_all(encode_have_all(request.id) + end)
                elif isinstance(request, BlocksRequest):
                    for number, multihash in enumerate(request.hashes):
                        await self.send_block(stream, request.id, number, multihash)
                    await stream.send_all(encode_end(request.id, Status.OK))
                elif not isinstance(request, CancelRequest):
                    await stream.send_all(encode_end(request.id, Status.UNKNOWN))

    async def send_block(self, stream: Stream, request: int, number: int, multihash: bytes) -> None:
        """Answer for one block, honestly or not."""
        with self._store.read_blocks([multihash]) as batch:
            (block,) = batch.blocks
            if isinstance(block, Absent):
                head = AnswerHead(AnswerKind.LEAF, Status.ABSENT, 0, 0, request, number, 0)
                await stream.send_all(bytes(head))
                return
            data, is_leaf = bytes(block), isinstance(block, memoryview)
        head = AnswerHead(AnswerKind.LEAF, 0, 0, 0, request, number, len(data))
        wire = bytes(head) + data
        if is_leaf or self._index_too:
            wire = await self._misdeed(self, head, data)
            self.sent += 1
        await stream.send_all(wire)


Misdeed = Callable[[HostileProvider, AnswerHead, bytes], Awaitable[bytes]]


def at(number: int, misdeed: Misdeed) -> Misdeed:
    """Be honest but for one leaf, the `number`-th that is sent, counted from 0."""

    async def choose(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
        if provider.sent == number:
            return await misdeed(provider, head, data)
        return bytes(head) + data

    return choose


def after(number: int, misdeed: Misdeed) -> Misdeed:
    """Be honest for `number` leaves, and never again."""

    async def choose(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
        if provider.sent >= number:
            return await misdeed(provider, head, data)
        return bytes(head) + data

    return choose


async def no_misdeed(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """No misdeed at all."""
    return bytes(head) + data


async def wrong_leaf(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """One bit is not what it should be."""
    return bytes(head) + data[:-1] + bytes([data[-1] ^ 1])


async def garbage(_provider: HostileProvider, _head: AnswerHead, _data: bytes) -> bytes:
    """Not the protocol."""
    return b"\xa5" * 5000


async def oversized(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """A leaf that declares 4 GiB."""
    return bytes(replace(head, length=(1 << 32) - 1)) + data


async def truncated(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """A leaf that is one byte short, and says so."""
    return bytes(replace(head, length=len(data) - 1)) + data[:-1]


async def another_request(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """An answer to what nobody asked."""
    return bytes(replace(head, request=head.request + 77)) + data


async def skipped(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """An answer that is not due yet."""
    return bytes(replace(head, number=head.number + 1)) + data


async def duplicate(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """The same leaf twice."""
    return (bytes(head) + data) * 2


async def lacking(_provider: HostileProvider, head: AnswerHead, _data: bytes) -> bytes:
    """It has said that it holds everything, and does not."""
    return bytes(replace(head, status=Status.ABSENT, length=0))


async def hang_up(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """Reset the stream inside a leaf."""
    await provider.stream.send_all(bytes(head) + data[:1000])
    provider.stream.reset()
    return b""


async def end_inside(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """End the stream, politely, inside a leaf."""
    await provider.stream.send_all(bytes(head) + data[:1000])
    await provider.stream.send_eof()
    return b""


async def silence(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    """Say nothing more on this stream."""
    provider.sent += 1  # once only, where `at` counts
    await trio.sleep_forever()
    return bytes(head) + data


def late(seconds: float) -> Misdeed:
    """Send each leaf so much later."""

    async def wait(_provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
        await trio.sleep(seconds)
        return bytes(head) + data

    return wait


def slow_loris(seconds: float) -> Misdeed:
    """Send each leaf byte by byte, so much time apart."""

    async def trickle(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
        await provider.stream.send_all(bytes(head))
        for byte in data:
            await provider.stream.send_all(bytes([byte]))
            await trio.sleep(seconds)
        return b""

    return trickle


async def chatter(provider: HostileProvider, head: AnswerHead, _data: bytes) -> bytes:
    """Fill the line with what nobody asked for, and send no leaf any more."""
    while True:
        await provider.stream.send_all(encode_have(head.request + 1000, 0, b"\xff" * 60_000))


MISDEEDS: dict[str, Misdeed] = {
    "wrong leaf": wrong_leaf,
    "garbage": garbage,
    "oversized": oversized,
    "truncated": truncated,
    "another request": another_request,
    "skipped": skipped,
    "duplicate": duplicate,
    "lacking": lacking,
    "hang up": hang_up,
    "end inside": end_inside,
    "silence": silence,
    "late": late(5.0),
    "slow loris": slow_loris(0.5),
    "chatter": chatter,
}
