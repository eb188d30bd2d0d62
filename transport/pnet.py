"""libp2p's pre-shared keys: links that are noise to whoever has not got the key.

For networks with foreign members: go and js nodes that are given the same key file. Each side sends
a nonce of 24 bytes, and from then on everything, the negotiation of security included, is XORed
with XSalsa20 under the key. That hides and keeps out, and proves nothing; Noise or TLS run inside.
Among nodes of ours `lattica.private_swarm` is the better way: it refuses with a reason, on every
transport, and its key can be changed.

Source: https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md.
"""

from __future__ import annotations

import binascii
import os
import secrets
import stat
from typing import TYPE_CHECKING

import numpy as np

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ._links import Listener, RawLink, Transport
    from .multiaddr import Multiaddr

KEY_BYTES = 32
NONCE_BYTES = 24
FILE_HEAD = "/key/swarm/psk/1.0.0/"
_MAX_FILE = 4096  # bytes
_BLOCK_BYTES = 64
_BATCH_BLOCKS = 2048  # made at once: numpy's cost per call is paid for 128 KiB then
_SEND_BYTES = 128 << 10
_FEW_BYTES = 4096  # a link that carries no more than this at once is not made to compute ahead
_SIGMA = np.frombuffer(b"expand 32-byte k", "<u4")
_FORTH, _BACK, _ACROSS = [1, 2, 3, 0], [3, 0, 1, 2], [2, 3, 0, 1]


class PskError(InvalidInput):
    """A pre-shared key file is not one, or must not be used."""

    code = "psk"
    hint = "a file as go-libp2p's swarm.key: three lines, and no access for others"


def read_psk(path: Path) -> bytes:
    """Read a key file as go and js libp2p write it (base16, base64 or 32 raw bytes).

    Raises:
        PskError: it is missing, malformed, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE)
    except OSError as error:
        raise PskError(f"cannot read {path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise PskError(f"others may read {path}", hint=f"chmod 600 {path}")
    return parse_psk(data)


def parse_psk(data: bytes) -> bytes:
    """Return the key in the contents of a key file. Raises PskError."""
    head, _, rest = data.partition(b"\n")
    encoding, _, body = rest.partition(b"\n")
    if head.strip() != FILE_HEAD.encode():
        raise PskError(f"a key file starts with {FILE_HEAD}")
    try:
        if encoding.strip() == b"/base16/":
            key = bytes.fromhex(body.decode().strip())
        elif encoding.strip() == b"/base64/":
            key = binascii.a2b_base64(body.strip(), strict_mode=True)
        else:
            key = body if encoding.strip() == b"/bin/" else b""
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise PskError("the key file holds no key of 32 bytes that can be read")
    return key


class XSalsa20:
    """One direction of a link: a stream of bytes to XOR with, read from front to back.

    Source: Bernstein, "Extending the Salsa20 nonce" (2011).
    """

    def __init__(self, key: bytes, nonce: bytes) -> None:
        """Begin the stream of a key (32 bytes) and a nonce (24), which must never come again."""
        words = np.frombuffer(key + nonce, "<u4")
        state = _rounds(*_columns(words[:8], words[8:12].reshape(4, 1)))
        a, b, c, d = (row[:, 0] for row in state)
        # x0, x5, x10, x15 and x6 to x9, which stand on the diagonals.
        self._key = np.array([*a, d[2], c[3], c[0], b[1]], np.uint32)
        self._nonce = words[12:14]
        self._block = 0
        self._ahead: NDArray[np.uint8] = np.empty(0, np.uint8)

    def peek(self, size: int) -> NDArray[np.uint8]:
        """Return the next `size` bytes; they stay next until `advance`."""
        missing = size - len(self._ahead)
        if missing > 0:
            blocks = -(-missing // _BLOCK_BYTES)
            if missing > _FEW_BYTES:
                blocks = max(_BATCH_BLOCKS, blocks)
            self._ahead = np.concatenate((self._ahead, self._make(blocks)))
        return self._ahead[:size]

    def advance(self, size: int) -> None:
        """Let go of `size` bytes that have been used."""
        self._ahead = self._ahead[size:]

    def _make(self, count: int) -> NDArray[np.uint8]:
        numbers = np.arange(self._block, self._block + count, dtype=np.uint64)
        self._block += count
        middle = np.empty((4, count), np.uint32)
        middle[0], middle[1] = self._nonce
        middle[2], middle[3] = numbers & np.uint64(0xFFFFFFFF), numbers >> np.uint64(32)
        start = _columns(self._key, middle)
        mixed = _rounds(*start)
        a, b, c, d = (after + before for after, before in zip(mixed, start, strict=True))
        # Back from diagonals to the order of words 0 to 15.
        out = np.empty((count, 16), "<u4")
        words = [a[0], d[1], c[2], b[3], b[0], a[1], d[2], c[3]]
        words += [c[0], b[1], a[2], d[3], d[0], c[1], b[2], a[3]]
        for word, row in enumerate(words):
            out[:, word] = row
        return out.reshape(-1).view(np.uint8)


def _columns(key: NDArray[np.uint32], middle: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], ...]:
    """Lay key and words 6 to 9 out by diagonals: a is x0 x5 x10 x15, b x4 x9 x14 x3, and so on."""
    count = middle.shape[1]

    def row(*words: object) -> NDArray[np.uint32]:
        return np.stack([np.broadcast_to(np.asarray(word, np.uint32), count) for word in words])

    k, m = key, middle
    return (
        row(*_SIGMA),
        row(k[3], m[3], k[7], k[2]),
        row(m[2], k[6], k[1], m[1]),
        row(k[5], k[0], m[0], k[4]),
    )


def _rounds(
    a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.uint32], d: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], ...]:
    """Mix: twenty rounds, each of four quarter-rounds at once, for all blocks at once."""
    for _ in range(10):
        b, c, d, a = _quarter(a, b, c, d)
        b, c, d = d[_FORTH], c[_ACROSS], b[_BACK]
        b, c, d, a = _quarter(a, b, c, d)
        b, c, d = d[_FORTH], c[_ACROSS], b[_BACK]
    return a, b, c, d


def _quarter(
    a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.uint32], d: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], ...]:
    b = b ^ _turn(a + d, 7)
    c = c ^ _turn(b + a, 9)
    d = d ^ _turn(c + b, 13)
    return b, c, d, a ^ _turn(d + c, 18)


def _turn(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


class PskLink:
    """A raw link under a pre-shared key; see `_links.RawLink` for what its methods promise."""

    def __init__(self, link: RawLink, key: bytes) -> None:
        self._link, self._key = link, key
        self._sent: XSalsa20 | None = None
        self._received: XSalsa20 | None = None
        self._nonce = bytearray()  # of the peer, as far as it has come
        self.local_address, self.remote_address = link.local_address, link.remote_address

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes, and write them to the front of `buffer` in the clear; 0 is the end."""
        await self._greet()
        if self._received is None:
            while (missing := NONCE_BYTES - len(self._nonce)) > 0:
                size = await self._link.receive_into(buffer[:missing])
                if not size:
                    return 0
                self._nonce += buffer[:size]  # before the next await: the buffer is everybody's
            self._received = XSalsa20(self._key, bytes(self._nonce))
        size = await self._link.receive_into(buffer)
        bytes_here = np.frombuffer(buffer[:size], np.uint8)
        np.bitwise_xor(bytes_here, self._received.peek(size), out=bytes_here)
        self._received.advance(size)
        return size

    async def send_some(self, data: memoryview) -> int:
        """Send at least one byte of `data`, return how many. Cancelled: none was sent."""
        stream = await self._greet()
        size = await self._link.send_some(_hidden(data, stream))
        stream.advance(size)  # what was not sent is sealed again: at the same place it is the same
        return size

    def send_now(self, data: memoryview) -> int:
        """Send what of `data` goes without waiting, return how many; none before the nonce."""
        if self._sent is None:
            return 0
        size = self._link.send_now(_hidden(data, self._sent))
        self._sent.advance(size)
        return size

    def close(self) -> None:
        """Close both directions, at once; idempotent."""
        self._link.close()

    async def _greet(self) -> XSalsa20:
        """Send our nonce, before all else. One task at a time uses a link that is this young."""
        if self._sent is None:
            nonce = secrets.token_bytes(NONCE_BYTES)
            self._sent = XSalsa20(self._key, nonce)
            rest = memoryview(nonce)
            while rest:
                rest = rest[await self._link.send_some(rest) :]
        return self._sent


