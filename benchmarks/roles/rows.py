"""Ours: reads rows of one tensor of a remote checkpoint, from nothing whenever told to.

usage: python -m benchmarks.roles.rows TICKET FOLDER TENSOR ROWS

Every byte of the link goes through a forwarder in this process, which counts both directions: what
is reported is what a network card would see, handshake, index and encryption included.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import lattica
from lattica.ticket import Ticket
from lattica.transport import Multiaddr

from ._drive import drive_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LISTEN = ["/ip4/127.0.0.1/tcp/0"]


class Counter:
    """Forwards connections to one address, and counts what goes through."""

    def __init__(self, port: int) -> None:
        self.count, self._port = 0, port

    async def serve(self, near: trio.SocketStream) -> None:
        async with near, await trio.open_tcp_stream("127.0.0.1", self._port) as far:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, near, far, nursery)
                nursery.start_soon(self._pump, far, near, nursery)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery
    ) -> None:
        try:
            async for data in source:
                self.count += len(data)
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def counting(ticket: Ticket) -> AsyncIterator[tuple[Ticket, Counter]]:
    """Give the same ticket by way of a counter."""
    words = next(
        str(one).split("/") for one in ticket.addresses if "/ip4/127.0.0.1/tcp/" in f"{one}/"
    )
    counter = Counter(int(words[4]))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, counter.serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        address = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")
        yield Ticket(ticket.root, ticket.peer, (address,), ticket.options), counter
        nursery.cancel_scope.cancel()


async def rows(text: str, folder: Path, tensor: str, count: int) -> None:
    """Read rows 0 to `count`, then as many others with the checkpoint still open."""

    async def measure() -> dict[str, float]:
        _empty(folder)
        async with counting(Ticket.parse(text)) as (ticket, counter):
            async with lattica.open_node(home=folder / "home", listen=LISTEN, mdns=False) as node:
                started = time.perf_counter()
                async with node.open(ticket) as model:
                    array = await model[tensor][:count]
                    cold = time.perf_counter() - started
                    wire = counter.count
                    started = time.perf_counter()
                    await model[tensor][2 * count : 3 * count]
                    warm = time.perf_counter() - started
        return {
            "cold_ms": cold * 1e3,
            "warm_ms": warm * 1e3,
            "wire_bytes": float(wire),
            "slice_bytes": float(array.nbytes),
        }

    await drive_async(measure)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


if __name__ == "__main__":
    trio.run(rows, sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
