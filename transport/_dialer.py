"""Dialling: all addresses of a peer raced under deadlines, one dial for all who ask.

An attempt is one address: open a link, secure it, agree on the muxer, each with its own time. A
dial is a race of attempts with a deadline over all, run in a task of its own: whoever asks for the
same peer meanwhile waits for the same race, and it goes on as long as somebody waits. Failures are
not remembered, so a peer that restarts is reached at once.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from lattica.errors import DeadlineExceeded, LatticaError, Unreachable

from ._book import bare_address
from ._channel import PeerIdMismatch
from ._dial import Attempt, DialError, MeshClosed, Plan, SelfDial, plan_dial
from ._links import NameTransport
from ._membership import SwarmKeyMismatch
from ._race import AllFailed, race
from ._upgrade import Upgraded, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from lattica.identity import Identity, PeerId
    from lattica.private_swarm import Membership

    from ._book import AddressBook
    from ._links import RawLink, Transport
    from .limits import Limits
    from .multiaddr import Multiaddr

_log = logging.getLogger(__name__)
_WORKED_TTL_S = 3600.0  # how long an address that worked is remembered
_C = TypeVar("_C")


class Dialer(Generic[_C]):
    """Makes outbound connections of type `_C`, which `admit` makes of upgraded links.

    `admit` raises ConnectionLimit and then has closed the link; it does not wait.
    """

    def __init__(
        self,
        identity: Identity,
        transports: Sequence[Transport],
        limits: Limits,
        book: AddressBook,
        *,
        security: Sequence[str],
        swarm: Membership | None,
        nursery: trio.Nursery,
        listening: Callable[[], Collection[Multiaddr]],
        admit: Callable[[Upgraded], _C],
    ) -> None:
        self._identity, self._transports, self._limits = identity, transports, limits
        self._book, self._nursery = book, nursery
        self._security, self._swarm = security, swarm
        self._listening, self._admit = listening, admit
        self._dials: dict[PeerId, _Dial[_C]] = {}
        self._slots = trio.CapacityLimiter(limits.dials)
        self._attempts = trio.CapacityLimiter(limits.dial_attempts)

    @property
    def pending(self) -> int:
        """How many peers are being dialled."""
        return len(self._dials)

    async def connect(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> _C:
        """Dial `peer` at `addresses` and those in the book. Cancelled, nothing is left open.

        Raises:
            SelfDial: that is us.
            DialError: no address led to the peer; says why for each.
            SwarmKeyMismatch: the peer and we are not members of one private swarm.
            PeerIdMismatch: there was an answer at every address, by somebody else.
        """
        if peer == self._identity.peer_id:
            raise SelfDial(f"{peer} is this node itself", peer=peer)
        given = [bare_address(address, peer) or address for address in addresses]
        tried: set[Multiaddr] = set()
        while True:
            dial = self._dials.get(peer)
            joined = dial is not None
            if dial is None:
                dial = self._start(peer, given)
            tried |= dial.addresses
            try:
                return await self._wait(peer, dial)
            except (DialError, PeerIdMismatch, SwarmKeyMismatch):
                # The race that we joined knew less than we do: run one for the rest.
                if not joined or tried.issuperset(given):
                    raise

    async def dial(self, address: Multiaddr) -> _C:
        """Dial one address; whoever answers is taken, unless the address names a peer."""
        peer = address.peer_id
        if peer == self._identity.peer_id:
            raise SelfDial(f"{address} is this node itself", peer=peer)
        plan = self._plan(peer, [address], None)
        if plan.skipped:
            raise DialError(str(address), plan.skipped, peer=peer)
        ((bare, transport),) = plan.steps
        try:
            upgraded = await self._attempt(bare, transport, peer, trusted=True)
        except (PeerIdMismatch, SelfDial, SwarmKeyMismatch):
            raise
        except LatticaError as error:
            raise DialError(str(address), [Attempt(bare, error)], peer=peer) from error
        return self._accept(upgraded, bare)

    def _start(self, peer: PeerId, given: list[Multiaddr]) -> _Dial[_C]:
        self._book.advance(trio.current_time())
        known = self._book.addresses(peer)
        plan = self._plan(peer, [*given, *known], self._book.worked(peer))
        dial = _Dial[_C](frozenset([*given, *known]))
        self._dials[peer] = dial
        self._nursery.start_soon(self._run, peer, plan, dial)
        return dial

    async def _wait(self, peer: PeerId, dial: _Dial[_C]) -> _C:
        dial.waiting += 1
        try:
            await dial.finished.wait()
        finally:
            dial.waiting -= 1
            if not dial.waiting:
                # Nobody is left who wants it: it ends, and nobody can join it any more.
                dial.scope.cancel()
                self._forget(peer, dial)
        if dial.connection is not None:
            return dial.connection
        assert dial.error is not None
        raise dial.error.with_traceback(None)

    def _forget(self, peer: PeerId, dial: _Dial[_C]) -> None:
        if self._dials.get(peer) is dial:
            del self._dials[peer]

    def _plan(
        self, peer: PeerId | None, addresses: list[Multiaddr], worked: Multiaddr | None
    ) -> Plan:
        return plan_dial(
            peer,
            addresses,
            self._transports,
            ours=self._listening(),
            worked=worked,
            count=self._limits.dial_addresses,
        )

    async def _run(self, peer: PeerId, plan: Plan, dial: _Dial[_C]) -> None:
        failures: dict[Multiaddr, LatticaError] = {}
        try:
            with dial.scope:
                with trio.move_on_after(self._limits.dial_timeout_s):
                    async with self._slots:
                        address, upgraded = await self._race(peer, plan, failures)
                        dial.connection = self._accept(upgraded, address)
        except AllFailed:
            pass
        except LatticaError as error:  # no room for the connection
            dial.error = error
        except BaseException:
            dial.error = MeshClosed("the mesh was closed while it dialled", peer=peer)
            raise
        finally:
            self._forget(peer, dial)
            if dial.connection is None and dial.error is None:
                dial.error = self._explain(peer, plan, failures)
            dial.finished.set()

    async def _race(
        self, peer: PeerId, plan: Plan, failures: dict[Multiaddr, LatticaError]
    ) -> tuple[Multiaddr, Upgraded]:
        async def attempt(address: Multiaddr, transport: Transport) -> tuple[Multiaddr, Upgraded]:
            try:
                return address, await self._attempt(address, transport, peer)
            except LatticaError as error:
                failures[address] = error
                if isinstance(error, PeerIdMismatch):
                    self._book.forget_address(peer, address)
                raise

        return await race(
            [functools.partial(attempt, address, way) for address, way in plan.steps],
            self._limits.dial_head_start_s,
            lambda late: late[1].channel.close(),
        )

    async def _attempt(
        self,
        address: Multiaddr,
        transport: Transport,
        peer: PeerId | None,
        *,
        trusted: bool = False,
    ) -> Upgraded:
        try:
            async with self._attempts:
                link = await self._open_link(address, transport, trusted=trusted)
                upgraded = await self._upgrade(link, peer)
        except LatticaError:
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Unreachable(f"the link was lost: {error}") from error
        except Exception as error:
            # Bytes of a stranger reached code that did not expect them: a bug, and not one that
            # may end the node.
            _log.exception("dialling %s failed unexpectedly", address)
            raise Unreachable(f"unexpected {type(error).__name__}: {error}") from error
        if upgraded.channel.peer == self._identity.peer_id:
            upgraded.channel.close()
            raise SelfDial(f"{address} is this node itself")
        return upgraded

    async def _open_link(
        self, address: Multiaddr, transport: Transport, *, trusted: bool
    ) -> RawLink:
        timeout = self._limits.connect_timeout_s
        dial = transport.dial
        is_distrusted = not trusted and self._book.is_distrusted(address)
        if is_distrusted and isinstance(transport, NameTransport):
            dial = transport.dial_public
        with trio.move_on_after(timeout):
            return await dial(address)
        raise DeadlineExceeded(f"no connection within {timeout:g} s")

    async def _upgrade(self, link: RawLink, peer: PeerId | None) -> Upgraded:
        timeout = self._limits.handshake_timeout_s
        with trio.move_on_after(timeout):
            return await upgrade(
                link,
                self._identity,
                initiator=True,
                expected=peer,
                security=self._security,
                swarm=self._swarm,
            )
        raise DeadlineExceeded(f"no handshake within {timeout:g} s")

    def _accept(self, upgraded: Upgraded, address: Multiaddr) -> _C:
        connection = self._admit(upgraded)
        self._book.note_success(
            upgraded.channel.peer, address, now=trio.current_time(), ttl=_WORKED_TTL_S
        )
        return connection

    def _explain(
        self, peer: PeerId, plan: Plan, failures: dict[Multiaddr, LatticaError]
    ) -> LatticaError:
        late = DeadlineExceeded(f"not done within {self._limits.dial_timeout_s:g} s in all")
        attempts = [
            *(Attempt(address, failures.get(address, late)) for address, _ in plan.steps),
            *plan.skipped,
        ]
        errors = [attempt.error for attempt in attempts]
        for error in errors:
            if isinstance(error, SwarmKeyMismatch):  # the peer is there: no other address helps
                error.peer = peer
                return error
        if errors and all(isinstance(error, PeerIdMismatch) for error in errors):
            return errors[0]
        return DialError(str(peer), attempts, peer=peer)


@dataclass(eq=False)
class _Dial(Generic[_C]):
    """A dial that is going on, and who waits for it."""

    addresses: frozenset[Multiaddr]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    finished: trio.Event = field(default_factory=trio.Event)
    waiting: int = 0
    connection: _C | None = None
    error: LatticaError | None = None
