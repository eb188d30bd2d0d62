"""Which bytes a slice, a layer range or a rank means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lattica.errors import InvalidInput
from lattica.models import TensorInfo, parse_layers, parse_rank, parse_tensor, portion, select
from lattica.models._select import cover

slices = st.builds(
    slice,
    st.none() | st.integers(-7, 7),
    st.none() | st.integers(-7, 7),
    st.none() | st.integers(-3, 3).filter(bool),
)


@st.composite
def sliced(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    keys: list[Any] = []
    for axis in shape[: draw(st.integers(0, len(shape)))]:
        integers = st.integers(-axis, axis - 1) if axis else st.nothing()
        keys.append(draw(slices | integers))
    if draw(st.booleans()):
        dots = draw(st.integers(0, len(keys)))
        keys.insert(dots, ...) if dots == len(keys) else None
    return shape, keys[0] if len(keys) == 1 and draw(st.booleans()) else tuple(keys)


@given(sliced())
def test_a_slice_of_the_cover_is_the_slice_of_the_tensor(case: tuple[tuple[int, ...], Any]) -> None:
    shape, key = case
    whole = np.arange(math.prod(shape)).reshape(shape)
    found = cover(shape, key)
    part = whole.reshape(-1)[found.first : found.first + math.prod(found.shape)].reshape(
        found.shape
    )
    result = part if found.index is None else part[found.index]
    assert np.array_equal(result, whole[key])


def test_only_the_rows_asked_for_are_read() -> None:
    tensor = TensorInfo("w", "F32", (100, 10), "", 1000, 4000)
    wanted, _ = portion(tensor, slice(8, 16))
    assert (wanted.offset, wanted.length, wanted.shape) == (1000 + 8 * 40, 8 * 40, (8, 10))
    wanted, _ = portion(tensor, (3, slice(2, 5)))
    assert (wanted.offset, wanted.length) == (1000 + 3 * 40 + 2 * 4, 12)
    wanted, found = portion(tensor, (slice(8, 16), 2))
    assert (wanted.length, found.index) == (8 * 40, (slice(None, None, 1), 2))


@pytest.mark.parametrize(
    "key",
    [
        *(np.array([1]), np.array([1, 2]), [1, 2], None, True, "a", 1.5),
        *(100, -101, (1, 1, 1), (..., ...), slice("a", 2), slice(0, 5, 0)),
    ],
    ids=repr,
)
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(InvalidInput):
        portion(TensorInfo("w", "F32", (100, 10), "", 0, 4000), key)


def test_elements_that_share_bytes_are_read_whole() -> None:
    tensor = TensorInfo("w", "F4", (4, 3), "", 0, 6)
    assert portion(tensor)[0].length == 6
    with pytest.raises(InvalidInput, match="whole only"):
        portion(tensor, 0)


def names(*found: str) -> list[TensorInfo]:
    return [TensorInfo(name, "U8", (8,), "", 8 * n, 8) for n, name in enumerate(found)]


MODEL = names(
    "model.embed_tokens.weight",
    "model.layers.0.attn.q.weight",
    "model.layers.13.mlp.experts.3.up.weight",
    "model.layers.14.mlp.experts.3.up.weight",
    "transformer.h.2.ln.bias",
    "blocks.5.w",
    "lm_head.weight",
    "model.layers_extra.1.w",
)


def chosen(**options: Any) -> list[str]:
    return [one.tensor.name for one in select(MODEL, **options)]


def test_layers_are_known_by_the_usual_names() -> None:
    assert chosen(layers=(0, 14)) == [
        "model.layers.0.attn.q.weight", "model.layers.13.mlp.experts.3.up.weight",
        "transformer.h.2.ln.bias", "blocks.5.w",
    ]  # fmt: skip
    assert chosen(layers=(14, 15)) == ["model.layers.14.mlp.experts.3.up.weight"]


def test_conditions_hold_together() -> None:
    assert chosen(layers=(0, 14), include=["*.experts.3.*"]) == [
        "model.layers.13.mlp.experts.3.up.weight"
    ]
    assert chosen(include=["lm_head*", "*embed*"]) == [
        "model.embed_tokens.weight",
        "lm_head.weight",
    ]
    assert chosen(exclude=["model.*", "*.bias"]) == ["blocks.5.w", "lm_head.weight"]
    assert len(chosen()) == len(MODEL)


shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@given(st.lists(shapes, max_size=5), st.integers(1, 7))
def test_the_parts_of_all_ranks_are_every_byte_once(
    some: list[tuple[int, ...]], ranks: int
) -> None:
    tensors, offset = [], 0
    for number, shape in enumerate(some):
        length = 4 * math.prod(shape)
        tensors.append(TensorInfo(str(number), "F32", shape, "", offset, length))
        offset += length
    counted = np.zeros(offset, int)
    for rank in range(ranks):
        for part in select(tensors, rank=(rank, ranks)):
            assert part.length == 4 * math.prod(part.shape)
            counted[part.offset : part.offset + part.length] += 1
    assert (counted == 1).all()


@pytest.mark.parametrize(
    "options", [{"layers": (3, 3)}, {"layers": (-1, 3)}, {"rank": (2, 2)}, {"rank": (-1, 2)}]
)
def test_layers_and_ranks_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        select(MODEL, **options)


def test_texts_of_the_command_line() -> None:
    assert parse_layers("0:14") == (0, 14)
    assert parse_rank("2/8") == (2, 8)
    assert parse_tensor("a.b", {}) == ("a.b", ...)
    assert parse_tensor("a.b[0:128]", {}) == ("a.b", (slice(0, 128),))
    assert parse_tensor("a[-1, ::2, 3:]", {}) == ("a", (-1, slice(None, None, 2), slice(3, None)))
    assert parse_tensor("a[...]", {}) == ("a", (...,))
    assert parse_tensor("odd[0]", {"odd[0]": 1}) == ("odd[0]", ...)
    assert parse_tensor("a[x]", {}) == ("a[x]", ...)  # there may be such a name
    for text in ("a[]", "a[1:2:3:4]", "a[1,,2]", "a[1.5]"):
        with pytest.raises(InvalidInput):
            parse_tensor(text, {})
    for wrong in ("14", "a:b", "1:2:3", ""):
        with pytest.raises(InvalidInput):
            parse_layers(wrong)
        with pytest.raises(InvalidInput):
            parse_rank(wrong)
