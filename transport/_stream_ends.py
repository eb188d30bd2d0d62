"""How a stream, or a message on one, can end badly: each has an error of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError, LimitExceeded, ProtocolError, Unreachable

if TYPE_CHECKING:
    from lattica.identity import PeerId


class StreamReset(LatticaError, trio.BrokenResourceError):
    """The peer gave the stream up; bytes may be missing. The connection lives on."""

    code = "stream-reset"
    retryable = True
    hint = "the peer refused or abandoned this exchange; try again, or ask another peer"


class ConnectionLost(Unreachable, trio.BrokenResourceError):
    """The connection to the peer is gone, and with it the streams on it."""

    code = "connection-lost"
    hint = "dial the peer again; what was verified is kept"


class IncompleteMessage(ProtocolError):
    """The stream ended inside a message."""

    code = "incomplete-message"


class MessageTooLong(LimitExceeded):
    """The peer announced a message longer than allowed. Nothing of it was read.

    Attributes:
        size: what it announced, in bytes.
    """

    code = "message-too-long"
    retryable = False
    hint = "the peer runs something incompatible or hostile; use another peer"

    def __init__(self, size: int, max_size: int, peer: PeerId) -> None:
        super().__init__(f"a message of {size} bytes, limit {max_size}", peer=peer)
        self.size = size
