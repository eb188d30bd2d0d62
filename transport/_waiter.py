"""Where one task waits to be woken."""

from __future__ import annotations

import trio


class Waiter:
    """A lone task needs no list of waiters, and no event made anew each time."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for `wake`. Nobody else may wait here meanwhile."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Wake whoever waits, if anybody does."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
