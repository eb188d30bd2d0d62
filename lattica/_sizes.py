"""Sizes and ranges as people write them: `50G`, `256 KiB`, `1000`, `2G:4K`. Pure.

K, M, G, T mean powers of 1024, with or without `iB` or `B`: leaves, quotas and offsets are counted
so. A plain number is bytes.
"""

from __future__ import annotations

import re

from lattica.errors import InvalidInput

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_MAX = (1 << 63) - 1


class SizeError(InvalidInput):
    """A text is no size, or no range."""

    code = "size"
    hint = "sizes look like 4096, 256K, 1.5M, 50G or 2T; a range like 2G:4K"


def parse_size(text: str) -> int:
    """Return a size in bytes. Raises SizeError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SizeError(f"{text!r} is not a size")
    number, unit = match[1], match[2].upper()
    size = (
        int(float(number) * (1 << _SHIFTS[unit]))
        if "." in number
        else (int(number) << _SHIFTS[unit])
    )
    if size > _MAX:
        raise SizeError(f"{text!r} is more than a file can have")
    return size


def parse_range(text: str) -> tuple[int, int | None]:
    """Return offset and length of `OFFSET:LENGTH`; None where the length is left out: to the end.

    Raises SizeError.
    """
    offset, colon, length = text.partition(":")
    if not colon:
        raise SizeError(f"{text!r} is not a range")
    return parse_size(offset or "0"), parse_size(length) if length.strip() else None
