"""The vectors of spec/content.md, sections 2 to 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lattica.cid import CID, Codec, HashFunction
from lattica.content import DagError, Entry, FileBuilder, Link, Segment, Walker, leaf_size
from lattica.content._unixfs import FileNode, decode, encode_directory

VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "content-dag.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]
HASHES = {"blake3": HashFunction.BLAKE3, "sha2-256": HashFunction.SHA2_256}
PATTERN = bytes(range(251)) * 4200  # longer than a leaf and a period


def cases(kind: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if case["kind"] == kind]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case["id"])


@cases("file")
def test_a_file_has_the_root_and_blocks_of_its_vector(case: dict[str, Any]) -> None:
    builder, link, blocks = built(case["content"], case["segments"], HASHES[case["hash"]])
    assert str(link.cid) == case["root"]
    assert link.size == sum(case["segments"])
    assert link.total_size == case["total_size"]
    if "segment_roots" in case:
        assert [str(segment.root) for segment in builder.segments] == case["segment_roots"]
    if "blocks" in case:
        assert blocks == case["blocks"]
    assert count_leaves(link, blocks) == case["leaf_count"]


@cases("directory")
def test_a_directory_has_the_root_and_blocks_of_its_vector(case: dict[str, Any]) -> None:
    blocks: dict[str, str] = {}
    link = build_tree(case["tree"], HASHES[case["hash"]], blocks)
    assert (str(link.cid), link.total_size) == (case["root"], case["total_size"])
    assert blocks == case["blocks"]


@cases("block")
def test_a_block_decodes_as_its_vector_says(case: dict[str, Any]) -> None:
    cid, block = CID.parse(case["cid"]), bytes.fromhex(case["block"])
    if case["result"] == "invalid":
        with pytest.raises(DagError) as caught:
            decode(cid, block)
        assert caught.value.cid == cid
        return
    node = decode(cid, block)
    if isinstance(node, FileNode):
        links = [[str(link.cid), link.size, link.total_size] for link in node.links]
        assert case["result"] == {"type": "file", "size": node.size, "links": links}
    else:
        entries = [[entry.name, str(entry.cid), entry.total_size] for entry in node.entries]
        assert case["result"] == {"type": "directory", "entries": entries}


@cases("walk")
def test_blocks_that_disagree_are_refused(case: dict[str, Any]) -> None:
    walker = Walker(CID.parse(case["root"]))
    with pytest.raises(DagError):
        for _ in range(100):
            for cid in walker.needed():
                walker.receive(cid, bytes.fromhex(case["blocks"][str(cid)]))
            list(walker.leaves())


@cases("leaf-size")
def test_a_segments_length_gives_the_leaf_size_of_its_vector(case: dict[str, Any]) -> None:
    assert leaf_size(case["segment_length"]) == case["leaf_size"]


def test_every_vector_is_run() -> None:
    assert {case["kind"] for case in CASES} == {"file", "directory", "block", "walk", "leaf-size"}
    assert len({case["id"] for case in CASES}) == len(CASES)


def built(
    content: dict[str, Any], segments: list[int], hash_function: HashFunction
) -> tuple[FileBuilder, Link, dict[str, str]]:
    """Build a file leaf by leaf; a leaf that came before is not hashed again."""
    blocks: dict[str, str] = {}
    hashed: dict[tuple[int, int], bytes] = {}
    builder = FileBuilder(
        [Segment(length) for length in segments],
        lambda cid, block: blocks.update({str(cid): block.hex()}),
        hash_function,
    )
    offset = 0
    while (length := builder.next_length()) is not None:
        phase = 0 if content.get("pattern") == "zero" else offset % 251
        if "hex" in content:
            leaf = bytes.fromhex(content["hex"])[offset : offset + length]
            builder.add(hash_function.multihash(leaf))
        else:
            if (phase, length) not in hashed:
                zero = content["pattern"] == "zero"
                leaf = bytes(length) if zero else PATTERN[phase : phase + length]
                hashed[phase, length] = hash_function.multihash(leaf)
            builder.add(hashed[phase, length])
        offset += length
    return builder, builder.finish(), blocks


def build_tree(tree: dict[str, Any], hash_function: HashFunction, blocks: dict[str, str]) -> Link:
    if (content := tree.get("content")) is not None:
        size = content.get("length", len(content.get("hex", "")) // 2)
        _, link, found = built(content, tree.get("segments", [size]), hash_function)
        blocks |= found
        return link
    entries, size = [], 0
    for name, child in tree["entries"].items():
        link = build_tree(child, hash_function, blocks)
        entries.append(Entry(name, link.cid, link.total_size))
        size += link.size
    block = encode_directory(entries)
    cid = CID.of(block, Codec.DAG_PB, hash_function)
    blocks[str(cid)] = block.hex()
    return Link(cid, size, len(block) + sum(entry.total_size for entry in entries))


def count_leaves(link: Link, blocks: dict[str, str]) -> int:
    walker, count = Walker(link.cid, size=link.size), 0
    while not walker.done:
        for cid in walker.needed():
            walker.receive(cid, bytes.fromhex(blocks[str(cid)]))
        count += sum(1 for _ in walker.leaves())
    return count
