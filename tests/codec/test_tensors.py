"""Values with tensors: every dtype, shape and stride, bit by bit; and whatever strangers send."""

from __future__ import annotations

import array
import importlib.util
import json
import mmap
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lattica.codec import (
    WIDTHS,
    Receiver,
    UnsupportedDType,
    _tensors,
    decode,
    dtype_name,
    encode,
    numpy_dtype,
    pack,
    unpack,
)
from lattica.errors import CodecError, InvalidInput

VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "tensor-messages.json"
Array = np.ndarray[Any, np.dtype[Any]]


def joined(value: Any) -> bytes:
    return b"".join(encode(value))


def bits(tensor: Any) -> tuple[object, ...]:
    """What must survive: type, shape, and each bit of each element in the order of the indices."""
    found = np.asarray(tensor)
    little = found.dtype.newbyteorder("<")
    if found.dtype.byteorder == ">":
        found = found.byteswap().view(little)
    return (little, found.shape, found.tobytes())


def receive(message: bytes, **options: Any) -> Any:
    """As from a stream: fill what is wanted until nothing is."""
    receiver, position = Receiver(**options), 0
    while (place := receiver.wanted()) is not None:
        if position + place.nbytes > len(message):
            raise CodecError("the stream ended")
        place[:] = message[position : position + place.nbytes]
        position += place.nbytes
    assert receiver.size == position
    return receiver.value()


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """Any dtype, up to four axes, any bits, then reversed, strided, transposed, byte-swapped."""
    dtype = numpy_dtype(draw(st.sampled_from(sorted(WIDTHS))))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == np.bool_:
        data = bytearray(byte & 1 for byte in data)
    found: Array = np.ndarray(tuple(shape), dtype, buffer=data)
    steps = tuple(slice(None, None, draw(st.sampled_from((1, 2, -1, -2)))) for _ in shape)
    found = found[steps] if shape else found
    if draw(st.booleans()):
        found = found.T
    if draw(st.booleans()):
        found = found.byteswap().view(found.dtype.newbyteorder(">"))
    return found


@given(tensors())
@settings(max_examples=300)
def test_a_tensor_comes_back_bit_by_bit(tensor: Array) -> None:
    for back in (
        decode(encode(tensor)),
        decode(joined(tensor)),
        receive(joined(tensor), max_size=1 << 20),
    ):
        assert bits(back) == bits(tensor)
        assert back.dtype.byteorder in "<=|"


@given(tensors())
def test_a_tensor_is_received_where_it_is_wanted(tensor: Array) -> None:
    expected = bits(tensor)
    mine = np.empty(tensor.shape, expected[0])  # type: ignore[call-overload]  # a dtype
    address = mine.ctypes.data
    for back in (
        decode(joined(tensor), out=mine),
        receive(joined(tensor), out=mine, max_size=1 << 20),
    ):
        assert back is mine
        assert (bits(mine), mine.ctypes.data) == (expected, address)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(plain, st.lists(tensors(), max_size=4))
def test_tensors_come_back_in_their_places(value: Any, some: list[Array]) -> None:
    sent = {"z": value, "": some, "deep": [[{"one": item}] for item in some], "a": [value]}
    back = decode(encode(sent))
    assert (back["z"], back["a"]) == (value, [value])
    assert [bits(item) for item in back[""]] == [bits(item) for item in some]
    assert [bits(item[0]["one"]) for item in back["deep"]] == [bits(item) for item in some]


def test_every_dtype_has_a_type_in_numpy_and_back() -> None:
    for name, width in WIDTHS.items():
        assert dtype_name(numpy_dtype(name)) == name
        assert numpy_dtype(name).itemsize == width
    assert dtype_name(np.dtype(ml_dtypes.bfloat16)) == "BF16"
    assert dtype_name(np.dtype(ml_dtypes.float8_e4m3fn)) == "F8_E4M3"
    assert dtype_name(np.dtype(">f4")) == "F32"


def test_buffers_travel_as_they_are() -> None:
    floats = array.array("f", [1.0, 2.0])
    pages = mmap.mmap(-1, 4096)
    sent = {"a": bytearray(b"x" * 9), "f": floats, "v": memoryview(b"abcdef")[::2], "m": pages}
    back = decode(joined(sent))
    assert {key: bytes(view) for key, view in back.items()} == {
        "a": b"x" * 9, "f": floats.tobytes(), "v": b"ace", "m": bytes(4096),
    }  # fmt: skip
    assert all(isinstance(view, memoryview) for view in back.values())


def test_long_bytes_come_back_as_bytes() -> None:
    sent = [b"short", b"long" * 100_000, b""]
    assert decode(encode(sent)) == sent
    assert decode(joined(sent)) == sent
    assert receive(joined(sent), max_size=1 << 20) == sent
    assert len(encode(sent)) == 3  # head, padding, and the bytes themselves


