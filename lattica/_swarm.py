"""The swarms a node has joined: it tells them what it shares, and remembers what they tell it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from lattica._announce import AnnouncementError, Heard, decode, encode, topic
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.content import StoredObject
    from lattica.identity import PeerId
    from lattica.pubsub import Pubsub

MAX_SWARMS = 16
# Who joins later has missed what was said before, and mostly joins soon after: intervals double.
_REPEAT_FIRST_S, _REPEAT_S = 5.0, 600.0
_MAX_AT_ONCE = 100  # objects announced in one go

logger = logging.getLogger(__name__)


class Swarms:
    """Announcements made and heard. Its tasks live in the nursery that it is given.

    Attributes:
        heard: what others announced.
    """

    def __init__(
        self,
        me: PeerId,
        pubsub: Pubsub,
        shared: Callable[[], list[StoredObject]],
        nursery: trio.Nursery,
    ) -> None:
        self.heard = Heard()
        self._me, self._pubsub, self._shared, self._nursery = me, pubsub, shared, nursery
        self._topics: list[str] = []

    async def join(self, swarm: str) -> None:
        """Hear a swarm's announcements from now on, and announce to it. Raises InvalidInput."""
        name = topic(swarm)
        if name in self._topics:
            return
        if len(self._topics) >= MAX_SWARMS:
            raise InvalidInput(f"a node joins at most {MAX_SWARMS} swarms")
        self._topics.append(name)
        try:
            await self._nursery.start(self._listen, name)
        except BaseException:
            self._topics.remove(name)
            raise
        self._nursery.start_soon(self._repeat, name)

    async def announce(self, stored: StoredObject) -> None:
        """Tell every joined swarm about an object."""
        for name in self._topics:
            await self._publish(name, stored)

    async def _listen(self, name: str, task_status: trio.TaskStatus[None]) -> None:
        async with self._pubsub.subscribe(name) as subscription:
            task_status.started()
            async for message in subscription:
                if message.author == self._me:
                    continue
                try:
                    self.heard.add(decode(message.data, message.author))
                except AnnouncementError as error:
                    logger.info("%s announced nonsense: %s", message.author.short, error)

    async def _repeat(self, name: str) -> None:
        pause_s = _REPEAT_FIRST_S
        while True:
            for stored in (await trio.to_thread.run_sync(self._shared))[-_MAX_AT_ONCE:]:
                await self._publish(name, stored)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _REPEAT_S)

    async def _publish(self, name: str, stored: StoredObject) -> None:
        await self._pubsub.publish(name, encode(stored.root, stored.name, stored.size))
