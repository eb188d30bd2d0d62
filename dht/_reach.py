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
    return _reach(address) >= max(_reach(remote), _Reach.MACHINE)


class _Reach(enum.IntEnum):
    """From where an address leads to the same place."""

    NOWHERE = 0  # 0.0.0.0: to listen on
    MACHINE = 1  # loopback; so do in-memory addresses, which only tests have
    NETWORK = 2  # private: the local network
    WORLD = 3


@functools.lru_cache(maxsize=4096)  # parsing an IP address takes 5 µs, and an answer has many
def _reach(address: Multiaddr) -> _Reach:
    if address.is_unspecified:
        return _Reach.NOWHERE
    if address.is_loopback or address.parts[0][0] in ("memory", "unix"):
        return _Reach.MACHINE
    return _Reach.NETWORK if address.is_private else _Reach.WORLD
