"""Records of Gradient's Lattica: opt in, to live in one mesh with its programs.

Its DHT keeps single values under plain keys, unsigned, with the time they end inside (spec/dht.md
§8). To join it, give `open_dht` its protocol ID and these rules, and wrap the result:

    async with open_dht(mesh, protocol=PROTOCOL, namespaces=namespaces()) as dht:
        records = GradientRecords(dht)
        await records.store("key", b"value", subkey="me")

Anybody may write there, and over what others wrote: a value is worth what its writer is worth. Its
Python programs put pickles, which are programs to be run by who reads them. Nothing here runs one.
Of all pickles, those that are nothing but one literal of bytes or text are told apart by their
form; anything else comes back as the bytes it is.
"""

from __future__ import annotations

import math
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lattica.errors import CodecError

from ._messages import MAX_KEY
from ._namespaces import NO_NAMESPACE, Item, Reason, Rules, ValueRefused
from ._records import MAX_TTL, MAX_VALUE
from ._results import Result
from ._values import InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._results import PutResult
    from .service import Dht

PROTOCOL = "/lattica/1.0.0"  # of its DHT, where a program does not choose another
TTL = 600.0  # seconds that its programs let a value live
MAX_SUBKEYS = 512  # of one key
_INDEX = "#index"


class GradientError(CodecError):
    """The bytes are not a record of Gradient's Lattica."""

    code = "dht-gradient"


class NotPlain(CodecError):
    """The value is a pickle of more than bytes or text. It is not read; `raw` has its bytes."""

    code = "dht-gradient-value"
    hint = "have its writer store bytes or text (msgpack, JSON); pickles are programs"


@dataclass(frozen=True, slots=True)
class GradientValue(Result):
    """One value.

    Attributes:
        raw: the bytes as they were stored.
        expires: when it ends, in seconds since 1970.
    """

    raw: bytes
    expires: float

    @property
    def value(self) -> bytes | str:
        """The bytes or the text that was stored. Raises NotPlain for anything else pickled.

        What is no pickle at all is returned as bytes.
        """
        return read_literal(self.raw)


@dataclass(frozen=True, slots=True)
class _Index:
    subkeys: tuple[str, ...]
    expires: float


class GradientRules:
    """What a node keeps of its records: well-formed ones that have not ended, the longest-lived."""

    merges: ClassVar[bool] = False

    def split(self, value: bytes) -> list[bytes]:
        """Return the value alone."""
        return [value]

    def read(self, scope: str, key: bytes, encoded: bytes, *, now: float) -> Item:
        """Return the value as an item. Raises GradientError, ValueRefused."""
        expires = _expiry(key, encoded)
        if expires <= now:
            raise ValueRefused(f"a value that ended {now - expires:.0f} s ago", Reason.EXPIRED)
        if expires > now + MAX_TTL:
            raise ValueRefused(f"a value that lives for more than {MAX_TTL:.0f} s")
        return Item(b"", key, expires, encoded)

    def reopen(self, key: bytes, encoded: bytes, expires: float) -> Item:
        """Return the value as an item. It has no author: its key pays for it."""
        return Item(b"", key, expires, encoded)

    def supersedes(self, key: bytes, item: Item, other: Item) -> bool:
        """Say whether it ends later; of two that end together the greater bytes count."""
        return (item.expires, item.encoded) > (other.expires, other.encoded)

    def join(self, items: Iterable[Item]) -> bytes:
        """Return the only value."""
        (only,) = items
        return only.encoded


def namespaces() -> dict[str, Rules]:
    """Return what `open_dht` takes as `namespaces` to keep its records: keys of any form."""
    return {NO_NAMESPACE: GradientRules()}


