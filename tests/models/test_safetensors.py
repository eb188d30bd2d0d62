"""Where safetensors files are cut: vectors (spec/content.md §5), real files, hostile headers."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors import deserialize, safe_open
from safetensors.numpy import save, save_file

from lattica.content import Segment, build
from lattica.models import (
    SafetensorsError,
    cut,
    cut_file,
    header_size,
    parse_header,
    read_header,
)
from lattica.models._safetensors import MAX_HEADER_BYTES

VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "safetensors-cut.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]


def cut_bytes(start: bytes, size: int) -> list[Segment]:
    return cut(parse_header(start[: header_size(start, size)], size), size)


def test_a_real_file_is_cut_at_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "embed": np.arange(60_000, dtype=np.float32).reshape(200, 300),
        "scalar": np.array(3.5, dtype=np.float64),
        "nothing": np.zeros((0, 4), dtype=np.int8),
        "mask": np.array([True, False]),
    }
    save_file(tensors, path, metadata={"format": "np"})
    segments = cut_file(path)
    assert segments is not None
    named = {part.name: part for part in segments if part.name}
    assert set(named) == {"embed", "scalar", "mask"}
    assert (named["embed"].length, named["embed"].stride) == (240_000, 4)
    built = build(path, segments=cut_file)
    data = path.read_bytes()
    for part in built.files[0].segments:
        if part.name:
            assert data[part.offset : part.offset + part.length] == tensors[part.name].tobytes()
    header = read_header(path)
    assert header.metadata == {"format": "np"}
    with safe_open(path, framework="numpy") as opened:
        for tensor in header.tensors:
            assert list(tensor.shape) == opened.get_slice(tensor.name).get_shape()


def test_a_tensor_has_the_same_root_in_every_file(tmp_path: Path) -> None:
    frozen = np.arange(300_000, dtype=np.int64)
    save_file({"w": frozen, "head": np.zeros(5)}, tmp_path / "a.safetensors")
    save_file({"w": frozen, "longer name": np.ones(700)}, tmp_path / "b.safetensors")
    roots = []
    for name in ("a.safetensors", "b.safetensors"):
        parts = build(tmp_path / name, segments=cut_file).files[0].segments
        roots += [part.root for part in parts if part.name == "w"]
    assert roots[0] == roots[1]


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.tuples(
            st.sampled_from([np.uint8, np.int16, np.float32, np.complex64, np.bool_]),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=6,
    )
)
@settings(deadline=None)
def test_whatever_safetensors_writes_is_cut_into_the_whole_file(
    wanted: dict[str, tuple[Any, list[int]]],
) -> None:
    wanted.pop("__metadata__", None)
    data = save({name: np.zeros(shape, dtype) for name, (dtype, shape) in wanted.items()})
    segments = cut_bytes(data, len(data))
    assert sum(part.length for part in segments) == len(data)
    assert sum(1 for part in segments if part.name) == sum(
        1 for name, (_, shape) in wanted.items() if name and 0 not in shape
    )


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_cut_or_refused(header: bytes, data_size: int) -> None:
    start = struct.pack("<Q", len(header)) + header
    _cut_or_refused(start, len(start) + data_size)
    _cut_or_refused(header, len(header) + data_size)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "NEW"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 50), min_size=2, max_size=2) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=3), entries | json_values, max_size=4))
def test_any_json_is_cut_or_refused(header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    start = struct.pack("<Q", len(text)) + text
    _cut_or_refused(start, len(start) + 50)


def _cut_or_refused(start: bytes, size: int) -> None:
    try:
        segments = cut_bytes(start, size)
    except SafetensorsError:
        return
    assert sum(part.length for part in segments) == size
    assert all(part.length > 0 for part in segments)


def test_whatever_we_cut_without_gaps_the_reference_reads() -> None:
    # The other way round is not so: we refuse doubled keys and unknown ones, which it takes.
    for case in CASES:
        if case["result"] == "invalid" or case["id"] in {
            "gaps", "no-data", "empty-inside", "new-dtype", "shape-ignored", "dtypes",
        }:  # fmt: skip
            continue
        data = bytes.fromhex(case["header"]) + bytes(case["data_length"])
        ours = parse_header(data[: header_size(data, len(data))], len(data))
        theirs = deserialize(data)  # type: ignore[no-untyped-call]
        assert {name for name, _ in theirs} == {tensor.name for tensor in ours.tensors}


def test_a_header_beyond_32_mib_is_refused_by_its_length_alone() -> None:
    start = struct.pack("<Q", MAX_HEADER_BYTES + 1)
    with pytest.raises(SafetensorsError, match="limit"):
        header_size(start, MAX_HEADER_BYTES + 100)
    assert header_size(struct.pack("<Q", MAX_HEADER_BYTES), 2**40) == MAX_HEADER_BYTES + 8


def test_only_files_of_that_name_are_cut(tmp_path: Path) -> None:
    tensors = {"w": np.zeros(10)}
    for name in ("m.bin", "m.SAFETENSORS", "safetensors"):
        save_file(tensors, tmp_path / name)
        assert cut_file(tmp_path / name) is None
    save_file(tensors, tmp_path / ".safetensors")
    assert cut_file(tmp_path / ".safetensors") is not None


def test_a_broken_file_is_one_segment_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\xff" * 100)
    with caplog.at_level(logging.WARNING):
        assert cut_file(path) is None
    assert "one segment" in caplog.text
    assert len(build(path, segments=cut_file).files[0].segments) == 1
