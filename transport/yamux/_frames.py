"""Yamux frames: the twelve bytes before each payload, and what may stand in them.

No state and no I/O: `Session` gives the fields their meaning. Wire format: spec/links.md §5, after
https://github.com/hashicorp/yamux/blob/master/spec.md and
https://github.com/libp2p/specs/blob/master/yamux/README.md.
"""

from __future__ import annotations

import enum
import struct
from typing import ClassVar

from lattica.errors import LimitExceeded, ProtocolError, Unreachable

PROTOCOL_ID = "/yamux/1.0.0"
HEADER = struct.Struct("!BBHII")  # version, type, flags, stream ID, length
HEADER_BYTES = HEADER.size
INITIAL_WINDOW_BYTES = 256 << 10  # what either side may send on a new stream; fixed by the protocol
MAX_STREAM_ID = (1 << 32) - 1
MAX_CREDIT_BYTES = (1 << 32) - 1  # a peer that grants more has lost count
# Of one data frame that we send; rust-yamux takes 1 MiB, others what the window has room for. These
# are the plaintexts of eight full Noise messages, so that a body is sealed from the caller's memory
# as it stands and opened in large pieces. Its header goes into a small message before it.
MAX_BODY_BYTES = 8 * 65519


class FrameType(enum.IntEnum):
    """What a frame is about."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flag(enum.IntFlag):
    """What else it says of its stream; on a ping, SYN asks and ACK answers."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(enum.IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class YamuxError(ProtocolError):
    """The peer does not keep to yamux. The session is over.

    Attributes:
        go_away: what the go-away that answers it says.
    """

    code = "yamux"
    go_away: ClassVar[GoAwayCode] = GoAwayCode.PROTOCOL_ERROR


class FrameError(YamuxError):
    """The bytes are not a yamux frame."""

    code = "yamux-frame"


class StreamIdError(YamuxError):
    """A stream ID that is of the wrong side, was used before, or was never opened."""

    code = "yamux-stream-id"


class WindowExceeded(YamuxError):
    """More bytes than were granted, or more credit than there can be."""

    code = "yamux-window"


class PeerFlood(YamuxError):
    """The peer makes us answer without end, and does not read the answers."""

    code = "yamux-flood"


class PeerSilent(Unreachable):
    """The peer has stopped answering."""

    code = "peer-silent"
    hint = "the peer or the network hangs; dial again"


class SessionClosing(Unreachable):
    """One side has said goodbye: no new streams on this connection."""

    code = "connection-closing"
    hint = "dial the peer again for a new connection"


class StreamLimit(LimitExceeded):
    """As many streams are open as the bounds allow."""

    code = "stream-limit"
    hint = "close streams that are done, or raise streams_per_connection or node_unread_bytes"


class StreamIdsExhausted(LimitExceeded):
    """This connection has used every stream ID it had."""

    code = "stream-ids-exhausted"
    hint = "close the connection and dial again"


def encode(kind: FrameType, flags: int, stream_id: int, value: int) -> bytes:
    """Return a header. `value` is the payload's size, a credit, a nonce or a go-away code."""
    return HEADER.pack(0, kind, flags, stream_id, value)
