"""Having the running node do something, or a node that is there for no more than this."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from . import _show

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from lattica._control import Request
    from lattica.node import AsyncNode

    from ._session import Session


def visit(session: Session, request: Request, label: str = "") -> Any:
    """Return what the running node answers; where none runs, what one of the command's own does.

    Progress is shown under `label`; without one, none is.
    """
    answers: list[Any] = []

    def progress() -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
        return _show.progress(session.output, label) if label else nullcontext(lambda _: None)

    async def work(node: AsyncNode) -> None:
        from ._foreground import carry_out

        with progress() as update:
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
        with progress() as update:
            return session.ask(request, update)

    answer = session.ask_or_run(ask, run)
    return answers[0] if answers else answer
