"""What we do with a rust-libp2p node, in a network namespace that has loopback alone.

The node contacts public servers when it starts and cannot be told not to; in here it reaches none.
`test_rust.py` starts this with one scenario's name and looks at the exit status.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from install_peers import RUST_PYTHON

from lattica.cid import CID, HashFunction
from lattica.content import Store, build, open_exchange
from lattica.dht import gradient, open_dht
from lattica.identity import Identity, PeerId
from lattica.transport import Multiaddr, PeerIdentified, PeerInfo, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PORT = 4001
ADDRESS = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{PORT}")
LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
KAD = "/lattica/1.0.0"


class Rust:
    """The running node."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def ready(self) -> PeerId:
        return PeerId.parse((await self._line())["ready"])

    async def call(self, *words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(" ".join(words).encode() + b"\n")
        return await self._line()

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = bytearray()
        async for data in self._process.stdout:
            text += data
            for line in text.split(b"\n")[:-1]:
                if line.startswith(b"{"):
                    message: dict[str, Any] = json.loads(line)
                    return message
        raise AssertionError("the node ended")


@asynccontextmanager
async def rust(bootstrap: list[Multiaddr] | None = None) -> AsyncIterator[Rust]:
    """Run a node for the block."""
    script = Path(__file__).with_name("rust_peer.py")
    command = [str(RUST_PYTHON), "-P", str(script), str(PORT), *map(str, bootstrap or [])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "check": False}
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(partial(trio.run_process, command, **pipes))
        yield Rust(process)
        nursery.cancel_scope.cancel()


async def we_dial() -> None:
    """Identify, ping, stay connected, and be handed on by its DHT."""
    async with rust() as node, open_mesh(Identity.generate(), listen=LISTEN) as mesh:
        peer = await node.ready()
        async with mesh.events() as events, open_dht(mesh, protocol=KAD) as dht:
            connection = await mesh.dial(ADDRESS.with_peer(peer))
            assert connection.security == "/noise"
            async for event in events:
                if isinstance(event, PeerIdentified):
                    assert event.peer == peer
                    break
            assert "/ipfs/id/1.0.0" in mesh.book.protocols(peer)
            assert await mesh.ping(peer) > 0
            await dht.wait_joined()
            assert [info.peer for info in await dht.closest_peers(b"any key")] == [peer]
        assert not connection.closed.is_set(), "it drops peers that it does not like the version of"


async def they_dial() -> None:
    """Be dialled as a bootstrap node, and accepted as a peer once identified."""
    async with open_mesh(Identity.generate(), listen=LISTEN) as mesh, mesh.events() as events:
        ours = mesh.listen_addresses[0].with_peer(mesh.peer_id)
        async with rust([ours]) as node:
            peer = await node.ready()
            async for event in events:
                if isinstance(event, PeerIdentified):
                    assert event.peer == peer
                    break
            connection = mesh.connected(peer)
            assert connection is not None
            assert connection.inbound
            assert await mesh.ping(peer) > 0


async def echo() -> None:
    """Carry 16 MiB there and back through a call, half-closing as its protocol demands."""
    argument = bytes(range(256)) * (64 << 10)
    request = b"\0" + _string(b"1") + _string(b"Echo.echo") + _string(argument) + b"\0"
    async with rust() as node, open_mesh(Identity.generate()) as mesh:
        peer = await node.ready()
        await mesh.dial(ADDRESS.with_peer(peer))
        async with await mesh.open_stream(peer, "/rpc/req-resp/1.0.0") as stream:
            await stream.send_all(request)
            await stream.send_eof()
            answer = b"".join([data async for data in stream])
    assert answer == b"\x01" + _string(b"1") + _string(argument) + b"\0"


async def bitswap() -> None:
    """Give it a block, and take one from it: SHA2-256, CIDv1, raw."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            rust() as node,
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_dht(mesh, protocol=KAD),
        ):
            with Store.open(folder / "store") as store:
                async with open_exchange(mesh, store) as exchange:
                    peer = await node.ready()
                    await mesh.dial(ADDRESS.with_peer(peer))
                    theirs = bytes(range(256)) * 4000  # 1 024 000 bytes: one block
                    cid = CID.parse((await node.call("put", theirs.hex()))["cid"])
                    await exchange.fetch(cid, folder / "got", providers=[PeerInfo(peer, ())])
                    assert (folder / "got").read_bytes() == theirs
                    (folder / "ours").write_bytes(theirs[:200_001])
                    built = build(folder / "ours", hash_function=HashFunction.SHA2_256)
                    store.add(built)
                    answer = await node.call("get", str(built.root))
                    assert bytes.fromhex(answer["data"]) == theirs[:200_001]


async def records() -> None:
    """Read what it puts into its DHT, and have it read what we put, by key and by subkey."""
    async with rust() as node, open_mesh(Identity.generate(), listen=LISTEN) as mesh:
        async with open_dht(mesh, protocol=KAD, namespaces=gradient.namespaces()) as dht:
            peer = await node.ready()
            await mesh.dial(ADDRESS.with_peer(peer))
            await dht.wait_joined()
            assert [contact.peer for contact in dht.peers()] == [peer]
            shared = gradient.GradientRecords(dht)

            async def read(key: str) -> dict[str, bytes | str]:
                return {name: each.value for name, each in (await shared.get(key)).items()}

            assert (await node.call("store", "plain", "-", b"theirs".hex()))["stored"]
            assert await read("plain") == {"": b"theirs"}
            assert (await node.call("store", "many", "one", b"1".hex()))["stored"]
            await shared.store("many", b"2", subkey="two")
            both = {"one": b"1", "two": b"2"}
            assert await read("many") == both
            seen = (await node.call("look", "many"))["values"]
            assert {name: bytes.fromhex(value) for name, value in seen.items()} == both
            await shared.store("ours", b"ours")
            assert (await node.call("look", "ours"))["values"] == {"": b"ours".hex()}
            assert (await node.call("store-object", "object"))["stored"]
            (value,) = (await shared.get("object")).values()
            try:
                refused = value.value
            except gradient.NotPlain:
                assert value.raw.startswith(b"\x80"), (
                    "the bytes are there, and nothing has run them"
                )
            else:
                raise AssertionError(f"{refused!r} was read out of a pickle")


def _string(data: bytes) -> bytes:
    """Bytes as bincode 2 writes them: the length in one byte, or behind a marker, and the bytes."""
    if len(data) < 251:
        return bytes([len(data)]) + data
    if len(data) < 1 << 16:
        return b"\xfb" + len(data).to_bytes(2, "little") + data
    return b"\xfc" + len(data).to_bytes(4, "little") + data


SCENARIOS = {
    "we-dial": we_dial,
    "they-dial": they_dial,
    "echo": echo,
    "bitswap": bitswap,
    "records": records,
}

if __name__ == "__main__":
    trio.run(SCENARIOS[sys.argv[1]])
