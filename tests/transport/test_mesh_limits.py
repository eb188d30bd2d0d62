from __future__ import annotations

import inspect
from dataclasses import fields, replace

import pytest

from lattica.errors import InvalidInput
from lattica.transport import Limits


def test_every_limit_is_documented() -> None:
    described = inspect.getdoc(Limits)
    assert described is not None
    for entry in fields(Limits):
        assert f"\n    {entry.name}: " in described


@pytest.mark.parametrize("name", [entry.name for entry in fields(Limits)])
def test_a_limit_is_positive_and_finite(name: str) -> None:
    for value in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match=name):
            replace(Limits(), **{name: value})  # type: ignore[arg-type]  # a name at random
