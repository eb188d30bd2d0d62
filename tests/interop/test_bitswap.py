"""IPFS nodes: helia walks and fetches what we share over Bitswap, and we what it has."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from _foreign import open_foreign
from _json_peer import ForeignFailure, JsonPeer

from lattica.cid import CID, HashFunction
from lattica.content import NoProvider
from lattica.node import AsyncNode, open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.interop
SIZE = 12_345_678


@asynccontextmanager
async def helia_and_us(folder: Path) -> AsyncIterator[tuple[JsonPeer, AsyncNode]]:
    loopback = ["/ip4/127.0.0.1/tcp/0"]
    with trio.fail_after(60):
        async with (
            open_foreign("helia") as foreign,
            open_node(folder / "home", listen=loopback, mdns=False, bootstrap=[]) as node,
        ):
            yield cast("JsonPeer", foreign), node


def noise(path: Path, size: int = SIZE) -> bytes:
    data = random.Random(str(path.name)).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


async def test_helia_fetches_a_file_that_we_share(tmp_path: Path) -> None:
    data = noise(tmp_path / "model.bin")
    async with helia_and_us(tmp_path) as (helia, node):
        shared = await node.share(tmp_path / "model.bin", hash_function=HashFunction.SHA2_256)
        await helia.dial(node.addresses[0])
        copy = tmp_path / "copy"
        await helia.call("cat", cid=str(shared.cid), to=str(copy), seconds=40)
        assert copy.read_bytes() == data
        assert node.exchange.stats.of(helia.peer).sent_bytes > SIZE


async def test_helia_walks_a_directory_that_we_share(tmp_path: Path) -> None:
    data = noise(tmp_path / "tree" / "deep" / "weights.bin", 700_000)
    (tmp_path / "tree" / "README").write_text("hello")
    async with helia_and_us(tmp_path) as (helia, node):
        shared = await node.share(tmp_path / "tree", hash_function=HashFunction.SHA2_256)
        await helia.dial(node.addresses[0])
        names = (await helia.call("list", cid=str(shared.cid), seconds=20))["names"]
        assert [name for name, _ in names] == ["README", "deep"]
        inner = (await helia.call("list", cid=names[1][1], seconds=20))["names"]
        copy = tmp_path / "copy"
        await helia.call("cat", cid=inner[0][1], to=str(copy), seconds=20)
        assert copy.read_bytes() == data


async def test_we_fetch_a_file_that_helia_has(tmp_path: Path) -> None:
    data = noise(tmp_path / "theirs.bin")
    async with helia_and_us(tmp_path) as (helia, node):
        cid = CID.parse((await helia.call("add", path=str(tmp_path / "theirs.bin")))["cid"])
        fetched = await node.get(cid, tmp_path / "got", peers=[helia.address])
        assert (tmp_path / "got").read_bytes() == data
        assert fetched.sources[0].peer == helia.peer


async def test_single_blocks_go_both_ways(tmp_path: Path) -> None:
    data = noise(tmp_path / "block", 100_000)
    async with helia_and_us(tmp_path) as (helia, node):
        cid = (await helia.call("put", hex=data.hex()))["cid"]
        await node.get(cid, tmp_path / "got", peers=[helia.address])
        assert (tmp_path / "got").read_bytes() == data
        own = noise(tmp_path / "own", 99_999)
        shared = await node.share(tmp_path / "own", hash_function=HashFunction.SHA2_256)
        answer = await helia.call("block", cid=str(shared.cid), seconds=20)
        assert answer["size"] == len(own)
        assert answer["sha256"] == shared.cid.digest.hex()


async def test_helia_gets_what_it_asked_for_before_it_was_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(tmp_path / "late", 50_000)
    cid = CID.of(data, hash_function=HashFunction.SHA2_256)
    async with helia_and_us(tmp_path) as (helia, node):
        bitswap = node.exchange._bitswap
        assert bitswap is not None
        asked, note = trio.Event(), bitswap._note_wants

        async def note_and_tell(*args: Any) -> None:
            await note(*args)
            asked.set()

        monkeypatch.setattr(bitswap, "_note_wants", note_and_tell)
        await helia.dial(node.addresses[0])
        async with trio.open_nursery() as nursery:
            answer: dict[str, Any] = {}

            async def ask() -> None:
                answer.update(await helia.call("block", cid=str(cid), seconds=20))

            nursery.start_soon(ask)
            await asked.wait()
            await node.share(tmp_path / "late", hash_function=HashFunction.SHA2_256)
        assert answer["size"] == len(data)


async def test_each_says_what_it_does_not_have(tmp_path: Path) -> None:
    missing = CID.of(b"nobody has this", hash_function=HashFunction.SHA2_256)
    async with helia_and_us(tmp_path) as (helia, node):
        with pytest.raises(NoProvider, match="holds nothing"):
            await node.exchange.fetch(
                missing, tmp_path / "got", providers=[await node._peer_at(helia.address)]
            )
        with pytest.raises(ForeignFailure):
            await helia.call("block", cid=str(missing), seconds=2)
