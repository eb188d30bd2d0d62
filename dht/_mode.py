"""Server or client, chosen by whether others can reach this node (spec/dht.md §1.2). Pure.

A node that nobody can reach should not stand in the tables of others: each lookup that meets it
there loses a moment. But a network of two, a laptop and a server on a desk or a fresh bootstrap
node have no witnesses to be reachable, and must work at once. So the presumption is for the server:
every node that listens is one, until there is evidence that it is out of reach.

- **Out of reach**: peers of several networks, and most of all that say, see us at one public IP
  address that no interface of ours has. We are behind a NAT; and nobody on the public internet has
  come to us for an hour.
- **Within reach**: somebody came to us from a public address, directly; or peers see us at an
  address of our own; or our user has said at which public address we are.
- **Not asked**: while no peer on the public internet is connected, its opinion does not matter. A
  local network that has lost its uplink, or never had one, is a DHT of servers.

No single party decides: networks count (`ip_group`), not keys, and who lies that we are out of
reach is disproved by the next who comes in. A mode holds for a minute at least, for each change is
told to all who are connected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.transport import agreed_ips

if TYPE_CHECKING:
    from collections.abc import Mapping, Set as AbstractSet

    from lattica.transport import IPAddress

VISITED_SECONDS = 3600.0  # so long a visit from the internet says that others can come, too
HOLD_SECONDS = 60.0  # between two changes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a node can know about its reachability.

    Attributes:
        listens: whether it listens anywhere.
        announces_public: whether its user has named a public address of it.
        public_peers: whether any peer on the public internet is connected.
        public_ips: at which public addresses it is seen, and by how many networks.
        interface_ips: the addresses that it listens on.
    """

    listens: bool
    announces_public: bool = False
    public_peers: bool = False
    public_ips: Mapping[IPAddress, int] = field(default_factory=dict)
    interface_ips: AbstractSet[IPAddress] = frozenset()


class Mode:
    """Whether to answer others.

    Attributes:
        is_server: the mode.
        why: what speaks for it, in a few words for people.
    """

    def __init__(self, *, listens: bool) -> None:
        self.is_server = listens
        self.why = "it listens" if listens else "it does not listen"
        self._visited_at = self._changed_at = -math.inf
        self._next_look = math.inf

    def note_visit(self, now: float) -> None:
        """Note that a peer has come in from the public internet, directly."""
        self._visited_at = now

    def choose(self, evidence: Evidence, *, now: float) -> bool:
        """Look at the evidence; says whether the mode has changed."""
        is_server, why = self._judge(evidence, now)
        lapses_at = self._visited_at + VISITED_SECONDS
        self._next_look = lapses_at if now < lapses_at else math.inf
        if is_server == self.is_server:
            self.why = why
            return False
        if now < self._changed_at + HOLD_SECONDS:
            self._next_look = self._changed_at + HOLD_SECONDS
            return False
        self.is_server, self.why, self._changed_at = is_server, why, now
        return True

    def next_look(self) -> float:
        """Return when to look again, whether or not anything has happened; infinity: no need."""
        return self._next_look

    def _judge(self, evidence: Evidence, now: float) -> tuple[bool, str]:
        if not evidence.listens:
            return False, "it does not listen"
        if evidence.announces_public:
            return True, "it announces a public address"
        if now < self._visited_at + VISITED_SECONDS:
            return True, "a peer came in from the internet"
        if not evidence.public_peers:
            return True, "no peer on the internet is connected"
        seen_at = agreed_ips(evidence.public_ips)
        if not seen_at:
            return self.is_server, self.why
        if evidence.interface_ips.isdisjoint(seen_at):
            return False, f"it is behind a NAT: others see it at {seen_at[0]}"
        return True, "others see it at an address of its own"
