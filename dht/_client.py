"""Asking other peers, and what their answers mean for the routing table.

Every request of this node goes through a `Client`: those of lookups, and the short ones that find
out whether a peer is there. So there is one place where a peer earns its place in the table (it
answered), loses it (it failed, or speaks another protocol), and where what lookups leave behind is
bounded: how many run at once, how many connections they keep open.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import LatticaError
from lattica.identity import PeerId
from lattica.transport import ConnectionLimit, PeerInfo, ProtocolNotSupported

from ._asking import Asking
from ._keys import position
from ._lookup import Lookup
from ._lookup_report import Outcome
from ._messages import Message, MessageType
from ._neighbours import group_beside
from ._patience import Patience
from ._requests import Reply, Requester

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lattica.transport import IPAddress, Mesh, Multiaddr

    from ._clock import Clock
    from ._table import RoutingTable

_log = logging.getLogger(__name__)

LOOKUPS = 16  # under way at once; more wait their turn
LOOKUP_SECONDS = 60.0  # for one lookup, whatever its peers do
TELL_SECONDS = 20.0  # for one peer to read what it is told
PROBES = 256  # peers waiting to be asked whether they are there
PROBERS = 4  # of them asked at once
VISITS = 64  # connections kept that lookups made to peers which the table has no room for
OURS_SECONDS = 30.0  # how long the addresses of this machine are taken for the same
ADDRESS_SECONDS = 1800.0  # how long addresses of a provider that was found are remembered

# What dealing with a peer can end in, through no fault of ours.
FAULTS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)


class Client:
    """Asks peers, for one node.

    Attributes:
        table: the contacts; changed here only.
        met: set while the table holds anybody. Another event after it was empty.
        parted: set while it holds nobody. Another event after it held somebody.
        alone: whether we lost touch with everybody, and nobody has answered since.
    """

    def __init__(
        self,
        mesh: Mesh,
        table: RoutingTable,
        *,
        protocol: str,
        clock: Clock,
        tasks: trio.Nursery,
        on_met: Callable[[], None],
    ) -> None:
        self.table = table
        self.met, self.parted = trio.Event(), trio.Event()
        self.parted.set()
        self.alone = False
        self._mesh, self._clock, self._on_met, self._tasks = mesh, clock, on_met, tasks
        self._requester = Requester(mesh, protocol)
        self._patience = Patience()
        self._lookups = trio.Semaphore(LOOKUPS)
        self._probes, self._to_probe = trio.open_memory_channel[PeerId](PROBES)
        self._probing: set[PeerId] = set()
        self._ours: frozenset[IPAddress] = frozenset()  # of this machine
        self._ours_until = -math.inf
        self._visits: dict[PeerId, None] = {}  # the one visited last at the end

    # Lookups.

    def new_lookup(
        self, key: bytes, wanted: int | None = None, *, until_certain: bool = False
    ) -> Lookup:
        """Return a lookup for `key` that starts from our contacts. It does nothing by itself."""
        return Lookup(
            key,
            local=self.table.local,
            seeds=self.seeds(key),
            now=trio.current_time(),
            patience=self._patience,
            wanted=wanted,
            until_certain=until_certain,
            group_of=self.group_of,
        )

    def group_of(self, address: Multiaddr) -> bytes | None:
        """Return the network that `address` counts to, see `_neighbours`."""
        now = trio.current_time()
        if now >= self._ours_until:
            self._ours, self._ours_until = self._mesh.interface_ips, now + OURS_SECONDS
        return group_beside(address, self._ours)

    def seeds(self, key: bytes) -> list[PeerInfo]:
        """Return the contacts that a lookup for `key` begins with."""
        nearest = self.table.seeds(position(key))
        return [PeerInfo(peer, ()) for peer in nearest]  # the mesh knows where they are

    async def find_node(self, key: bytes, *, through: Iterable[PeerId] = ()) -> Lookup:
        """Look for the peers nearest to `key`, beginning with `through` as well.

        Returns the finished lookup.
        """
        lookup = self.new_lookup(key)
        lookup.seed(PeerInfo(peer, ()) for peer in through)
        await self.walk(lookup, Message(MessageType.FIND_NODE, key))
        return lookup

    async def walk(
        self,
        lookup: Lookup,
        request: Message,
        *,
        found: Callable[[Sequence[PeerInfo]], None] = lambda _: None,
        heard: Callable[[PeerId, Message], None] = lambda _peer, _answer: None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send `request` to whom `lookup` says, until it has finished or it is `enough`.

        Args:
            lookup: whom to ask. Cancelled, it keeps what it has learnt so far.
            request: what to ask each.
            found: called with the providers that are news, as they come.
            heard: called with each answer that counts, and who gave it; `lookup.path_of` says on
                which path. It may stop the lookup.
            enough: asked after each answer and failure.
        """

        def hear(peer: PeerId, reply: Reply | str, now: float) -> None:
            if isinstance(reply, str):
                lookup.fail(peer, reply, now=now)
                return
            closer = [each.info for each in reply.message.closer]
            providers = [each.info for each in reply.message.providers]
            self._remember(providers)
            group = self.group_of(reply.address)
            found(lookup.receive(peer, closer, providers, now=now, group=group))
            if lookup.path_of(peer) is not None:
                heard(peer, reply.message)

        async with self._lookups:
            with self.asking() as asking:
                ends_at = trio.current_time() + LOOKUP_SECONDS
                while True:
                    for info in lookup.next_requests(trio.current_time()):
                        asking.start(info, request)
                    if lookup.finished:
                        break
                    with trio.move_on_at(min(lookup.next_timeout(), ends_at)):
                        await asking.wait()
                    now = trio.current_time()
                    for info, reply in asking.take():
                        hear(info.peer, reply, now)
                    for late in lookup.handle_timeout(now):
                        self._note_failure(late)
                        asking.give_up(late)
                    if enough():
                        lookup.stop(now)
                    elif now >= ends_at:
                        lookup.stop(now, Outcome.OUT_OF_TIME)
        if lookup.report().complete:
            self.table.looked_up(lookup.target, now=trio.current_time())

    def asking(self) -> Asking:
        """Return what asks several peers together; its block ends what is under way."""
        return Asking(
            self._requester,
            self._request,
            self._conclude,
            wall=self._clock.wall,
            tasks=self._tasks,
        )

    async def ask(self, peer: PeerInfo, request: Message) -> Message | str:
        """Return the answer of `peer`, or in a word or two why there is none."""
        reply = await self._request(peer, request)
        return reply if isinstance(reply, str) else reply.message

    async def _request(self, peer: PeerInfo, request: Message) -> Reply | str:
        is_visit = self._mesh.connected(peer.peer) is None
        asked = self._clock.wall()
        outcome: Reply | Exception
        try:
            outcome = await self._requester.ask(peer, request)
        except FAULTS as error:
            outcome = error
        finally:
            # Also of one that takes connections and answers nothing, until we give up.
            if is_visit and self._mesh.connected(peer.peer) is not None:
                self._note_visit(peer.peer)
        return self._conclude(peer.peer, outcome, asked, self._clock.wall())

    def _conclude(
        self, peer: PeerId, outcome: Reply | Exception, asked: float, answered: float
    ) -> Reply | str:
        """Note what an answer, or a fault, means for what we know of `peer`."""
        match outcome:
            case Reply(message, address):
                self._note_answer(peer, address)
                if message.clock:
                    theirs, group = message.clock / 1000, self.group_of(address)
                    self._clock.observe(peer, theirs, asked=asked, answered=answered, group=group)
                return outcome
            case ProtocolNotSupported():
                self.forget(peer)
                return "other-protocol"
            case ConnectionLimit():  # ours
                self.table.put_off(peer, now=trio.current_time())
                return outcome.code
            case error if isinstance(error, FAULTS):
                _log.debug("asked %s in vain: %s", peer, error)
                self._note_failure(peer)
                return error.code if isinstance(error, LatticaError) else "lost"
        raise outcome

    async def tell(self, peer: PeerInfo, frames: Sequence[bytes]) -> bool:
        """Send messages that have no answer; says whether `peer` took them."""
        try:
            with trio.fail_after(TELL_SECONDS):
                await self._requester.tell(peer, frames)
        except (*FAULTS, trio.TooSlowError) as error:
            _log.debug("%s was not told what we provide: %s", peer.peer, error)
            return False
        return True

    def info_of(self, peer: PeerId, hearsay: Iterable[Multiaddr] = ()) -> PeerInfo:
        """Return where `peer` may be: what it told us itself comes before what others say."""
        return PeerInfo(peer, tuple(dict.fromkeys((*self._mesh.book.addresses(peer), *hearsay))))

    def known(self, peer: PeerId) -> PeerInfo:
        """Return where `peer` was reached, and where it says it can be; nothing that others say."""
        return PeerInfo(peer, tuple(self._mesh.book.addresses(peer, hearsay=False)))

    # Who is there.

    def wants(self, peer: PeerId) -> bool:
        """Say whether asking `peer`, which is connected, may make it a contact."""
        connection = self._mesh.connected(peer)
        group = None if connection is None else self.group_of(connection.remote_address)
        return self.table.wants(peer, group)

    def consider(self, peer: PeerId) -> None:
        """Have `peer` asked whether it is there.

        Where too many wait to be asked already, it is not; it comes up again.
        """
        if peer in self._probing:
            return
        try:
            self._probes.send_nowait(peer)
        except trio.WouldBlock:
            _log.debug("%d peers wait to be asked; %s is not", PROBES, peer)
        else:
            self._probing.add(peer)

    def forget(self, peer: PeerId) -> None:
        """Drop `peer`: it does not speak our protocol."""
        self.table.remove(peer, now=trio.current_time())
        self.release(peer)
        self._note_size()

    def release(self, peer: PeerId) -> None:
        """Let go of the streams to `peer`."""
        self._requester.forget(peer)

    def note_alone(self) -> None:
        """Note that the last connection has ended, and have the likeliest contacts asked."""
        self.alone = True
        self.table.doubt(now=trio.current_time())

    async def run(self) -> None:
        """Ask those to be considered; let go of streams that are idle. Runs until cancelled."""
        async with private_nursery() as nursery:
            nursery.start_soon(self._requester.run)
            for _ in range(PROBERS):
                nursery.start_soon(self._probe_peers)

    def close(self) -> None:
        """Let go of all streams."""
        self._requester.close()

    async def _probe_peers(self) -> None:
        request = Message(MessageType.FIND_NODE, self.table.local.raw)
        async for peer in self._to_probe:
            try:
                with trio.move_on_after(self._patience.hard) as scope:
                    await self.ask(PeerInfo(peer, ()), request)
                if scope.cancelled_caught:
                    self._note_failure(peer)
            finally:
                self._probing.discard(peer)

    def _note_answer(self, peer: PeerId, address: Multiaddr) -> None:
        to_check = self.table.add(peer, now=trio.current_time(), group=self.group_of(address))
        if to_check is not None:
            self.consider(to_check)
        if len(self.table) and (self.alone or not self.met.is_set()):
            self.alone = False
            if not self.met.is_set():
                self.met.set()
                self.parted = trio.Event()
            self._on_met()

    def _note_failure(self, peer: PeerId) -> None:
        # When nobody at all is connected, the fault is more likely ours than everybody else's.
        if self._mesh.connections():
            self.table.failed(peer, now=trio.current_time())
            self._note_size()
        else:
            self.table.put_off(peer, now=trio.current_time())

    def _note_size(self) -> None:
        if self.met.is_set() and not len(self.table):
            self.met = trio.Event()
            self.parted.set()

    def _note_visit(self, peer: PeerId) -> None:
        self._visits.pop(peer, None)
        self._visits[peer] = None
        while len(self._visits) > VISITS:
            oldest = next(iter(self._visits))
            del self._visits[oldest]
            connection = self._mesh.connected(oldest)
            if connection is None or oldest in self.table:
                continue
            self.release(oldest)
            if not connection.stream_count:  # nobody else has found a use for it
                connection.go_away()

    def _remember(self, providers: Iterable[PeerInfo]) -> None:
        # Whoever fetches from a provider dials all addresses that anybody named: one peer that
        # names wrong ones first cannot hide the right ones. Nor those that are known better.
        now = trio.current_time()
        for info in providers:
            if info.addresses and info.peer != self.table.local:
                self._mesh.book.add(
                    info.peer, info.addresses, now=now, ttl=ADDRESS_SECONDS, hearsay=True
                )
