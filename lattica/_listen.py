"""Where a node listens when nobody says: every interface, and the port it had last time.

Tickets hold addresses. A node that comes back on the port it had is found by them at once; on
another one, its peers would have to look it up.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica._home import Home

_ANY = {"ip4": (socket.AF_INET, "0.0.0.0"), "ip6": (socket.AF_INET6, "::")}  # noqa: S104, RUF100


def default_addresses(home: Home) -> list[Multiaddr]:
    """Return what to listen on: IPv4 and IPv6 where the machine has it, on one port if possible."""
    port = home.last_port()
    kinds = [kind for kind in _ANY if _can_bind(kind, 0)]
    if not all(_can_bind(kind, port) for kind in kinds):
        port = 0  # somebody else has taken it since
    return [Multiaddr.parse(f"/{kind}/{_ANY[kind][1]}/tcp/{port}") for kind in kinds]


def remember(home: Home, bound: Iterable[Multiaddr]) -> None:
    """Note the TCP port that was bound, for next time."""
    ports = [int(value) for address in bound for name, value in address.parts if name == "tcp"]
    if ports:
        home.remember_port(ports[0])


def _can_bind(kind: str, port: int) -> bool:
    family, host = _ANY[kind]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True
