"""Peers in the node's own network, told apart by machine. Pure.

`ip_group` takes a network for one party. In the node's own that would be wrong: a cluster may be
one network, and all of the swarm. So there each machine counts by itself, as the one address that
it has of IPv4, or its /64; and this machine not at all, but for who comes through a relay on it. An
attacker in the same network has to have a machine there for every two contacts of a bucket, as a
stranger has to have a network.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from lattica.transport import ip_group

if TYPE_CHECKING:
    from lattica.transport import IPAddress, Multiaddr


@functools.lru_cache(maxsize=4096)  # as `ip_group`: the same few peers answer again and again
def group_beside(address: Multiaddr, ours: frozenset[IPAddress]) -> bytes | None:
    """Return the group of an address, as `ip_group`, for a node whose own addresses are `ours`."""
    group, ip = ip_group(address), address.ip
    if group is None or ip is None or any(name == "p2p-circuit" for name, _ in address.parts):
        return group
    if ip in ours:
        return None
    size = 3 if ip.version == 4 else 6
    if not any(own.version == ip.version and own.packed[:size] == group for own in ours):
        return group
    return ip.packed if ip.version == 4 else ip.packed[:8]
