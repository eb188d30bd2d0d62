"""Which stream IDs a peer has used, in bounded memory.

IDs grow, but need not arrive in order: a peer that opens streams from several threads may send the
later one first. So what matters is remembered: the highest ID, and those below it that were
skipped. A skipped ID may still be used, once; every other one below the highest has been.
"""

from __future__ import annotations

from ._frames import StreamIdError

MAX_SKIPPED = 1024  # IDs skipped and not used yet; the oldest are given up


class StreamIds:
    """The IDs of one side: odd ones of who dialled, even ones of who was dialled."""

    __slots__ = ("_highest", "_skipped")

    def __init__(self, *, odd: bool) -> None:
        self._highest = -1 if odd else 0  # just below the first
        self._skipped: dict[int, None] = {}

    def use(self, stream_id: int) -> None:
        """Note that a stream was opened. Raises StreamIdError: not of this side, or used before."""
        if stream_id & 1 != self._highest & 1:
            raise StreamIdError(f"the peer opened stream {stream_id}: that is an ID of ours")
        if stream_id > self._highest:
            oldest = max(self._highest + 2, stream_id - 2 * MAX_SKIPPED)
            self._skipped.update(dict.fromkeys(range(oldest, stream_id, 2)))
            self._highest = stream_id
            while len(self._skipped) > MAX_SKIPPED:
                del self._skipped[next(iter(self._skipped))]
        elif stream_id in self._skipped:
            del self._skipped[stream_id]
        else:
            raise StreamIdError(f"the peer opened stream {stream_id} again")

    def was_used(self, stream_id: int) -> bool:
        """Say whether a stream of this side ever had that ID."""
        return stream_id <= self._highest and stream_id not in self._skipped
