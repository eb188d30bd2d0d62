"""Everyone a fetch asks, or may ask: found, dialled, talked to, left, tried again.

Each provider is looked after by a task of its own, so that whatever one does, the others go on. One
more task keeps time: it hears from the planner who is silent for too long, and decides when there
is nobody left who could help. Whoever was left, and why, is kept for the error that says so: see
`_farewells`.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Protocol

import trio

from lattica._nursery import private_nursery
from lattica.errors import LatticaError
from lattica.transport import PeerInfo, ProtocolNotSupported, StreamReset

from ._bans import ProviderBanned
from ._candidates import Candidates
from ._events import BadLeaf, OriginLeft, OriginUsed, ProviderJoined, ProviderLeft
from ._farewells import Farewells, worth_retrying
from ._messages import PROTOCOL
from ._origin import OriginSession, pseudo_peer
from ._patience import Patience
from ._seats import Seats
from ._session import ProviderSilent, Session, StreamEnded
from ._timekeeper import Timekeeper
from .bitswap import BitswapSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator, Sequence

    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Mesh, Multiaddr

    from ._bans import Bans
    from ._budget import Budget
    from ._build import Segments
    from ._events import FetchEvent, LeafMismatch
    from ._messages import Status
    from ._origin import Origin
    from ._planner import Planner
    from ._seats import Talk
    from ._session import Item
    from ._stages import Stage
    from ._traffic import ExchangeLimits
    from .bitswap import Bitswap

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.5, 8.0
_MAX_SILENCES = 2  # of a provider that has never delivered anything: it is mute
_MAX_ADDRESSES = 16  # of one candidate; its own address book knows more
_LEAST_WRITE_BYTES = 1 << 20
_DOUBTFUL_DIALS = 4  # at the same time, to peers of whom another one says that they are there


class Keeper(Protocol):
    """The fetch, as providers deliver to it."""

    async def settle(self, peer: PeerId, stage: Stage, items: list[Item]) -> LeafMismatch | None:
        """As `_session.Side.settle`."""

    def received(self, peer: PeerId, stage: Stage | None, size: int, wire: int) -> None:
        """As `_session.Side.received`; without a stage, of content that is not verified yet."""

    def tell(self, event: FetchEvent) -> None:
        """Pass an event on to the caller."""


class Providers:
    """The providers of one fetch.

    Attributes:
        root: what is fetched.
        stage: what they are asked for now; None while nothing is.
        watch: whether they are asked to say what they hold; else they are taken to hold everything
            until they refuse something.
        ids: of all requests on all streams.
        encodings: what is read beside raw leaves.
        failure: why the fetch cannot go on, if so.
    """

    def __init__(
        self,
        mesh: Mesh,
        root: CID,
        keeper: Keeper,
        limits: ExchangeLimits,
        encodings: tuple[int, ...],
        bans: Bans,
        budget: Budget,
        patience: float,
        *,
        watch: bool = True,
        bitswap: Bitswap | None = None,
        segments: Segments | None = None,
    ) -> None:
        self.root, self.encodings, self.watch = root, encodings, watch
        self.ids: Iterator[int] = itertools.count(1)
        self.failure: LatticaError | None = None
        self.stage: Stage | None = None
        self._mesh, self._keeper, self._limits = mesh, keeper, limits
        self._patience = Patience(patience, limits.stall_seconds)
        self._bitswap = bitswap  # for providers that do not speak our own protocol
        self._bans = bans
        self._budget = budget if budget.is_limited else None
        self._origins: dict[PeerId, Origin] = {}
        self._segments = segments  # how an origin's files are cut
        self._used: set[str] = set()  # of the origins, those that the caller was told of
        self._seats = Seats(limits.providers)
        self._doubtful_dials = trio.Semaphore(_DOUBTFUL_DIALS)
        self._delivered: set[PeerId] = set()  # those that ever sent what they were asked for
        self._addresses: dict[PeerId, tuple[Multiaddr, ...]] = {}  # of candidates, the newest first
        self._nursery: trio.Nursery | None = None
        self._scope: trio.CancelScope | None = None
        self._early: list[tuple[list[PeerInfo], AsyncIterable[PeerInfo | None] | None]] = []
        self._farewells = Farewells(root)
        self._candidates = Candidates(mesh.peer_id, self._farewells, limits.candidates)
        self._clock = Timekeeper(
            self._seats,
            self._candidates,
            self._farewells,
            self._patience,
            origins=self._origins,
            tell=keeper.tell,
        )

    # --- who is asked

    def join(
        self,
        providers: Iterable[PeerInfo],
        more: AsyncIterable[PeerInfo | None] | None,
        origins: Sequence[Origin] = (),
        patience: float = 0.0,
    ) -> None:
        """Take up what a caller knows of; before `start`, keep it for then."""
        self._patience.seconds = max(self._patience.seconds, patience)
        self._origins |= {pseudo_peer(origin): origin for origin in origins}
        offers = [*providers, *(PeerInfo(pseudo_peer(origin), ()) for origin in origins)]
        self._candidates.searches += more is not None
        if self._nursery is None:
            self._early.append((offers, more))
        else:
            self._take_up(offers, more)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to look after providers, in `nursery`. Does nothing the second time."""
        if self._nursery is not None:
            return
        self._nursery, self._scope = nursery, nursery.cancel_scope
        for offers, more in self._early:
            self._take_up(offers, more)

    def _take_up(
        self, offers: Iterable[PeerInfo], more: AsyncIterable[PeerInfo | None] | None
    ) -> None:
        assert self._nursery is not None
        if more is not None:
            self._nursery.start_soon(self._gather, more)
        for info in offers:
            self.offer(info)

    def offer(self, info: PeerInfo, *, hearsay: bool = False) -> None:
        """Take up a peer that may hold the object, unless it is known to be of no use.

        Of `hearsay`, another provider says so: whoever cannot be reached then is not tried again.
        Of one that is looked after already, its further addresses are tried, too.
        """
        if self._nursery is None:
            return
        if self._candidates.is_attended(info.peer):
            self._note_addresses(info)
            return
        if (banned := self._ban_of(info.peer)) is not None:
            self._leave_for(banned, info.peer)
        elif self._candidates.take(info.peer, hearsay=hearsay):
            self._note_addresses(info)
            self._nursery.start_soon(self._attend, info.peer, hearsay)

    def _note_addresses(self, info: PeerInfo) -> None:
        known = self._addresses.get(info.peer, ())
        if not set(info.addresses) <= set(known):
            merged = tuple(dict.fromkeys((*info.addresses, *known)))
            self._addresses[info.peer] = merged[:_MAX_ADDRESSES]

    def found(self, peers: Sequence[PeerInfo]) -> None:
        """Note that `peers` fetch the object, too, as one of them or a provider says."""
        for info in peers:
            self.offer(info, hearsay=True)
        self._scatter()

    def _scatter(self) -> None:
        # Of others who begin just now nobody may be here yet. Once they are, the planner is told
        # what they hold; and those who are gone are no reason to write a file all over the place.
        if self.stage is not None:
            self.stage.planner.scattered = self._candidates.rumours

    def close(self) -> None:
        """Take up nobody any more: the nursery of `start` is about to end."""
        self._nursery = None

    async def work(self, stage: Stage, done: trio.Event) -> None:
        """Have all of `stage` fetched. Returns when `done` is set, or `failure` is."""
        self.stage = stage
        stage.planner.budget = self._budget
        self._scatter()
        now = trio.current_time()
        self._patience.start(now)
        for peer, session in self._seats.sessions.items():
            if self._ban_of(peer) is None:
                session.join(stage, now)
        async with private_nursery() as nursery:
            nursery.start_soon(self._give_up_in_time, stage, done)
            await done.wait()
            nursery.cancel_scope.cancel()
        self.stage = None

    async def _give_up_in_time(self, stage: Stage, done: trio.Event) -> None:
        self.fail(await self._clock.run(stage.planner, done))

    def fail(self, error: LatticaError) -> None:
        """End the fetch with `error`."""
        if self.failure is None:
            self.failure = error
        if self._scope is not None:
            self._scope.cancel()

    def ban(self, error: LeafMismatch) -> None:
        """Ask `error.peer` no more for some time: it sent what does not match."""
        assert error.peer is not None
        self._farewells.lied(error)
        self._bans.add(error.peer, error.short, trio.current_time())
        if self.stage is not None:
            self.stage.planner.remove_peer(error.peer)

    def lied(self, lie: LeafMismatch) -> None:
        """Ban whoever lied, and tell."""
        self.ban(lie)
        self.ring()
        self._keeper.tell(BadLeaf(lie))

    def _ban_of(self, peer: PeerId) -> ProviderBanned | None:
        now = trio.current_time()
        ban = self._bans.of(peer, now)
        if ban is None:
            return None
        return ProviderBanned(f"{peer} ({ban.text(now)})", peer=peer, cid=self.root)

    def gained(self, planner: Planner) -> None:
        """Note that something was verified, or has to be asked for again."""
        self._patience.last_gain = trio.current_time()
        self._clock.carry_out(planner)

    def ring(self) -> None:
        """Let every provider look for something to be asked."""
        self._seats.ring()

    @property
    def write_bytes(self) -> int:
        """How much one session may gather before it hands it on."""
        # A provider has two batches: one is kept while the next one comes.
        share = self._limits.write_bytes // (2 * max(1, len(self._seats.sessions)))
        return max(_LEAST_WRITE_BYTES, min(share, self._limits.batch_bytes))

    @property
    def lies(self) -> list[LeafMismatch]:
        """What did not match its hash, the first hundred."""
        return self._farewells.lies

    @property
    def connected(self) -> list[PeerId]:
        """The peers that are talked to, origins aside."""
        return [peer for peer in self._seats.sessions if peer not in self._origins]

    @property
    def rates(self) -> dict[PeerId, float]:
        """Bytes a second of each provider that is connected."""
        stage = self.stage
        return {peer: stage.planner.rate(peer) if stage else 0.0 for peer in self._seats.sessions}

    # --- what sessions report (see `_session.Side`)

    @property
    def addresses(self) -> Sequence[Multiaddr]:
        """Where other fetchers can reach this node."""
        return self._mesh.addresses

    def asked(self) -> None:
        """A deadline may be nearer than the next look at the clock, or nothing be left to ask."""
        if self.stage is not None:
            self._clock.asked(self.stage.planner)

    def received(self, peer: PeerId, stage: Stage, size: int, wire: int) -> None:
        """Count what came."""
        self._seats.delivered(peer, trio.current_time())
        self._delivered.add(peer)
        self._keeper.received(peer, stage, size, wire)

    def refused(self, peer: PeerId, status: Status) -> None:
        """Note why `peer` does not send something."""
        self._farewells.refused(peer, status)

    async def settle(self, peer: PeerId, stage: Stage, items: list[Item]) -> LeafMismatch | None:
        """Hand items on."""
        return await self._keeper.settle(peer, stage, items)

    # --- what origins ask (see `_origin.OriginSide`)

    def peers_heard(self) -> list[float]:
        """Return when each connected peer, origins aside, last delivered, or joined."""
        return [at for peer, at in self._seats.delivered_at().items() if peer not in self._origins]

    def alive(self) -> None:
        """Something comes, although nothing is verified yet."""
        self._patience.last_gain = trio.current_time()

    def received_whole(self, peer: PeerId, size: int) -> None:
        """Count what came of a file that can be verified only at its end."""
        self.alive()
        self._keeper.received(peer, None, size, size)

    def tell(self, event: FetchEvent) -> None:
        """Pass an event on to the caller; that an origin is used, once, however often it is."""
        if isinstance(event, OriginUsed):
            if event.name in self._used:
                return
            self._used.add(event.name)
        self._keeper.tell(event)

    # --- one provider

    async def _attend(self, peer: PeerId, hearsay: bool) -> None:
        """Look after one provider until it is of no use, trying again when it was lost."""
        delay, silences = _FIRST_RETRY_SECONDS, 0
        try:
            while True:
                began = trio.current_time()
                self._clock.look()  # somebody may have to make room
                error = await self._reach(peer) if hearsay else None
                if error is None:
                    async with self._seats.free:
                        error = await self._talk(peer)
                if trio.current_time() - began > _LAST_RETRY_SECONDS:
                    delay = _FIRST_RETRY_SECONDS
                banned = self._ban_of(peer)
                self._leave_for(error, peer, banned)
                self._clock.look()
                if banned is not None or not worth_retrying(error):
                    return
                silences += isinstance(error, ProviderSilent)
                if silences == _MAX_SILENCES and peer not in self._delivered:
                    return
                if hearsay and not isinstance(error, StreamEnded | StreamReset):
                    return
                await trio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY_SECONDS)
        finally:
            self._candidates.over(peer)
            self._scatter()
            self._clock.look()

    def _leave_for(
        self, error: LatticaError, peer: PeerId, ban: ProviderBanned | None = None
    ) -> None:
        """Note why a provider was left, and tell it once, however often it is dialled."""
        if ban is None and isinstance(error, ProviderBanned):
            ban = error
        if self._farewells.left(peer, error):
            reason = str(error) if ban is None or ban is error else f"{error}; {ban}"
            if (origin := self._origins.get(peer)) is not None:
                self._keeper.tell(OriginLeft(origin.name, reason))
            else:
                self._keeper.tell(ProviderLeft(peer, reason, ban is not None))

    async def _reach(self, peer: PeerId) -> LatticaError | None:
        """Connect to a peer that may not exist: until it is there it takes nobody's slot."""
        try:
            async with self._doubtful_dials:
                await self._mesh.connect(peer, self._addresses.get(peer, ()))
        except LatticaError as error:
            return error
        return None

    async def _talk(self, peer: PeerId) -> LatticaError:
        """Talk to a provider for as long as it lasts; returns why it ended."""
        try:
            if (origin := self._origins.get(peer)) is not None:
                await self._run(OriginSession(origin, self, self, self._segments))
                return StreamEnded(f"{origin.name} was left")
            connection = await self._mesh.connect(peer, self._addresses.get(peer, ()))
            try:
                async with await self._mesh.open_stream(peer, PROTOCOL) as stream:
                    await self._run(Session(stream, self))
            except ProtocolNotSupported:
                if self._bitswap is None or connection.closing:
                    raise
                await self._run(BitswapSession(peer, self._bitswap, self))
        except LatticaError as error:
            return error
        return self._farewells.of(peer) or StreamEnded(f"{peer} was left", peer=peer)

    async def _run(self, session: Talk) -> None:
        try:
            with self._seats.taken(session, trio.current_time()):
                await self._converse(session)
        finally:
            self._leave(session.peer)

    async def _converse(self, session: Talk) -> None:
        now = trio.current_time()
        if session.peer not in self._origins:  # of which nothing is known yet, unlike of a peer
            self._patience.last_contact = now
            self._farewells.returned(session.peer)
        if self.stage is not None:
            session.join(self.stage, now)
        self._candidates.reached(session.peer)
        self._scatter()
        if session.peer not in self._origins:
            self._keeper.tell(ProviderJoined(session.peer))
            self.ring()  # origins step back
        await session.run()

    def _leave(self, peer: PeerId) -> None:
        if peer not in self._origins:  # whose sessions begin whether it can be reached or not
            self._patience.last_contact = trio.current_time()
        if self.stage is not None:
            self.stage.planner.remove_peer(peer)
            self.ring()
        self._clock.look()

    async def _gather(self, more: AsyncIterable[PeerInfo | None]) -> None:
        try:
            async for info in more:
                if info is not None:
                    self.offer(info)
                else:
                    self._candidates.looked_around()
                    self._clock.look()
        except LatticaError as error:
            _log.info("no more providers of %s are looked for: %s", self.root, error)
        finally:
            self._candidates.searches -= 1
            self._clock.look()
