"""Having the running node do something, or a node that is there for no more than this."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from . import _show

if TYPE_CHECKING:
    from lattica._control import Request
    from lattica.node import AsyncNode

    from ._session import Session


def visit(session: Session, request: Request, label: str = "") -> Any:
    """Return what the running node answers; where none runs, what one of the command's own does."""
    answers: list[Any] = []

    async def work(node: AsyncNode) -> None:
        from ._foreground import carry_out

        with _show.progress(session.output, label) as update:
            answers.append(await carry_out(node, request, update))
        await node.wait_unused()

    def run() -> None:
        from ._foreground import Interrupted, run_node

        try:
            run_node({**session.node_options, "dht_server": False}, work)
        except Interrupted:
            if not answers:
                raise KeyboardInterrupt from None

    def ask() -> Any:
        with _show.progress(session.output, label) as update:
            return session.ask(request, update)

    answer = session.ask_or_run(ask if label else partial(session.ask, request), run)
    return answers[0] if answers else answer
