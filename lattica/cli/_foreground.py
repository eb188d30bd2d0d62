"""A node of the command's own: runs in the foreground, ends in peace on Ctrl-C and SIGTERM.

The first signal stops the work; the node then says goodbye to its peers and closes its store. One
more ends that, too, and one more the process.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from lattica import _requests
from lattica._nursery import private_nursery
from lattica.node import AsyncNode, open_node

from ._session import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from lattica._control import Request
    from lattica.results import Progress

_DRAIN_S = 8.0  # how long a node that is told to end waits for commands that still use it


class Interrupted(Exception):
    """The user, or the system, ended the command."""


class _Stop:
    """Turns signals into cancelled scopes, the innermost first."""

    def __init__(self) -> None:
        self._scopes: list[trio.CancelScope] = []
        self.asked = False

    async def watch(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self.asked = True
                live = [scope for scope in self._scopes if not scope.cancel_called]
                if not live:
                    os._exit(EXIT_INTERRUPTED)
                live[-1].cancel()

    @contextmanager
    def scope(self) -> Iterator[trio.CancelScope]:
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                yield scope
            finally:
                self._scopes.remove(scope)


def run_node(
    options: Mapping[str, Any],
    work: Callable[[AsyncNode], Awaitable[None]],
) -> None:
    """Run a node with `options` of `open_node` while `work` lasts.

    Raises:
        Interrupted: a signal came before `work` had ended.
    """
    trio.run(_run, options, work)


async def _run(options: Mapping[str, Any], work: Callable[[AsyncNode], Awaitable[None]]) -> None:
    stop = _Stop()
    async with private_nursery() as nursery:
        await nursery.start(stop.watch)
        with stop.scope():
            async with open_node(**options) as node:
                with stop.scope():
                    await work(node)
                with stop.scope(), trio.move_on_after(_DRAIN_S):
                    await node.wait_unused()
        nursery.cancel_scope.cancel()
    if stop.asked:
        raise Interrupted


async def carry_out(
    node: AsyncNode, request: Request, on_progress: Callable[[dict[str, Any]], object]
) -> Any:
    """Do what a command asks on its own node, as the running node would do it."""

    def show(progress: Progress) -> None:
        on_progress(progress.to_json())

    return await _requests.handle(node, request, show)
