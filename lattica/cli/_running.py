"""`lattica up` and `bootstrap`: commands that are a node, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _show
from ._command import NODE, command
from ._session import EXIT_INTERRUPTED, Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lattica._control import Request
    from lattica.node import AsyncNode

    from ._output import Output


@command(*NODE, "announce", "compress", "quota", "dht_protocol", "swarm", "lines", "quiet")
def up(session: Session) -> None:
    """Run a node: serve what is shared, hear what others share."""
    _serve(session, _show.node_is_up, join_swarm=True)


@command(*NODE, "announce", "dht_protocol", "lines", "quiet")
def bootstrap(session: Session) -> None:
    """Run a node that others join the network through.

    Prints its addresses, which others give as --bootstrap.
    """
    _serve(session, _show.bootstrap_is_up, join_swarm=False, dht_server=True)


def _serve(
    session: Session,
    announce: Callable[[Output, dict[str, Any]], None],
    *,
    join_swarm: bool,
    dht_server: bool | None = None,
) -> None:
    async def come_up(node: AsyncNode) -> None:
        if join_swarm:
            await node.join_swarm(session.config.text("swarm"))
        announce(session.output, node.status().to_json())

    run_until_stopped(session, come_up, dht_server=dht_server)


def run_until_stopped(
    session: Session,
    begin: Callable[[AsyncNode], Awaitable[None]],
    *,
    dht_server: bool | None = None,
) -> None:
    """Run a node that serves; being told to stop is its proper end, once it has begun."""
    from ._foreground import Interrupted, run_node

    begun = False

    async def work(node: AsyncNode) -> None:
        nonlocal begun
        await begin(node)
        begun = True
        await node.serve_forever()

    try:
        run_node({**session.node_options, "dht_server": dht_server}, work)
    except Interrupted:
        session.output.say("stopped")
        if not begun:
            raise SystemExit(EXIT_INTERRUPTED) from None


def ask(session: Session, request: Request, label: str) -> Any:
    with _show.progress(session.output, label) as update:
        return session.ask(request, update)
