"""An internet in memory: public addresses, and homes behind a NAT, over a `MemoryNetwork`.

Addresses are `/ip4/…/tcp/…`. Whoever is public is reached at its address; whoever is behind a NAT
has a private one, comes out under the address of its router with a port of chance, and cannot be
reached from outside, except at ports that its router forwards.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.dht import Dht, open_dht
from lattica.errors import Unreachable
from lattica.identity import Identity
from lattica.transport import Listener, MemoryNetwork, Mesh, Multiaddr, RawLink, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class NoRoute(Unreachable):
    """Nobody can be reached at that address from there."""

    code = "no-route"


@dataclass
class Internet:
    """Who listens where."""

    network: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(latency=0.01))
    listening: dict[str, Multiaddr] = field(default_factory=dict)  # by "ip:port"
    ports: int = 50_000

    def host(self, ip: str, *, router: str | None = None, forwards: bool = False) -> Host:
        """Return a host's transport; `router` is the public address of its NAT, if it has one."""
        return Host(self, ip, router, forwards)


class Host:
    """One host's way into the internet; see `transport._links.Transport`."""

    def __init__(self, internet: Internet, ip: str, router: str | None, forwards: bool) -> None:
        self.internet, self.ip, self.router, self.forwards = internet, ip, router, forwards
        self._inner = internet.network.transport(ip)
        self.host = ip

    def can_dial(self, address: Multiaddr) -> bool:
        return [name for name, _ in address.parts[:2]] == ["ip4", "tcp"]

    def can_listen(self, address: Multiaddr) -> bool:
        return self.can_dial(address)

    async def dial(self, address: Multiaddr) -> RawLink:
        where = self.internet.listening.get(f"{address.parts[0][1]}:{address.parts[1][1]}")
        if where is None:
            raise NoRoute(f"no route to {address}")
        link = await self._inner.dial(where)
        self.internet.ports += 1
        seen_as = Multiaddr.parse(f"/ip4/{self.router or self.ip}/tcp/{self.internet.ports}")
        link.remote_address = address.without_peer()
        assert link._peer is not None
        link._peer.remote_address = seen_as
        return link

    async def listen(self, address: Multiaddr) -> Listener:
        listener = await self._inner.listen(Multiaddr.parse("/memory/0"))
        port = address.parts[1][1]
        if self.router is None:
            self.internet.listening[f"{self.ip}:{port}"] = listener.addresses[0]
        elif self.forwards:
            self.internet.listening[f"{self.router}:{port}"] = listener.addresses[0]
        listener.addresses = [Multiaddr.parse(f"/ip4/{self.ip}/tcp/{port}")]
        return listener


@asynccontextmanager
async def open_internet_node(
    internet: Internet,
    number: int,
    ip: str,
    *,
    router: str | None = None,
    forwards: bool = False,
    bootstrap: tuple[Multiaddr, ...] = (),
) -> AsyncIterator[tuple[Mesh, Dht]]:
    async with (
        open_mesh(
            Identity(number.to_bytes(32, "big")),
            listen=[Multiaddr.parse(f"/ip4/{ip}/tcp/4001")],
            transports=[internet.host(ip, router=router, forwards=forwards)],
        ) as mesh,
        open_dht(mesh, bootstrap=bootstrap, rng=random.Random(number)) as dht,
    ):
        yield mesh, dht
