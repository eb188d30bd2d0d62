"""What waits to be sent in front of the next batch: control frames, credit, answers to pings.

All of it is taken at once, so nothing waits longer than one batch. What the peer can provoke is
bounded here: its pings beyond a few that wait go unanswered, and once it has provoked more other
answers than a peer that reads would leave waiting, the session is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._frames import Flag, FrameType, PeerFlood, encode

if TYPE_CHECKING:
    from ._substream import Substream

MAX_ANSWERS = 1024  # frames that the peer made us queue and does not take
MAX_PONGS = 16  # answers to pings that wait
_ACK = int(Flag.ACK)


class ControlQueue:
    """Frames in the order in which they were added; true while there is something to take.

    Attributes:
        queued_bytes: of the frames; credit and pongs not counted.
    """

    __slots__ = ("_answers", "_frames", "_grants", "_pongs", "queued_bytes")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._grants: dict[Substream, int] = {}  # one frame a stream, however often it was granted
        self._pongs: list[int] = []
        self._answers = 0
        self.queued_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._frames or self._grants or self._pongs)

    def add(self, frame: bytes) -> None:
        """Queue a frame of our own accord."""
        self._frames.append(frame)
        self.queued_bytes += len(frame)

    def answer(self, frame: bytes) -> None:
        """Queue a frame that the peer provoked. Raises PeerFlood."""
        self._answers += 1
        if self._answers > MAX_ANSWERS:
            raise PeerFlood(f"{MAX_ANSWERS} answers wait for a peer that does not take them")
        self.add(frame)

    def pong(self, nonce: int) -> None:
        """Queue the answer to a ping, unless too many wait."""
        if len(self._pongs) < MAX_PONGS:
            self._pongs.append(nonce)

    def grant(self, stream: Substream, credit_bytes: int) -> None:
        """Queue credit."""
        self._grants[stream] = self._grants.get(stream, 0) + credit_bytes

    def forget_grant(self, stream: Substream) -> None:
        """Drop the credit that waits for a stream which will not use it."""
        self._grants.pop(stream, None)

    def take(self) -> bytes:
        """Return everything, encoded; it must be sent before anything else."""
        if not self:
            return b""
        frames = [encode(FrameType.PING, _ACK, 0, nonce) for nonce in self._pongs]
        frames += self._frames
        for stream, credit_bytes in self._grants.items():
            frames.append(stream.header(FrameType.WINDOW_UPDATE, 0, credit_bytes))
        self.clear()
        return b"".join(frames)

    def clear(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._grants.clear()
        self._pongs.clear()
        self._answers = self.queued_bytes = 0
