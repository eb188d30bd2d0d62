"""Noise transport messages: sealing and opening the stream of frames. No I/O, no clock, no tasks.

A frame is its length (16 bits, big-endian) and that many bytes of ciphertext, of which the last 16
are the tag; its nonce is its number. So a lost, doubled or reordered frame does not open. Source:
https://github.com/libp2p/specs/blob/master/noise/README.md#wire-format.

Speed comes from touching each byte once. A large buffer is sealed in place of its copy: straight
from the caller's memory into an output buffer that holds a batch of frames for one system call.
Small ones (muxer headers, control frames) are joined first: below a few KiB the call costs more
than the copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from lattica.transport._buffers import BATCH_BYTES, lent_buffer

from ._ciphers import CHACHA20_POLY1305, Keys
from ._handshake import MAX_MESSAGE, TAG_BYTES, NoiseError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ._ciphers import Cipher

LENGTH_BYTES = 2
MAX_PLAINTEXT = MAX_MESSAGE - TAG_BYTES  # 65 519 bytes of plaintext in one frame
_OVERHEAD = LENGTH_BYTES + TAG_BYTES
_JOIN_BYTES = 4096  # buffers up to this size share a frame


class Sealer:
    """Turns plaintext into frames. One direction of a link."""

    def __init__(self, key: bytes, cipher: Cipher = CHACHA20_POLY1305, *, sent: int = 0) -> None:
        """Seal with what follows from a 32-byte `key`; `sent` frames have been sealed already."""
        self._keys = Keys(cipher, key, used=sent)
        self._nonce = cipher.nonce
        self._counter = sent

    def seal(self, buffers: Sequence[bytes | memoryview]) -> Generator[memoryview, None, None]:
        """Yield `buffers` as frames, about eight full ones at a time.

        Each batch is valid until the next is asked for.

        Raises:
            KeyExhausted: no nonce is left.
        """
        plaintexts = _cut(buffers)
        total = sum(map(len, plaintexts)) + _OVERHEAD * len(plaintexts)
        if total <= MAX_PLAINTEXT:
            yield self._fill(memoryview(bytearray(total)), plaintexts)
            return
        with lent_buffer() as output:
            start = size = 0
            for index, plaintext in enumerate(plaintexts):
                if size + len(plaintext) + _OVERHEAD > BATCH_BYTES:
                    yield self._fill(output, plaintexts[start:index])
                    start, size = index, 0
                size += len(plaintext) + _OVERHEAD
            yield self._fill(output, plaintexts[start:])

    def _fill(self, output: memoryview, plaintexts: list[bytes | memoryview]) -> memoryview:
        offset = 0
        for plaintext in plaintexts:
            if self._counter >= self._keys.last:
                self._keys.renew()
            size = len(plaintext) + TAG_BYTES
            start, end = offset + LENGTH_BYTES, offset + LENGTH_BYTES + size
            output[offset], output[offset + 1] = size >> 8, size & 0xFF
            self._keys.aead.encrypt_into(
                self._nonce(self._counter), plaintext, None, output[start:end]
            )
            self._counter += 1
            offset = end
        return output[:offset]


class Opener:
    """Turns the other direction back into plaintext. Once it has raised, the link is dead.

    Holds at most one incomplete frame.
    """

    def __init__(
        self, key: bytes, cipher: Cipher = CHACHA20_POLY1305, *, received: int = 0
    ) -> None:
        """Open with what follows from a 32-byte `key`, after `received` frames."""
        self._keys = Keys(cipher, key, used=received)
        self._nonce = cipher.nonce
        self._counter = received
        self._partial = bytearray()

    def receive(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Take bytes; return the plaintext of each frame that is now whole, empty ones left out.

        Raises:
            NoiseError: a frame is shorter than its tag, or its tag is wrong.
            KeyExhausted: no nonce is left.
        """
        view, offset = memoryview(data), 0
        pieces: list[bytes | memoryview] = []
        if self._partial:
            offset = self._complete(view, pieces)
        available = len(view)
        while available - offset >= LENGTH_BYTES:
            end = offset + LENGTH_BYTES + (view[offset] << 8 | view[offset + 1])
            if end > available:
                break
            self._open(view[offset + LENGTH_BYTES : end], pieces)
            offset = end
        if offset < available:
            self._partial += view[offset:]
        return pieces

    def finish(self) -> None:
        """Note the end of the link. Raises NoiseError inside a frame."""
        if self._partial:
            raise NoiseError("the link ended inside a frame")

    def _complete(self, view: memoryview, pieces: list[bytes | memoryview]) -> int:
        """Finish the frame that the last bytes began, if `view` does; return where it goes on."""
        partial, offset = self._partial, 0
        if len(partial) < LENGTH_BYTES:
            partial += view[:1]
            offset = 1
            if len(partial) < LENGTH_BYTES:
                return offset
        missing = LENGTH_BYTES + (partial[0] << 8 | partial[1]) - len(partial)
        partial += view[offset : offset + missing]
        if len(view) - offset >= missing:
            self._partial = bytearray()
            self._open(memoryview(partial)[LENGTH_BYTES:], pieces)
        return min(offset + missing, len(view))

    def _open(self, frame: memoryview, pieces: list[bytes | memoryview]) -> None:
        if self._counter >= self._keys.last:
            self._keys.renew()
        try:
            plaintext = self._keys.aead.decrypt(self._nonce(self._counter), frame, None)
        except InvalidTag:
            raise NoiseError(f"frame {self._counter} is forged, or out of order") from None
        self._counter += 1
        if plaintext:
            pieces.append(plaintext)


def _cut(buffers: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Cut `buffers` into the plaintexts of frames: large parts as views, small ones joined."""
    plaintexts: list[bytes | memoryview] = []
    small: list[memoryview] = []
    small_bytes = 0
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), MAX_PLAINTEXT):
            part = view[start : start + MAX_PLAINTEXT]
            large = len(part) > _JOIN_BYTES
            if small and (large or small_bytes + len(part) > MAX_PLAINTEXT):
                plaintexts.append(b"".join(small))
                small, small_bytes = [], 0
            if large:
                plaintexts.append(part)
            else:
                small.append(part)
                small_bytes += len(part)
    if small:
        plaintexts.append(b"".join(small))
    return plaintexts
