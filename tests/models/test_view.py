"""The tensors of a checkpoint: what a header may say, and which CID each tensor has."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lattica.cid import CID
from lattica.content import SegmentRoots, build, segment_cid
from lattica.models import (
    LocalReader,
    MalformedCheckpoint,
    SafetensorsError,
    cut_file,
    header_size,
    open_tensors,
    parse_header,
    read_header,
    view_file,
)
from lattica.models._view import checkpoint_files, parse_shard_index

if TYPE_CHECKING:
    from pathlib import Path


def header(entries: dict[str, Any] | str) -> bytes:
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def view(start: bytes, data_length: int) -> Any:
    size = len(start) + data_length
    return view_file(parse_header(start[: header_size(start, size)], size), size)


HOSTILE: dict[str, tuple[Any, int]] = {
    "'b' overlaps": ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, 6),
    "2 bytes between 'a' and 'b'": ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [2], 6, 8)}, 8),
    "3 bytes between the header and 'a'": ({"a": entry("U8", [4], 3, 7)}, 7),
    "5 bytes behind 'a'": ({"a": entry("U8", [4], 0, 4)}, 9),
    "takes 24 bytes, and has 20": ({"a": entry("F32", [2, 3], 0, 20)}, 20),
    "takes 0 bytes, and has 4": ({"a": entry("F32", [0], 0, 4)}, 4),
    "the data has 10 bytes": ({"a": entry("U8", [20], 0, 20)}, 10),
    "has the shape": ({"a": entry("U8", [1 << 40, 1 << 40], 0, 4)}, 4),
    "has a key twice": (f'{{"a": {json.dumps(entry("U8", [1], 0, 1))}, "a": 1}}', 1),
    "has the number": ('{"a": {"dtype": "U8", "shape": [1e3], "data_offsets": [0, 1]}}', 1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_by_what_is_wrong_with_it(what: str) -> None:
    with pytest.raises(SafetensorsError, match=what):
        view(header(HOSTILE[what][0]), HOSTILE[what][1])


def test_a_header_of_a_hundred_megabytes_is_refused_unread() -> None:
    with pytest.raises(SafetensorsError, match="100000000 bytes, limit"):
        header_size(struct.pack("<Q", 100_000_000), 1 << 40)


def test_what_several_elements_share_a_byte_of_is_measured_in_bits() -> None:
    assert view(header({"a": entry("F4", [3, 2], 0, 3)}), 3).tensors[0].length == 3
    with pytest.raises(MalformedCheckpoint, match="takes 3 bytes"):
        view(header({"a": entry("F4", [5], 0, 2)}), 2)


def test_a_tensor_of_a_million_axes_is_refused_before_they_are_multiplied() -> None:
    longest = [(1 << 63) - 1] * 1_000_000
    for dtype in ("F32", "F2_NEW"):
        with pytest.raises(MalformedCheckpoint, match="1000000 axes, limit 64"):
            view(header({"a": entry(dtype, longest, 0, 4)}), 4)
    assert view(header({"a": entry("U8", [1] * 64, 0, 1)}), 1).tensors[0].length == 1


def test_a_dtype_of_tomorrow_is_listed() -> None:
    found = view(header({"a": entry("F2_NEW", [100], 0, 7)}), 7).tensors[0]
    assert (found.dtype, found.shape, found.length, found.row_bytes) == ("F2_NEW", (100,), 7, 0)


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 2050])
async def test_every_tensor_has_the_cid_of_its_segment(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {f"t{number:04}": np.full(3, number, np.uint16) for number in range(count)}
    save_file({**tensors, "none": np.zeros((0, 2), np.float32)}, path)
    built = build(path, segments=cut_file)
    size = path.stat().st_size
    view = view_file(read_header(path), size)
    roots = SegmentRoots(built.root, view.segments())
    while needed := roots.needed():
        for cid in needed:
            roots.receive(cid, built.index[cid])
    assert roots.found() == [segment.root for segment in built.files[0].segments]
    found = {one.name: one.cid for one in view.with_roots(roots.found()).tensors}
    assert found == {name: segment_cid(array.tobytes()) for name, array in tensors.items()} | {
        "none": CID.of(b"")
    }
    here = await open_tensors(LocalReader(path))
    assert {one.name: one.cid for one in here.tensors.values()} == found


def test_a_large_tensor_has_the_cid_of_a_plain_file_of_its_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(700_000)
    (tmp_path / "plain").write_bytes(data)
    assert segment_cid(data) == build(tmp_path / "plain").root


async def test_the_same_tensor_in_two_files_has_the_same_cid(tmp_path: Path) -> None:
    shared = np.arange(300_000, dtype=np.float32)
    save_file({"a": shared, "b": np.ones(2)}, tmp_path / "1.safetensors")
    save_file({"x": np.zeros(7), "c": shared, "z": np.ones(2)}, tmp_path / "2.safetensors")
    one = await open_tensors(LocalReader(tmp_path / "1.safetensors"))
    two = await open_tensors(LocalReader(tmp_path / "2.safetensors"))
    assert one["a"].cid == two["c"].cid
    assert one["b"].cid == two["z"].cid != one["a"].cid


async def test_a_folder_of_shards_is_one_checkpoint(tmp_path: Path) -> None:
    save_file({"a": np.ones(2), "old": np.zeros(1)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros(3, np.int8)}, tmp_path / "model-2.safetensors")
    save_file({"a": np.ones(9)}, tmp_path / "other.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = {"metadata": {"total_size": 19.0}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = await open_tensors(LocalReader(tmp_path))
    assert {one.name: one.file for one in found.tensors.values()} == names
    state = await found.load()
    assert (state["a"].tolist(), state["b"].tolist()) == ([1, 1], [0, 0, 0])


async def test_without_an_index_every_file_counts_and_no_name_may_be_twice(tmp_path: Path) -> None:
    save_file({"a": np.ones(2)}, tmp_path / "1.safetensors")
    save_file({"b": np.ones(2)}, tmp_path / "2.safetensors")
    assert list((await open_tensors(LocalReader(tmp_path))).tensors) == ["a", "b"]
    save_file({"a": np.ones(2)}, tmp_path / "3.safetensors")
    with pytest.raises(MalformedCheckpoint, match=r"'a' is in 1.safetensors and in 3.safetensors"):
        await open_tensors(LocalReader(tmp_path))


async def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.ones(2)}, tmp_path / "1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}')
    with pytest.raises(MalformedCheckpoint, match=r"1.safetensors does not hold 'b'"):
        await open_tensors(LocalReader(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000,
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
        '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": "/x.safetensors"}}',
        '{"weight_map": {"a": "x.bin"}}',
    ],
)  # fmt: skip
def test_a_malformed_index_is_refused(text: str) -> None:
    with pytest.raises(MalformedCheckpoint):
        parse_shard_index(text.encode())


def test_a_folder_without_or_with_several_checkpoints_is_refused() -> None:
    with pytest.raises(MalformedCheckpoint, match="no safetensors"):
        checkpoint_files(["a.bin"])
    with pytest.raises(MalformedCheckpoint, match="several"):
        checkpoint_files(["a.safetensors.index.json", "b.safetensors.index.json"])
    with pytest.raises(MalformedCheckpoint, match="4097"):
        checkpoint_files([f"{number}.safetensors" for number in range(4097)])


async def test_a_checkpoint_of_torch_save_is_refused_as_a_pickle(tmp_path: Path) -> None:
    for name, start in (
        ("zip", b"PK\x03\x04" + bytes(26) + b"archive/data.pkl"),
        ("old", b"\x80\x02\x8a\nl"),
    ):
        (tmp_path / name).write_bytes(start + bytes(100))
        with pytest.raises(MalformedCheckpoint, match="looks like a pickle"):
            await open_tensors(LocalReader(tmp_path / name))
