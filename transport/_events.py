"""What happens on a mesh, told to whoever listens; a slow listener loses the oldest, nobody waits.

Events come per peer: a second connection to a connected peer is no event, nor is its end.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.errors import LatticaError
    from lattica.identity import PeerId

    from .connection import Connection
    from .identify import IdentifyInfo

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """The first connection to a peer is open."""

    connection: Connection

    @property
    def peer(self) -> PeerId:
        """Who it is."""
        return self.connection.peer


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """A connected peer has said who it is and what it speaks; again when that changes."""

    peer: PeerId
    info: IdentifyInfo


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The last connection to a peer has ended. `reason` says why, a goodbye included."""

    peer: PeerId
    reason: LatticaError | None


MeshEvent = PeerConnected | PeerIdentified | PeerDisconnected


class Broadcast:
    """Hands each event to each listener."""

    def __init__(self, backlog: int) -> None:
        """Make one that holds at most `backlog` events for each listener."""
        self._backlog = backlog
        self._listeners: set[_Listener] = set()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[trio.MemoryReceiveChannel[MeshEvent]]:
        """Receive the events that are published while the block runs."""
        outbox, inbox = trio.open_memory_channel[MeshEvent](self._backlog)
        listener = _Listener(outbox, inbox)
        self._listeners.add(listener)
        try:
            with outbox, inbox:
                yield inbox
        finally:
            self._listeners.discard(listener)

    def publish(self, event: MeshEvent) -> None:
        """Tell all listeners, without waiting."""
        for listener in self._listeners:
            listener.tell(event)


@dataclass(eq=False, slots=True)
class _Listener:
    outbox: trio.MemorySendChannel[MeshEvent]
    inbox: trio.MemoryReceiveChannel[MeshEvent]
    lost: int = 0

    def tell(self, event: MeshEvent) -> None:
        while True:
            try:
                self.outbox.send_nowait(event)
            except trio.WouldBlock:
                self.lost += 1
                if (
                    self.lost & self.lost - 1 == 0
                ):  # the 1st, 2nd, 4th, 8th, … so the log stays small
                    _log.warning("a reader of mesh events is slow: %d events lost", self.lost)
                self.inbox.receive_nowait()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            else:
                return
