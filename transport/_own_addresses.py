"""Where this node can be reached: what is bound, what it was told to say, how others see it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ._interfaces import expand
from ._observed import ObservedAddresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lattica.identity import PeerId

    from .multiaddr import IPAddress, Multiaddr

_log = logging.getLogger(__name__)
_EXPANSION_TTL_S = 30.0  # how long the list of this machine's interfaces is taken for true


class OwnAddresses:
    """The addresses of one node, without `/p2p/…`.

    Attributes:
        announced: what it was told to say; empty when it is found out.
        observed: from where peers see it come.
    """

    def __init__(
        self,
        announced: Iterable[Multiaddr],
        *,
        bound: Callable[[], list[Multiaddr]],
        observed: int,
    ) -> None:
        """Begin with nothing observed.

        Args:
            announced: what to say, instead of what is found out.
            bound: returns what is listened on, 0.0.0.0 and `::` as such.
            observed: addresses that peers report, remembered at most.
        """
        self.announced = tuple(announced)
        self.observed = ObservedAddresses(observed)
        self._bound = bound
        self._expanded: tuple[float, list[Multiaddr]] | None = None
        self._confirmed: list[Multiaddr] = []

    def all(self) -> list[Multiaddr]:
        """Return what to tell others: public first, loopback last, what peers agree on ahead."""
        own = self.own()
        if self.announced or not self._confirmed:
            return own
        return [*(address for address in self._confirmed if address not in own), *own]

    def own(self) -> list[Multiaddr]:
        """Return what this machine knows by itself, whatever others say."""
        if self.announced:
            return list(self.announced)
        now = trio.current_time()
        if self._expanded is None or now - self._expanded[0] > _EXPANSION_TTL_S:
            self._expanded = now, self._expand()
        return list(self._expanded[1])

    def interface_ips(self) -> frozenset[IPAddress]:
        """Return the IP addresses that are listened on, those of 0.0.0.0 and `::` one by one."""
        bound = self._expand() if self.announced else self.own()
        return frozenset(address.ip for address in bound if address.ip is not None)

    def note_observed(
        self, address: Multiaddr, peer: PeerId, *, where: Multiaddr, inbound: bool
    ) -> bool:
        """Note where a peer sees us; say whether that changes what peers agree on.

        See `ObservedAddresses.add`.
        """
        self.observed.add(address, peer, where=where, inbound=inbound)
        before, self._confirmed = self._confirmed, self.observed.confirmed(self._bound())
        return self._confirmed != before

    def _expand(self) -> list[Multiaddr]:
        bound = self._bound()
        try:
            return expand(bound)
        except OSError as error:  # out of descriptors, for instance
            _log.warning("cannot list the interfaces of this machine: %s", error)
            known = self._expanded[1] if self._expanded is not None else bound
            return [address for address in known if not address.is_unspecified]
