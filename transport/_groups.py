"""Which network an address belongs to, as far as its owner had to pay for it. Pure.

A key costs nothing, so a thousand peers may be one machine. Addresses are dearer: whoever has one
has the few around it, and seldom many networks. So what must not be filled by one party counts
peers by *group*: of IPv4 the /24, of IPv6 the /48, which is what one customer gets (a /64 would be
one machine). Those who own more than that still own neighbouring groups: `wider_group`, the /16 or
/32, stands in for the network operator, whom only a routing table of the internet could name.

The group is of use only for an address that a connection really came from. A claim is free.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .multiaddr import IPAddress, Multiaddr

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@functools.lru_cache(maxsize=4096)  # parsing an IP address takes 5 µs, and answers have many
def ip_group(address: Multiaddr) -> bytes | None:
    """Return the group of a public address; peers of one group count as one party.

    An IPv6 address that contains an IPv4 one (mapped, 6to4, Teredo, NAT64) is in the group of that.
    Behind a relay everybody is in the relay's group: who runs relays could otherwise have any
    number of faces.

    Returns:
        3 bytes for IPv4, 6 for IPv6, a name for a relay whose address is not given. None where
        no group can be told, or none should: loopback, private networks, memory, names.
    """
    ip = address.ip
    if ip is None:
        return _relay_of(address)
    ip = _inner(ip)
    if not ip.is_global:
        return None
    return ip.packed[:3] if ip.version == 4 else ip.packed[:6]


def wider_group(group: bytes) -> bytes:
    """Return the /16 or /32 that a group of `ip_group` lies in; a relay is its own."""
    if len(group) == 3:
        return group[:2]
    return group[:4] if len(group) == 6 else group


def _inner(ip: IPAddress) -> IPAddress:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64:
        return ipaddress.IPv4Address(ip.packed[12:])
    return ip


def _relay_of(address: Multiaddr) -> bytes | None:
    names = [name for name, _ in address.parts]
    if "p2p-circuit" not in names or names[0] not in ("p2p", "p2p-circuit"):
        return None
    return (address.parts[0][1] or "p2p-circuit").encode()  # some do not say which relay
