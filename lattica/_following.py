"""Names told by gossip: who follows a name hears of its next version at once.

The publisher sends the record of a name to the topic that is called as its key in the DHT. Whoever
follows the name looks at a record before passing it on: a forged one, or one of another name,
costs its sender their standing; an old one goes no further.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.errors import CodecError, IntegrityError, InvalidInput
from lattica.models import Name, NameRecord
from lattica.pubsub import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.models import NameStore
    from lattica.pubsub import Message, Pubsub, Subscription

MAX_FOLLOWED = 256  # names that a node follows at once


class Following:
    """The names that one node follows. Records that are heard are kept before they are given."""

    def __init__(self, pubsub: Pubsub, names: NameStore) -> None:
        self._pubsub, self._names = pubsub, names
        self._followers: dict[Name, int] = {}
        self._latest: dict[Name, int] = {}  # sequence of what was passed on last

    async def tell(self, record: NameRecord) -> int:
        """Send a record to who follows its name; returns how many it goes to first."""
        return await self._pubsub.publish(record.name.dht_key, record.encoded)

    @asynccontextmanager
    async def follow(self, name: Name) -> AsyncIterator[Versions]:
        """Hear the records of a name while the block lasts.

        Raises:
            InvalidInput: as many names are followed as one node may.
        """
        if name not in self._followers and len(self._followers) >= MAX_FOLLOWED:
            raise InvalidInput(
                f"{MAX_FOLLOWED} names are followed", hint="leave one before the next"
            )
        seen = await trio.to_thread.run_sync(self._names.newest, name)
        self._latest[name] = max(self._latest.get(name, -1), seen.sequence if seen else -1)
        self._followers[name] = self._followers.get(name, 0) + 1
        self._pubsub.set_validator(name.dht_key, self._judge)
        try:
            async with self._pubsub.subscribe(name.dht_key, queue_messages=16) as subscription:
                yield Versions(subscription, self._names, seen.sequence if seen else -1)
        finally:
            self._followers[name] -= 1
            if not self._followers[name]:
                del self._followers[name], self._latest[name]
                self._pubsub.set_validator(name.dht_key, None)

    def _judge(self, message: Message) -> Verdict:
        try:
            record = NameRecord.decode(message.data)
        except (CodecError, IntegrityError):
            return Verdict.REJECT
        if record.name.dht_key != message.topic:
            return Verdict.REJECT
        if record.sequence <= self._latest.get(record.name, -1):
            return Verdict.IGNORE  # said again by somebody who has not heard of the newer one
        self._latest[record.name] = record.sequence
        return Verdict.ACCEPT


class Versions:
    """Gives each newer record of one name as it is heard: `async for record in versions`."""

    def __init__(self, subscription: Subscription, names: NameStore, sequence: int) -> None:
        self._subscription, self._names, self._sequence = subscription, names, sequence

    def __aiter__(self) -> Versions:
        return self

    async def __anext__(self) -> NameRecord:
        async for message in self._subscription:
            heard = NameRecord.decode(message.data)  # which its validator has looked at
            record = await trio.to_thread.run_sync(self._names.offer, heard)
            if record.sequence > self._sequence:
                self._sequence = record.sequence
                return record
        raise StopAsyncIteration