class GradientRecords:
    """Puts and gets records as programs with Gradient's Lattica do.

    Args:
        dht: opened with `namespaces()`.
        wall_clock: seconds since 1970.
    """

    def __init__(self, dht: Dht, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._dht, self._wall_clock = dht, wall_clock

    async def store(
        self, key: str, value: bytes | str, *, ttl: float = TTL, subkey: str | None = None
    ) -> PutResult:
        """Put a value in the form that its programs read; it replaces what stands there.

        With a subkey, the index of the key is read and written as well. As over there, two writers
        at one instant may lose one of their subkeys from it: each writes again what it last saw.

        Raises:
            ValueTooLarge: the value, or the index, is larger than peers keep.
            NotStored: no peer keeps it.
        """
        if subkey is None:
            return await self._put(key, encode_value(write_literal(value), self._ends(ttl)))
        if subkey == _INDEX[1:] or not subkey:
            raise InvalidValue(f"{subkey!r} is not a subkey")
        ends = self._ends(ttl)
        put = await self._put(f"{key}#{subkey}", encode_value(write_literal(value), ends))
        index = await self._index(key)
        known = index.subkeys if index is not None else ()
        if len(known) >= MAX_SUBKEYS and subkey not in known:
            raise ValueTooLarge("set of subkeys", len(known) + 1, MAX_SUBKEYS)
        subkeys = tuple(dict.fromkeys((*known, subkey)))
        until = max(ends, index.expires if index is not None else 0.0)
        await self._put(key + _INDEX, encode_index(subkeys, until))
        return put

    async def get(self, key: str) -> dict[str, GradientValue]:
        """Return the values of a key by subkey, that without one under `""`; none: it is empty."""
        index = await self._index(key)
        names = {"": key}
        names |= {subkey: f"{key}#{subkey}" for subkey in (index.subkeys if index else ())}
        found = await self._dht.get_many(names.values())
        now = self._wall_clock()
        values: dict[str, GradientValue] = {}
        for subkey, name in names.items():
            raw = _only(found[name].entries)
            if raw is not None:
                value, ends = decode_value(raw)
                if ends > now:
                    values[subkey] = GradientValue(value, ends)
        return values

    async def _index(self, key: str) -> _Index | None:
        raw = _only((await self._dht.get(key + _INDEX)).entries)
        return None if raw is None else _Index(*decode_index(raw))

    async def _put(self, key: str, encoded: bytes) -> PutResult:
        return await self._dht.put(key, encoded)

    def _ends(self, ttl: float) -> float:
        if not 0 < ttl <= MAX_TTL:
            raise InvalidValue(f"a ttl of {ttl} seconds, expected up to {MAX_TTL:.0f}")
        return self._wall_clock() + ttl


def _only(entries: Iterable[object]) -> bytes | None:
    for entry in entries:
        value = getattr(entry, "value", None)
        if isinstance(value, bytes):
            return value
    return None


# The wire: bincode 2 with its standard configuration.


def encode_value(value: bytes, expires: float) -> bytes:
    """Return a `ValueWithTime`."""
    return _length(len(value)) + value + struct.pack("<d", expires)


def decode_value(data: bytes) -> tuple[bytes, float]:
    """Read a `ValueWithTime`: the value, and when it ends. Raises GradientError."""
    value, offset = _take(data, 0)
    return value, _time(data, offset)


def encode_index(subkeys: Iterable[str], expires: float) -> bytes:
    """Return a `SubkeyIndex`."""
    names = [subkey.encode() for subkey in subkeys]
    body = b"".join(_length(len(name)) + name for name in names)
    return _length(len(names)) + body + struct.pack("<d", expires)


def decode_index(data: bytes) -> tuple[tuple[str, ...], float]:
    """Read a `SubkeyIndex`: the subkeys, and when it ends. Raises GradientError."""
    count, offset = _read_length(data, 0)
    if count > MAX_SUBKEYS:
        raise GradientError(f"an index of {count} subkeys, limit {MAX_SUBKEYS}")
    names: list[str] = []
    for _ in range(count):
        name, offset = _take(data, offset)
        if len(name) > MAX_KEY:
            raise GradientError(f"a subkey of {len(name)} bytes, limit {MAX_KEY}")
        try:
            names.append(name.decode())
        except UnicodeDecodeError:
            raise GradientError("a subkey that is not UTF-8") from None
    return tuple(names), _time(data, offset)


def _expiry(key: bytes, encoded: bytes) -> float:
    if key.endswith(_INDEX.encode()):
        return decode_index(encoded)[1]
    return decode_value(encoded)[1]


def _length(number: int) -> bytes:
    if number < 251:
        return bytes([number])
    if number < 1 << 16:
        return b"\xfb" + number.to_bytes(2, "little")
    return b"\xfc" + number.to_bytes(4, "little")


_LENGTHS = {0xFB: 2, 0xFC: 4, 0xFD: 8}  # what follows each marker, in bytes


def _read_length(data: bytes, offset: int) -> tuple[int, int]:
    first = data[offset] if offset < len(data) else -1
    if 0 <= first < 251:
        return first, offset + 1
    size = _LENGTHS.get(first)
    if size is None or offset + 1 + size > len(data):
        raise GradientError("a length is cut short, or larger than there is")
    return int.from_bytes(data[offset + 1 : offset + 1 + size], "little"), offset + 1 + size


def _take(data: bytes, offset: int) -> tuple[bytes, int]:
    size, offset = _read_length(data, offset)
    if size > len(data) - offset:
        raise GradientError(f"{size} bytes are declared, {len(data) - offset} are there")
    return data[offset : offset + size], offset + size


def _time(data: bytes, offset: int) -> float:
    if len(data) - offset != 8:
        raise GradientError(f"{len(data) - offset} bytes where a time of 8 is due")
    (seconds,) = struct.unpack_from("<d", data, offset)
    if not math.isfinite(seconds):
        raise GradientError("a time that is no number")
    return float(seconds)


# Values. Its programs hand everything to Python's pickle; a literal of bytes or text has the form
#
#     0x80 version [0x95 length-of-the-frame] opcode length data [0x94, or "q" 0: remember it] "."
#
# Source: https://docs.python.org/3/library/pickletools.html.

_LITERALS: dict[int, tuple[int, bool]] = {  # bytes of the length, and whether it is text
    ord("C"): (1, False),
    ord("B"): (4, False),
    0x8E: (8, False),
    0x8C: (1, True),
    ord("X"): (4, True),
    0x8D: (8, True),
}
_FRAME, _END = 0x95, b"."
_TAILS = (_END, b"\x94" + _END, b"q\x00" + _END)


def write_literal(value: bytes | str) -> bytes:
    """Return `value` in the form in which its programs read it. Raises ValueTooLarge."""
    data = value.encode() if isinstance(value, str) else value
    if len(data) > MAX_VALUE - 32:
        raise ValueTooLarge("value", len(data), MAX_VALUE - 32)
    opcode = b"X" if isinstance(value, str) else b"B"
    return b"\x80\x03" + opcode + len(data).to_bytes(4, "little") + data + _END


def read_literal(raw: bytes) -> bytes | str:
    """Return what `raw` is the literal of; `raw` itself where it is no pickle. Raises NotPlain."""
    if len(raw) < 2 or raw[0] != 0x80 or not 2 <= raw[1] <= 5 or not raw.endswith(_END):
        return raw
    offset = 2
    if raw[offset] == _FRAME:
        offset += 9
    size, is_text = _LITERALS.get(raw[offset] if offset < len(raw) else -1, (0, False))
    start = offset + 1 + size
    length = int.from_bytes(raw[offset + 1 : start], "little")
    if not size or raw[start + length :] not in _TAILS:
        raise NotPlain("a pickle of something else than bytes or text")
    data = raw[start : start + length]
    if not is_text:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotPlain("a pickled text that is not UTF-8") from None
