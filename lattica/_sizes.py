"""Sizes, ranges and times as people write them: `50G`, `256 KiB`, `1000`, `2G:4K`, `7d`. Pure.

K, M, G, T mean powers of 1024, with or without `iB` or `B`: leaves, quotas and offsets are counted
so. A plain number is bytes. Rates are counted in thousands, unless they say `KiB`.
"""

from __future__ import annotations

import re

from lattica.errors import InvalidInput

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?(?:/s)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_MAX = (1 << 63) - 1
_DURATION = re.compile(r"(\d{1,9})([smhd]?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class SizeError(InvalidInput):
    """A text is no size, or no range."""

    code = "size"
    hint = "sizes look like 4096, 256K, 1.5M, 50G or 2T; a range like 2G:4K"


def parse_duration(text: str) -> float:
    """Return seconds of `7d`, `24h`, `30m`, `45s` or `0`. Raises InvalidInput."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not (match[2] or int(match[1]) == 0):
        raise InvalidInput(f"{text!r} is no duration", hint="for example 7d, 24h, 30m or 0")
    return float(int(match[1]) * _SECONDS.get(match[2], 1))


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


def parse_rate(text: str) -> float:
    """Return bytes a second; `5M` is 5 000 000, as throughput is shown. Raises SizeError."""
    match = _RATE.fullmatch(text.strip())
    rate = 0.0
    if match is not None:
        thousand = 1024 if match[3] else 1000
        rate = float(match[1]) * float(thousand ** _POWERS[match[2].upper()])
    if not 0 < rate <= _MAX:
        raise SizeError(f"{text!r} is not a rate", hint="rates look like 5M, 500K or 2 MiB/s")
    return rate


def parse_range(text: str) -> tuple[int, int | None]:
    """Return offset and length of `OFFSET:LENGTH`; None where the length is left out: to the end.

    Raises SizeError.
    """
    offset, colon, length = text.partition(":")
    if not colon:
        raise SizeError(f"{text!r} is not a range")
    return parse_size(offset or "0"), parse_size(length) if length.strip() else None
