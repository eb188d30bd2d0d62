"""Announcing what this node provides: to the right peers, in time, many keys together.

When each key is due is the matter of the pure `ProvideSchedule`. Here the keys that are due are
told to the peers nearest to them. A lookup knows all peers of some region around its key, so it
serves every other key in that region as well; what is left falls into regions of that size, each
with a lookup of its own. So three hundred tensors of one model take one lookup in a small network,
and about as many as there are neighbourhoods in a large one; and each peer concerned is told all
that concerns it on one stream.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.transport import PeerInfo

from ._keys import KEY_BITS, K, position
from ._messages import Message, MessageType, Peer, encode, frame
from ._providers import ALARM_SECONDS, PROVIDER_SECONDS, check_multihash

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from lattica.transport import Mesh

    from ._client import Client
    from ._lookup import Lookup
    from ._providers import ProvideSchedule

_log = logging.getLogger(__name__)

LOOKUPS = 8  # under way at once for announcements: half of all, the rest is for who waits
TELLS = 16  # peers being told at once
BATCH = 1024  # keys announced together


class Announcer:
    """Tells others what we provide."""

    def __init__(self, mesh: Mesh, client: Client, schedule: ProvideSchedule) -> None:
        self._mesh, self._client, self._schedule = mesh, client, schedule
        self._lookups, self._tells = trio.Semaphore(LOOKUPS), trio.Semaphore(TELLS)
        self._changed = trio.Event()

    def wake(self) -> None:
        """Look at the schedule again: it has changed, or there is somebody to tell now."""
        self._changed.set()

    def keep(self, multihashes: Iterable[bytes]) -> list[bytes]:
        """Announce these from now on, each once. Raises InvalidKey, and then none of them is."""
        keys = list(dict.fromkeys(multihashes))
        for key in keys:
            check_multihash(key)
        for key in keys:
            self._schedule.add(key, now=trio.current_time())
        return keys

    async def provide(
        self, multihashes: Iterable[bytes], *, first_contact: Callable[[], Awaitable[None]]
    ) -> int:
        """Announce these now and from now on; returns how many peers were told of each, at least.

        `first_contact` waits until there is somebody to tell. Cancelled, they are due again soon.
        Raises InvalidKey.
        """
        keys = self.keep(multihashes)
        self._schedule.start(keys)
        try:
            await first_contact()
        except BaseException:
            self._note(keys, Counter())
            raise
        return await self.announce(keys)

    async def run(self) -> None:
        """Announce whatever is due, as long as there is anybody to tell. Runs until cancelled."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(self._schedule.next_due()):
                await self._changed.wait()
            await self._client.met.wait()
            keys = self._schedule.due(trio.current_time(), BATCH)
            if keys:
                await self.announce(keys)

    async def watch(self) -> None:
        """Tell the user when a key is so late that its records may lapse. Runs until cancelled."""
        while True:
            now = trio.current_time()
            if now >= self._schedule.alarm_at():
                _log.warning(
                    "what this node provides is announced %.1f hours late: nobody could be told. "
                    "Others forget it after %.0f hours",
                    self._schedule.lag(now) / 3600,
                    PROVIDER_SECONDS / 3600,
                )
            # What comes later cannot be late before one more of these has passed.
            at = self._schedule.alarm_at()
            await trio.sleep_until(min(at if now < at else math.inf, now + ALARM_SECONDS))

    async def announce(self, keys: Sequence[bytes]) -> int:
        """Announce these keys, which are under way; returns to how many peers the least known was.

        Cancelled, the keys that nobody was told are due again soon.
        """
        told = Counter[bytes]()
        ordered = sorted(keys, key=position)
        try:
            for start in range(0, len(ordered), BATCH):
                await self._announce_region(ordered[start : start + BATCH], told)
        finally:
            self._note(keys, told)
        return min((told[key] for key in keys), default=0)

    async def _announce_region(self, keys: Sequence[bytes], told: Counter[bytes]) -> None:
        async with self._lookups:
            lookup = await self._client.find_node(keys[0])
        shift = KEY_BITS - lookup.covered_bits()
        regions: dict[int, list[bytes]] = {}
        for key in keys:
            regions.setdefault(position(key) >> shift, []).append(key)
        here = regions.pop(lookup.target >> shift)
        frames = {key: self._frame(key) for key in here}
        async with private_nursery() as nursery:
            for peer, its_keys in self._share_out(here, lookup).items():
                nursery.start_soon(self._tell, peer, its_keys, frames, told)
            for region in regions.values():
                nursery.start_soon(self._announce_region, region, told)

    def _share_out(self, keys: Sequence[bytes], lookup: Lookup) -> dict[PeerInfo, list[bytes]]:
        """Return whom to tell of what: the nearest to each key of all that have answered us.

        The nearest peers of the other keys in the region are those of the lookup, but for the last
        few; the contacts in the table help with those.
        """
        contacts = (PeerInfo(each.peer, ()) for each in self._client.table if not each.failures)
        known = {info.peer: info for info in (*contacts, *lookup.answered())}
        places = [(position(peer.raw), info) for peer, info in known.items()]
        shares: dict[PeerInfo, list[bytes]] = {}
        for key in keys:
            target = position(key)
            for _, info in heapq.nsmallest(K, places, key=lambda place: place[0] ^ target):
                shares.setdefault(info, []).append(key)
        return shares

    def _frame(self, key: bytes) -> bytes:
        ours = Peer(PeerInfo(self._mesh.peer_id, tuple(self._mesh.addresses)))
        return frame(encode(Message(MessageType.ADD_PROVIDER, key, providers=(ours,))))

    async def _tell(
        self,
        peer: PeerInfo,
        keys: Sequence[bytes],
        frames: Mapping[bytes, bytes],
        told: Counter[bytes],
    ) -> None:
        async with self._tells:
            if await self._client.tell(peer, [frames[key] for key in keys]):
                told.update(keys)

    def _note(self, keys: Iterable[bytes], told: Counter[bytes]) -> None:
        now = trio.current_time()
        for key in keys:
            if told[key]:
                self._schedule.announced(key, now=now)
            else:
                self._schedule.postpone(key, now=now)
        self.wake()
