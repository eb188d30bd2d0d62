"""Deltas between checkpoints: byte for byte what they promise, or a typed error and nothing."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import zstandard
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.numpy import save_file

from lattica.content import StorageError, build
from lattica.errors import LatticaError
from lattica.models import (
    CannotDelta,
    DeltaCodec,
    DeltaError,
    NotADelta,
    apply_delta,
    cut_file,
    describe_delta,
    make_delta,
    read_delta,
)
from lattica.models._checkpoint import BLOCK_BYTES
from lattica.models._delta_codec import (
    LENGTH,
    WIDTHS,
    choose_codec,
    decode_block,
    encode,
    longest_block,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lattica.cid import CID

BF16 = ml_dtypes.bfloat16


def root(path: Path) -> CID:
    return build(path, segments=cut_file).root


def write(path: Path, tensors: dict[str, np.ndarray[Any, Any]], **metadata: str) -> Path:
    save_file(tensors, path, metadata=metadata)
    return path


def nudged(array: np.ndarray[Any, Any], share: float, seed: int) -> np.ndarray[Any, Any]:
    """Move a share of the elements by one unit in the last place, as a training step does."""
    rng = np.random.default_rng(seed)
    bits = array.copy().view(f"u{array.itemsize}")
    moved = rng.random(array.shape) < share
    bits[moved] += rng.choice(np.array([1, -1]), moved.sum()).astype(bits.dtype)
    return bits.view(array.dtype)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    return write(
        tmp_path / "v1.safetensors",
        {
            "embed": rng.normal(0, 0.02, (3000, 1000)).astype(BF16),
            "frozen": rng.normal(0, 0.02, (100, 100)).astype(np.float32),
            "norm": np.ones(77, np.float32),
            "scale": np.array(3.0, np.float32),
            "empty": np.empty((0, 4), np.float16),
        },
    )


@pytest.fixture
def v2(tmp_path: Path, v1: Path) -> Path:
    with safetensors.safe_open(v1, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["embed"] = nudged(tensors["embed"], 0.01, 2)
    tensors["norm"] = tensors["norm"] * np.float32(1.001)
    return write(tmp_path / "v2.safetensors", tensors)


def test_a_delta_gives_the_new_version_byte_for_byte(v1: Path, v2: Path, tmp_path: Path) -> None:
    summary = make_delta(v1, v2, tmp_path / "delta.safetensors")
    got = apply_delta(v1, tmp_path / "delta.safetensors", tmp_path / "got.safetensors")
    assert (tmp_path / "got.safetensors").read_bytes() == v2.read_bytes()
    assert got == summary.delta.result == root(v2)
    assert summary.delta.base == summary.delta.anchor == root(v1)
    assert {entry.name for entry in summary.entries} == {"embed", "norm"}
    assert summary.unchanged == 2
    assert summary.size == (tmp_path / "delta.safetensors").stat().st_size < v2.stat().st_size / 50


def test_the_same_versions_give_the_same_delta(v1: Path, v2: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_delta(v1, v2, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_delta_is_a_valid_safetensors_file(v1: Path, v2: Path, tmp_path: Path) -> None:
    make_delta(v1, v2, tmp_path / "delta.safetensors")
    with safetensors.safe_open(tmp_path / "delta.safetensors", "np") as file:
        assert set(file.keys()) == {"embed", "norm"}
        assert file.metadata()["lattica.delta.base"] == str(root(v1))
        assert file.metadata()["lattica.delta.result"] == str(root(v2))


def test_a_delta_may_replace_its_base(v1: Path, v2: Path, tmp_path: Path) -> None:
    make_delta(v1, v2, tmp_path / "delta")
    apply_delta(v1, tmp_path / "delta", v1)
    assert v1.read_bytes() == v2.read_bytes()


def test_tensors_may_come_go_and_change_shape(v1: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    new = write(
        tmp_path / "new.safetensors",
        {
            "embed": rng.normal(0, 0.02, (3001, 1000)).astype(BF16),
            "added": rng.integers(0, 255, 5000).astype(np.uint8),
            "norm": np.ones(77, np.float32),
        },
        step="12",
    )
    make_delta(v1, new, tmp_path / "delta")
    apply_delta(v1, tmp_path / "delta", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == new.read_bytes()
    assert read_delta(tmp_path / "delta").header == "__header__"


def test_a_tensor_with_the_name_of_the_header_payload_is_no_trouble(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"__header__": np.zeros(9, np.uint8)})
    two = write(tmp_path / "2", {"__header__": np.ones(9, np.uint8), "more": np.ones(3)})
    make_delta(one, two, tmp_path / "delta")
    apply_delta(one, tmp_path / "delta", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == two.read_bytes()


@pytest.mark.parametrize("codec", list(DeltaCodec))
def test_every_codec_is_lossless_for_every_tensor(
    v1: Path, v2: Path, tmp_path: Path, codec: DeltaCodec
) -> None:
    summary = make_delta(v1, v2, tmp_path / "delta", codec=codec)
    apply_delta(v1, tmp_path / "delta", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == v2.read_bytes()
    assert {entry.codec for entry in describe_delta(tmp_path / "delta")} == {codec}
    assert {entry.codec for entry in summary.entries} == {codec}


def test_noise_costs_hardly_more_than_its_bytes(tmp_path: Path) -> None:
    noise = random.Random(4)
    size = 300_000
    one, two = (
        write(tmp_path / name, {"w": np.frombuffer(noise.randbytes(size), np.uint16)})
        for name in ("1", "2")
    )
    summary = make_delta(one, two, tmp_path / "delta")
    assert summary.size < 1.01 * two.stat().st_size
    # Even where a codec is asked for that makes them larger.
    summary = make_delta(one, two, tmp_path / "delta", codec=DeltaCodec.SPARSE)
    assert summary.size < 1.01 * two.stat().st_size
    assert summary.entries[0].codec is DeltaCodec.RAW
    apply_delta(one, tmp_path / "delta", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == two.read_bytes()


def test_a_chain_of_deltas_leads_to_its_last_version(v1: Path, tmp_path: Path) -> None:
    current = v1
    with safetensors.safe_open(v1, "np") as file:
        embed = file.get_tensor("embed")
    anchor = root(v1)
    for step in range(3):
        embed = nudged(embed, 0.003, step)
        new = write(tmp_path / f"step{step}", {"embed": embed})
        made = make_delta(
            current, new, tmp_path / f"delta{step}", anchor=anchor, depth=step + 1
        ).delta
        assert (made.anchor, made.depth) == (anchor, step + 1)
        current = new
    held = v1
    for step in range(3):
        apply_delta(held, tmp_path / f"delta{step}", tmp_path / "held")
        held = tmp_path / "held"
    assert held.read_bytes() == current.read_bytes()


# --- what is refused


def test_another_base_is_told_apart_and_nothing_is_left(v1: Path, v2: Path, tmp_path: Path) -> None:
    make_delta(v1, v2, tmp_path / "delta")
    other = tmp_path / "other"
    shutil.copy(v1, other)
    with other.open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\x01")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DeltaError, match="is not"):
        apply_delta(other, tmp_path / "delta", tmp_path / "got")
    assert sorted(tmp_path.iterdir()) == before


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_a_damaged_delta_never_gives_anything_else(
    v1: Path, v2: Path, tmp_path: Path, data: st.DataObject
) -> None:
    delta = tmp_path / "delta"
    if not delta.exists():
        make_delta(v1, v2, delta)
    damaged = bytearray(delta.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    (tmp_path / "damaged").write_bytes(damaged)
    try:
        apply_delta(v1, tmp_path / "damaged", tmp_path / "got")
    except LatticaError:
        assert not (tmp_path / "got").exists()
    else:
        assert (tmp_path / "got").read_bytes() == v2.read_bytes()
        (tmp_path / "got").unlink()


def test_other_files_are_no_deltas(v1: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADelta):
        apply_delta(v1, v1, tmp_path / "got")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(NotADelta):
        read_delta(tmp_path / "text")
    with pytest.raises(CannotDelta):
        make_delta(v1, tmp_path / "text", tmp_path / "delta")
    with pytest.raises(DeltaError):
        make_delta(v1, v1, tmp_path / "delta")
        apply_delta(tmp_path / "text", tmp_path / "delta", tmp_path / "got")


def test_bytes_that_belong_to_no_tensor_are_not_compared(v1: Path, tmp_path: Path) -> None:
    (tmp_path / "tail").write_bytes(v1.read_bytes() + b"tail")
    with pytest.raises(CannotDelta, match="no tensor"):
        make_delta(v1, tmp_path / "tail", tmp_path / "delta")


def repacked(delta: Path, change: dict[str, str], out: Path) -> Path:
    """Write a delta with other metadata."""
    data = delta.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= change
    text = json.dumps(header).encode()
    out.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return out


@pytest.mark.parametrize(
    "change",
    [
        {"lattica.delta": "2"},
        {"lattica.delta.base": "nonsense"},
        {"lattica.delta.depth": "0"},
        {"lattica.delta.depth": "+1"},
        {"lattica.delta.size": "-1"},
        {"lattica.delta.size": "9" * 30},
        {"lattica.delta.header": "missing"},
    ],
)
def test_metadata_that_makes_no_sense_is_refused(
    v1: Path, v2: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    make_delta(v1, v2, tmp_path / "delta")
    with pytest.raises(NotADelta):
        read_delta(repacked(tmp_path / "delta", change, tmp_path / "changed"))


def test_a_result_that_the_disk_has_no_room_for_is_not_begun(v1: Path, tmp_path: Path) -> None:
    size = 1 << 60
    entry: dict[str, object] = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    text = json.dumps({"x": entry}).encode()
    head = zstandard.compress(len(text).to_bytes(8, "little") + text)
    zeros = bytes([DeltaCodec.PLANES, 1]) + (4).to_bytes(4, "little") + bytes(4)
    payloads = {"h": np.frombuffer(head, np.uint8), "x": np.frombuffer(zeros, np.uint8)}
    said = {
        "": "1",
        ".base": str(root(v1)),
        ".result": str(root(v1)),
        ".anchor": str(root(v1)),
        ".depth": "1",
        ".size": str(size + len(text) + 8),
        ".header": "h",
    }
    bomb = write(
        tmp_path / "bomb", payloads, **{f"lattica.delta{key}": text for key, text in said.items()}
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match="the disk has"):
        apply_delta(v1, bomb, tmp_path / "got")
    assert sorted(tmp_path.iterdir()) == before


def test_a_payload_for_a_tensor_that_the_result_lacks_is_refused(
    v1: Path, v2: Path, tmp_path: Path
) -> None:
    make_delta(v1, v2, tmp_path / "delta")
    only = write(tmp_path / "only", {"norm": np.ones(77, np.float32)})
    with pytest.raises(DeltaError):
        apply_delta(only, tmp_path / "delta", tmp_path / "got")


# --- the codec by itself


def reader(array: np.ndarray[Any, Any]) -> Callable[[int, int], memoryview]:
    data = memoryview(array.tobytes())
    return lambda offset, length: data[offset : offset + length]


@given(
    width=st.sampled_from(WIDTHS),
    data=st.data(),
    codec=st.sampled_from([DeltaCodec.SPARSE, DeltaCodec.XOR, DeltaCodec.PLANES]),
)
def test_any_block_survives_any_codec(width: int, data: st.DataObject, codec: DeltaCodec) -> None:
    count = data.draw(st.integers(1, 400))
    old = data.draw(st.binary(min_size=count * width, max_size=count * width))
    new = bytearray(old)
    for _ in range(data.draw(st.integers(0, 20))):
        new[data.draw(st.integers(0, len(new) - 1))] = data.draw(st.integers(0, 255))
    base, result = memoryview(old), memoryview(bytes(new))
    head, length, block = encode(
        codec, lambda o, n: base[o : o + n], lambda o, n: result[o : o + n], len(new), width
    )
    assert head == bytes([codec, width])
    assert LENGTH.unpack(length) == (len(block),)
    assert len(block) <= longest_block(len(new), width)
    out = memoryview(bytearray(len(new)))
    decode_block(codec, memoryview(block), base, out, width)
    assert out == result


def test_a_tensor_of_many_blocks_is_read_block_by_block() -> None:
    size = 2 * BLOCK_BYTES + 10
    data = memoryview(random.Random(5).randbytes(size))
    asked = []

    def read(offset: int, length: int) -> memoryview:
        asked.append((offset, length))
        return data[offset : offset + length]

    pieces = list(encode(DeltaCodec.SPARSE, read, read, size, 2))
    assert len(pieces) == 1 + 2 * 3
    assert max(length for _, length in asked) == BLOCK_BYTES


def test_codecs_are_chosen_by_what_they_cost() -> None:
    rng = np.random.default_rng(6)
    old = rng.normal(size=1 << 20).astype(np.float32)
    noise = np.frombuffer(rng.bytes(old.nbytes), np.float32)
    flips = rng.integers(0, 16, old.shape).astype(np.uint32) * np.uint32(0x11111111)
    flipped = old.view(np.uint32) ^ flips
    cases: list[tuple[np.ndarray[Any, Any], DeltaCodec]] = [
        (nudged(old, 0.01, 7), DeltaCodec.SPARSE),
        (flipped.view(np.float32), DeltaCodec.XOR),
        (rng.normal(size=1 << 20).astype(np.float32), DeltaCodec.PLANES),
        (noise, DeltaCodec.RAW),
    ]
    for new, expected in cases:
        chosen = choose_codec(reader(old), reader(new), old.nbytes, 4)
        assert chosen is expected


def test_planes_that_declare_more_than_their_block_are_refused_before_they_are_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    planes = bytes([1]) + len(bomb).to_bytes(4, "big") + bomb
    out = memoryview(bytearray(1 << 20))
    with pytest.raises(DeltaError, match="a frame of 67108864 bytes"):
        decode_block(DeltaCodec.PLANES, memoryview(LENGTH.pack(len(planes)) + planes), None, out, 1)


@settings(max_examples=300)
@given(
    block=st.binary(max_size=60),
    width=st.sampled_from(WIDTHS),
    codec=st.sampled_from(DeltaCodec),
)
def test_any_bytes_are_a_block_or_a_typed_error(
    block: bytes, width: int, codec: DeltaCodec
) -> None:
    base, out = memoryview(bytes(64)), memoryview(bytearray(64))
    with suppress(DeltaError):
        decode_block(codec, memoryview(block), base, out, width)


def test_changes_behind_the_end_are_refused() -> None:
    gaps, moves = np.array([200, 200], "<u4").tobytes(), bytes([2, 2])
    block = LENGTH.pack(2) + b"".join(LENGTH.pack(len(body)) + body for body in (gaps, moves))
    with pytest.raises(DeltaError, match="behind the end"):
        decode_block(
            DeltaCodec.SPARSE,
            memoryview(block),
            memoryview(bytes(300)),
            memoryview(bytearray(300)),
            1,
        )