def test_scalars_of_numpy_are_tensors_without_axes() -> None:
    back = decode(encode([np.float32(1.5), np.bool_(True), np.float64(2.5)]))
    assert [(item.dtype.str, item.shape) for item in back[:2]] == [("<f4", ()), ("|b1", ())]
    assert back[2] == 2.5  # a float to Python, too


def test_a_contiguous_tensor_is_sent_from_its_own_memory() -> None:
    tensor = np.arange(1000, dtype=np.float32)
    pieces = encode({"t": tensor})
    assert np.shares_memory(np.frombuffer(pieces[-1], np.uint8), tensor)
    assert len(pieces) <= 3


def test_decoded_tensors_alias_the_message() -> None:
    message = bytearray(joined(np.zeros(100, np.int32)))
    back = decode(message)
    message[-4:] = (7).to_bytes(4, "little")
    assert back[-1] == 7
    assert not decode(bytes(message)).flags.writeable


def test_tensors_begin_at_multiples_of_64_bytes() -> None:
    pieces = encode({"x" * n: np.ones(n, np.int8) for n in (1, 65, 3)})
    position, found = 0, []
    for piece in pieces:
        if isinstance(piece, memoryview):
            found.append(position % 64)
        position += len(piece)
    assert found == [0, 0, 0]


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([1], "M8[s]"),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, np.longdouble),
    ],
)
def test_what_has_no_form_outside_the_process_is_refused(value: Array) -> None:
    with pytest.raises(UnsupportedDType) as caught:
        encode([value])
    assert "F32" in caught.value.hint


@pytest.mark.parametrize("value", [{1: 2}, object(), {"a": {1}}, 1 << 64, float("nan"), 1j])
def test_other_values_without_a_form_are_refused(value: object) -> None:
    with pytest.raises(CodecError):
        encode(value)


def test_a_value_of_too_many_levels_is_refused() -> None:
    value: object = np.zeros(1)
    for _ in range(33):
        value = [value]
    with pytest.raises(CodecError, match="deeper"):
        encode(value)
    looped: list[object] = []
    looped.append(looped)
    with pytest.raises(CodecError, match="deeper"):
        encode(looped)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_by_name(protocol: int) -> None:
    data = pickle.dumps([1.5, {"a": (1, 2)}], protocol)
    if protocol == 1:
        pytest.skip("protocol 1 has no mark to know it by")
    with pytest.raises(CodecError, match="looks like a pickle"):
        decode(data)
    with pytest.raises(CodecError, match="looks like a pickle"):
        receive(data, max_size=1 << 20)
    if protocol > 1:
        with pytest.raises(CodecError, match="looks like a pickle"):
            unpack(data, max_size=1000)


class TestBounds:
    """Each is held before memory is spent."""

    @staticmethod
    def message(value: Any, *listed: Any, data: bytes = b"") -> bytes:
        head = pack([value, list(listed)])
        start = _tensors.MAGIC + len(head).to_bytes(4, "little") + head
        return start + bytes(-len(start) % 64) + data if data else start

    def test_a_tensor_larger_than_allowed_is_refused_before_it_is_allocated(self) -> None:
        huge = self.message(None, ["F32", [1 << 38], []])
        with pytest.raises(CodecError, match="limit 1000000"):
            receive(huge, max_size=1_000_000)
        with pytest.raises(CodecError, match="limit"):
            decode(huge)

    @pytest.mark.parametrize(
        "shape", [[1 << 63], [1 << 40, 1 << 40], [0, 1 << 61], [-1], [True], [1.0]]
    )
    def test_a_shape_that_no_memory_has_is_refused(self, shape: list[Any]) -> None:
        with pytest.raises(CodecError):
            decode(self.message(None, ["F32", shape, []]))

    def test_a_head_larger_than_allowed_is_refused_unread(self) -> None:
        with pytest.raises(CodecError, match="head of"):
            receive(_tensors.MAGIC + b"\xff\xff\xff\xff", max_size=1 << 40)
        with pytest.raises(CodecError, match="head of"):
            receive(_tensors.MAGIC + (1000).to_bytes(4, "little"), max_size=900)

    def test_too_many_tensors_or_axes_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(CodecError, match="32 lengths"):
            decode(self.message(None, ["U8", [1] * 33, []], data=b"1"))
        monkeypatch.setattr(_tensors, "MAX_TENSORS", 3)
        with pytest.raises(CodecError, match="4 tensors"):
            decode(self.message([None] * 4, *(["U8", [0], [n]] for n in range(4))))
        with pytest.raises(CodecError, match="4 tensors"):
            encode([np.zeros(1)] * 4)

    def test_a_message_over_the_limit_of_the_caller_is_refused(self) -> None:
        message = joined(np.zeros(1000))
        assert decode(message, max_size=len(message)) is not None
        with pytest.raises(CodecError, match="limit"):
            decode(message, max_size=len(message) - 1)


