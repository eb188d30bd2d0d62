"""Keeping company: who comes and goes on the mesh, bootstrap nodes, a table that stays fresh.

Four kinds of task run here:

- one follows the mesh: a peer that says it speaks our protocol is asked something, and once it has
  answered it is in the routing table. Who does not speak it (any more) leaves the table;
- one per bootstrap address stays in touch with it. What goes wrong there is a state that can be
  looked at and is tried again, never an error: a node without a network is a node all the same;
- one finds back to those who were contacts before, in an earlier run of this node or before it lost
  all of them: with them around, no bootstrap node is needed, and no lie of one is believed alone;
- one keeps the table fresh: a lookup of ourselves, as soon as there is somebody to ask and then at
  doubling intervals, a lookup in each region that was quiet for long, a word with silent contacts.
  Lookups of ourselves also go through the bootstrap nodes, and begin anew when one comes back: so
  two halves of a network that were apart meet there, however full their tables are.
  When the last connection has ended (the lid was closed, the network is gone) the contacts heard
  from last are asked at once, and again until one of them answers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.transport import PeerDisconnected, PeerIdentified, SelfDial

from ._bootstrap import Bootstrap, BootstrapStatus
from ._client import FAULTS
from ._contacts import Remembered
from ._keys import key_sharing
from ._messages import Message, MessageType

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from lattica.identity import PeerId
    from lattica.transport import Connection, Mesh, MeshEvent, Multiaddr, PeerInfo

    from ._client import Client
    from ._clock import Clock
    from ._contacts import ContactFile

_log = logging.getLogger(__name__)

CONTACT_SECONDS = 10.0  # how long a first lookup waits for bootstrap nodes to answer
SELF_LOOKUP_FIRST_SECONDS = 2.0  # after the first; doubles up to SELF_LOOKUP_SECONDS
SELF_LOOKUP_SECONDS = 600.0
GREETED = 16  # that were contacts before, the latest of them, and as many others by chance
GREETED_AT_ONCE = 8
GREETING_SECONDS = 10.0
GREET_FIRST_SECONDS = 1.0  # before the next try, when nobody has answered
GREET_SECONDS = 120.0  # at most


class Upkeep:
    """What a node does to stay in the network.

    Attributes:
        joined: set when a lookup of ourselves has found our place.
    """

    def __init__(
        self,
        mesh: Mesh,
        client: Client,
        *,
        protocol: str,
        bootstrap: Iterable[Multiaddr],
        contacts: ContactFile,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.joined = trio.Event()
        self._contacts, self._clock = contacts, clock
        self._mesh, self._client, self._protocol, self._rng = mesh, client, protocol, rng
        self._bootstraps = [Bootstrap(address) for address in bootstrap]
        self._settled = trio.Event()
        self._hurry = trio.Event()  # there is something to do sooner than it seemed
        self._begins_anew = False
        self._greeted = not len(contacts)
        self._note_settled()

    def bootstrap_statuses(self, now: float) -> tuple[BootstrapStatus, ...]:
        """Return what became of each bootstrap address."""
        return tuple(bootstrap.status(now) for bootstrap in self._bootstraps)

    def save(self) -> None:
        """Remember the contacts across a restart."""
        now, wall = trio.current_time(), self._clock.wall()
        known = (
            Remembered(self._client.known(each.peer), wall - (now - each.seen_at))
            for each in self._client.table
            if not each.failures
        )
        self._contacts.note(known, now=wall)
        self._contacts.save()

    async def first_contact(self) -> None:
        """Wait until there is somebody to ask, as long as somebody we know may still answer."""
        if len(self._client.table) or self._settled.is_set():
            return
        with trio.move_on_after(CONTACT_SECONDS):
            async with private_nursery() as nursery:

                async def wait(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait, self._client.met)
                nursery.start_soon(wait, self._settled)

    async def run(self, events: trio.MemoryReceiveChannel[MeshEvent]) -> None:
        """Keep company until cancelled. `events` are those of the mesh."""
        async with private_nursery() as nursery:
            nursery.start_soon(self._follow, events)
            nursery.start_soon(self._keep_fresh)
            nursery.start_soon(self._find_back)
            for bootstrap in self._bootstraps:
                nursery.start_soon(self._stay_in_touch, bootstrap)

    async def _follow(self, events: trio.MemoryReceiveChannel[MeshEvent]) -> None:
        for connection in self._mesh.connections():
            self._consider(connection.peer)
        async for event in events:
            if isinstance(event, PeerIdentified):
                self._consider(event.peer)
            elif isinstance(event, PeerDisconnected):
                self._client.release(event.peer)
                if not self._mesh.connections():
                    self._client.note_alone()
                    self._hurry.set()

    def _consider(self, peer: PeerId) -> None:
        spoken = self._mesh.book.protocols(peer)
        if not spoken:
            return  # it has not been identified yet
        complaint = None
        if self._protocol in spoken:
            if self._client.wants(peer):
                self._client.consider(peer)
        else:
            complaint = f"it does not serve {self._protocol}"
            self._client.forget(peer)
        for bootstrap in self._bootstraps:
            if bootstrap.peer == peer and bootstrap.identified(complaint):
                self._begin_anew()
        self._note_settled()

    async def _stay_in_touch(self, bootstrap: Bootstrap) -> None:
        while True:
            bootstrap.trying()
            level = logging.INFO
            try:
                connection = await self._dial(bootstrap.address)
            except SelfDial:
                bootstrap.is_ourselves()
                self._note_settled()
                return
            except FAULTS as error:
                why = str(error)
                if bootstrap.attempts == 1:  # a wrong address looks like a network without peers
                    level = logging.WARNING
            else:
                bootstrap.connected(connection.peer, now=trio.current_time())
                self._consider(connection.peer)
                await connection.closed.wait()
                why = str(connection.close_reason)
            again_at = bootstrap.lost(
                why, now=trio.current_time(), lonely=not self._mesh.connections(), rng=self._rng
            )
            _log.log(level, "bootstrap %s: %s; it is tried again", bootstrap.address, why)
            self._note_settled()
            await trio.sleep_until(again_at)

    async def _dial(self, address: Multiaddr) -> Connection:
        peer = address.peer_id
        known = self._mesh.connected(peer) if peer is not None else None
        return known if known is not None else await self._mesh.dial(address)

    def _note_settled(self) -> None:
        if self._greeted and all(bootstrap.settled for bootstrap in self._bootstraps):
            self._settled.set()

    async def _find_back(self) -> None:
        pause = GREET_FIRST_SECONDS
        while True:
            await self._greet(self._whom_to_greet())
            self._greeted = True
            self._note_settled()
            if self._client.met.is_set():
                await self._client.parted.wait()
                pause = GREET_FIRST_SECONDS
            with trio.move_on_after(pause * self._rng.uniform(0.5, 1.0)):
                await self._client.met.wait()
            pause = min(2 * pause, GREET_SECONDS)

    def _whom_to_greet(self) -> list[PeerInfo]:
        latest = self._contacts.latest()
        others = latest[GREETED:]
        return latest[:GREETED] + self._rng.sample(others, min(GREETED, len(others)))

    async def _greet(self, remembered: list[PeerInfo]) -> None:
        request = Message(MessageType.FIND_NODE, self._mesh.peer_id.raw)

        async def greet(info: PeerInfo) -> None:
            with trio.move_on_after(GREETING_SECONDS):
                await self._client.ask(info, request)

        for start in range(0, len(remembered), GREETED_AT_ONCE):
            async with private_nursery() as nursery:
                for info in remembered[start : start + GREETED_AT_ONCE]:
                    nursery.start_soon(greet, info)
            if len(self._client.table) >= GREETED_AT_ONCE:
                return

    def _begin_anew(self) -> None:
        self._begins_anew = True
        self._hurry.set()

    async def _keep_fresh(self) -> None:
        while True:
            await self._client.met.wait()
            interval = SELF_LOOKUP_FIRST_SECONDS
            while self._client.met.is_set():
                if self._begins_anew:
                    self._begins_anew, interval = False, SELF_LOOKUP_FIRST_SECONDS
                await self._refresh()
                self.joined.set()
                self.save()
                pause = interval * self._rng.uniform(0.8, 1.2)
                await self._ask_silent(until=trio.current_time() + pause)
                interval = min(2 * interval, SELF_LOOKUP_SECONDS)

    async def _refresh(self) -> None:
        lookup = await self._client.find_node(
            self._mesh.peer_id.raw, through=self._bootstraps_at_hand()
        )
        if lookup.report().complete and not lookup.covered_bits():
            self._client.table.looked_up_everywhere(now=trio.current_time())
        table = self._client.table
        for bucket in table.due_refreshes(trio.current_time()):
            await self._client.find_node(key_sharing(table.position, bucket, self._rng))

    def _bootstraps_at_hand(self) -> list[PeerId]:
        return [
            bootstrap.peer
            for bootstrap in self._bootstraps
            if bootstrap.peer is not None and bootstrap.is_useful
        ]

    async def _ask_silent(self, *, until: float) -> None:
        while (now := trio.current_time()) < until and self._client.met.is_set():
            if self._begins_anew:
                return
            self._hurry = trio.Event()
            for peer in self._client.table.due_checks(now):
                self._client.consider(peer)
            # Not before a second has passed: those just asked have yet to answer.
            with trio.move_on_at(min(until, max(self._client.table.next_check(), now + 1.0))):
                await self._hurry.wait()
