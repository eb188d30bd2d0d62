"""Sizes and ranges as people write them."""

from __future__ import annotations

import pytest

from lattica._sizes import SizeError, parse_range, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4K", 4096),
        ("4k", 4096),
        (" 256 KiB ", 262144),
        ("1.5M", 1572864),
        ("50G", 50 << 30),
        ("2TB", 2 << 40),
        ("7B", 7),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e3", "4P", "K", "1,5M", "0x10", "9" * 30, "1.M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SizeError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("0:10", (0, 10)), ("2G:4K", (2 << 30, 4096)), (":5", (0, 5)), ("5:", (5, None))],
)
def test_a_range_is_read(text: str, found: tuple[int, int | None]) -> None:
    assert parse_range(text) == found


@pytest.mark.parametrize("text", ["", "5", "a:1", "1:b", "1:2:3", "-1:4"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(SizeError):
        parse_range(text)
