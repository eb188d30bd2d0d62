"""Serving on the mesh, or not, as the mode says and as long as it does.

`_mode` judges the evidence; here it is gathered, and the handler of the protocol comes and goes.
The mesh tells everybody who is connected of that by identify push.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from lattica.transport import PeerConnected, ip_group

from ._mode import Evidence, Mode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lattica.transport import Connection, Mesh, Stream

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the evidence: connections come by the hundred


class Role:
    """What one node is in one DHT: server or client.

    Args:
        fixed: the role, where it was decided; None: it follows the evidence.
        serve: what answers on an inbound stream.
    """

    def __init__(
        self,
        mesh: Mesh,
        protocol: str,
        *,
        fixed: bool | None,
        serve: Callable[[Stream], Awaitable[None]],
    ) -> None:
        self._mesh, self._protocol, self._serve = mesh, protocol, serve
        self._fixed, self._is_serving = fixed, False
        self._mode = Mode(listens=bool(mesh.listen_addresses))

    @property
    def is_server(self) -> bool:
        """Whether we answer others, and so stand in their tables."""
        return self._mode.is_server if self._fixed is None else self._fixed

    @property
    def why(self) -> str:
        """What speaks for it, in a few words."""
        return self._mode.why if self._fixed is None else "it was told so"

    def take_up(self) -> None:
        """Serve, or serve no more."""
        if self.is_server != self._is_serving:
            self._set_serving(self.is_server)

    def lay_down(self) -> None:
        """Serve no more: this is the end."""
        if self._is_serving:
            self._set_serving(False)

    async def run(self) -> None:
        """Follow the evidence until cancelled; at once back where the role is fixed."""
        if self._fixed is not None:
            return
        async with self._mesh.events() as events:
            for connection in self._mesh.connections():
                self._note(connection)
            looks_at, looked_at = trio.current_time(), -math.inf
            while True:
                with trio.move_on_at(looks_at):
                    event = await events.receive()
                    if isinstance(event, PeerConnected):
                        self._note(event.connection)
                    looks_at = min(looks_at, max(looked_at + LOOK_SECONDS, trio.current_time()))
                    continue
                self._choose()
                looked_at, looks_at = trio.current_time(), self._mode.next_look()

    def _note(self, connection: Connection) -> None:
        if _is_visit(connection):
            self._mode.note_visit(trio.current_time())

    def _choose(self) -> None:
        if self._mode.choose(self._evidence(), now=trio.current_time()):
            role = "server" if self._mode.is_server else "client"
            _log.info("this node is a %s of the DHT from now on: %s", role, self._mode.why)
            self.take_up()

    def _set_serving(self, is_serving: bool) -> None:
        self._is_serving = is_serving
        if is_serving:
            self._mesh.handle(self._protocol, self._serve)
        else:
            self._mesh.unhandle(self._protocol)

    def _evidence(self) -> Evidence:
        mesh = self._mesh
        peers = (ip_group(connection.remote_address) for connection in mesh.connections())
        return Evidence(
            listens=bool(mesh.listen_addresses),
            announces_public=any(ip_group(address) is not None for address in mesh.announced),
            public_peers=any(group is not None for group in peers),
            public_ips=mesh.public_ips,
            interface_ips=mesh.interface_ips,
        )


def _is_visit(connection: Connection) -> bool:
    """Say whether somebody on the internet has come to us, not through a relay."""
    where = connection.remote_address
    relayed = any(name == "p2p-circuit" for name, _ in where.parts)
    return connection.inbound and not relayed and ip_group(where) is not None
