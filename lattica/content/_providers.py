"""Everyone a fetch asks, or may ask: found, dialled, talked to, left, tried again.

Each provider is looked after by a task of its own, so that whatever one does, the others go on. One
more task keeps time: it hears from the planner who is silent for too long, and decides when there
is nobody left who could help. Whoever was left, and why, is kept for the error that says so.
"""

from __future__ import annotations

import itertools
import logging
import math
from typing import TYPE_CHECKING, Protocol

import trio

from lattica._nursery import private_nursery
from lattica.errors import (
    DeadlineExceeded,
    LatticaError,
    LimitExceeded,
    NotFound,
    Refused,
    SourceChanged,
    Unreachable,
)
from lattica.transport import PeerInfo, ProtocolNotSupported, StreamReset

from ._bans import ProviderBanned
from ._events import (
    LeafMismatch,
    OriginLeft,
    OriginUsed,
    ProviderJoined,
    ProviderLeft,
    ProviderSlow,
    failure,
    stalled,
)
from ._messages import PROTOCOL, Status
from ._origin import OriginSession, pseudo_peer
from ._plan import CancelAsk, PeerReady, PeerSilent
from ._session import HoldsNothing, Session, StreamEnded
from .bitswap import BitswapSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator, Sequence

    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Mesh, Multiaddr

    from ._bans import Bans
    from ._budget import Budget
    from ._build import Segments
    from ._events import FetchEvent
    from ._origin import Origin
    from ._planner import Planner
    from ._session import Item
    from ._stages import Stage
    from ._traffic import ExchangeLimits
    from .bitswap import Bitswap

