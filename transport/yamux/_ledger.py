"""Who owes memory to whom: the credit that all connections of a node may have granted.

Credit is a promise to hold bytes that nobody reads yet. Each open stream is charged for its whole
window, from its first moment: what the peer may still send, what has arrived unread, and what was
read but not granted again always add up to it. So the sum of the charges bounds the unread bytes
of the node, whatever the number of streams, and a stream whose window would not fit is refused
before the peer has sent a byte.

Yamux grants 256 KiB with the opening of a stream, without asking. The connection's greater bound
of 64 MiB therefore holds 256 streams, which is also the backlog that libp2p peers expect of each
other; windows grow beyond that only up to the smaller bound of 32 MiB, unless the round trip is
long. The node's 128 MiB hold 512 streams. So that two strangers cannot use them up for everybody
else, the last quarter of the node's bytes is kept for connections that hold little. Many strangers
can use that up as well; so of the quarter the last half is for streams that this node opens: it can
always ask, whoever asks of it.

Source: spec/links.md §5.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._frames import INITIAL_WINDOW_BYTES

if TYPE_CHECKING:
    from lattica.transport.limits import Limits

_SMALL_SHARE = 64  # a connection that holds less than this part of the node's bytes is a small one


class CreditLedger:
    """The bytes that one node has promised to hold. Shared by its connections."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used_bytes = 0
        self.open_bytes = limits.node_unread_bytes - limits.node_unread_bytes // 4
        self.theirs_bytes = limits.node_unread_bytes - limits.node_unread_bytes // 8
        self.small_bytes = limits.node_unread_bytes // _SMALL_SHARE

    def open_account(self) -> CreditAccount:
        """Return the account of a new connection."""
        return CreditAccount(self)


class CreditAccount:
    """One connection's part of the ledger."""

    __slots__ = ("_closed", "_ledger", "used_bytes")

    def __init__(self, ledger: CreditLedger) -> None:
        self._ledger = ledger
        self._closed = False
        self.used_bytes = 0

    @property
    def crowded(self) -> bool:
        """Whether what the node has left is for others: return no more credit than needed."""
        return self._ledger.used_bytes > self._ledger.open_bytes

    def admit(self, *, ours: bool) -> bool:
        """Charge a new stream's first window, if it fits. `ours`: this node wants the stream."""
        ledger, limits = self._ledger, self._ledger.limits
        if ours:
            node_bytes = limits.node_unread_bytes
        elif self.used_bytes < ledger.small_bytes:
            node_bytes = ledger.theirs_bytes
        else:
            node_bytes = ledger.open_bytes
        return self._charge(INITIAL_WINDOW_BYTES, limits.connection_unread_max_bytes, node_bytes)

    def grow(self, by_bytes: int, *, far: bool) -> bool:
        """Charge the growth of a window, if it fits. `far`: the round trip asks for more."""
        limits = self._ledger.limits
        own = limits.connection_unread_max_bytes if far else limits.connection_unread_bytes
        return self._charge(by_bytes, own, self._ledger.open_bytes)

    def release(self, count_bytes: int) -> None:
        """Take back a charge. Ignored once the account is closed: all of it was taken back."""
        if not self._closed:
            self.used_bytes -= count_bytes
            self._ledger.used_bytes -= count_bytes

    def close(self) -> None:
        """Take back all of it: the connection is gone."""
        self.release(self.used_bytes)
        self._closed = True

    def _charge(self, count_bytes: int, own_limit: int, node_limit: int) -> bool:
        if self.used_bytes + count_bytes > own_limit:
            return False
        if self._ledger.used_bytes + count_bytes > node_limit:
            return False
        self.used_bytes += count_bytes
        self._ledger.used_bytes += count_bytes
        return True
