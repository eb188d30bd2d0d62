"""The form of a sealed file: header, then chunks. Pure (spec/sealed.md §1, §2).

Each version has a random key of its own, sealed once for each recipient, so whoever is left out of
the next version cannot read it. A chunk is sealed under its number, under whether it is the last,
and under the whole header; so chunks cannot be moved, doubled, left off or cut short, nor can a
recipient be added unnoticed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lattica import codec
from lattica.errors import CodecError, InvalidInput, LatticaError, Refused
from lattica.identity import seal_box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.identity import Identity, PeerId

MAGIC = b"lattica sealed 1"
PREFIX_BYTES = len(MAGIC) + 4  # of a sealed file, which tell how long its header is
MAX_HEADER_BYTES = 128 << 10
SEALED_BYTES = 256 << 10  # of a sealed chunk: one leaf, in most objects
TAG_BYTES = 16
CHUNK_BYTES = SEALED_BYTES - TAG_BYTES
KEY_BYTES = 32
BOX_BYTES = 80
MAX_RECIPIENTS = 1024
_BOX_STEP = 8  # there are boxes for so many more than recipients, up to the next multiple
_CHECK_PURPOSE = b"lattica sealed check 1"


class SealBroken(LatticaError):
    """A sealed object is not what its sealer made, or was not made by our rules."""

    code = "seal-broken"
    exit_code = 5
    hint = "the object itself is damaged or forged; whoever sealed it must seal it again"


class NotARecipient(Refused):
    """The object is sealed to others."""

    code = "not-a-recipient"
    hint = "ask its owner to seal it to this node too (`lattica id`); --sealed keeps it unread"


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of the chunks.

    Attributes:
        boxes: the key, sealed for one recipient each; some are for nobody.
        check: by which whoever has a key knows that it is the one.
    """

    boxes: tuple[bytes, ...]
    check: bytes

    def __bytes__(self) -> bytes:
        body = codec.pack({"boxes": list(self.boxes), "check": self.check})
        return MAGIC + len(body).to_bytes(4, "big") + body

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read a header that is all of `data`. Raises SealBroken."""
        if header_size(data[:PREFIX_BYTES]) != len(data):
            raise SealBroken(f"a header of {len(data)} bytes that declares another length")
        try:
            value = codec.unpack(
                data[PREFIX_BYTES:], max_size=MAX_HEADER_BYTES, max_values=MAX_RECIPIENTS + 8
            )
        except CodecError as error:
            raise SealBroken(f"the header is malformed: {error}") from None
        match value:
            case {"boxes": list(boxes), "check": bytes(check)} if len(check) == 32:
                found = [box for box in boxes if isinstance(box, bytes) and len(box) == BOX_BYTES]
                if found and len(found) == len(boxes) and len(found) <= MAX_RECIPIENTS:
                    return cls(tuple(found), check)
        raise SealBroken("the header is of a form that is not known")

    @classmethod
    def make(cls, key: bytes, recipients: Sequence[PeerId]) -> Header:
        """Seal `key` for `recipients`, in no order that tells anything.

        Raises:
            InvalidInput: no recipient, too many, or one whose peer ID does not hold its key.
        """
        wanted = dict.fromkeys(recipients)
        if not 0 < len(wanted) <= MAX_RECIPIENTS:
            raise InvalidInput(
                f"{len(wanted)} recipients, expected 1 to {MAX_RECIPIENTS}",
                hint="--encrypt-to takes a peer ID, see `lattica id`",
            )
        boxes = [seal_box(key, peer) for peer in wanted]
        room = -(-len(boxes) // _BOX_STEP) * _BOX_STEP
        boxes += [seal_box(secrets.token_bytes(KEY_BYTES)) for _ in range(room - len(boxes))]
        secrets.SystemRandom().shuffle(boxes)
        return cls(tuple(boxes), _check(key))

    def find_key(self, identity: Identity) -> bytes:
        """Return the key. Raises NotARecipient."""
        for box in self.boxes:
            key = identity.open_box(box)
            if key is not None and hmac.compare_digest(_check(key), self.check):
                return key
        raise NotARecipient("the object is sealed, and this node is none of its recipients")


def is_sealed(start: bytes | memoryview) -> bool:
    """Whether a file that starts so claims to be a sealed one."""
    return bytes(start[: len(MAGIC)]) == MAGIC


def header_size(prefix: bytes) -> int:
    """Return how long the header is, the first `PREFIX_BYTES` included. Raises SealBroken."""
    if len(prefix) != PREFIX_BYTES or not is_sealed(prefix):
        raise SealBroken("it is not a sealed object")
    size = int.from_bytes(prefix[len(MAGIC) :], "big")
    if size > MAX_HEADER_BYTES:
        raise SealBroken(f"a header of {size} bytes, limit {MAX_HEADER_BYTES}")
    return PREFIX_BYTES + size


class _Chunks:
    """What sealing and opening share: the cipher, and what each chunk is bound to."""

    def __init__(self, key: bytes, header: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._header = hashlib.sha256(header).digest()

    def _seal(self, number: int, chunk: bytes | memoryview, *, last: bool) -> bytes:
        return self._cipher.encrypt(_nonce(number, last=last), bytes(chunk), self._header)


class Sealer(_Chunks):
    """Seals the chunks of one version, one after the other.

    Attributes:
        header: what goes before the first.
    """

    def __init__(
        self,
        recipients: Sequence[PeerId],
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Make a new version, with a key that nobody else will ever use."""
        key = random_bytes(KEY_BYTES)
        self.header = bytes(Header.make(key, recipients))
        super().__init__(key, self.header)
        self._number = 0
        self._done = False

    def seal(self, chunk: bytes | memoryview, *, last: bool) -> bytes:
        """Return the next chunk sealed; it has `CHUNK_BYTES` bytes."""
        if self._done or len(chunk) != CHUNK_BYTES:
            raise ValueError(f"a chunk of {len(chunk)} bytes after the last one or out of size")
        sealed = self._seal(self._number, chunk, last=last)
        self._number, self._done = self._number + 1, last
        return sealed


class Opener(_Chunks):
    """Opens chunks, in any order.

    Attributes:
        count: how many chunks there are.
    """

    def __init__(self, key: bytes, header: bytes, body_bytes: int) -> None:
        """Open the chunks behind `header`, `body_bytes` in all. Raises SealBroken."""
        super().__init__(key, header)
        self.count, rest = divmod(body_bytes, SEALED_BYTES)
        if rest or not self.count:
            raise SealBroken(f"{body_bytes} bytes of chunks of {SEALED_BYTES}: it was cut short")

    def open(self, number: int, sealed: bytes | memoryview) -> bytes:
        """Return what chunk `number` holds. Raises SealBroken."""
        last = number == self.count - 1
        try:
            return self._cipher.decrypt(_nonce(number, last=last), bytes(sealed), self._header)
        except InvalidTag:
            raise SealBroken(f"chunk {number} is forged, moved, or not the last") from None


def seal_chunk(key: bytes, header: bytes, number: int, chunk: bytes, *, last: bool) -> bytes:
    """Seal one chunk by itself, for test vectors: two contents under one number give both away."""
    return _Chunks(key, header)._seal(number, chunk, last=last)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(8, "big") + b"\0\0\0" + (b"\1" if last else b"\0")


def _check(key: bytes) -> bytes:
    return hmac.digest(key, _CHECK_PURPOSE, hashlib.sha256)
