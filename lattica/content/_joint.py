"""One run for all who want the same: it lasts as long as anybody waits for it.

Two calls that fetch the same object to the same place would be in each other's way. So the second
waits for what the first began: both get its result, or its error. Who is cancelled, or raises while
it is told of progress, leaves; the last to leave ends the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

Result = TypeVar("Result")
Event = TypeVar("Event")


class _Caller(Generic[Event]):
    """Who waits, and how it is told of events."""

    def __init__(self, listener: Callable[[Event], object] | None) -> None:
        self.released = trio.Event()
        self.error: BaseException | None = None
        self._listener = listener

    def tell(self, event: Event) -> None:
        if self._listener is None or self.error is not None:
            return
        try:
            self._listener(event)
        except BaseException as error:  # noqa: BLE001  # the caller's own: raised there
            self.error = error
            self.released.set()


class Joint(Generic[Result, Event]):
    """A run that several callers wait for. `run` it once, in a task of its own.

    Attributes:
        over: set when the run has ended, whichever way.
    """

    def __init__(self) -> None:
        self.over = trio.Event()
        self._scope = trio.CancelScope()
        self._callers: list[_Caller[Event]] = []
        self._outcome: tuple[Result] | Exception | None = None

    @property
    def ending(self) -> bool:
        """Whether it is too late to join: everybody has left, or it is over."""
        return self._scope.cancel_called or self.over.is_set()

    async def run(self, work: Callable[[], Awaitable[Result]]) -> None:
        """Do `work`, and release all who wait. What it raises is for them to hear."""
        try:
            with self._scope:
                self._outcome = (await work(),)
        except Exception as error:  # noqa: BLE001  # raised at everybody who waits
            self._outcome = error
        finally:
            self.over.set()
            for caller in self._callers:
                caller.released.set()

    def tell(self, event: Event) -> None:
        """Pass an event on to all who wait."""
        for caller in list(self._callers):
            caller.tell(event)
        if all(caller.error is not None for caller in self._callers):
            self._scope.cancel()  # at once: nobody wants what comes next

    async def wait(
        self, listener: Callable[[Event], object] | None, missed: Iterable[Event] = ()
    ) -> Result:
        """Wait for the result. Cancelled, this caller leaves; the last to leave waits for the end.

        Args:
            listener: called with each event; what it raises is raised here.
            missed: events that it is told first.
        """
        caller = _Caller(listener)
        self._callers.append(caller)
        for event in missed:
            caller.tell(event)
        try:
            await caller.released.wait()
        finally:
            self._callers.remove(caller)
            if not self._callers:
                self._scope.cancel()
                with trio.CancelScope(shield=True):
                    await self.over.wait()
        if caller.error is not None:
            raise caller.error
        if self._outcome is None:
            raise trio.ClosedResourceError("what was to run it has been closed")
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome[0]
