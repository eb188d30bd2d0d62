"""What streams carry in these tests, and our own handlers for it.

Byte i is i modulo 251, a prime, so that a lost, doubled or swapped piece of any size shows.
Protocols, the same on every implementation: `/interop/echo` returns what it gets and half-closes
after us; `/interop/sink` checks what it gets and answers with its size; `/interop/reset` resets as
soon as bytes arrive; `/interop/hold` answers a byte with two and waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from lattica.transport import Mesh, Stream

PIECE = 1 << 18
_PATTERN = memoryview(bytes(i % 251 for i in range(PIECE + 251)))


async def send(stream: Stream, size: int) -> None:
    """Send `size` bytes of the pattern."""
    offset = 0
    while offset < size:
        part = min(PIECE, size - offset)
        await stream.send_all(_PATTERN[offset % 251 : offset % 251 + part])
        offset += part


async def check(stream: Stream, size: int | None = None) -> int:
    """Receive `size` bytes, or to the end; return how many came.

    Raises AssertionError at the first wrong byte.
    """
    offset = 0
    while offset != size and (data := await stream.receive_view()):
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            part = view[start : start + PIECE]
            assert part == _PATTERN[offset % 251 : offset % 251 + len(part)], f"at {offset}"
            offset += len(part)
    return offset


async def echo(stream: Stream, size: int, *, half_close: bool) -> int:
    """Send `size` bytes to an echo while receiving them back; return how many came.

    With `half_close` our end of stream has to come back as theirs.
    """
    received = 0

    async def receive() -> None:
        nonlocal received
        received = await check(stream, None if half_close else size)

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await send(stream, size)
        if half_close:
            await stream.send_eof()
    return received


def serve(mesh: Mesh) -> Handled:
    """Serve the four protocols on `mesh`; the result says how they fared."""
    handled = Handled()
    mesh.handle("/interop/echo", _serve_echo)
    mesh.handle("/interop/sink", _serve_sink)
    mesh.handle("/interop/reset", _serve_reset)
    mesh.handle("/interop/hold", handled.serve_hold)
    return handled


class Handled:
    """What our `/interop/hold` handler saw."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error: Exception | None = None

    async def serve_hold(self, stream: Stream) -> None:
        try:
            await stream.send_all(2 * await stream.receive_exactly(1))
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError as error:
            self.error = error
        finally:
            self.ended.set()


async def _serve_echo(stream: Stream) -> None:
    while data := await stream.receive_view():
        await stream.send_all(data)
    await stream.send_eof()


async def _serve_sink(stream: Stream) -> None:
    await stream.send_all(str(await check(stream)).encode())


async def _serve_reset(stream: Stream) -> None:
    await stream.receive_exactly(1)
    stream.reset()
