"""From where an address leads to the same place. Pure.

`127.0.0.1` is another machine for everybody, and `192.168.1.7` another one in every home. So an
address is told to a peer, and believed of one, only where both ends mean the same by it
(spec/dht.md §4.3). That spares others dead ends. It spares us worse: who could name any address
would make this node knock at doors that are closed to him, those of its own machine and network.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.transport import Multiaddr


def leads_there(address: Multiaddr, remote: Multiaddr) -> bool:
    """Say whether both ends of a link mean the same by `address`.

    Args:
        address: what one end tells the other.
        remote: where the other end is, as the one that asks this sees it.
    """
    return reach(address) >= needed_at(remote)


def needed_at(remote: Multiaddr) -> Reach:
    """Return the reach that an address needs to lead to the same place from `remote` as here."""
    return max(reach(remote), Reach.MACHINE)


class Reach(enum.IntEnum):
    """From where an address leads to the same place."""

    NOWHERE = 0  # 0.0.0.0: to listen on
    MACHINE = 1  # loopback; so do in-memory addresses, which only tests have
    NETWORK = 2  # private: the local network
    WORLD = 3


@functools.lru_cache(maxsize=4096)  # parsing an IP address takes 5 µs, and an answer has many
def reach(address: Multiaddr) -> Reach:
    """Return from where `address` leads to the same place."""
    if address.is_unspecified:
        return Reach.NOWHERE
    if address.is_loopback or address.parts[0][0] in ("memory", "unix"):
        return Reach.MACHINE
    return Reach.NETWORK if address.is_private else Reach.WORLD