def _hidden(data: memoryview, stream: XSalsa20) -> memoryview:
    part = np.frombuffer(data[:_SEND_BYTES], np.uint8)
    return (part ^ stream.peek(len(part))).data


class PskListener:
    """A listener whose links are under a pre-shared key; see `_links.Listener`."""

    def __init__(self, listener: Listener, key: bytes) -> None:
        self._listener, self._key = listener, key

    @property
    def addresses(self) -> list[Multiaddr]:
        """What is bound, with real ports."""
        return self._listener.addresses

    async def accept(self) -> PskLink:
        """Return the next inbound link. Raises as the listener below."""
        return PskLink(await self._listener.accept(), self._key)

    def close(self) -> None:
        """Stop listening, at once; idempotent."""
        self._listener.close()


class PskTransport:
    """Another transport, all of whose links are under a pre-shared key; see `_links.Transport`."""

    def __init__(self, transport: Transport, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise PskError(f"a pre-shared key of {len(key)} bytes, expected {KEY_BYTES}")
        self._transport, self._key = transport, key

    def can_dial(self, address: Multiaddr) -> bool:
        """As the transport below."""
        return self._transport.can_dial(address)

    def can_listen(self, address: Multiaddr) -> bool:
        """As the transport below."""
        return self._transport.can_listen(address)

    async def dial(self, address: Multiaddr) -> PskLink:
        """Open a link. Cancelled, nothing is left open. Raises as the transport below."""
        return PskLink(await self._transport.dial(address), self._key)

    async def listen(self, address: Multiaddr) -> PskListener:
        """Bind `address`. Raises as the transport below."""
        return PskListener(await self._transport.listen(address), self._key)
