"""What a node does differently in a private swarm: whom it looks for, and where it is quiet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lattica.dht import DEFAULT_PROTOCOL
from lattica.private_swarm import SwarmKeyFile
from lattica.transport import SwarmKeyMismatch

if TYPE_CHECKING:
    from lattica._home import Home
    from lattica.config import Config
    from lattica.ticket import Ticket


def open_keys(settings: Config, home: Home) -> SwarmKeyFile | None:
    """*Slow.* Return the keys of the swarm that the settings name; None: in no private swarm.

    A key in the home is used unasked: a node that was made private must not go public because
    a flag was forgotten.

    Raises:
        SwarmKeyError: the file cannot be used.
    """
    named = settings.text("swarm_key")
    if named:
        return SwarmKeyFile(Path(named).expanduser().absolute())
    return SwarmKeyFile(home.swarm_key) if home.swarm_key.exists() else None


def private_dht(settings: Config, keys: SwarmKeyFile | None) -> str:
    """Return the DHT's protocol: each private swarm has routes of its own (spec/swarm.md §4)."""
    protocol = settings.text("dht_protocol")
    if keys is None or protocol != DEFAULT_PROTOCOL:
        return protocol
    return f"/lattica/swarm/{keys.ring.fingerprint}/kad/1.0.0"


def is_found_locally(settings: Config, keys: SwarmKeyFile | None) -> bool:
    """Whether to tell the local network who we are: in a private swarm only if that is asked."""
    asked = settings.settings["mdns"].origin != "default"
    return settings.flag("mdns") and (keys is None or asked)


def check_ticket(ticket: Ticket | None, swarm: str | None) -> None:
    """Refuse a ticket of another private swarm before anybody is dialled. SwarmKeyMismatch."""
    if ticket is None or ticket.swarm is None or ticket.swarm == swarm:
        return
    ours = f"this node is in {swarm}" if swarm else "this node is in none"
    raise SwarmKeyMismatch(f"the ticket is of the private swarm {ticket.swarm}, {ours}")
