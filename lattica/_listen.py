"""Where a node listens when nobody says: every interface, and the ports it had last time.

Tickets hold addresses. A node that comes back on the ports it had is found by them at once; on
others, its peers would have to look it up.
"""

from __future__ import annotations

import socket
from itertools import zip_longest
from typing import TYPE_CHECKING

from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica._home import Home

_ANY = {"ip4": (socket.AF_INET, "0.0.0.0"), "ip6": (socket.AF_INET6, "::")}  # noqa: S104, RUF100


def default_addresses(home: Home) -> list[Multiaddr]:
    """Return what to listen on: IPv4, and IPv6 where the machine has it, each on its last port."""
    found = []
    for (kind, (_, host)), last in zip_longest(_ANY.items(), home.last_ports()[: len(_ANY)]):
        if _can_bind(kind, 0):
            port = last if last and _can_bind(kind, last) else 0  # taken by somebody else since
            found.append(Multiaddr.parse(f"/{kind}/{host}/tcp/{port}"))
    return found


def remember(home: Home, bound: Iterable[Multiaddr]) -> None:
    """Note the TCP ports that were bound, for next time."""
    ports: dict[str, int] = {}
    for address in bound:
        (kind, _), *rest = address.parts
        for name, value in rest:
            if name == "tcp":
                ports.setdefault(kind, int(value))
    if ports:
        home.remember_ports(tuple(ports[kind] for kind in _ANY if kind in ports))


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
