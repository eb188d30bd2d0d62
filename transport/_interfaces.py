"""Which addresses this machine has: what 0.0.0.0 and `::` stand for when we tell others."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import ifaddr

from .multiaddr import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .multiaddr import IPAddress


def machine_addresses() -> list[IPAddress]:
    """Return the IP addresses of all interfaces, without those that need a zone to be dialled."""
    found: dict[IPAddress, None] = {}
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            ip = ipaddress.ip_address(text.partition("%")[0])
            if not (ip.version == 6 and ip.is_link_local):
                found[ip] = None
    return list(found)


def expand(
    bound: Iterable[Multiaddr], machine: Callable[[], list[IPAddress]] = machine_addresses
) -> list[Multiaddr]:
    """Return `bound` with unspecified addresses replaced by those of the interfaces.

    Those that reach farthest come first: public ones, then private, then loopback.
    """
    found: dict[Multiaddr, None] = {}
    for address in bound:
        if not address.is_unspecified:
            found[address] = None
            continue
        kind = address.parts[0][0]
        for ip in machine():
            if kind == f"ip{ip.version}":
                found[Multiaddr(((kind, str(ip)), *address.parts[1:]))] = None
    return sorted(found, key=lambda entry: (entry.is_loopback, entry.is_private))
