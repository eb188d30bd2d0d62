"""Who is who: each new connection is asked, and peers are told when what we say of us changes.

What is said, and how it reads on the wire, is the matter of `identify`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from lattica.errors import DeadlineExceeded, LatticaError

from ._events import PeerIdentified
from ._groups import ip_group
from .identify import PUSH_PROTOCOL, Identifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.identity import Identity

    from ._book import AddressBook
    from ._events import Broadcast
    from ._own_addresses import OwnAddresses
    from ._stream import Stream
    from .connection import Connection
    from .identify import IdentifyInfo
    from .limits import Limits

_log = logging.getLogger(__name__)
_LINK_ERRORS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)
_IDENTIFIED_TTL_S = 3600.0  # how long addresses that a peer announced are remembered


class Introductions:
    """One node's part in who is who.

    Args:
        identity: signs what it says.
        limits: how long others may take, and how much they may say.
        book: where it is written down what peers say.
        where: told from where peers see us.
        events: told who has introduced itself.
        describe: returns what to say of this node now.
        connections: returns those to tell when that changes.
    """

    def __init__(
        self,
        identity: Identity,
        limits: Limits,
        book: AddressBook,
        where: OwnAddresses,
        events: Broadcast,
        *,
        describe: Callable[[], IdentifyInfo],
        connections: Callable[[], list[Connection]],
    ) -> None:
        self._limits, self._book, self._where, self._events = limits, book, where, events
        self._describe, self._connections = describe, connections
        self._changed = trio.Event()
        self._last_sequence = 0
        self._identifier = Identifier(identity, limits, describe, self._next_sequence)

    def note_change(self) -> None:
        """Have peers told soon: what we say of ourselves may have changed."""
        self._changed.set()

    async def answer(self, stream: Stream) -> None:
        """Serve a peer that asks who we are."""
        await self._identifier.answer(stream)

    async def ask(self, connection: Connection) -> None:
        """Ask who is there, and note it. What goes wrong is logged, and ends nothing."""
        try:
            with trio.fail_after(self._limits.identify_timeout_s):
                info = await self._identifier.ask(connection)
        except (*_LINK_ERRORS, trio.TooSlowError) as error:
            _log.debug("%s did not identify itself: %s", connection.peer, error)
        except Exception:  # noqa: BLE001  # logged; it may not end the node
            _log.exception("identify with %s failed unexpectedly", connection.peer)
        else:
            self._note(connection, info)

    async def receive_push(self, stream: Stream) -> None:
        """Serve a peer that says what has changed about it. Raises DeadlineExceeded."""
        timeout = self._limits.identify_timeout_s
        with trio.move_on_after(timeout):
            info = await self._identifier.receive_push(stream)
            if info is not None:
                self._note(stream.connection, info)
            return
        raise DeadlineExceeded(f"no whole push within {timeout:g} s", peer=stream.peer)

    async def tell_changes(self) -> None:
        """Tell all who are connected whenever what we say has changed. Runs until cancelled."""
        told = self._describe()
        while True:
            await self._changed.wait()
            await trio.sleep(self._limits.identify_push_delay_s)  # changes come in bursts
            self._changed = trio.Event()
            if self._describe() == told:
                continue
            told = self._describe()
            async with trio.open_nursery() as nursery:
                for connection in self._connections():
                    known = self._book.protocols(connection.peer)
                    if not known or PUSH_PROTOCOL in known:
                        nursery.start_soon(self._push, connection)

    async def _push(self, connection: Connection) -> None:
        try:
            with trio.fail_after(self._limits.identify_timeout_s):
                await self._identifier.push(connection)
        except (*_LINK_ERRORS, trio.TooSlowError) as error:
            _log.debug("%s was not told what changed: %s", connection.peer, error)
        except Exception:  # noqa: BLE001  # logged; it may not end the node
            _log.exception("telling %s what changed failed unexpectedly", connection.peer)

    def _note(self, connection: Connection, info: IdentifyInfo) -> None:
        peer, book = connection.peer, self._book
        if connection.closing:
            return
        if ip_group(connection.remote_address) is not None:
            book.distrust(info.addresses)
        book.add(peer, info.addresses, now=trio.current_time(), ttl=_IDENTIFIED_TTL_S)
        book.set_identified(
            peer,
            protocols=info.protocols or book.protocols(peer),
            agent=info.agent_version or book.agent(peer),
            protocol_version=info.protocol_version or book.protocol_version(peer),
        )
        if info.observed is not None and self._where.note_observed(
            info.observed, peer, where=connection.remote_address, inbound=connection.inbound
        ):
            self._changed.set()
        self._events.publish(PeerIdentified(peer, info))

    def _next_sequence(self) -> int:
        # Peers keep the record with the highest number, also across our restarts.
        self._last_sequence = max(self._last_sequence + 1, time.time_ns())
        return self._last_sequence
