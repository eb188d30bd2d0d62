"""The stream multiplexer `/yamux/1.0.0`: pure sessions, and the ledger of what they may hold.

`Session` turns plaintext into events and commands into frames; `transport/connection.py` moves
both. Wire format and choices: spec/links.md §5.
"""

from ._events import (
    Answered as Answered,
    Ended as Ended,
    Event as Event,
    GoneAway as GoneAway,
    Opened as Opened,
    Readable as Readable,
    Reset as Reset,
    Writable as Writable,
)
from ._frames import (
    INITIAL_WINDOW_BYTES as INITIAL_WINDOW_BYTES,
    PROTOCOL_ID as PROTOCOL_ID,
    FrameError as FrameError,
    GoAwayCode as GoAwayCode,
    PeerFlood as PeerFlood,
    PeerSilent as PeerSilent,
    SessionClosing as SessionClosing,
    StreamIdError as StreamIdError,
    StreamIdsExhausted as StreamIdsExhausted,
    StreamLimit as StreamLimit,
    WindowExceeded as WindowExceeded,
    YamuxError as YamuxError,
)
from ._ledger import CreditAccount as CreditAccount, CreditLedger as CreditLedger
from ._session import Session as Session
from ._substream import Substream as Substream
