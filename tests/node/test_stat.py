"""What is known of one object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lattica._finding import ObjectNotHere
from lattica.content import ObjectState, build

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Lab

LEAF = 256 << 10


async def test_an_object_is_described(lab: Lab) -> None:
    async with lab.node("a") as a:
        shared = await a.share(lab.file("model.bin", 5 * LEAF))
        found = await a.stat(shared.ticket)
        assert (found.cid, found.size, found.path) == (shared.cid, shared.size, shared.path)
        assert (found.files, found.leaves, found.index_blocks) == (1, 5, 1)
        assert 5 * 32 < found.index_bytes < 1024
        assert (found.state, found.pinned, found.peers) == (ObjectState.COMPLETE, False, None)
        await a.pin(shared.cid)
        shared.path.write_bytes(b"something else")
        found = await a.stat(shared.cid)
        assert (found.state, found.pinned) == (ObjectState.CHANGED, True)


async def test_of_what_a_get_has_left_it_is_told_how_much_is_here(lab: Lab) -> None:
    source = lab.file("model.bin", 5 * LEAF)
    built, content = build(source), source.read_bytes()
    async with lab.node("a") as a:
        with a.store.download(built.root, lab.folder / "copy") as download:
            for cid, block in built.index.items():
                download.add_index(cid, block)
            part = download.open_part(built.files[0].leaves)
            for leaf in (0, 3):
                part.write(leaf, [content[leaf * LEAF : (leaf + 1) * LEAF]])
        found = await a.stat(built.root)
        assert (found.state, found.leaves_here, found.leaves) == (ObjectState.PARTIAL, 2, 5)
        shared = await a.share(source)
        assert (await a.stat(shared.cid)).leaves_here == 5


async def test_a_directory_is_described_with_all_of_its_files(lab: Lab) -> None:
    (lab.folder / "tree").mkdir()
    lab.file("tree/one", LEAF + 1)
    lab.file("tree/two", 10)
    async with lab.node("a") as a:
        found = await a.stat((await a.share(lab.folder / "tree")).cid)
        assert (found.files, found.leaves) == (2, 3)


async def test_peers_are_asked_what_they_hold_now(lab: Lab, tmp_path: Path) -> None:
    async with (
        lab.node("meeting") as meeting,
        lab.node("a", meeting.addresses[0]) as a,
        lab.node("b", meeting.addresses[0]) as b,
        lab.node("c", meeting.addresses[0]) as c,
    ):
        shared = await a.share(lab.file("model.bin", 5 * LEAF))
        for number, node in enumerate((b, c)):
            await node.get(shared.ticket, tmp_path / f"copy-{number}")
        found = await a.stat(shared.cid, ask_peers=True)
        assert found.peers is not None
        assert {(peer.peer, peer.whole) for peer in found.peers} == {(b.id, True), (c.id, True)}
        (tmp_path / "copy-0").write_bytes(b"changed")
        b.store.look()
        found = await a.stat(shared.cid, ask_peers=True)
        assert found.peers is not None
        assert [peer.peer for peer in found.peers] == [c.id]


async def test_what_is_not_here_is_said(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(lab.file("model.bin", 10))
        with pytest.raises(ObjectNotHere):
            await b.stat(shared.ticket)
