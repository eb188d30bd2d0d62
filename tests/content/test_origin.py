"""Origins: read when no peer serves, verified like one, and left for the first peer that comes."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.cid import CID
from lattica.content import (
    BadLeaf,
    IndexFileError,
    NoProvider,
    OriginError,
    OriginLacksIt,
    OriginLeft,
    OriginMismatch,
    OriginUsed,
    Segment,
    build,
    decode_index,
    encode_index,
    part_path,
)
from lattica.content._car import MAX_INDEX
from lattica.content._origin import ALONE_SECONDS, STALLED_SECONDS, pseudo_peer
from lattica.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

LEAF = 256 << 10
SIZE = 40 * LEAF + 7


class FakeOrigin:
    """Files in memory, given in odd pieces, `delay` seconds before each."""

    def __init__(self, files: dict[str, bytes], index: bytes | None = None) -> None:
        self.name = "https://example.org/model"
        self.local: Path | None = None
        self.files, self._index = files, index
        self.delay = 0.0
        self.broken = False
        self.read_bytes = 0
        self.asked: list[tuple[str, int, int | None]] = []

    async def index(self) -> bytes | None:
        if self.broken:
            raise OriginError("https://example.org/model: refused")
        return self._index

    @asynccontextmanager
    async def stream(
        self, path: str, offset: int, length: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((path, offset, length))
        if path not in self.files:
            raise OriginLacksIt(f"no {path!r}")
        yield self._pieces(self.files[path][offset:], length)

    async def _pieces(self, data: bytes, length: int | None) -> AsyncIterator[bytes]:
        data = data if length is None else data[:length]
        for start in range(0, len(data), 100_001):
            await trio.sleep(self.delay)
            if self.broken:
                raise OriginError("https://example.org/model: cut off")
            piece = data[start : start + 100_001]
            self.read_bytes += len(piece)
            yield piece


def index_of(path: Path, **options: Any) -> tuple[CID, bytes]:
    built = build(path, **options)
    return built.root, encode_index(built.root, built.index)


async def test_what_no_peer_has_comes_from_its_origin_leaf_by_leaf(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", SIZE)
        root, index = index_of(path)
        origin = FakeOrigin({"": path.read_bytes()}, index)
        fetched = await peer.fetch(root, origins=[origin])
        assert peer.got.read_bytes() == path.read_bytes()
        assert fetched.origin_bytes == fetched.received_bytes == SIZE
        assert fetched.sources == {}
        assert origin.read_bytes == SIZE
        assert {asked[0] for asked in origin.asked} == {""}
        assert peer.told(OriginUsed) == [OriginUsed(origin.name)]
        assert not peer.store.verify(root).damaged_count


@pytest.mark.parametrize("size", [0, 1, LEAF, LEAF + 1, SIZE])
async def test_an_origin_without_an_index_is_hashed_whole_and_then_believed(
    swarm: Any, autojump_clock: MockClock, size: int
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", size)
        origin = FakeOrigin({"": path.read_bytes()})
        fetched = await peer.fetch(build(path).root, origins=[origin])
        assert peer.got.read_bytes() == path.read_bytes()
        assert fetched.stored.size == fetched.origin_bytes == size
        assert not list(peer.folder.glob("*.part*"))


async def test_a_file_that_is_cut_is_known_by_its_content(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", SIZE)
        cut = [Segment(100), Segment(SIZE - 100, 4)]

        def cut_some(path: Path) -> list[Segment] | None:
            return cut if path.name.endswith(".safetensors") else None

        for segments in (cut, None):  # as one kind of file, or as the other
            peer.got.unlink(missing_ok=True)
            origin = FakeOrigin({"": path.read_bytes()})
            root = build(path, segments=segments).root
            await peer.fetch(root, origins=[origin], segments=cut_some)
            assert peer.got.read_bytes() == path.read_bytes()


async def test_an_origin_with_something_else_leaves_nothing_behind(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", SIZE)
        root, index = index_of(path)
        wrong = bytearray(path.read_bytes())
        wrong[-1] ^= 1
        with pytest.raises(OriginMismatch):
            await peer.fetch(root, origins=[FakeOrigin({"": bytes(wrong)})])
        assert [item.name for item in peer.folder.iterdir() if "got" in item.name] == []
        with pytest.raises(IntegrityError):  # with an index it is noticed at the leaf
            await peer.fetch(root, origins=[FakeOrigin({"": bytes(wrong)}, index)])
        assert [event.error.leaf for event in peer.told(BadLeaf)] == [40]
        assert not peer.got.exists()


class EndlessOrigin(FakeOrigin):
    """A body without an end: `piece` again and again, `delay` seconds before each."""

    def __init__(self, piece: bytes, delay: float) -> None:
        super().__init__({"": b""})
        self.piece, self.delay = piece, delay

    async def _pieces(self, _data: bytes, _length: int | None) -> AsyncIterator[bytes]:
        while self.read_bytes < 1 << 30:  # enough for a test
            await trio.sleep(self.delay)
            self.read_bytes += len(self.piece)
            yield self.piece


async def test_an_origin_without_an_end_does_not_fill_the_disk(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        f_bavail, f_frsize = 10, 1 << 20

    async with swarm.peers(1) as (peer,):
        monkeypatch.setattr(os, "fstatvfs", lambda _descriptor: Disk)
        origin = EndlessOrigin(bytes(1 << 20), 0.01)
        with pytest.raises(OriginLacksIt, match="names no end"):
            await peer.fetch(build(peer.file("model", SIZE)).root, origins=[origin], patience=5)
        assert origin.read_bytes <= 10 << 20
        assert not list(peer.folder.glob("*.part*"))


async def test_an_origin_that_lets_a_byte_drop_now_and_then_is_given_up(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        origin = EndlessOrigin(b"x", 20)  # below what a reader of the web waits for a piece
        with pytest.raises(NoProvider), trio.fail_after(60):
            await peer.fetch(build(peer.file("model", SIZE)).root, origins=[origin], patience=25)


async def test_what_was_planted_where_an_origin_is_received_is_not_written_through(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", SIZE)
        root = build(path).root
        precious = peer.file("precious", 10)
        kept = precious.read_bytes()
        part = part_path(peer.got, root)
        part.with_name(f"{part.name}.origin.safetensors").symlink_to(precious)
        await peer.fetch(root, origins=[FakeOrigin({"": path.read_bytes()})])
        assert precious.read_bytes() == kept
        assert peer.got.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"<html>not found</html>",
        encode_index(CID.of(b"another"), {}),
        bytes(40),
    ],
)
async def test_a_useless_index_file_is_as_good_as_none(
    swarm: Any, autojump_clock: MockClock, index: bytes
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", 3 * LEAF)
        await peer.fetch(build(path).root, origins=[FakeOrigin({"": path.read_bytes()}, index)])
        assert peer.got.read_bytes() == path.read_bytes()


async def test_a_forged_index_file_is_not_believed(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", 3 * LEAF)
        other = build(peer.file("other", 3 * LEAF, seed=1))
        root = build(path).root
        forged = encode_index(root, {root: next(iter(other.index.values()))})
        with pytest.raises(IntegrityError):
            await peer.fetch(root, origins=[FakeOrigin({"": path.read_bytes()}, forged)])
        assert not peer.got.exists()


async def test_a_directory_comes_from_an_origin_that_has_its_index(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        files = {"a/one": 3 * LEAF, "a/two": 5, "empty": 0, "top": LEAF}
        for number, (name, size) in enumerate(files.items()):
            peer.file(f"tree/{name}", size, seed=number)
        content = {name: (peer.folder / "tree" / name).read_bytes() for name in files}
        root, index = index_of(peer.folder / "tree")
        with pytest.raises(OriginLacksIt):
            await peer.fetch(root, origins=[FakeOrigin(content)])
        await peer.fetch(root, origins=[FakeOrigin(content, index)])
        assert {name: (peer.got / name).read_bytes() for name in files} == content


async def test_an_origin_is_not_touched_while_peers_serve(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        stored = seed.share(seed.file("model", SIZE))
        origin = FakeOrigin({"": b""})
        fetched = await peer.fetch(stored.root, seed, origins=[origin])
        assert (fetched.origin_bytes, origin.asked, peer.told(OriginUsed)) == (0, [], [])


@pytest.mark.parametrize("indexed", [True, False])
async def test_a_peer_that_appears_takes_over(
    swarm: Any, autojump_clock: MockClock, indexed: bool
) -> None:
    async with swarm.peers(2) as (seed, peer):
        path = seed.file("model", SIZE)
        root, index = index_of(path)
        seed.share(path)
        origin = FakeOrigin({"": path.read_bytes()}, index if indexed else None)
        origin.delay = 1.0
        sender, more = trio.open_memory_channel[Any](0)

        async def appear() -> None:
            await trio.sleep(ALONE_SECONDS + 10)
            await sender.send(seed.info)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(appear)
            fetched = await peer.fetch(root, more=more, origins=[origin])
        assert peer.got.read_bytes() == path.read_bytes()
        assert 0 < origin.read_bytes < SIZE / 2
        assert fetched.sources[seed.mesh.peer_id] > SIZE / 2
        assert not list(peer.folder.glob("*.part*"))


async def test_when_the_origin_dies_the_mesh_serves_on(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (first, second, peer):
        path = first.file("model", SIZE)
        root, index = index_of(path)
        origin = FakeOrigin({"": path.read_bytes()}, index)
        await first.fetch(root, origins=[origin])
        origin.broken = True
        fetched = await second.fetch(root, first, origins=[origin])
        assert fetched.sources == {first.mesh.peer_id: SIZE}
        with pytest.raises((OriginError, NoProvider)) as caught:
            await peer.fetch(root, origins=[origin], patience=20)
        assert "refused" in str(caught.value)
        assert "refused" in peer.told(OriginLeft)[0].reason
        assert len(peer.told(OriginUsed)) == 1  # though it was tried again and again


async def test_an_origin_that_was_cut_off_is_tried_again(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", SIZE)
        root, index = index_of(path)
        origin = FakeOrigin({"": path.read_bytes()}, index)
        origin.delay = 0.1

        async def stumble() -> None:
            await trio.sleep(ALONE_SECONDS + 2)
            origin.broken = True
            await trio.sleep(1)
            origin.broken = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stumble)
            await peer.fetch(root, origins=[origin])
        assert peer.got.read_bytes() == path.read_bytes()
        assert origin.read_bytes < 1.5 * SIZE


async def test_peers_that_deliver_nothing_are_helped(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (partial, peer):
        path = peer.file("model", SIZE)
        root, index = index_of(path)
        stuck = FakeOrigin({"": path.read_bytes()}, index)
        stuck.delay = 1000.0  # the peer is fetching it as well, and gets nothing
        origin = FakeOrigin({"": path.read_bytes()}, index)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: partial.fetch(root, origins=[stuck]))
            await trio.sleep(ALONE_SECONDS + 1)
            began = trio.current_time()
            await peer.fetch(root, partial, origins=[origin])
            assert trio.current_time() - began > STALLED_SECONDS - 1
            nursery.cancel_scope.cancel()
        assert peer.got.read_bytes() == path.read_bytes()


async def test_a_fetch_from_an_origin_can_be_cancelled_and_resumed(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(1) as (peer,):
        path = peer.file("model", SIZE)
        root, index = index_of(path)
        origin = FakeOrigin({"": path.read_bytes()}, index)
        origin.delay = 1.0
        with trio.move_on_after(60):
            await peer.fetch(root, origins=[origin])
        before = origin.read_bytes
        assert 0 < before < SIZE
        fetched = await peer.fetch(root, origins=[origin])
        assert peer.got.read_bytes() == path.read_bytes()
        assert fetched.received_bytes < SIZE


# --- index files


def test_an_index_file_holds_the_index_blocks(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1030 * LEAF))
    built = build(tmp_path / "file")
    data = encode_index(built.root, built.index)
    assert {cid: bytes(block) for cid, block in decode_index(data, built.root).items()} == (
        built.index
    )


def test_a_damaged_index_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * LEAF))
    built = build(tmp_path / "file")
    data = encode_index(built.root, built.index)
    for cut in range(len(data)):
        if cut != 59:  # a header alone is an index file of no blocks
            with pytest.raises(IndexFileError):
                decode_index(data[:cut], built.root)
    with pytest.raises(IndexFileError):
        decode_index(data, CID.of(b"another"))
    with pytest.raises(IndexFileError):
        decode_index(data + b"\xff\xff\xff\x7f", built.root)
    with pytest.raises(IndexFileError, match="limit"):
        decode_index(memoryview(bytearray(MAX_INDEX + 1)), built.root)


def test_an_origin_is_the_same_peer_to_the_planner_whenever_it_is_named() -> None:
    assert pseudo_peer(FakeOrigin({})) == pseudo_peer(FakeOrigin({}))
