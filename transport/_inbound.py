"""The door: links that strangers open, until they are connections or are sent away.

Before the handshake a stranger has shown nothing but an IP address, and each one costs us a task
and a key exchange. So handshakes under way are bounded, in all and per address, and each has a
deadline. Who exceeds a bound is closed at once; nobody can be told more than that at this point.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError

from ._connections import ConnectionLimit, source_of
from ._upgrade import Upgraded, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.identity import Identity
    from lattica.private_swarm import Membership

    from ._links import Listener, RawLink
    from .limits import Limits
    from .multiaddr import Multiaddr

_log = logging.getLogger(__name__)
_BACK_OFF_S = 0.1  # after an accept that failed: descriptors come free by themselves, or never


class Inbound:
    """Takes links from listeners and turns them into connections.

    Attributes:
        refused: how many were sent away, by the reason's code.
        pending: handshakes under way.
    """

    def __init__(
        self,
        identity: Identity,
        limits: Limits,
        *,
        security: Sequence[str],
        swarm: Membership | None,
        nursery: trio.Nursery,
        check_room: Callable[[Multiaddr], None],
        admit: Callable[[Upgraded], object],
    ) -> None:
        """Prepare the door.

        Args:
            identity: who we are.
            limits: every bound.
            security: protocols to accept.
            swarm: keys of the private swarm that they have to be members of, if any.
            nursery: where handshakes run.
            check_room: raises ConnectionLimit when there are connections enough, in all or from
                an address.
            admit: takes over an upgraded link, without waiting; raises a LatticaError when it
                has closed it instead.
        """
        self._identity, self._limits = identity, limits
        self._security, self._swarm = security, swarm
        self._nursery, self._check_room, self._admit = nursery, check_room, admit
        self._pending_by_ip: Counter[str] = Counter()
        self.pending = 0
        self.refused: Counter[str] = Counter()

    async def serve(self, listener: Listener) -> None:
        """Take links until the listener is closed."""
        while True:
            try:
                link = await listener.accept()
            except trio.ClosedResourceError:
                return
            except trio.BusyResourceError as error:
                _log.warning("no more inbound connections for now: %s", error)
                await trio.sleep(_BACK_OFF_S)
                continue
            source = source_of(link.remote_address)
            try:
                self._check_room(link.remote_address)
                self._check_pending(source)
            except ConnectionLimit as error:
                link.close()
                self._note_refusal(source, error)
                continue
            self.pending += 1
            self._pending_by_ip[source] += 1
            self._nursery.start_soon(self._welcome, link, source)

    def _check_pending(self, source: str) -> None:
        if self.pending >= self._limits.pending_inbound:
            raise ConnectionLimit(f"{self.pending} handshakes pending, limit `pending_inbound`")
        from_there = self._pending_by_ip[source]
        if from_there >= self._limits.pending_inbound_per_ip:
            raise ConnectionLimit(
                f"{from_there} handshakes pending from there, limit `pending_inbound_per_ip`"
            )

    async def _welcome(self, link: RawLink, source: str) -> None:
        try:
            with trio.move_on_after(self._limits.handshake_timeout_s) as scope:
                upgraded = await upgrade(
                    link,
                    self._identity,
                    initiator=False,
                    expected=None,
                    security=self._security,
                    swarm=self._swarm,
                )
                self._admit(upgraded)
            if scope.cancelled_caught:
                self.refused["deadline"] += 1
                _log.debug("%s did not finish its handshake in time", source)
        except LatticaError as error:
            self._note_refusal(source, error)
        except Exception:  # noqa: BLE001  # logged; it may not end the node
            link.close()
            _log.exception("a handshake with %s failed unexpectedly", source)
        finally:
            self.pending -= 1
            self._pending_by_ip[source] -= 1
            if not self._pending_by_ip[source]:
                del self._pending_by_ip[source]

    def _note_refusal(self, source: str, error: LatticaError) -> None:
        self.refused[error.code] += 1
        _log.debug("inbound connection from %s refused: %s", source, error)