@pytest.mark.parametrize(
    ("value", "listed"),
    [
        ([None, None], [["U8", [0], [1]], ["U8", [0], [0]]]),  # out of order
        ([None], [["U8", [0], [0]], ["U8", [0], [0]]]),  # one place, twice
        ([1], [["U8", [0], [0]]]),  # a place that is taken
        ([None], [["U8", [0], [1]]]),
        ({"a": None}, [["U8", [0], [0]]]),
        ([None], [["U8", [0], [-1]]]),
        (None, [["U7", [0], []]]),
        (None, [["BYTES", [1, 2], []]]),
        (None, [["U8", [0]]]),
        (None, [7]),
        ({"a": None, "b": [None]}, [["U8", [0], ["a"]], ["U8", [0], [0]]]),
    ],
)
def test_heads_that_contradict_themselves_are_refused(value: Any, listed: list[Any]) -> None:
    with pytest.raises(CodecError):
        decode(TestBounds.message(value, *listed))


def test_booleans_of_other_bytes_and_padding_that_speaks_are_refused() -> None:
    message = bytearray(joined(np.array([True])))
    message[-1] = 2
    for read in (decode, lambda data: receive(data, max_size=1000)):
        with pytest.raises(CodecError, match="booleans"):
            read(bytes(message))
    message[-1], message[-2] = 1, 1
    for read in (decode, lambda data: receive(data, max_size=1000)):
        with pytest.raises(CodecError, match="padding"):
            read(bytes(message))


def test_no_bytes_may_follow_or_be_missing() -> None:
    message = joined({"a": np.ones(3), "b": 1})
    for cut in range(len(message)):
        with pytest.raises(CodecError):
            decode(message[:cut])
    with pytest.raises(CodecError, match="follow"):
        decode(message + b"x")


@pytest.mark.parametrize(
    "mine",
    [
        np.zeros(3, np.float64), np.zeros((3, 1), np.float32), np.zeros(6, np.float32)[::2],
        np.zeros(3, ">f4"), bytearray(12), "text",
    ],
)  # fmt: skip
def test_a_place_that_does_not_fit_is_refused(mine: Any) -> None:
    message = joined({"t": np.zeros(3, np.float32)})
    with pytest.raises(CodecError, match="'t'"):
        decode(message, out={"t": mine})
    with pytest.raises(CodecError, match="'t'"):
        receive(message, out={"t": mine}, max_size=1000)


def test_a_read_only_place_is_refused() -> None:
    mine = np.zeros(3, np.float32)
    mine.flags.writeable = False
    with pytest.raises(CodecError, match="read-only"):
        decode(joined(np.ones(3, np.float32)), out=mine)


def test_a_receiver_gives_no_value_before_its_end() -> None:
    receiver = Receiver(max_size=1000)
    receiver.wanted()
    with pytest.raises(InvalidInput, match="not whole"):
        receiver.value()


def test_numpy_is_loaded_with_the_first_tensor_and_torch_never() -> None:
    script = (
        "import sys, lattica, lattica.codec as c\n"
        "assert c.decode(c.encode({'a': [1, b'x' * 100000, bytearray(5)]}))['a'][0] == 1\n"
        "assert 'numpy' not in sys.modules\n"
        "import lattica.models\n"
        "assert 'numpy' not in sys.modules\n"
        "import numpy as np\n"
        "assert c.decode(c.encode(np.ones(3))).sum() == 3\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_memory_of_either_side_is_that_of_the_tensor() -> None:
    script = """
import resource, numpy as np, lattica.codec as c
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
size = 256 << 20
tensor = np.ones(size, np.uint8)
before = peak()
pieces = c.encode({"t": tensor})
assert peak() - before < 16, peak() - before
mine = np.empty(size, np.uint8); mine[:] = 0
before, address = peak(), mine.ctypes.data
receiver = c.Receiver(max_size=1 << 30, out={"t": mine})
stream, ahead = iter(pieces), memoryview(b"")
while (place := receiver.wanted()) is not None:
    filled = 0
    while filled < len(place):
        ahead = ahead or memoryview(next(stream)).cast("B")
        count = min(len(ahead), len(place) - filled)
        place[filled:filled + count] = ahead[:count]
        ahead, filled = ahead[count:], filled + count
value = receiver.value()
assert value["t"] is mine and mine.ctypes.data == address and mine[-1] == 1
assert peak() - before < 16, peak() - before
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_tensors_travel_bit_by_bit() -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]  # only where somebody installed it

    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float32, torch.bool,
                  torch.int64, torch.complex64):  # fmt: skip
        tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
        for one in (tensor, tensor.transpose(0, 2), tensor[:, ::2], tensor[0, 0, 0], tensor[:0]):
            mine = torch.zeros(one.shape, dtype=dtype)
            assert decode(joined({"t": one}), out={"t": mine})["t"] is mine
            flat = one.contiguous().reshape(-1)
            assert torch.equal(mine.reshape(-1).view(torch.uint8), flat.view(torch.uint8))


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]
    return found


def test_the_vectors_cover_every_dtype() -> None:
    spoken = {one[0] for case in cases() for one in case.get("tensors", [])}
    assert spoken >= set(WIDTHS) | {"BYTES", "BUFFER"}
