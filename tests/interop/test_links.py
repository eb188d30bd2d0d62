"""Each layer of a connection, both ways round, against every foreign implementation."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import _pattern
import pytest
import trio
from _foreign import Foreign, open_foreign
from _json_peer import JsonPeer

from lattica.errors import LatticaError
from lattica.identity import Identity
from lattica.transport import Mesh, Multiaddr, StreamReset, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.transport import Stream

pytestmark = pytest.mark.interop
MIB = 1 << 20
KINDS = ["go-noise", "go-tls", "js-noise", "js-tls", "py-noise", "py-tls"]
SECURITY = {"noise": "/noise", "tls": "/tls/1.0.0"}
LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]


@asynccontextmanager
async def meet(kind: str) -> AsyncIterator[tuple[Mesh, Multiaddr, _pattern.Handled, Foreign]]:
    """A mesh of ours and a foreign peer, not connected yet, under one deadline."""
    with trio.fail_after(120):
        async with (
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_foreign(kind) as foreign,
        ):
            handled = _pattern.serve(mesh)
            yield mesh, mesh.listen_addresses[0].with_peer(mesh.peer_id), handled, foreign


async def _echo(stream: Stream, size: int, foreign: Foreign) -> int:
    return await _pattern.echo(stream, size, half_close=foreign.half_closes)


@pytest.mark.parametrize("kind", KINDS)
async def test_we_dial_them_over_the_protocol_they_offer(kind: str) -> None:
    async with meet(kind) as (mesh, _, _, foreign), mesh.events() as events:
        connection = await mesh.dial(foreign.address)
        assert connection.peer == foreign.peer
        assert connection.security == SECURITY[kind.partition("-")[2]]
        async for event in events:
            if type(event).__name__ == "PeerIdentified":
                break
        assert "/interop/echo" in mesh.book.protocols(foreign.peer)
        assert await mesh.ping(foreign.peer) > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_they_dial_us_and_identify_us(kind: str) -> None:
    async with meet(kind) as (mesh, ours, _, foreign), mesh.events() as events:
        await foreign.dial(ours)
        async for event in events:
            if type(event).__name__ == "PeerIdentified":
                break
        connection = mesh.connected(foreign.peer)
        assert connection is not None
        assert connection.inbound
        if isinstance(foreign, JsonPeer):
            assert await foreign.ping(ours) >= 0
        if isinstance(foreign, JsonPeer) and kind.startswith("js"):
            seen = await foreign.event("identify")
            assert seen["peer"] == str(mesh.peer_id)
            assert seen["version"] == "lattica-mesh/common/1"
            assert seen["agent"].startswith("lattica-mesh/")
            assert "/interop/echo" in seen["protocols"]
            assert str(ours.without_peer()) in seen["addresses"][0]


@pytest.mark.parametrize("kind", KINDS)
async def test_64_mib_come_back_from_their_echo(kind: str) -> None:
    async with meet(kind) as (mesh, _, _, foreign):
        await mesh.dial(foreign.address)
        stream = await mesh.open_stream(foreign.peer, "/interop/echo")
        assert await _echo(stream, 64 * MIB, foreign) == 64 * MIB


@pytest.mark.parametrize("kind", KINDS)
async def test_64_mib_come_back_from_our_echo(kind: str) -> None:
    async with meet(kind) as (_, ours, _, foreign):
        assert await foreign.echo(ours, 64 * MIB) == 64 * MIB


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("go")])
async def test_a_half_closed_stream_still_carries_the_answer(kind: str) -> None:
    async with meet(kind) as (mesh, ours, _, foreign):
        assert isinstance(foreign, JsonPeer)
        await mesh.dial(foreign.address)
        async with await mesh.open_stream(foreign.peer, "/interop/sink") as stream:
            await _pattern.send(stream, 3 * MIB + 7)
            await stream.send_eof()
            assert b"".join([data async for data in stream]) == str(3 * MIB + 7).encode()
        assert await foreign.sink(ours, 3 * MIB + 7) == 3 * MIB + 7


@pytest.mark.parametrize("kind", KINDS)
async def test_their_reset_is_not_an_end_of_stream(kind: str) -> None:
    async with meet(kind) as (mesh, ours, handled, foreign):
        await mesh.dial(foreign.address)
        async with await mesh.open_stream(foreign.peer, "/interop/reset") as stream:
            await stream.send_all(b"xx")
            with pytest.raises(StreamReset):
                await stream.receive_some()
        await foreign.reset(ours)
        await handled.ended.wait()
        assert isinstance(handled.error, StreamReset)
        assert await mesh.ping(foreign.peer) > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_they_see_our_reset_and_the_connection_lives_on(kind: str) -> None:
    async with meet(kind) as (_, ours, _, foreign):
        assert await foreign.sees_reset(ours)
        assert await foreign.echo(ours, MIB) == MIB


@pytest.mark.parametrize("kind", KINDS)
async def test_a_protocol_nobody_serves_is_refused(kind: str) -> None:
    async with meet(kind) as (mesh, ours, _, foreign):
        await mesh.dial(foreign.address)
        with pytest.raises(LatticaError, match="/interop/unknown"):
            async with await mesh.open_stream(foreign.peer, "/interop/unknown") as stream:
                await stream.send_all(b"x")
                await stream.receive_some()
        assert await foreign.is_refused(ours)
        assert await foreign.echo(ours, 1000) == 1000


@pytest.mark.parametrize("kind", KINDS)
async def test_200_streams_run_at_once(kind: str) -> None:
    size = 20_000
    async with meet(kind) as (mesh, ours, _, foreign):
        connection = await mesh.dial(foreign.address)
        # js-libp2p resets all but ten streams that come before its own upgrade is done.
        await mesh.ping(foreign.peer)
        received: list[int] = []
        everyone_open = trio.Event()
        waiting = 0

        async def one() -> None:
            nonlocal waiting
            stream = await connection.open_stream("/interop/echo")
            waiting += 1
            if waiting == 200:
                everyone_open.set()
            await everyone_open.wait()
            received.append(await _echo(stream, size, foreign))

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one)
        assert received == [size] * 200
        if not kind.startswith("py"):  # py-libp2p's own dialler limits what it opens at once
            assert await foreign.echoes(ours, 200, size) == [size] * 200


@pytest.mark.parametrize("kind", KINDS)
async def test_bulk_runs_both_ways_on_16_streams_at_once(kind: str) -> None:
    # Stock py-libp2p stops for good when both sides send much at once, so it gets less than a
    # window of each stream; the point against it is that we do not stop.
    size = 4 * MIB if not kind.startswith("py") else 100_000
    async with meet(kind) as (mesh, ours, _, foreign):
        connection = await mesh.dial(foreign.address)

        async def one() -> None:
            stream = await connection.open_stream("/interop/echo")
            assert await _echo(stream, size, foreign) == size

        async def theirs() -> None:
            assert await foreign.echoes(ours, 16, size) == [size] * 16

        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs)
            for _ in range(16):
                nursery.start_soon(one)
