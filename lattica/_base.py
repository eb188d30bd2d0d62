"""Text forms of bytes: base58btc and lower-case base32 without padding (multibase `z` and `b`)."""

from __future__ import annotations

import base64
import binascii

from lattica.errors import InvalidInput

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_INDEX = {character: value for value, character in enumerate(_BASE58)}
MAX_BASE58 = 256  # characters; decoding is quadratic, and no key or multihash needs more


def base58_encode(data: bytes) -> str:
    """Return `data` in base58btc; each leading zero byte becomes a `1`."""
    number, digits = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def base58_decode(text: str) -> bytes:
    """Return the bytes of base58btc `text`. Raises InvalidInput."""
    if len(text) > MAX_BASE58:
        raise InvalidInput(f"base58 text of {len(text)} characters, limit {MAX_BASE58}")
    number = 0
    for character in text:
        digit = _BASE58_INDEX.get(character)
        if digit is None:
            raise InvalidInput(f"{character!r} is not a base58 character")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def base32_encode(data: bytes) -> str:
    """Return `data` in RFC 4648 base32, lower case, no padding."""
    return base64.b32encode(data).decode().lower().rstrip("=")


def base32_decode(text: str) -> bytes:
    """Return the bytes of lower-case unpadded base32 `text`. Raises InvalidInput.

    Only the one form that `base32_encode` writes is read, so a text names one value.
    """
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"not base32: {error}") from None
    if base32_encode(data) != text:
        raise InvalidInput("not base32 in lower case without padding")
    return data
