"""Files built from leaves, and walked again from index blocks that arrive in any order."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings, strategies as st

from lattica.cid import CID, Codec, HashFunction
from lattica.content import (
    DagError,
    Entry,
    FileBuilder,
    Leaf,
    LeafTable,
    Link,
    Segment,
    SegmentsError,
    Tree,
    TreeBuilder,
    TreeFile,
    TreeTooLarge,
    Walker,
)
from lattica.content._dag import LARGE_FROM, LARGE_LEAF, SMALL_LEAF, check_segments
from lattica.content._unixfs import encode_directory, encode_file
from lattica.content._walk import MAX_AHEAD, MAX_DEPTH, MAX_TREE_DEPTH, MAX_TREE_ENTRIES
from lattica.errors import IntegrityError, InvalidInput

if TYPE_CHECKING:
    import random

Blocks = dict[CID, bytes]
lengths = st.integers(1, 3 * SMALL_LEAF) | st.integers(1, 2000).map(lambda n: n * SMALL_LEAF)


def a_file(segments: list[int]) -> tuple[CID, Blocks, list[Leaf]]:
    """A file whose leaves have made-up hashes: its shape is all that matters here."""
    blocks: Blocks = {}
    builder = FileBuilder([Segment(length) for length in segments], blocks.__setitem__)
    leaves: list[Leaf] = []
    offset = 0
    while (length := builder.next_length()) is not None:
        multihash = bytes((0x1E, 32)) + len(leaves).to_bytes(32, "big")
        builder.add(multihash)
        leaves.append(Leaf(len(leaves), offset, length, multihash))
        offset += length
    return builder.finish().cid, blocks, leaves


def feed(walker: Walker, blocks: Blocks, shuffle: random.Random | None = None) -> list[Leaf]:
    leaves: list[Leaf] = []
    while not walker.done:
        needed = walker.needed()
        assert len(set(needed)) == len(needed) <= MAX_AHEAD
        if shuffle is not None:
            shuffle.shuffle(needed)
            needed = needed[: shuffle.randint(1, len(needed))] if needed else []
        for cid in needed:
            walker.receive(cid, blocks[cid])
        leaves += walker.leaves()
    return leaves


@given(st.lists(lengths, min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_a_walk_gives_the_leaves_that_were_built_in_whatever_order_blocks_come(
    segments: list[int], rng: random.Random
) -> None:
    root, blocks, leaves = a_file(segments)
    size = sum(segments) if root.codec == Codec.RAW else None
    walker = Walker(root, size=size)
    assert feed(walker, blocks, rng) == leaves
    assert walker.size == sum(segments)


@given(
    st.lists(lengths, min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
)
@example(segments=[1], low=1, high=1)
@settings(deadline=None, max_examples=40)
def test_a_range_needs_only_the_blocks_above_it(
    segments: list[int], low: float, high: float
) -> None:
    root, blocks, leaves = a_file(segments)
    total = sum(segments)
    start = int(min(low, high) * total)
    stop = int(max(low, high) * total) + 1
    size = total if root.codec == Codec.RAW else None
    walker = Walker(root, size=size, start=start, stop=stop)
    asked: set[CID] = set()
    got: list[Leaf] = []
    while not walker.done:
        asked.update(walker.needed())
        for cid in walker.needed():
            walker.receive(cid, blocks[cid])
        got += walker.leaves()
    overlapping = [
        leaf for leaf in leaves if leaf.offset < stop and leaf.offset + leaf.length > start
    ]
    assert [(leaf.offset, leaf.multihash) for leaf in got] == [
        (leaf.offset, leaf.multihash) for leaf in overlapping
    ]
    assert [leaf.index for leaf in got] == list(range(len(got)))
    assert len(asked) <= len(overlapping) // 1024 + 8


def test_an_index_of_many_levels_is_walked() -> None:
    blocks: Blocks = {}
    tree = TreeBuilder(blocks.__setitem__, max_links=2)
    for number in range(1000):
        tree.add(Link(CID.of(bytes([number % 256, number // 256])), 2, 2))
    walker = Walker(tree.finish().cid)
    assert [leaf.offset for leaf in feed(walker, blocks)] == [2 * number for number in range(1000)]


def test_a_builder_holds_one_block_a_level() -> None:
    tree = TreeBuilder(lambda _cid, _block: None, max_links=4)
    for number in range(4**5 + 1):
        tree.add(Link(CID.of(bytes([number % 256])), 1, 1))
        assert sum(map(len, tree._levels)) <= 4 * 6
    assert tree.finish().size == 4**5 + 1


def test_a_tree_over_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="nothing"):
        TreeBuilder(lambda _cid, _block: None).finish()


@pytest.mark.parametrize(
    ("segments", "size"),
    [([], 0), ([5], 4), ([5], 6), ([5, 0], 5), ([0, 0], 0), ([-1, 5], 4), ([2**63], 2**63)],
)
def test_segments_that_do_not_cut_the_file_are_refused(segments: list[int], size: int) -> None:
    with pytest.raises(SegmentsError):
        check_segments([Segment(length) for length in segments], size)


def test_a_segment_needs_a_stride_of_at_least_one() -> None:
    with pytest.raises(SegmentsError, match="stride"):
        check_segments([Segment(5, 0)], 5)
    check_segments([Segment(0)], 0)


def test_large_segments_have_large_leaves() -> None:
    builder = FileBuilder([Segment(LARGE_FROM - 1), Segment(LARGE_FROM)], lambda _c, _b: None)
    sizes = []
    while (length := builder.next_length()) is not None:
        sizes.append(length)
        builder.add(CID.of(b"").multihash)
    assert sizes[0] == SMALL_LEAF
    assert sizes[-1] == LARGE_LEAF
    assert sum(sizes) == 2 * LARGE_FROM - 1


def test_a_raw_root_is_its_own_leaf() -> None:
    root = CID.of(b"abc")
    walker = Walker(root)
    assert list(walker.leaves()) == []
    assert walker.needed() == [root]
    with pytest.raises(IntegrityError):
        walker.receive(root, b"abd")
    walker.receive(root, b"abc")
    assert list(walker.leaves()) == [Leaf(0, 0, 3, root.multihash)]
    assert walker.done
    assert walker.size == 3


def test_an_empty_file_has_one_empty_leaf() -> None:
    root = CID.of(b"")
    assert list(Walker(root, size=0).leaves()) == [Leaf(0, 0, 0, root.multihash)]


def test_a_declared_size_is_held_against_the_index() -> None:
    root, blocks, _ = a_file([3 * SMALL_LEAF])
    walker = Walker(root, size=3 * SMALL_LEAF + 1)
    walker.needed()
    with pytest.raises(DagError, match="declares"):
        walker.receive(root, blocks[root])


def test_a_wrong_block_changes_nothing_and_the_right_one_can_follow() -> None:
    root, blocks, leaves = a_file([3 * SMALL_LEAF])
    walker = Walker(root)
    walker.needed()
    with pytest.raises(IntegrityError) as caught:
        walker.receive(root, b"nonsense")
    assert caught.value.cid == root
    assert feed(walker, blocks) == leaves


def test_a_block_that_nobody_asked_for_is_ignored() -> None:
    root, blocks, leaves = a_file([2000 * SMALL_LEAF])
    walker = Walker(root)
    for cid, block in blocks.items():
        walker.receive(cid, block)
    assert walker.needed() == [root]
    assert feed(walker, blocks) == leaves


def test_what_cannot_be_a_file_is_refused_before_anything_is_fetched() -> None:
    for refused in (CID(Codec.MESSAGEPACK, CID.of(b"").multihash), CID(Codec.RAW, b"\x00\x01a")):
        for kind in (Walker, Tree):
            with pytest.raises(InvalidInput):
                kind(refused)


def test_a_directory_is_no_file() -> None:
    block = encode_directory([])
    cid = CID.of(block, Codec.DAG_PB)
    walker = Walker(cid)
    walker.needed()
    with pytest.raises(DagError, match="directory"):
        walker.receive(cid, block)


def test_a_small_dag_that_unfolds_into_exabytes_takes_little_memory() -> None:
    blocks: Blocks = {}
    link = Link(CID.of(b"x" * 1000), 1000, 1000)
    for _ in range(5):
        block = encode_file([link] * 1024)
        cid = CID.of(block, Codec.DAG_PB)
        blocks[cid] = block
        link = Link(cid, link.size * 1024, len(block) + 1024 * link.total_size)
    tracemalloc.start()
    walker = Walker(link.cid)
    for _ in range(10):
        for cid in walker.needed():
            walker.receive(cid, blocks[cid])
    first = list(itertools.islice(walker.leaves(), 5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert walker.size == 1000 * 1024**5
    assert [leaf.offset for leaf in first] == [1000 * number for number in range(5000)]
    assert peak < 8 << 20


def test_a_walk_holds_a_bounded_number_of_blocks() -> None:
    root, blocks, leaves = a_file([200 * 1024 * SMALL_LEAF // 64] * 64)
    walker = Walker(root)
    count = 0
    while not walker.done:
        for cid in walker.needed(1000):
            walker.receive(cid, blocks[cid])
            assert len(walker._known) <= 2 * MAX_AHEAD
        count += sum(1 for _ in walker.leaves())
    assert count == len(leaves)


def test_blocks_of_equal_content_are_asked_for_once() -> None:
    zeros = CID.of(bytes(SMALL_LEAF)).multihash
    blocks: Blocks = {}
    builder = FileBuilder([Segment(20 * 1024 * SMALL_LEAF)], blocks.__setitem__)
    while builder.next_length() is not None:
        builder.add(zeros)
    walker = Walker(builder.finish().cid)
    asked: list[CID] = []
    while not walker.done:
        asked += walker.needed()
        for cid in walker.needed():
            walker.receive(cid, blocks[cid])
        list(walker.leaves())
    assert len(asked) == len(set(asked)) == len(blocks) == 2


def test_the_depth_of_an_index_is_bounded() -> None:
    blocks: Blocks = {}
    link = Link(CID.of(b"abc"), 3, 3)
    for depth in range(MAX_DEPTH + 1):
        block = encode_file([link])
        cid = CID.of(block, Codec.DAG_PB)
        blocks[cid] = block
        link = Link(cid, 3, len(block) + link.total_size)
        if depth < MAX_DEPTH:
            assert len(feed(Walker(cid), blocks)) == 1
    with pytest.raises(DagError, match="deep"):
        feed(Walker(link.cid), blocks)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_a_leaf_table_gives_leaves_by_number_and_by_offset(sizes: list[int]) -> None:
    leaves, offset = [], 0
    for number, size in enumerate(sizes):
        leaves.append(Leaf(number, offset, size, CID.of(bytes(number)).multihash))
        offset += size
    table = LeafTable(CID.of(b"", Codec.DAG_PB), leaves)
    assert list(table) == leaves
    assert len(table) == len(sizes)
    assert table.size == offset
    for position in range(0, offset, 97):
        leaf = table[table.at(position)]
        assert leaf.offset <= position < leaf.offset + leaf.length
    assert table.at(offset) == len(table)
    with pytest.raises(IndexError):
        table[len(table)]
    with pytest.raises(IndexError):
        table[-1]


# Trees of directories


class _Directories:
    def __init__(self) -> None:
        self.blocks: Blocks = {}

    def put(self, entries: list[Entry]) -> Link:
        block = encode_directory(entries)
        cid = CID.of(block, Codec.DAG_PB)
        self.blocks[cid] = block
        return Link(cid, 0, len(block) + sum(entry.total_size for entry in entries))

    def list(self, root: CID) -> Tree:
        tree = Tree(root)
        while not tree.done:
            for cid in tree.needed():
                tree.receive(cid, self.blocks[cid])
        return tree


def entry(name: str, link: Link) -> Entry:
    return Entry(name, link.cid, link.total_size)


def test_a_tree_lists_files_with_their_sizes_sorted_by_path() -> None:
    made = _Directories()
    root, blocks, _ = a_file([3 * SMALL_LEAF])
    made.blocks |= blocks
    big = Link(root, 3 * SMALL_LEAF, len(blocks[root]) + 3 * SMALL_LEAF)
    small = Link(CID.of(b"abc"), 3, 3)
    empty = made.put([])
    sub = made.put([entry("big", big), entry("a", small), entry("none", empty)])
    top = made.put([entry("z", small), entry("sub", sub), entry("sub.txt", small)])
    tree = made.list(top.cid)
    assert tree.is_directory
    assert tree.files == [
        TreeFile("sub/a", small.cid, 3),
        TreeFile("sub/big", root, 3 * SMALL_LEAF),
        TreeFile("sub.txt", small.cid, 3),
        TreeFile("z", small.cid, 3),
    ]
    assert tree.directories == ["sub", "sub/none"]
    assert tree.size == 3 * SMALL_LEAF + 9


def test_a_tree_of_a_file_is_that_file() -> None:
    root, blocks, _ = a_file([2 * SMALL_LEAF])
    tree = Tree(root)
    tree.receive(root, blocks[root])
    assert tree.done
    assert not tree.is_directory
    assert tree.files == [TreeFile("", root, 2 * SMALL_LEAF)]
    single = Tree(CID.of(b"abc"))
    with pytest.raises(IntegrityError):
        single.receive(single.root, b"abd")
    single.receive(single.root, b"abc")
    assert single.inline == b"abc"
    assert single.files == [TreeFile("", single.root, 3)]


def test_a_directory_that_stands_in_two_places_is_listed_in_both() -> None:
    made = _Directories()
    twice = made.put([Entry("x", CID.of(b"abc"), 3)])
    tree = made.list(made.put([entry("a", twice), entry("b", twice)]).cid)
    assert [file.path for file in tree.files] == ["a/x", "b/x"]


def test_a_lying_total_size_is_found_out() -> None:
    made = _Directories()
    sub = made.put([Entry("x", CID.of(b"abc"), 3)])
    top = made.put([Entry("sub", sub.cid, sub.total_size + 1)])
    with pytest.raises(DagError, match="declares") as caught:
        made.list(top.cid)
    assert caught.value.cid == top.cid


def test_a_directory_bomb_is_defused_at_100_000_entries() -> None:
    made = _Directories()
    link = Link(CID.of(b"abc"), 3, 3)
    for _ in range(6):
        link = made.put([entry(f"{number:03}", link) for number in range(100)])
    tree = Tree(link.cid)
    with pytest.raises(TreeTooLarge, match=str(MAX_TREE_ENTRIES)):
        while not tree.done:
            for cid in tree.needed():
                tree.receive(cid, made.blocks[cid])


def test_the_work_for_a_directory_does_not_grow_with_those_that_are_awaited() -> None:
    made = _Directories()
    leaves = [CID.of(str(number).encode()) for number in range(16_000)]
    links = [made.put([entry("f", Link(leaf, 3, 3))]) for leaf in leaves]
    halves = [
        made.put([entry(f"{number:04}", link) for number, link in enumerate(half)])
        for half in (links[:8000], links[8000:])
    ]
    started = time.process_time()
    made.list(made.put([entry("a", halves[0]), entry("b", halves[1])]).cid)
    assert time.process_time() - started < 2  # 0.25 s; if it did grow, 2.5 s and more


def test_the_depth_of_directories_is_bounded() -> None:
    made = _Directories()
    link = made.put([])
    for _ in range(MAX_TREE_DEPTH - 1):
        link = made.put([entry("d", link)])
    assert len(made.list(link.cid).directories) == MAX_TREE_DEPTH - 1
    deeper = made.put([entry("d", link)])
    with pytest.raises(TreeTooLarge, match="nested"):
        made.list(deeper.cid)


def test_the_length_of_paths_is_bounded() -> None:
    made = _Directories()
    link = made.put([])
    for _ in range(5):
        link = made.put([entry("n" * 250, link)])
    with pytest.raises(TreeTooLarge, match="path"):
        made.list(link.cid)


@pytest.mark.parametrize("function", list(HashFunction))
def test_a_file_of_either_hash_is_walked(function: HashFunction) -> None:
    blocks: Blocks = {}
    builder = FileBuilder([Segment(2 * SMALL_LEAF + 1)], blocks.__setitem__, function)
    while (length := builder.next_length()) is not None:
        builder.add(function.multihash(bytes(length)))
    root = builder.finish().cid
    assert root.hash_function is function
    assert len(feed(Walker(root), blocks)) == 3
