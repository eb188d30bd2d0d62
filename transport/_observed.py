"""From where peers see us come, and what may be made of it. Pure, bounded.

One peer may say anything, so an address counts by how many peers reported it last, and is believed
when peers of `AGREEING_GROUPS` networks say the same (`ip_group`: keys alone are free). Then it is
announced, as what one of these two:

- where peers reached us: a connection that they opened, and so the address as they dialled it;
- our public IP address, with the ports that we listen on: what peers see of connections that we
  opened has a passing port. Right for machines in a cloud and behind a router that forwards the
  same port; elsewhere one attempt more of those who would not reach us otherwise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._groups import ip_group
from .multiaddr import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lattica.identity import PeerId

    from .multiaddr import IPAddress

AGREEING_GROUPS = 3
_MAX_WITNESSES = 32  # peers remembered per address; more do not make it truer
_MAX_CONFIRMED = 4


@dataclass(frozen=True, slots=True)
class _Report:
    group: bytes | None  # of the peer that says it
    inbound: bool  # of a connection that it opened


class ObservedAddresses:
    """Addresses of ours, and who reported each."""

    def __init__(self, limit: int) -> None:
        """Remember at most `limit` addresses, the ones reported last."""
        self._limit = limit
        self._witnesses: dict[Multiaddr, dict[PeerId, _Report]] = {}

    def add(
        self, address: Multiaddr, peer: PeerId, *, where: Multiaddr | None = None, inbound: bool
    ) -> None:
        """Note that `peer`, whom we reach at `where`, sees us at `address`.

        `inbound` says that it opened the connection of which it speaks.
        """
        # What it said before counts no more, or one peer could push out what all others say.
        for earlier in [other for other, seen in self._witnesses.items() if peer in seen]:
            del self._witnesses[earlier][peer]
            if not self._witnesses[earlier]:
                del self._witnesses[earlier]
        witnesses = self._witnesses.pop(address, {})
        if len(witnesses) < _MAX_WITNESSES:
            witnesses[peer] = _Report(None if where is None else ip_group(where), inbound)
        self._witnesses[address] = witnesses
        while len(self._witnesses) > self._limit:
            del self._witnesses[next(iter(self._witnesses))]

    def counts(self) -> dict[Multiaddr, int]:
        """Return how many peers report each address, the best witnessed first."""
        found = {address: len(peers) for address, peers in self._witnesses.items()}
        return dict(sorted(found.items(), key=lambda entry: -entry[1]))

    def public_ips(self) -> dict[IPAddress, int]:
        """Return how many networks see us at each public IP address, the best witnessed first."""
        groups: dict[IPAddress, set[bytes | None]] = {}
        for address, reports in self._witnesses.items():
            seen_by = {report.group for report in reports.values()} - {None}
            ip = _public_ip(address) if seen_by else None
            if ip is not None:
                groups.setdefault(ip, set()).update(seen_by)
        found = {ip: len(seen_by) for ip, seen_by in groups.items()}
        return dict(sorted(found.items(), key=lambda entry: -entry[1]))

    def confirmed(self, bound: Iterable[Multiaddr]) -> list[Multiaddr]:
        """Return the addresses to announce besides those of our interfaces; see the module.

        `bound` is what we listen on.
        """
        found: dict[Multiaddr, None] = {}
        for address, reports in self._witnesses.items():
            reached_by = {report.group for report in reports.values() if report.inbound} - {None}
            if len(reached_by) >= AGREEING_GROUPS and ip_group(address) is not None:
                found[address] = None
        listening = list(bound)
        for ip in agreed_ips(self.public_ips()):
            for address in listening:
                here, port = address.ip, address.parts[1:]
                if here is None or here.version != ip.version or here.is_loopback:
                    continue
                if not here.is_global:
                    found[Multiaddr(((address.parts[0][0], str(ip)), *port))] = None
        return [address for address in found if not _is_relayed(address)][:_MAX_CONFIRMED]


def agreed_ips(public_ips: Mapping[IPAddress, int]) -> list[IPAddress]:
    """Return those of `ObservedAddresses.public_ips` that several networks, and most, agree on.

    At most one of IPv4 and one of IPv6.
    """
    found: list[IPAddress] = []
    for version in (4, 6):
        counts = {ip: count for ip, count in public_ips.items() if ip.version == version}
        found += [
            ip
            for ip, count in counts.items()
            if count >= AGREEING_GROUPS and 2 * count > sum(counts.values())
        ]
    return found


@functools.lru_cache(maxsize=1024)  # each answer of identify has us look at all of them
def _public_ip(address: Multiaddr) -> IPAddress | None:
    ip = address.ip
    return ip if ip is not None and ip.is_global and not _is_relayed(address) else None


def _is_relayed(address: Multiaddr) -> bool:
    return any(name == "p2p-circuit" for name, _ in address.parts)