_DECLINED = {Status.BUSY: "is busy", Status.FAILED: "fails"}
_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.5, 8.0
_LEAST_WRITE_BYTES = 1 << 20
_DOUBTFUL_DIALS = 4  # at the same time, to peers of whom another one says that they are there
_ROOM_SECONDS = 30.0  # without a whole leaf, after which a provider makes room for one that waits
_MAX_LIES = 100  # kept to be reported
_WORTH_RETRYING = (Unreachable, StreamReset, LimitExceeded, DeadlineExceeded)
_WORTH_ANOTHER_OFFER = (HoldsNothing, LeafMismatch, ProviderBanned)  # a ban has an end
_MAY_CHANGE = (*_WORTH_RETRYING, HoldsNothing)


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
        lies: what did not match its hash, the first hundred.
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
        self.lies: list[LeafMismatch] = []
        self.failure: LatticaError | None = None
        self.stage: Stage | None = None
        self._mesh, self._keeper, self._limits, self._patience = mesh, keeper, limits, patience
        self._bitswap = bitswap  # for providers that do not speak our own protocol
        self._bans = bans
        self._budget = budget if budget.is_limited else None
        self._origins: dict[PeerId, Origin] = {}
        self._segments = segments  # how an origin's files are cut
        self._used: set[str] = set()  # of the origins, those that the caller was told of
        self._slots = trio.Semaphore(limits.providers)
        self._doubtful_dials = trio.Semaphore(_DOUBTFUL_DIALS)
        self._heard_of = 0  # peers that were taken up because of what another says
        self._nursery: trio.Nursery | None = None
        self._scope: trio.CancelScope | None = None
        self._early: list[tuple[list[PeerInfo], AsyncIterable[PeerInfo | None] | None]] = []
        self._more_to_come = 0  # sources of further ones that have not ended
        self._rumoured: set[PeerId] = set()  # who fetches it too, by hearsay; not reached yet
        self._rounds = self._rounds_wanted = 0  # of looking for more; of these, to believe it
        self._attended: set[PeerId] = {mesh.peer_id}  # dialled, talked to, or about to be
        self._sessions: dict[PeerId, Session | BitswapSession | OriginSession] = {}
        self._scopes: dict[PeerId, trio.CancelScope] = {}
        self._delivered_at: dict[PeerId, float] = {}  # the last leaf of each session, or its start
        self._reasons: dict[PeerId, LatticaError] = {}  # why each was left last
        self._refusals: dict[PeerId, LatticaError] = {}  # why each will not send something
        self._told: dict[PeerId, str] = {}
        self._alarm, self._alarm_at = trio.Event(), math.inf
        self._last_contact = self._last_gain = 0.0

    # --- who is asked

    def join(
        self,
        providers: Iterable[PeerInfo],
        more: AsyncIterable[PeerInfo | None] | None,
        origins: Sequence[Origin] = (),
        patience: float = 0.0,
    ) -> None:
        """Take up what a caller knows of; before `start`, keep it for then."""
        self._patience = max(self._patience, patience)
        self._origins |= {pseudo_peer(origin): origin for origin in origins}
        offers = [*providers, *(PeerInfo(pseudo_peer(origin), ()) for origin in origins)]
        self._more_to_come += more is not None
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

        Of `hearsay`, another provider says so: whoever cannot be reached then is not tried again,
        and half of those who are remembered are such at most.
        """
        known = self._reasons.get(info.peer)
        if self._nursery is None or info.peer in self._attended:
            return
        if (banned := self._ban_of(info.peer)) is not None:
            self._leave_for(banned, info.peer)
            return
        if known is not None and not isinstance(known, _WORTH_ANOTHER_OFFER):
            return
        heard = hearsay and known is None
        if known is None and (
            len(self._reasons) + len(self._attended) > self._limits.candidates
            or (heard and self._heard_of >= self._limits.candidates // 2)
        ):
            _log.debug("%s is one provider too many for %s", info.peer, self.root)
            return
        self._heard_of += heard
        self._attended.add(info.peer)
        if hearsay:
            self._rumoured.add(info.peer)
        self._nursery.start_soon(self._attend, info, hearsay)

    def found(self, peers: Sequence[PeerInfo]) -> None:
        """Note that `peers` fetch the object, too, as one of them or a provider says."""
        for info in peers:
            self.offer(info, hearsay=True)
        self._scatter()

    def _scatter(self) -> None:
        # Of others who begin just now nobody may be here yet. Once they are, the planner is told
        # what they hold; and those who are gone are no reason to write a file all over the place.
        if self.stage is not None:
            self.stage.planner.scattered = bool(self._rumoured)

    def _no_rumour(self, peer: PeerId) -> None:
        self._rumoured.discard(peer)
        self._scatter()

    def close(self) -> None:
        """Take up nobody any more: the nursery of `start` is about to end."""
        self._nursery = None

    async def work(self, stage: Stage, done: trio.Event) -> None:
        """Have all of `stage` fetched. Returns when `done` is set, or `failure` is."""
        self.stage = stage
        stage.planner.budget = self._budget
        self._scatter()
        now = self._last_contact = self._last_gain = trio.current_time()
        for peer, session in self._sessions.items():
            if self._ban_of(peer) is None:
                session.join(stage, now)
        async with private_nursery() as nursery:
            nursery.start_soon(self._keep_time, stage, done)
            await done.wait()
            nursery.cancel_scope.cancel()
        self.stage = None

    def fail(self, error: LatticaError) -> None:
        """End the fetch with `error`."""
        if self.failure is None:
            self.failure = error
        if self._scope is not None:
            self._scope.cancel()

    def ban(self, error: LeafMismatch) -> None:
        """Ask `error.peer` no more for some time: it sent what does not match."""
        assert error.peer is not None
        if len(self.lies) < _MAX_LIES:
            self.lies.append(error)
        self._bans.add(error.peer, error.short, trio.current_time())
        if self.stage is not None:
            self.stage.planner.remove_peer(error.peer)

    def _ban_of(self, peer: PeerId) -> ProviderBanned | None:
        now = trio.current_time()
        ban = self._bans.of(peer, now)
        if ban is None:
            return None
        return ProviderBanned(f"{peer} ({ban.text(now)})", peer=peer, cid=self.root)

    def gained(self, planner: Planner) -> None:
        """Note that something was verified, or has to be asked for again."""
        self._last_gain = trio.current_time()
        self._carry_out(planner)

    def ring(self) -> None:
        """Let every provider look for something to be asked."""
        for session in self._sessions.values():
            session.ring()

    @property
    def write_bytes(self) -> int:
        """How much one session may gather before it hands it on."""
        share = self._limits.write_bytes // max(1, len(self._sessions))
        return max(_LEAST_WRITE_BYTES, min(share, self._limits.batch_bytes))

    @property
    def connected(self) -> list[PeerId]:
        """The peers that are talked to, origins aside."""
        return [peer for peer in self._sessions if peer not in self._origins]

    @property
    def rates(self) -> dict[PeerId, float]:
        """Bytes a second of each provider that is connected."""
        stage = self.stage
        return {peer: stage.planner.rate(peer) if stage else 0.0 for peer in self._sessions}

    # --- what sessions report (see `_session.Side`)

    @property
    def addresses(self) -> Sequence[Multiaddr]:
        """Where other fetchers can reach this node."""
        return self._mesh.addresses

    def asked(self) -> None:
        """A deadline may be nearer than the next look at the clock, or nothing be left to ask."""
        if self.stage is None:
            return
        planner = self.stage.planner
        if planner.next_timeout() < self._alarm_at or planner.idle():
            self._alarm.set()

    def received(self, peer: PeerId, stage: Stage, size: int, wire: int) -> None:
        """Count what came."""
        self._delivered_at[peer] = trio.current_time()
        self._keeper.received(peer, stage, size, wire)

    def refused(self, peer: PeerId, status: Status) -> None:
        """Note why `peer` does not send something."""
        if status is Status.SOURCE_CHANGED:
            self._refusals[peer] = SourceChanged(f"{peer} has changed its copy", peer=peer)
        elif status is Status.REFUSED:
            self._refusals[peer] = Refused(f"{peer} refused", peer=peer)
        elif status is not Status.CANCELLED:
            said = _DECLINED.get(status, "does not hold what is missing")
            self._refusals.setdefault(peer, NotFound(f"{peer} {said}", peer=peer))

    async def settle(self, peer: PeerId, stage: Stage, items: list[Item]) -> LeafMismatch | None:
        """Hand items on."""
        return await self._keeper.settle(peer, stage, items)

    # --- what origins ask (see `_origin.OriginSide`)

    def peers_heard(self) -> list[float]:
        """Return when each connected peer, origins aside, last delivered, or joined."""
        return [at for peer, at in self._delivered_at.items() if peer not in self._origins]

    def alive(self) -> None:
        """Something comes, although nothing is verified yet."""
        self._last_gain = trio.current_time()

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

    async def _attend(self, info: PeerInfo, hearsay: bool) -> None:
        """Look after one provider until it is of no use, trying again when it was lost."""
        delay = _FIRST_RETRY_SECONDS
        try:
            while True:
                began = trio.current_time()
                self._alarm.set()  # somebody may have to make room
                error = await self._reach(info) if hearsay else None
                if error is None:
                    async with self._slots:
                        error = await self._talk(info)
                if trio.current_time() - began > _LAST_RETRY_SECONDS:
                    delay = _FIRST_RETRY_SECONDS
                banned = self._ban_of(info.peer)
                self._leave_for(error, info.peer, banned)
                self._alarm.set()
                if banned is not None or not isinstance(error, _WORTH_RETRYING):
                    return
                if hearsay and not isinstance(error, StreamEnded | StreamReset):
                    return
                await trio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY_SECONDS)
        finally:
            self._attended.discard(info.peer)
            self._no_rumour(info.peer)
            self._rounds_wanted = self._rounds + 2  # the one under way may have begun before
            self._alarm.set()

    def _leave_for(
        self, error: LatticaError, peer: PeerId, ban: ProviderBanned | None = None
    ) -> None:
        """Note why a provider was left, and tell it once, however often it is dialled."""
        if ban is None and isinstance(error, ProviderBanned):
            ban = error
        if self._told.get(peer) != str(error):
            reason = str(error) if ban is None or ban is error else f"{error}; {ban}"
            if (origin := self._origins.get(peer)) is not None:
                self._keeper.tell(OriginLeft(origin.name, reason))
            else:
                self._keeper.tell(ProviderLeft(peer, reason, ban is not None))
        self._told[peer], self._reasons[peer] = str(error), error

    async def _reach(self, info: PeerInfo) -> LatticaError | None:
        """Connect to a peer that may not exist: until it is there it takes nobody's slot."""
        try:
            async with self._doubtful_dials:
                await self._mesh.connect(info.peer, info.addresses)
        except LatticaError as error:
            return error
        return None

    async def _talk(self, info: PeerInfo) -> LatticaError:
        """Talk to a provider for as long as it lasts; returns why it ended."""
        peer = info.peer
        try:
            if (origin := self._origins.get(peer)) is not None:
                await self._run(OriginSession(origin, self, self, self._segments))
                return StreamEnded(f"{origin.name} was left")
            connection = await self._mesh.connect(peer, info.addresses)
            try:
                async with await self._mesh.open_stream(peer, PROTOCOL) as stream:
                    await self._run(Session(stream, self))
            except ProtocolNotSupported:
                if self._bitswap is None or connection.closing:
                    raise
                await self._run(BitswapSession(peer, self._bitswap, self))
        except LatticaError as error:
            return error
        return self._reasons.get(peer) or StreamEnded(f"{peer} was left", peer=peer)

    async def _run(self, session: Session | BitswapSession | OriginSession) -> None:
        scope = self._scopes[session.peer] = trio.CancelScope()
        self._sessions[session.peer] = session
        self._delivered_at[session.peer] = trio.current_time()
        try:
            with scope:
                await self._converse(session)
        finally:
            self._leave(session.peer)

    async def _converse(self, session: Session | BitswapSession | OriginSession) -> None:
        now = trio.current_time()
        if session.peer not in self._origins:  # of which nothing is known yet, unlike of a peer
            self._last_contact = now
            self._reasons.pop(session.peer, None)
            self._told.pop(session.peer, None)
        if self.stage is not None:
            session.join(self.stage, now)
        self._no_rumour(session.peer)
        if session.peer not in self._origins:
            self._keeper.tell(ProviderJoined(session.peer))
            self.ring()  # origins step back
        await session.run()

    def _leave(self, peer: PeerId) -> None:
        del self._sessions[peer], self._scopes[peer], self._delivered_at[peer]
        if peer not in self._origins:  # whose sessions begin whether it can be reached or not
            self._last_contact = trio.current_time()
        if self.stage is not None:
            self.stage.planner.remove_peer(peer)
            self.ring()
        self._alarm.set()

    async def _gather(self, more: AsyncIterable[PeerInfo | None]) -> None:
        try:
            async for info in more:
                if info is not None:
                    self.offer(info)
                else:
                    self._rounds += 1
                    self._alarm.set()
        except LatticaError as error:
            _log.info("no more providers of %s are looked for: %s", self.root, error)
        finally:
            self._more_to_come -= 1
            self._alarm.set()

    # --- time

    async def _keep_time(self, stage: Stage, done: trio.Event) -> None:
        planner = stage.planner
        while True:
            now = trio.current_time()
            planner.handle_timeout(now)
            self._carry_out(planner)
            self._make_room(now)
            if not done.is_set() and self._is_hopeless(planner, now):
                self.fail(self._reason_to_stop(now))
                return
            self._alarm = trio.Event()
            self._alarm_at = min(planner.next_timeout(), self._give_up_at(planner), self._room_at())
            with trio.move_on_at(self._alarm_at):
                await self._alarm.wait()

    def _room_at(self) -> float:
        """When the provider that has delivered nothing for longest is to make room for another."""
        staying = [peer for peer in self._sessions if not self._scopes[peer].cancel_called]
        leaving = len(self._sessions) - len(staying)
        if not staying or self._slots.statistics().tasks_waiting <= leaving:
            return math.inf
        return min(map(self._delivered_at.__getitem__, staying)) + _ROOM_SECONDS

    def _make_room(self, now: float) -> None:
        # Without this, as many idlers as there are slots would keep everybody else out.
        while now >= self._room_at():
            staying = [peer for peer in self._sessions if not self._scopes[peer].cancel_called]
            peer = min(staying, key=self._delivered_at.__getitem__)
            text = f"{peer} delivered nothing for {_ROOM_SECONDS:.0f} s while others waited"
            self._reasons[peer] = StreamEnded(text, peer=peer)
            self._scopes[peer].cancel()

    def _carry_out(self, planner: Planner) -> None:
        """Do what the planner says has to be done."""
        while (event := planner.next_event()) is not None:
            session = self._sessions.get(event.peer)
            if session is None:
                continue
            if isinstance(event, CancelAsk):
                session.cancel_request(event.id)
            elif isinstance(event, PeerReady):
                session.ring()
            elif isinstance(event, PeerSilent):
                silent = f"{event.peer} was silent for {event.seconds:.0f} s"
                self._reasons[event.peer] = StreamEnded(silent, peer=event.peer)
                self._scopes[event.peer].cancel()
            else:
                self._keeper.tell(ProviderSlow(event.peer, event.seconds))
                self.ring()

    def _reason_to_stop(self, now: float) -> LatticaError:
        reasons = self._reasons | self._refusals
        if self._sessions and now >= self._stalled_at:
            return stalled(self.root, now - self._last_gain, reasons)
        return failure(self.root, self.lies, reasons)

    @property
    def _stalled_at(self) -> float:
        return self._last_gain + max(self._limits.stall_seconds, self._patience)

    def _give_up_at(self, planner: Planner) -> float:
        """When patience ends: with nobody to talk to, nothing to ask of them, or nothing gained."""
        if self._sessions and not planner.idle():
            return self._stalled_at
        # Who has just come may be idle until it has told what it holds.
        waits = self._sessions or self._origins
        since = max(self._last_gain, self._last_contact) if waits else self._last_contact
        return min(since + self._patience, self._stalled_at)

    def _is_hopeless(self, planner: Planner, now: float) -> bool:
        if now >= self._give_up_at(planner):
            return True
        if self._more_to_come and not self._all_refused():
            return False
        for peer in self._attended - {self._mesh.peer_id}:
            session = self._sessions.get(peer)
            if session is None or session.partial or self._scopes[peer].cancel_called:
                return False  # it may come, come to hold more, or come back
        return planner.idle()

    def _all_refused(self) -> bool:
        """Whether all who are known will not serve us, and looking around found nobody else."""
        return (
            self._rounds >= self._rounds_wanted
            and bool(self._reasons)
            and not any(isinstance(error, _MAY_CHANGE) for error in self._reasons.values())
        )
