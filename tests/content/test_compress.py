"""Leaves that travel smaller: when, at what cost, and what a liar gets for it."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lattica.codec import pack_planes
from lattica.content import (
    BadLeaf,
    Compress,
    FetchProgress,
    LeafMismatch,
    ProviderLeft,
    Segment,
    Store,
    _compress,
    _replies,
    _serve,
    build,
)
from lattica.content._compress import LeafPacker, find_width
from lattica.content._messages import (
    PROTOCOL,
    AnswerHead,
    BlocksRequest,
    Encoding,
    LeavesRequest,
    Status,
    decode_request,
    packed_leaf,
)
from lattica.errors import IntegrityError, LatticaError

from .test_exchange import Asker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.content import BlockBatch

LEAF = 256 << 10


def floats(size: int, seed: int = 1) -> bytes:
    """`size` bytes of bfloat16, as in a trained layer."""
    numbers = np.random.default_rng(seed).standard_normal(size // 2).astype("<f4")
    return (numbers.view("<u4") >> 16).astype("<u2").tobytes()


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


def read(store: Store, path: Path, content: bytes, stride: int = 1) -> BlockBatch:
    """The leaves of a shared file, as a provider reads them."""
    path.write_bytes(content)
    built = build(path, segments=[Segment(len(content), stride)])
    store.add(built)
    hashes = [leaf.multihash for leaf in built.files[0].leaves]
    return store.read_blocks(hashes, max_bytes=2 << 20, gap=16)


@asynccontextmanager
async def two(swarm: Any, seed: Compress, other: Compress) -> AsyncIterator[list[Any]]:
    """A seed and another node, each with a mode of its own."""
    async with swarm.peers(2) as peers:
        for peer, mode in zip(peers, (seed, other), strict=True):
            peer.exchange.compress = peer.exchange._library.compress = mode
        yield peers


# --- the policy


@pytest.mark.parametrize("stride", [1, 2], ids=["nobody said", "the publisher said"])
def test_numbers_are_packed_by_their_width(tmp_path: Path, stride: int) -> None:
    with Store.open(tmp_path / "store") as store:
        content = floats(3 * LEAF)
        with read(store, tmp_path / "model", content, stride) as batch:
            LeafPacker(Compress.ON).pack(batch)
            packed = dict(batch.packed)
    assert sorted(packed) == [0, 1, 2]
    assert {payload[0] for payload in packed.values()} == {2}
    assert len(content) / sum(map(len, packed.values())) > 1.4


def test_what_does_not_shrink_is_looked_at_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked: list[int] = []

    def look(leaf: memoryview, stride: int) -> int:
        looked.append(len(leaf))
        return find_width(leaf, stride)

    monkeypatch.setattr(_compress, "find_width", look)
    with Store.open(tmp_path / "store") as store:
        packer = LeafPacker(Compress.ON)
        with read(store, tmp_path / "noise", noise(8 * LEAF)) as batch:
            for _ in range(100):  # 800 leaves
                packer.pack(batch)
            assert batch.packed == {}
    assert len(looked) < 25


def test_it_is_noticed_when_leaves_begin_to_shrink(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        packer = LeafPacker(Compress.ON)
        with read(store, tmp_path / "noise", noise(8 * LEAF)) as batch:
            for _ in range(40):
                packer.pack(batch)
        with read(store, tmp_path / "model", floats(8 * LEAF)) as batch:
            for _ in range(9):  # 72 leaves
                packer.pack(batch)
            assert len(batch.packed) == 8


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_sample_finds_the_width(width: int) -> None:
    kind = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}[width]
    numbers = np.random.default_rng(2).integers(0, 100, LEAF // width).astype(kind)
    leaf = memoryview(numbers.tobytes())
    assert find_width(leaf, width) == width
    assert find_width(leaf, 3 * width) == width
    assert find_width(memoryview(noise(LEAF)), width) == 0


def test_packing_pays_where_the_link_is_slower_than_the_packing() -> None:
    for mode, paid in ((Compress.ON, True), (Compress.OFF, False), (Compress.AUTO, False)):
        assert LeafPacker(mode).pays is paid
    slow, fast = LeafPacker(Compress.AUTO), LeafPacker(Compress.AUTO)
    for _ in range(8):
        slow.note_sent(1 << 20, 0.1)  # 10 MB/s
        fast.note_sent(1 << 20, 0.002)  # 500 MB/s
    assert (slow.pays, fast.pays) == (True, False)
    for _ in range(100):  # a link that has become slow
        fast.note_sent(1 << 20, 0.1)
    assert fast.pays


# --- on the wire


@pytest.mark.parametrize("request_kind", ["blocks", "leaves"])
async def test_packed_leaves_go_to_those_who_read_them(
    swarm: Any, autojump_clock: MockClock, request_kind: str
) -> None:
    async with two(swarm, Compress.ON, Compress.ON) as (seed, other):
        path = seed.file("model.bin", 0)
        path.write_bytes(floats(2 * LEAF))
        stored = seed.share(path)
        hashes = tuple(leaf.multihash for leaf in build(path).files[0].leaves)

        def ask(number: int, encodings: tuple[int, ...]) -> Any:
            if request_kind == "blocks":
                return BlocksRequest(number, hashes, encodings=encodings)
            return LeavesRequest(number, stored.root, 0, 2, encodings)

        async with await other.mesh.open_stream(seed.mesh.peer_id, PROTOCOL) as stream:
            asker = Asker(stream)
            await asker.ask(ask(1, (7, 1)), ask(2, ()), ask(3, (7,)))
            packed, _ = await asker.until_end(1)
            assert [answer.head.encoding for answer in packed] == [1, 1]
            assert all(answer.head.length < LEAF for answer in packed)
            for number in (2, 3):
                raw, _ = await asker.until_end(number)
                assert b"".join(answer.payload for answer in raw) == path.read_bytes()
                assert [answer.head.encoding for answer in raw] == [0, 0]
            stream.reset()
        total = seed.exchange.stats.total
        assert total.sent_bytes == 6 * LEAF
        assert 4 * LEAF < total.sent_wire_bytes < 5.5 * LEAF


async def test_a_fetch_counts_content_and_wire_apart(swarm: Any, autojump_clock: MockClock) -> None:
    async with two(swarm, Compress.ON, Compress.AUTO) as (seed, other):
        path = seed.file("model.bin", 0)
        path.write_bytes(floats(5 * LEAF + 100))
        fetched = await other.fetch(seed.share(path).root, seed)
        assert other.got.read_bytes() == path.read_bytes()
        assert fetched.received_bytes == 5 * LEAF + 100
        assert fetched.received_bytes / fetched.wire_bytes > 1.4
        progress = other.told(FetchProgress)[-1]
        assert (progress.received_bytes, progress.wire_bytes) == (
            fetched.received_bytes,
            fetched.wire_bytes,
        )
        traffic = other.exchange.stats.total
        assert traffic.received_bytes - traffic.received_wire_bytes == (
            fetched.received_bytes - fetched.wire_bytes
        )


async def test_noise_costs_nothing_more(swarm: Any, autojump_clock: MockClock) -> None:
    async with two(swarm, Compress.ON, Compress.ON) as (seed, other):
        stored = seed.share(seed.file("noise", 9 * LEAF))
        fetched = await other.fetch(stored.root, seed)
        assert fetched.wire_bytes == fetched.received_bytes == 9 * LEAF


@pytest.mark.parametrize("off", [0, 1], ids=["at the provider", "at the fetcher"])
async def test_off_is_off_on_either_side(swarm: Any, autojump_clock: MockClock, off: int) -> None:
    modes = [Compress.ON, Compress.ON]
    modes[off] = Compress.OFF
    async with two(swarm, *modes) as (seed, other):
        path = seed.file("zeros", 0)
        path.write_bytes(bytes(3 * LEAF))
        fetched = await other.fetch(seed.share(path).root, seed)
        assert fetched.wire_bytes == fetched.received_bytes


def _bomb(_packed: bytes) -> bytes:
    frame = pack_planes(bytes(64 << 20), 1)
    assert frame is not None
    return frame


def _other_content(_packed: bytes) -> bytes:
    return pack_planes(bytes(LEAF), 1) or b""


def _cut(packed: bytes) -> bytes:
    return packed[:-1]


@pytest.mark.parametrize("spoil", [_bomb, _other_content, _cut])
async def test_who_packs_something_else_is_banned_and_nothing_is_written(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    monkeypatch.setattr(
        _replies,
        "packed_leaf",
        lambda request, number, packed: packed_leaf(request, number, spoil(packed)),
    )
    async with two(swarm, Compress.ON, Compress.ON) as (seed, other):
        path = seed.file("model.bin", 0)
        path.write_bytes(floats(3 * LEAF))
        with pytest.raises(IntegrityError) as caught:
            await other.fetch(seed.share(path).root, seed)
        assert isinstance(caught.value, LeafMismatch)
        assert [event.error.peer for event in other.told(BadLeaf)] == [seed.mesh.peer_id]
        assert not list(other.folder.glob("got*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"encoding": 2}, "not asked for", id="another-encoding"),
        pytest.param({"length": LEAF}, "not less than", id="not-smaller"),
        pytest.param({"length": 0xFFFFFFFF}, "not less than", id="gigabytes"),
    ],
)
async def test_a_packed_leaf_is_refused_by_its_head(
    swarm: Any,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, int],
    said: str,
) -> None:
    def lie(request: int, number: int, packed: bytes) -> bytes:
        head = AnswerHead(1, Status.OK, Encoding.ZSTD_PLANES, 0, request, number, len(packed))
        return bytes(replace(head, **change)) + packed

    monkeypatch.setattr(_replies, "packed_leaf", lie)
    async with two(swarm, Compress.ON, Compress.ON) as (seed, other):
        path = seed.file("model.bin", 0)
        path.write_bytes(floats(3 * LEAF))
        with pytest.raises(LatticaError):
            await other.fetch(seed.share(path).root, seed, patience=1)
        assert said in other.told(ProviderLeft)[0].reason


async def test_planes_that_were_not_asked_for_are_refused(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(data: bytes) -> Any:
        request = decode_request(data)
        if isinstance(request, BlocksRequest):
            return replace(request, encodings=(1,))
        return request

    monkeypatch.setattr(_serve, "decode_request", misread)
    async with two(swarm, Compress.ON, Compress.OFF) as (seed, other):
        path = seed.file("model.bin", 0)
        path.write_bytes(floats(3 * LEAF))
        with pytest.raises(LatticaError):
            await other.fetch(seed.share(path).root, seed, patience=1)
        assert "not asked for" in other.told(ProviderLeft)[0].reason
