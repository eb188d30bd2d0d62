"""What a DHT node looks like from outside. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._results import Result

if TYPE_CHECKING:
    from ._bootstrap import BootstrapStatus


@dataclass(frozen=True, slots=True)
class DhtStatus(Result):
    """What a DHT node looks like from outside.

    Attributes:
        protocol: the protocol ID; peers with another one are in another DHT.
        server: whether we answer others, and so stand in their tables.
        server_why: why, or why not, in a few words.
        peers: contacts in the routing table.
        bucket_sizes: how many of them share so many leading bits with us.
        joined: whether a lookup of ourselves has found our place.
        records: provider records that others left with us.
        values: values that others left with us.
        provided: keys that we provide.
        reprovide_lag: how late the most overdue of them is, in seconds.
        reprovide_alarm: whether that is so late that what others recorded will lapse if it goes on.
        own_values: values that we have put, and put again until they expire.
        clock_skew: by how many seconds our clock is ahead of those of the peers.
        bootstrap: each bootstrap address.
    """

    protocol: str
    server: bool
    server_why: str
    peers: int
    bucket_sizes: dict[int, int]
    joined: bool
    records: int
    values: int
    provided: int
    reprovide_lag: float
    reprovide_alarm: bool
    own_values: int
    clock_skew: float
    bootstrap: tuple[BootstrapStatus, ...]
