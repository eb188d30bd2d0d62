"""Cutting files by their content: equal parts are equal leaves wherever they stand."""

from __future__ import annotations

import importlib
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lattica.content import ChunkerMissing, ChunkError, Store, build, chunk_lengths, chunker
from lattica.content._chunk import _checked_library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.content import Built

MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture(autouse=True)
def fresh_library() -> Iterator[None]:
    _checked_library.cache_clear()
    yield
    _checked_library.cache_clear()


def new_bytes(old: Built, new: Built) -> int:
    """What the second object needs beside the first: leaves and index blocks."""
    known = {leaf.multihash for leaf in old.files[0].leaves}
    leaves = {leaf.multihash: leaf.length for leaf in new.files[0].leaves}
    index = sum(len(block) for cid, block in new.index.items() if cid not in old.index)
    return index + sum(length for multihash, length in leaves.items() if multihash not in known)


def with_byte_in_front(path: Path) -> Path:
    other = path.with_name("inserted")
    with path.open("rb") as source, other.open("wb") as target:
        target.write(b"!")
        while piece := source.read(MIB):
            target.write(piece)
    return other


def noise(path: Path, size: int) -> Path:
    generator = random.Random(size)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(generator.randbytes(MIB))
    return path


def test_a_byte_in_front_leaves_nearly_all_leaves_as_they_were(tmp_path: Path) -> None:
    path = noise(tmp_path / "file", 32 * MIB)
    cut = chunker("cdc")
    old, new = build(path, segments=cut), build(with_byte_in_front(path), segments=cut)
    assert new_bytes(old, new) < MIB
    usual = new_bytes(build(path), build(path.with_name("inserted")))
    assert usual > 32 * MIB  # or the first number says nothing


@pytest.mark.slow
def test_a_byte_in_front_of_a_gibibyte_makes_less_than_five_mebibytes_new(tmp_path: Path) -> None:
    path = noise(tmp_path / "file", GIB)
    cut = chunker("cdc")
    old, new = build(path, segments=cut), build(with_byte_in_front(path), segments=cut)
    assert new_bytes(old, new) < 5 * MIB


def test_chunks_are_leaves_within_the_bounds(tmp_path: Path) -> None:
    path = noise(tmp_path / "file", 8 * MIB)
    built = build(path, segments=chunker("cdc"))
    lengths = [leaf.length for leaf in built.files[0].leaves]
    assert lengths == chunk_lengths(path.read_bytes())
    assert all(32 << 10 < length <= 256 << 10 for length in lengths[:-1])
    assert 96 << 10 < sum(lengths) / len(lengths) < 192 << 10


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
def test_what_is_cut_by_content_is_stored_and_verified_like_anything(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(size).randbytes(size))
    built = build(path, segments=chunker("cdc"))
    with Store.open(tmp_path / "store") as store:
        store.add(built, copy=True)
        path.unlink()
        assert store.verify(built.root).damaged_count == 0


async def test_getting_a_new_version_takes_from_the_old_one_what_is_equal(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, peer):
        old = noise(seed.folder / "v1", 16 * MIB)
        cut = chunker("cdc")
        first = seed.store.add(build(old, segments=cut))
        second = seed.store.add(build(with_byte_in_front(old), segments=cut))
        await peer.exchange.fetch(
            first.root, peer.folder / "first", providers=[seed.info], segments=cut
        )
        fetched = await peer.fetch(second.root, seed)
        assert peer.got.read_bytes() == b"!" + old.read_bytes()
        assert fetched.received_bytes < MIB


@pytest.mark.parametrize(("text", "size"), [("1M", MIB), ("16K", 16 << 10), ("2MiB", 2 * MIB)])
def test_a_size_of_leaves_can_be_chosen(tmp_path: Path, text: str, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(5 * MIB + 3))
    built = build(path, segments=chunker(text))
    lengths = [leaf.length for leaf in built.files[0].leaves]
    assert set(lengths[:-1]) == {size}
    assert sum(lengths) == 5 * MIB + 3
    with Store.open(tmp_path / "store") as store:
        store.add(built, copy=True)
        assert store.verify(built.root).damaged_count == 0


@pytest.mark.parametrize("text", ["", "content", "15K", "3M", "-1", "CDC "])
def test_what_is_no_way_to_cut_is_refused(text: str) -> None:
    with pytest.raises(ChunkError):
        chunker(text)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    with pytest.raises(ChunkerMissing) as caught:
        chunker("cdc")
    assert "pip install 'lattica-mesh[cdc]'" in caught.value.hint


def test_a_library_that_cuts_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("pyfastcdc")
    honest = library.FastCDC

    def seeded(average: int, **options: Any) -> Any:
        return honest(average, **options | {"seed": 1})

    monkeypatch.setattr(library, "FastCDC", seeded)
    with pytest.raises(ChunkerMissing, match="otherwise than specified"):
        chunker("cdc")
