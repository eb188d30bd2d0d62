"""Content identifiers: CIDv1 over BLAKE3-256 or SHA2-256, shown in base32.

Source: https://github.com/multiformats/cid and the multicodec table. A CID is the contract between
strangers: what hashes to it is the content, whoever sent it.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Protocol

import blake3

from lattica import _varint
from lattica._base import base32_decode, base32_encode, base58_decode
from lattica.errors import CodecError, InvalidInput

MAX_DIGEST = 128  # bytes; longer multihashes are refused before they are stored anywhere
DIGEST_SIZE = 32  # bytes, of every hash function this library computes


class Codec(enum.IntEnum):
    """What the bytes behind a CID are. Other codes are carried, not interpreted."""

    RAW = 0x55
    DAG_PB = 0x70
    LIBP2P_KEY = 0x72
    MESSAGEPACK = 0x0201


class Hasher(Protocol):
    """What `HashFunction.hasher` returns: the update/digest pair of hashlib."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the hash of everything added."""


class HashFunction(enum.IntEnum):
    """Hash functions we compute; the value is the multihash code. All give 32 bytes."""

    SHA2_256 = 0x12
    BLAKE3 = 0x1E

    def hasher(self) -> Hasher:
        """Return a fresh incremental hasher."""
        return blake3.blake3() if self is HashFunction.BLAKE3 else hashlib.sha256()

    def digest(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the 32-byte hash of `data`."""
        if self is HashFunction.BLAKE3:
            return blake3.blake3(data).digest()
        return hashlib.sha256(data).digest()

    def multihash(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the multihash of `data`: code, length, digest."""
        return bytes((self, DIGEST_SIZE)) + self.digest(data)


@dataclass(frozen=True, slots=True, order=True)
class CID:
    """An identifier: what kind of bytes, and the multihash of them.

    Attributes:
        codec: multicodec of the content, a `Codec` or any other code.
        multihash: hash function code, digest length and digest, as on the wire.
    """

    codec: int
    multihash: bytes

    @classmethod
    def of(
        cls,
        data: bytes | bytearray | memoryview,
        codec: int = Codec.RAW,
        hash_function: HashFunction = HashFunction.BLAKE3,
    ) -> CID:
        """Return the CID of `data`."""
        return cls(int(codec), hash_function.multihash(data))

    @classmethod
    def parse(cls, text: str) -> CID:
        """Read the text form: base32 (`b…`), the one we write, or base58btc (`z…`).

        Raises:
            InvalidInput: anything else, CIDv0 (`Qm…`) included.
        """
        if text.startswith("Qm"):
            raise InvalidInput(
                f"{text} is a version 0 CID",
                hint="convert it: `ipfs cid format -v 1 -b base32 CID`",
            )
        if len(text) > 4 * MAX_DIGEST:
            raise InvalidInput(f"a CID of {len(text)} characters")
        hint = "a CID starts with `bafy` or `bafk`"
        try:
            if text.startswith("b"):
                return cls.from_bytes(base32_decode(text[1:]))
            if text.startswith("z"):
                return cls.from_bytes(base58_decode(text[1:]))
        except (CodecError, InvalidInput) as error:
            raise InvalidInput(f"{text!r} is not a CID: {error}", hint=hint) from None
        raise InvalidInput(f"{text!r} is not a CID", hint=hint)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> CID:
        """Read the binary form, which must be all of `data`. Raises CodecError."""
        cid, end = cls.read(data)
        if end != len(data):
            raise CodecError(f"{len(data) - end} bytes follow the CID")
        return cid

    @classmethod
    def read(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[CID, int]:
        """Read the binary form at `offset`: `(cid, offset after it)`. Raises CodecError."""
        version, position = _varint.decode_whole(data, offset)
        if version != 1:
            raise CodecError(f"CID version {version}, expected 1")
        codec, position = _varint.decode_whole(data, position)
        end = _multihash_end(data, position)
        return cls(codec, bytes(data[position:end])), end

    @property
    def hash_code(self) -> int:
        """The multihash code: a `HashFunction`, or one that we do not compute."""
        return _varint.decode_whole(self.multihash)[0]

    @property
    def digest(self) -> bytes:
        """The digest alone."""
        _, position = _varint.decode_whole(self.multihash)
        _, position = _varint.decode_whole(self.multihash, position)
        return self.multihash[position:]

    @property
    def hash_function(self) -> HashFunction:
        """The hash function. Raises InvalidInput for one that we do not compute."""
        try:
            function = HashFunction(self.hash_code)
        except ValueError:
            raise InvalidInput(
                f"hash function 0x{self.hash_code:x} of {self} is not supported",
                hint="supported: BLAKE3-256 and SHA2-256",
            ) from None
        if len(self.digest) != DIGEST_SIZE:
            raise InvalidInput(f"{self} carries a digest of {len(self.digest)} bytes, expected 32")
        return function

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Say whether `data` hashes to this CID. Raises InvalidInput as `hash_function` does."""
        return self.hash_function.multihash(data) == self.multihash

    def __bytes__(self) -> bytes:
        return b"\x01" + _varint.encode(self.codec) + self.multihash

    def __str__(self) -> str:
        return "b" + base32_encode(bytes(self))

    def __repr__(self) -> str:
        return f"CID({self})"


def read_multihash(data: bytes | bytearray | memoryview) -> bytes:
    """Return `data` if it is exactly one multihash. Raises CodecError."""
    end = _multihash_end(data, 0)
    if end != len(data):
        raise CodecError(f"{len(data) - end} bytes follow the multihash")
    return bytes(data)


def _multihash_end(data: bytes | bytearray | memoryview, offset: int) -> int:
    _, position = _varint.decode_whole(data, offset)
    size, position = _varint.decode_whole(data, position)
    if size > MAX_DIGEST:
        raise CodecError(f"a digest of {size} bytes, limit {MAX_DIGEST}")
    if position + size > len(data):
        raise CodecError("multihash is cut short")
    return position + size
