"""js-libp2p under the same pre-shared key, both ways round; and under another one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import _pattern
import pytest
import trio
from _foreign import Foreign, open_foreign
from _json_peer import ForeignFailure

from lattica.identity import Identity
from lattica.transport import DialError, Mesh, Multiaddr, TcpTransport, open_mesh
from lattica.transport.pnet import FILE_HEAD, PskTransport, read_psk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.interop
LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
MIB = 1 << 20


def key_file(path: Path, byte: str) -> Path:
    path.write_text(f"{FILE_HEAD}\n/base16/\n{byte * 32}")
    path.chmod(0o600)
    return path


@asynccontextmanager
async def under(ours: Path, theirs: Path) -> AsyncIterator[tuple[Mesh, Foreign]]:
    ways = [PskTransport(TcpTransport(), read_psk(ours))]
    with trio.fail_after(60):
        async with (
            open_mesh(Identity.generate(), listen=LISTEN, transports=ways) as mesh,
            open_foreign("js-noise", "--psk", str(theirs)) as foreign,
        ):
            yield mesh, foreign


async def test_we_dial_js_with_the_same_key(tmp_path: Path) -> None:
    key = key_file(tmp_path / "swarm.key", "5a")
    async with under(key, key) as (mesh, foreign):
        connection = await mesh.dial(foreign.address)
        assert connection.peer == foreign.peer
        stream = await mesh.open_stream(foreign.peer, "/interop/echo")
        assert await _pattern.echo(stream, 3 * MIB, half_close=True) == 3 * MIB


async def test_js_with_the_same_key_dials_us(tmp_path: Path) -> None:
    key = key_file(tmp_path / "swarm.key", "5a")
    async with under(key, key) as (mesh, foreign):
        _pattern.serve(mesh)
        ours = mesh.listen_addresses[0].with_peer(mesh.peer_id)
        assert await foreign.dial(ours) == "/noise"
        assert await foreign.echo(ours, 3 * MIB) == 3 * MIB
        assert mesh.connected(foreign.peer) is not None


async def test_js_with_another_key_does_not(tmp_path: Path) -> None:
    ours, theirs = key_file(tmp_path / "one.key", "5a"), key_file(tmp_path / "other.key", "5b")
    async with under(ours, theirs) as (mesh, foreign):
        with pytest.raises(DialError):
            await mesh.dial(foreign.address)
        with pytest.raises(ForeignFailure):
            await foreign.dial(mesh.listen_addresses[0].with_peer(mesh.peer_id))
        assert not mesh.connections()
