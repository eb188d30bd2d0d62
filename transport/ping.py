"""Ping: 32 bytes there and back on an open stream, timed.

Source: https://github.com/libp2p/specs/blob/master/ping/ping.md.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica.errors import ProtocolError

if TYPE_CHECKING:
    from lattica.identity import PeerId

    from ._stream import Stream
    from .connection import Connection
    from .limits import Limits

PING_PROTOCOL = "/ipfs/ping/1.0.0"
PAYLOAD_BYTES = 32


class PingMismatch(ProtocolError):
    """The peer did not send back what it got."""

    code = "ping-mismatch"


class PingServer:
    """Answers pings, of each peer on a few streams at once.

    Attributes:
        running: streams that are being served, by peer.
    """

    def __init__(self, limits: Limits, refused: Counter[str]) -> None:
        """Count what is sent away in `refused`."""
        self._limits, self._refused = limits, refused
        self.running: Counter[PeerId] = Counter()

    async def serve(self, stream: Stream) -> None:
        """Serve one stream, or reset it where the peer has too many."""
        if self.running[stream.peer] >= self._limits.pings_per_peer:
            self._refused["ping-limit"] += 1
            stream.reset()
            return
        self.running[stream.peer] += 1
        try:
            await serve_ping(stream, idle_s=self._limits.ping_idle_s)
        finally:
            self.running[stream.peer] -= 1
            if not self.running[stream.peer]:
                del self.running[stream.peer]


async def serve_ping(stream: Stream, *, idle_s: float) -> None:
    """Echo until the peer is done, or silent for `idle_s` seconds."""
    while True:
        with trio.move_on_after(idle_s) as scope:
            payload = await _receive_payload(stream)
            if payload is None:
                return
            await stream.send_all(payload)
        if scope.cancelled_caught:
            stream.reset()
            return


async def measure_round_trip(connection: Connection) -> float:
    """Return the seconds that 32 bytes take to the peer and back.

    The first echo settles which protocol is spoken and warms the path; the second one is timed.
    Cancelled, the stream is reset.

    Raises:
        PingMismatch: something else came back.
        Refused: the peer does not answer pings.
        Unreachable: the connection was lost.
    """
    stream = await connection.open_stream(PING_PROTOCOL)
    try:
        await _echo(stream)
        start = trio.current_time()
        await _echo(stream)
        elapsed = trio.current_time() - start
    except BaseException:
        stream.reset()
        raise
    await stream.aclose()
    return elapsed


async def _echo(stream: Stream) -> None:
    payload = os.urandom(PAYLOAD_BYTES)
    await stream.send_all(payload)
    if await stream.receive_exactly(PAYLOAD_BYTES) != payload:
        raise PingMismatch("the peer answered a ping with other bytes", peer=stream.peer)


async def _receive_payload(stream: Stream) -> bytes | None:
    first = await stream.receive_some(PAYLOAD_BYTES)
    if not first:
        return None
    if len(first) == PAYLOAD_BYTES:
        return first
    return first + await stream.receive_exactly(PAYLOAD_BYTES - len(first))
