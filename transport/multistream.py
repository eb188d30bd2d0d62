"""multistream-select 1.0: two peers agree on what they speak next, in lines of text.

The dialer proposes protocols, best first; the listener echoes the one it accepts and answers `na`
to the others. Each message is a varint length, the text and a newline. Both machines here are pure:
bytes in, bytes out. A dialer that has one candidate need not wait: the header, the proposal and its
first request travel in one flight, and the echo is checked when the first bytes come back. That
saves a round trip for each stream, and costs a reset stream when the peer does not speak it.

`ls` is refused with `na`, which the specification allows: who may know what a node speaks is not
for this layer to decide. Source: https://github.com/multiformats/multistream-select and
https://github.com/libp2p/specs/blob/master/connections/README.md#multistream-select.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica import _varint
from lattica.errors import CodecError, InvalidInput, ProtocolError, Refused

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

PROTOCOL_ID = "/multistream/1.0.0"
MAX_LINE = 1024  # bytes with the newline: the bound that go-multistream set; real IDs are below 80
MAX_PROPOSALS = 64  # per negotiation: bounds how long a stranger can keep us saying `na`
_NOT_AVAILABLE = "na"


class NegotiationError(ProtocolError):
    """The peer does not speak multistream-select, or speaks it wrongly."""

    code = "negotiation"


class ProtocolNotSupported(Refused):
    """The peer speaks none of the protocols that were proposed.

    Attributes:
        protocols: what was proposed, in order.
    """

    code = "protocol-not-supported"
    hint = "the peer runs another version or another service; ask a peer that offers the protocol"

    def __init__(self, protocols: Sequence[str]) -> None:
        super().__init__(f"the peer does not speak {' or '.join(protocols)}")
        self.protocols = tuple(protocols)


class DialerNegotiation:
    """The side that proposes.

    Send `start()`, then give `receive` what comes back, until `protocol` is set. With a single
    candidate the bytes of the protocol itself may follow `start()` at once (the optimistic form).

    Attributes:
        protocol: what was agreed, None until then.
        leftover: the bytes after the negotiation; they belong to the protocol.
    """

    def __init__(self, protocols: Sequence[str]) -> None:
        """Propose `protocols`, best first. Raises InvalidInput for what is not a protocol ID."""
        if not 0 < len(protocols) <= MAX_PROPOSALS:
            raise InvalidInput(f"{len(protocols)} protocols proposed, allowed 1 to {MAX_PROPOSALS}")
        self._proposals = [_line(protocol) for protocol in protocols]
        self._protocols = tuple(protocols)
        self._lines = _LineReader()
        self._tried = 0
        self.protocol: str | None = None

    @property
    def leftover(self) -> bytes:
        """What followed the agreement, exactly."""
        return self._lines.rest()

    def start(self) -> bytes:
        """Return the first flight: the header and the best proposal."""
        return _HEADER + self._proposals[0]

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take bytes from the listener; return what to send now, often nothing.

        Raises:
            ProtocolNotSupported: every proposal was refused.
            NegotiationError: that is not multistream-select.
        """
        self._lines.add(data)
        reply = b""
        while self.protocol is None and (line := self._lines.next_line()) is not None:
            if line == self._protocols[self._tried]:
                self.protocol = line
            elif line == _NOT_AVAILABLE:
                self._tried += 1
                if self._tried == len(self._protocols):
                    raise ProtocolNotSupported(self._protocols)
                reply += self._proposals[self._tried]
            else:
                raise NegotiationError(
                    f"proposed {self._protocols[self._tried]}, the peer answered {_shown(line)}"
                )
        return reply

    def finish(self) -> None:
        """Note the end of the stream. Raises NegotiationError when nothing is agreed yet."""
        _check_agreed(self.protocol)


class ListenerNegotiation:
    """The side that chooses: give `receive` what comes in, send what it returns.

    Attributes:
        protocol: what was agreed, None until then.
        leftover: the bytes after the negotiation; they belong to the protocol.
    """

    def __init__(self, supported: Container[str]) -> None:
        self._supported = supported
        self._lines = _LineReader()
        self._refused = 0
        self.protocol: str | None = None

    @property
    def leftover(self) -> bytes:
        """What followed the agreement, exactly."""
        return self._lines.rest()

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take bytes from the dialer; return what to send now, nothing while a line is cut.

        Raises:
            NegotiationError: that is not multistream-select, or `MAX_PROPOSALS` were refused.
        """
        reply = _HEADER if self._lines.add(data) else b""
        while self.protocol is None and (line := self._lines.next_line()) is not None:
            if line in self._supported:
                self.protocol = line
                reply += _line(line)
            else:
                self._refused += 1
                if self._refused == MAX_PROPOSALS:
                    raise NegotiationError(f"{MAX_PROPOSALS} proposals, none of which we speak")
                reply += _REFUSAL
        return reply

    def finish(self) -> None:
        """Note the end of the stream. Raises NegotiationError when nothing is agreed yet."""
        _check_agreed(self.protocol)


class _LineReader:
    """Cuts bytes into lines after the header, and keeps what follows the last one asked for."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    def add(self, data: bytes | bytearray | memoryview) -> bool:
        """Take bytes; say whether they completed the header."""
        self._buffer += data
        if self._greeted:
            return False
        # Compared byte by byte as it comes: whoever speaks something else (HTTP, TLS) may never
        # send as much as its first byte, read as a length, seems to announce.
        start = bytes(self._buffer[: len(_HEADER)])
        if not _HEADER.startswith(start):
            raise NegotiationError(f"the peer began with {start!r}, expected {PROTOCOL_ID}")
        if start == _HEADER:
            self._greeted = True
            del self._buffer[: len(_HEADER)]
        return self._greeted

    def next_line(self) -> str | None:
        if not self._greeted:
            return None
        try:
            found = _varint.decode(self._buffer)
        except CodecError as error:
            raise NegotiationError(f"length of a line: {error}") from None
        if found is None:
            return None
        size, start = found
        if not 0 < size <= MAX_LINE:
            raise NegotiationError(f"a line of {size} bytes, allowed 1 to {MAX_LINE}")
        end = start + size
        if len(self._buffer) < end:
            return None
        raw = bytes(self._buffer[start:end])
        del self._buffer[:end]
        if raw[-1:] != b"\n":
            raise NegotiationError("a line that does not end with a newline")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError:
            raise NegotiationError("a line that is not UTF-8") from None

    def rest(self) -> bytes:
        return bytes(self._buffer)


def _line(text: str) -> bytes:
    raw = text.encode() + b"\n"
    if not 1 < len(raw) <= MAX_LINE or b"\n" in raw[:-1]:
        raise InvalidInput(
            f"{_shown(text)} is not a protocol ID",
            hint=f"a protocol ID is one line of at most {MAX_LINE - 1} bytes",
        )
    return _varint.encode(len(raw)) + raw


def _check_agreed(protocol: str | None) -> None:
    if protocol is None:
        raise NegotiationError("the stream ended before a protocol was agreed")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


_HEADER = _line(PROTOCOL_ID)
_REFUSAL = _line(_NOT_AVAILABLE)
