"""What a node does differently in a private swarm: whom it looks for, and where it is quiet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lattica.dht import DEFAULT_PROTOCOL
from lattica.private_swarm import SwarmKeyFile
from lattica.transport import SwarmKeyMismatch, TcpTransport
from lattica.transport.pnet import FILE_HEAD, PskTransport, read_psk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica._home import Home
    from lattica.config import Config
    from lattica.ticket import Ticket
    from lattica.transport import Transport


def open_keys(settings: Config, home: Home) -> SwarmKeyFile | None:
    """*Slow.* Return the keys of the swarm that the settings name; None: in no private swarm.

    A key in the home is used unasked: a node that was made private must not go public because
    a flag was forgotten. A key of libp2p's own form is not for this, see `open_psk`.

    Raises:
        SwarmKeyError: the file cannot be used.
    """
    path = _key_file(settings, home)
    return None if path is None or _is_psk(path) else SwarmKeyFile(path)


def open_psk(settings: Config, home: Home) -> bytes | None:
    """*Slow.* Return the pre-shared key that the settings name, if it is libp2p's. PskError."""
    path = _key_file(settings, home)
    return read_psk(path) if path is not None and _is_psk(path) else None


def under_psk(
    transports: Sequence[Transport] | None, psk: bytes | None
) -> Sequence[Transport] | None:
    """Return the transports of a node with that pre-shared key: every one is put under it."""
    if psk is None:
        return transports
    ways = [TcpTransport()] if transports is None else transports
    return [PskTransport(way, psk) for way in ways]


def _key_file(settings: Config, home: Home) -> Path | None:
    named = settings.text("swarm_key")
    if named:
        return Path(named).expanduser().absolute()
    # A link that leads nowhere, to a stick that is not plugged in say, is a key all the same.
    return home.swarm_key if os.path.lexists(home.swarm_key) else None


def _is_psk(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(FILE_HEAD)) == FILE_HEAD.encode()
    except OSError:
        return False  # whoever reads it as the other kind says what is wrong


def private_dht(settings: Config, keys: SwarmKeyFile | None) -> str:
    """Return the DHT's protocol: each private swarm has routes of its own (spec/swarm.md §4)."""
    protocol = settings.text("dht_protocol")
    if keys is None or protocol != DEFAULT_PROTOCOL:
        return protocol
    return f"/lattica/swarm/{keys.ring.fingerprint}/kad/1.0.0"


def is_found_locally(settings: Config, *, private: bool) -> bool:
    """Whether to tell the local network who we are: in a private swarm only if that is asked."""
    asked = settings.settings["mdns"].origin != "default"
    return settings.flag("mdns") and (not private or asked)


def check_ticket(ticket: Ticket | None, swarm: str | None) -> None:
    """Refuse a ticket of another private swarm before anybody is dialled. SwarmKeyMismatch."""
    if ticket is None or ticket.swarm is None or ticket.swarm == swarm:
        return
    ours = f"this node is in {swarm}" if swarm else "this node is in none"
    raise SwarmKeyMismatch(f"the ticket is of the private swarm {ticket.swarm}, {ours}")
