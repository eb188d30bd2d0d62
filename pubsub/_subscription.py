"""The queue between a topic and the task that reads it, bounded in messages and in bytes."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._values import Message


class Overflow(enum.Enum):
    """What happens when a subscriber is slower than its topic.

    DROP_OLDEST drops what has waited longest and counts it. WAIT stops reading from the peers that
    send until there is room, so nothing is lost between them and the subscriber; but everything
    else that they send waits, too, and they may drop what they cannot send.
    """

    DROP_OLDEST = enum.auto()
    WAIT = enum.auto()


class Subscription:
    """Messages of one topic, in the order of their arrival. Made by `Pubsub.subscribe`.

    Attributes:
        topic: which.
        dropped: messages that were lost because they were not taken in time.
    """

    def __init__(
        self, topic: str, *, queue_messages: int, queue_bytes: int, overflow: Overflow
    ) -> None:
        self.topic = topic
        self.dropped = 0
        self._max_messages, self._max_bytes, self._overflow = queue_messages, queue_bytes, overflow
        self._queue: deque[Message] = deque()
        self._bytes = 0
        self._closed = False
        self._arrived, self._taken = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()

    async def receive(self) -> Message:
        """Return the next message. Cancelled, none is lost. Raises trio.EndOfChannel at the end."""
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed:
                raise trio.EndOfChannel
            await self._arrived.park()
        message = self._queue.popleft()
        self._bytes -= len(message.data)
        self._taken.unpark_all()
        return message

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def put(self, message: Message) -> None:
        """Add a message; what happens when there is no room is `overflow`'s to say."""
        if self._overflow is Overflow.WAIT:
            while not (self._closed or self._has_room(message)):
                await self._taken.park()
        while self._queue and not self._has_room(message):
            self._bytes -= len(self._queue.popleft().data)
            self.dropped += 1
        if not self._closed:
            self._queue.append(message)
            self._bytes += len(message.data)
            self._arrived.unpark(count=1)

    def _has_room(self, message: Message) -> bool:
        if not self._queue:
            return True  # one message of any size goes through
        fits = self._bytes + len(message.data) <= self._max_bytes
        return fits and len(self._queue) < self._max_messages

    def close(self) -> None:
        """End it: what waits can still be taken, then the end."""
        self._closed = True
        self._arrived.unpark_all()
        self._taken.unpark_all()
