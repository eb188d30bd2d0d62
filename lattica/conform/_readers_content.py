"""Readers of the vectors of content: index blocks, roots of files and directories (content.md)."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lattica.cid import CID, Codec, HashFunction
from lattica.content import (
    ChunkerMissing,
    DirectoryNode,
    Entry,
    FileBuilder,
    Link,
    Segment,
    Walker,
    _unixfs as unixfs,
    chunk_lengths,
    decode_index,
    leaf_size,
)
from lattica.models import cut, parse_header

from ._outcome import Failure
from ._readers import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Case = Mapping[str, Any]

_HASHES = {"blake3": HashFunction.BLAKE3, "sha2-256": HashFunction.SHA2_256}
_PERIOD = 251
_PATTERN = bytes(range(_PERIOD)) * 4200  # longer than a leaf and a period
_GEAR = [
    int.from_bytes(hashlib.md5(bytes([byte]) * 64, usedforsecurity=False).digest()[:8], "big")
    for byte in range(256)
]
_EARLY_MASK, _LATE_MASK = 0x0000_D917_0753_7000, 0x0000_D90F_0353_0000
_MAX_STEPS = 100  # of a walk that has to fail


def read_dag(case: Case) -> object:
    """One case of any kind (content.md §2 to §4)."""
    return _KINDS[case["kind"]](case)


def _read_file(case: Case) -> object:
    blocks: dict[str, str] = {}
    function = _HASHES[case["hash"]]
    builder, link = _build_file(case["content"], case["segments"], function, blocks)
    expect("the root", str(link.cid), case["root"])
    expect("the size", link.size, sum(case["segments"]))
    expect("the total size", link.total_size, case["total_size"])
    if "segment_roots" in case:
        roots = [str(segment.root) for segment in builder.segments]
        expect("the roots of the segments", roots, case["segment_roots"])
    if "blocks" in case:
        expect("the index blocks", blocks, case["blocks"])
    expect("the number of leaves", _count_leaves(link, blocks), case["leaf_count"])
    return "valid"


def _read_directory(case: Case) -> object:
    blocks: dict[str, str] = {}
    link = _build_tree(case["tree"], _HASHES[case["hash"]], blocks)
    expect("the root", str(link.cid), case["root"])
    expect("the total size", link.total_size, case["total_size"])
    expect("the index blocks", blocks, case["blocks"])
    return "valid"


def _read_block(case: Case) -> object:
    node = unixfs.decode(CID.parse(case["cid"]), bytes.fromhex(case["block"]))
    if isinstance(node, DirectoryNode):
        entries = [[one.name, str(one.cid), one.total_size] for one in node.entries]
        return {"type": "directory", "entries": entries}
    links = [[str(one.cid), one.size, one.total_size] for one in node.links]
    return {"type": "file", "size": node.size, "links": links}


def _read_walk(case: Case) -> object:
    walker = Walker(CID.parse(case["root"]))
    for _ in range(_MAX_STEPS):
        for cid in walker.needed():
            walker.receive(cid, bytes.fromhex(case["blocks"][str(cid)]))
        list(walker.leaves())
        if walker.done:
            return "valid"
    raise Failure(f"the walk does not end within {_MAX_STEPS} steps")


def _read_leaf_size(case: Case) -> object:
    expect("the leaf size", leaf_size(case["segment_length"]), case["leaf_size"])
    return "valid"


def _build_file(
    content: Mapping[str, Any],
    segments: Sequence[int],
    function: HashFunction,
    blocks: dict[str, str],
) -> tuple[FileBuilder, Link]:
    """Build a file leaf by leaf; of a pattern each different leaf is hashed once."""
    builder = FileBuilder(
        [Segment(length) for length in segments],
        lambda cid, block: blocks.update({str(cid): block.hex()}),
        function,
    )
    hashed: dict[tuple[int, int], bytes] = {}
    offset = 0
    while (length := builder.next_length()) is not None:
        key = (_phase(content, offset), length)
        if key not in hashed:
            hashed[key] = function.multihash(_leaf(content, offset, length))
        builder.add(hashed[key])
        offset += length
    return builder, builder.finish()


def _phase(content: Mapping[str, Any], offset: int) -> int:
    """Leaves of the same phase and length are equal."""
    if "hex" in content:
        return offset
    return 0 if content["pattern"] == "zero" else offset % _PERIOD


def _leaf(content: Mapping[str, Any], offset: int, length: int) -> bytes:
    if "hex" in content:
        return bytes.fromhex(content["hex"])[offset : offset + length]
    if content["pattern"] == "zero":
        return bytes(length)
    return _PATTERN[offset % _PERIOD :][:length]


def _build_tree(tree: Mapping[str, Any], function: HashFunction, blocks: dict[str, str]) -> Link:
    content = tree.get("content")
    if content is not None:
        size = content.get("length", len(content.get("hex", "")) // 2)
        return _build_file(content, tree.get("segments", [size]), function, blocks)[1]
    entries, size = [], 0
    for name, child in tree["entries"].items():
        link = _build_tree(child, function, blocks)
        entries.append(Entry(name, link.cid, link.total_size))
        size += link.size
    block = unixfs.encode_directory(entries)
    cid = CID.of(block, Codec.DAG_PB, function)
    blocks[str(cid)] = block.hex()
    return Link(cid, size, len(block) + sum(entry.total_size for entry in entries))


def _count_leaves(link: Link, blocks: Mapping[str, str]) -> int:
    walker, count = Walker(link.cid, size=link.size), 0
    while not walker.done:
        for cid in walker.needed():
            walker.receive(cid, bytes.fromhex(blocks[str(cid)]))
        count += sum(1 for _ in walker.leaves())
    return count


def read_cut(case: Case) -> object:
    """How a safetensors file is cut (content.md §5)."""
    start = bytes.fromhex(case["header"])
    size = len(start) + case["data_length"]
    segments = cut(parse_header(start, size), size)
    return [[segment.length, segment.stride, segment.name] for segment in segments]


def read_index_file(case: Case) -> object:
    """An index file (content.md §6): its blocks, as it claims them."""
    blocks = decode_index(bytes.fromhex(case["wire"]), CID.parse(case["root"]))
    return {str(cid): block.hex() for cid, block in blocks.items()}


def read_chunks(case: Case) -> object:
    """Where a file is cut by its content (content.md §7)."""
    content = case["content"]
    data = bytes(content["length"])
    if content["pattern"] == "shake128":
        data = hashlib.shake_128(bytes.fromhex(content["seed"])).digest(content["length"])
    data = bytes.fromhex(content.get("before", "")) + data
    lengths = _reference_chunks(data)
    with suppress(ChunkerMissing):  # an extra; what the specification says holds without it
        expect("the chunks", chunk_lengths(data), lengths)
    return lengths


def _reference_chunks(data: bytes) -> list[int]:
    """Cut as content.md §7 says, word for word and one byte at a time."""
    lengths = []
    while data:
        left = min(len(data), 262_144)
        length = len(data) if len(data) <= 32_768 else left
        middle, end = min(131_072, left) & ~1, left & ~1
        value = 0
        for i in range(32_768, end) if len(data) > 32_768 else ():
            value = (2 * value + _GEAR[data[i]]) % 2**64
            if value & (_EARLY_MASK if i < middle else _LATE_MASK) == 0:
                length = i
                break
        lengths.append(length)
        data = data[length:]
    return lengths


_KINDS: dict[str, Callable[[Case], object]] = {
    "file": _read_file,
    "directory": _read_directory,
    "block": _read_block,
    "walk": _read_walk,
    "leaf-size": _read_leaf_size,
}
READERS: dict[str, Callable[[Case], object]] = {
    "content-chunks": read_chunks,
    "content-dag": read_dag,
    "safetensors-cut": read_cut,
    "index-file": read_index_file,
}
