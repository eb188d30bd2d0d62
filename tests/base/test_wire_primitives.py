"""Varints, base encodings, protobuf and canonical msgpack: the codecs under every protocol."""

from __future__ import annotations

import math
import tracemalloc

import msgpack
import pytest
from hypothesis import given, strategies as st

from lattica import _base, _protobuf, _varint, codec
from lattica.errors import CodecError, InvalidInput

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(st.integers(0, 2**63 - 1), st.binary(max_size=4))
def test_a_varint_is_read_back_with_its_end(value: int, rest: bytes) -> None:
    encoded = _varint.encode(value)
    assert _varint.decode(encoded + rest) == (value, len(encoded))
    assert _varint.decode(encoded[:-1]) is None


@pytest.mark.parametrize("data", [b"\x80\x00", b"\x81\x00", b"\xff" * 9, b"\x80" * 9 + b"\x01"])
def test_long_forms_and_overlong_varints_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        _varint.decode(data)


@given(st.binary(max_size=80))
def test_base_texts_are_read_back(data: bytes) -> None:
    assert _base.base58_decode(_base.base58_encode(data)) == data
    assert _base.base32_decode(_base.base32_encode(data)) == data


@given(st.text(max_size=40))
def test_a_base32_text_is_the_only_text_of_its_bytes(text: str) -> None:
    try:
        data = _base.base32_decode(text)
    except InvalidInput:
        return
    assert _base.base32_encode(data) == text


def test_base58_is_bounded_because_it_is_quadratic() -> None:
    with pytest.raises(InvalidInput, match="limit"):
        _base.base58_decode("2" * 10_000)


fields = st.lists(
    st.tuples(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1) | st.binary(max_size=30)),
    max_size=8,
)


@given(fields)
def test_a_protobuf_message_is_read_back_field_by_field(
    sent: list[tuple[int, int | bytes]],
) -> None:
    kinds: dict[int, type] = {}
    sent = [(n, v) for n, v in sent if kinds.setdefault(n, type(v)) is type(v)]
    message = _protobuf.decode(_protobuf.encode(sent))
    for number, kind in kinds.items():
        expected = [value for n, value in sent if n == number]
        read = message.integers(number) if kind is int else message.blobs(number)
        assert read == expected


@given(st.binary(max_size=120))
def test_any_bytes_are_a_protobuf_message_or_a_codec_error(data: bytes) -> None:
    try:
        _protobuf.decode(data)
    except CodecError:
        return


def test_protobuf_fields_are_counted_before_they_fill_memory() -> None:
    with pytest.raises(CodecError, match="more than"):
        _protobuf.decode(b"\x08\x01" * (_protobuf.MAX_FIELDS + 1))


def test_protobuf_lengths_are_checked_before_memory_is_spent() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="cut short"):
            _protobuf.decode(b"\x0a\xff\xff\xff\xff\x07")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_field_of_the_wrong_wire_type_is_an_error_and_not_another_value() -> None:
    message = _protobuf.decode(_protobuf.encode([(1, 7), (2, b"\xff")]))
    with pytest.raises(CodecError, match="wire type"):
        message.blob(1)
    with pytest.raises(CodecError, match="wire type"):
        message.integer(2)
    with pytest.raises(CodecError, match="UTF-8"):
        message.text(2)


@given(values)
def test_a_canonical_value_is_read_back_and_has_one_encoding(value: codec.Value) -> None:
    encoded = codec.pack(value)
    again = codec.unpack(encoded, max_size=len(encoded))
    assert again == value
    assert codec.pack(again) == encoded


@given(st.binary(max_size=80))
def test_any_bytes_are_a_canonical_value_or_a_codec_error(data: bytes) -> None:
    try:
        value = codec.unpack(data, max_size=100)
    except CodecError:
        return
    assert codec.pack(value) == data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xcc\x01", id="a long form of 1"),
        pytest.param(b"\x82\xa1b\x01\xa1a\x01", id="unsorted keys"),
        pytest.param(b"\x82\xa1a\x01\xa1a\x01", id="a doubled key"),
        pytest.param(b"\x81\x01\x01", id="a key that is no string"),
        pytest.param(b"\xca\x3f\x80\x00\x00", id="float32"),
        pytest.param(b"\xcb\x7f\xf8" + bytes(6), id="NaN"),
        pytest.param(b"\xd4\x01\x00", id="an extension type"),
        pytest.param(b"\xd6\xff" + bytes(4), id="a timestamp"),
        pytest.param(b"\x91" * 33 + b"\xc0", id="nested too deep"),
        pytest.param(b"\x91" * 5000 + b"\xc0", id="nested absurdly deep"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="an array of four billion"),
        pytest.param(b"\xc6\xff\xff\xff\xff", id="four gigabytes of nothing"),
        pytest.param(b"\x01\x01", id="a second value"),
        pytest.param(b"\xa1\xff", id="text that is no UTF-8"),
        pytest.param(b"\xc1", id="the unused byte"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_every_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        codec.unpack(data, max_size=10_000)


def test_values_without_a_canonical_form_are_not_packed() -> None:
    for value in (math.nan, 2**64, {1: 2}, object(), "\ud800", {"\ud800": 1}):
        with pytest.raises(CodecError):
            codec.pack(value)  # type: ignore[arg-type]  # the point of the test


def test_an_oversized_value_is_refused_unread() -> None:
    with pytest.raises(CodecError, match="limit 10"):
        codec.unpack(msgpack.packb("x" * 20), max_size=10)
