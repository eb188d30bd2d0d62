"""Connections of a private swarm end when the key that they were proven by does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.private_swarm import Membership

    from .connection import Connection
    from .limits import Limits

_log = logging.getLogger(__name__)


async def end_with_keys(
    swarm: Membership,
    connections: Callable[[], list[Connection]],
    limits: Limits,
    nursery: trio.Nursery,
) -> None:
    """Let connections end whose key has: both ends then prove themselves by a newer one.

    Streams that are open may finish, so that a key is changed under running transfers; but not
    for ever, since whoever has the ended key alone is no member any more. Runs until cancelled.

    Args:
        swarm: says which keys are good.
        connections: returns those that are open.
        limits: how often to look, and how long streams may go on.
        nursery: where connections are closed.
    """
    ending: dict[Connection, float] = {}
    while True:
        await trio.sleep(limits.swarm_key_check_s)
        now, live = trio.current_time(), {key.secret for key in swarm.live()}
        ending = {one: since for one, since in ending.items() if not one.closed.is_set()}
        for connection in connections():
            if connection.key is None or connection.key.secret not in live:
                _log.info("the swarm key of the connection to %s has ended", connection.peer)
                ending[connection] = now
                connection.go_away()
        for connection, since in ending.items():
            if now - since >= limits.swarm_key_grace_s:
                nursery.start_soon(connection.aclose)
