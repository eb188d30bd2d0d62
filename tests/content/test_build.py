"""Hashing files and directories: the rules of the DAG, and files that change under us."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings, strategies as st

from lattica.cid import CID, Codec, HashFunction
from lattica.content import (
    Kind,
    Leaf,
    Segment,
    SegmentsError,
    Stamp,
    Symlinks,
    Tree,
    TreeTooLarge,
    UnreadableSource,
    UnsafeName,
    Walker,
    build,
    build_in_thread,
)
from lattica.content._build import _Reader
from lattica.content._dag import SMALL_LEAF
from lattica.errors import InvalidInput, SourceChanged

if TYPE_CHECKING:
    from pathlib import Path


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def a_file(path: Path, size: int) -> Path:
    path.write_bytes(pattern(size))
    return path


@given(
    st.lists(st.integers(1, 2 * SMALL_LEAF + 10) | st.integers(1, 20), min_size=1, max_size=12),
    st.sampled_from(HashFunction),
)
@settings(deadline=None, max_examples=30)
def test_every_leaf_is_the_hash_of_its_bytes_and_the_index_leads_to_it(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], function: HashFunction
) -> None:
    source = a_file(tmp_path_factory.mktemp("b") / "f", sum(lengths))
    data = source.read_bytes()
    segments = [Segment(length, 2, f"s{length}") for length in lengths]
    built = build(source, segments=segments, hash_function=function)
    [file] = built.files
    assert (built.kind, built.size, built.name) == (Kind.FILE, len(data), "f")
    assert [(part.length, part.name) for part in file.segments] == [
        (length, f"s{length}") for length in lengths
    ]
    walker = Walker(built.root, size=built.size)
    walked: list[Leaf] = []
    while not walker.done:
        for cid in walker.needed():
            walker.receive(cid, built.index[cid])
        walked += walker.leaves()
    assert walked == list(file.leaves)
    for leaf in walked:
        assert leaf.multihash == function.multihash(data[leaf.offset : leaf.offset + leaf.length])


def test_a_segment_has_the_root_of_a_file_of_its_own(tmp_path: Path) -> None:
    source = a_file(tmp_path / "whole", 3 * SMALL_LEAF)
    part = tmp_path / "part"
    part.write_bytes(source.read_bytes()[100 : 100 + 2 * SMALL_LEAF])
    lengths = [100, 2 * SMALL_LEAF, SMALL_LEAF - 100]
    built = build(source, segments=[Segment(length) for length in lengths])
    assert built.files[0].segments[1].root == build(part).root


def test_one_small_segment_is_the_files_raw_cid(tmp_path: Path) -> None:
    source = a_file(tmp_path / "f", 1000)
    assert build(source).root == CID.of(pattern(1000))
    assert build(source, segments=lambda _path: None).root == CID.of(pattern(1000))
    empty = a_file(tmp_path / "empty", 0)
    assert build(empty).root == CID.of(b"")
    assert len(build(empty).files[0].leaves) == 1


@pytest.mark.parametrize("lengths", [[], [999], [1001], [500, 0, 500], [-1, 1001]])
def test_segments_must_cover_the_file(tmp_path: Path, lengths: list[int]) -> None:
    source = a_file(tmp_path / "f", 1000)
    with pytest.raises(SegmentsError):
        build(source, segments=[Segment(length) for length in lengths])


def test_a_directory_is_hashed_with_everything_below_it(tmp_path: Path) -> None:
    top = tmp_path / "model"
    (top / "sub" / "empty").mkdir(parents=True)
    a_file(top / "b.bin", 700_000)
    a_file(top / "sub" / "a", 3)
    built = build(top, segments=lambda path: [Segment(700_000)] if path.suffix else None)
    assert built.kind is Kind.DIRECTORY
    assert built.size == 700_003
    assert [file.relative for file in built.files] == ["b.bin", "sub/a"]
    tree = Tree(built.root)
    while not tree.done:
        for cid in tree.needed():
            tree.receive(cid, built.index[cid])
    assert {file.path: file.root for file in tree.files} == {
        file.relative: file.root for file in built.files
    }
    assert tree.directories == ["sub", "sub/empty"]
    assert tree.size == built.size


def test_the_same_tree_has_the_same_root_wherever_it_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        for child in ("z", "a", "sub/x")[:: 1 if name == "one" else -1]:
            a_file(tmp_path / name / child, 10)
    assert build(tmp_path / "one").root == build(tmp_path / "two").root


def test_segments_of_a_directory_are_a_function(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="function"):
        build(tmp_path, segments=[Segment(0)])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent"):
        with pytest.raises(UnreadableSource):
            build(path)


def test_a_symlink_inside_a_directory_is_refused_unless_asked_for(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    secret = a_file(tmp_path / "secret", 10)
    (top / "link").symlink_to(secret)
    with pytest.raises(UnreadableSource, match="symlink"):
        build(top)
    built = build(top, symlinks=Symlinks.FOLLOW)
    assert built.files[0].path == secret.resolve()
    assert built.files[0].relative == "link"
    (top / "loop").symlink_to(top)
    with pytest.raises(UnreadableSource, match="symlink"):
        build(top, symlinks=Symlinks.FOLLOW)


@pytest.mark.parametrize("victim", ["b", "sub"])
def test_what_becomes_a_symlink_while_a_directory_is_hashed_is_not_followed(
    tmp_path: Path, victim: str
) -> None:
    top, secret = tmp_path / "top", tmp_path / "secret"
    for folder in (top / "sub", secret):
        folder.mkdir(parents=True)
    for path in (top / "a", top / "b", top / "sub" / "c", secret / "c"):
        a_file(path, 10)

    def swap(path: Path) -> None:
        if path.name == "a":
            (top / victim).rename(tmp_path / "moved away")
            (top / victim).symlink_to(secret / "c" if victim == "b" else secret)

    with pytest.raises(UnreadableSource, match="became a symlink"):
        build(top, segments=swap)


def test_a_symlink_that_is_named_itself_is_followed(tmp_path: Path) -> None:
    target = a_file(tmp_path / "blob", 10)
    (tmp_path / "model.bin").symlink_to(target)
    built = build(tmp_path / "model.bin")
    assert built.name == "model.bin"
    assert built.files[0].path == target.resolve()


def test_names_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    for name in (b"\xff", b"a\\b", b"a\nb"):
        directory = tmp_path / name.hex()
        directory.mkdir()
        with open(os.path.join(os.fsencode(directory), name), "wb"):
            pass
        with pytest.raises(UnsafeName):
            build(directory)


def test_an_object_has_bounded_entries_and_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "deep"
    deep.joinpath(*["d"] * 32).mkdir(parents=True)
    with pytest.raises(TreeTooLarge, match="nested"):
        build(deep)
    wide = tmp_path / "wide"
    wide.mkdir()
    for number in range(5):
        a_file(wide / str(number), 1)
    monkeypatch.setattr("lattica.content._build.MAX_ENTRIES", 4)
    with pytest.raises(TreeTooLarge, match="5 entries, limit 4"):
        build(wide)
    monkeypatch.undo()
    monkeypatch.setattr("lattica.content._build.MAX_BLOCK_BYTES", 100)
    with pytest.raises(TreeTooLarge, match="listing"):
        build(wide)


@pytest.mark.parametrize("change", ["write", "grow", "truncate", "replace", "touch"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    source = a_file(tmp_path / "f", 40 << 20)
    done = False

    def meddle(_count: int) -> None:
        nonlocal done
        if done:
            return
        done = True
        if change == "write":
            with source.open("r+b") as file:
                file.write(b"!")
            os.utime(source, ns=(0, 1))
        elif change == "grow":
            with source.open("ab") as file:
                file.write(b"!")
        elif change == "truncate":
            os.truncate(source, 1000)
        elif change == "replace":
            other = a_file(tmp_path / "other", 40 << 20)
            status = source.stat()
            os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
            other.replace(source)
        else:
            os.utime(source, ns=(0, 1))

    with pytest.raises(SourceChanged):
        build(source, progress=meddle)
    assert done


def test_progress_adds_up_and_may_end_the_build(tmp_path: Path) -> None:
    source = a_file(tmp_path / "f", 70 << 20)
    counts: list[int] = []
    build(source, progress=counts.append)
    assert sum(counts) == 70 << 20
    assert len(counts) == 3

    def stop(_count: int) -> None:
        raise KeyError("enough")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyError):
        build(source, progress=stop)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_build_in_a_thread_reports_on_the_loop_and_can_be_cancelled(
    tmp_path: Path,
) -> None:
    source = a_file(tmp_path / "f", 70 << 20)
    counts: list[int] = []

    def report(count: int) -> None:
        trio.lowlevel.current_task()  # raises outside of the loop
        counts.append(count)

    built = await build_in_thread(source, progress=report)
    assert built.root == build(source).root
    assert sum(counts) == built.size

    counts.clear()
    with trio.CancelScope() as scope:

        def cancel(count: int) -> None:
            counts.append(count)
            scope.cancel()

        await build_in_thread(source, progress=cancel)
    assert scope.cancelled_caught
    assert len(counts) == 1


def test_a_stamp_fits_a_signed_integer() -> None:
    status = os.stat_result((0o100644, 2**64 - 1, 2**64 - 1, 1, 0, 0, 5, 0, 0, 0))
    assert Stamp.of(status).inode < 2**63
    assert Stamp.of(status).device < 2**63


def test_the_reader_gives_any_pieces_in_order(tmp_path: Path) -> None:
    source = a_file(tmp_path / "f", 100_000)
    descriptor = os.open(source, os.O_RDONLY)
    try:
        reader = _Reader(source, descriptor, 100_000, bytearray(1000))
        pieces, missing = [], 100_000
        for length in [1, 999, 1000, 3, 500, 500] * 1000:
            length = min(length, missing)
            pieces.append(bytes(reader.read(length)))
            missing -= length
        assert b"".join(pieces) == pattern(100_000)
    finally:
        os.close(descriptor)


def test_the_dag_of_a_directory_is_dag_pb_throughout(tmp_path: Path) -> None:
    a_file(tmp_path / "a", 3 * SMALL_LEAF)
    assert {cid.codec for cid in build(tmp_path).index} == {Codec.DAG_PB}
