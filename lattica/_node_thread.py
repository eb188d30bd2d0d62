"""A node in a thread of its own, with its own event loop, and calls handed over to it.

A call waits in the caller's thread until it is done over there, and gives back what came of it.
Ctrl-C while waiting cancels it over there, too. Progress callbacks run in the node's thread.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import trio

from lattica._nursery import private_nursery
from lattica.errors import InvalidInput
from lattica.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from typing import Unpack

    from lattica.node import AsyncNode, NodeOptions

_T = TypeVar("_T")


class InsideEventLoop(InvalidInput):
    """The blocking API was used where it would block an event loop."""

    code = "inside-event-loop"
    hint = "use `async with lattica.open_node(...) as node` there: it has the same methods"


class NodeClosed(InvalidInput):
    """The node is not running: its block has not begun, or has ended."""

    code = "node-closed"
    hint = "use the node inside `with lattica.Node(...) as node:`"


class NodeThread:
    """What a blocking node is made of: it begins and ends with its block, and takes calls."""

    _daemon = False  # whether the interpreter may end without waiting for the node

    def __init__(self, home: Path | str | None = None, **options: Unpack[NodeOptions]) -> None:
        self._open = partial(open_node, home, **options)
        self._thread: threading.Thread | None = None
        self._calls: _Calls | None = None

    def __enter__(self) -> Self:
        _refuse_inside_event_loop()
        ready: Future[_Calls] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="lattica-node", daemon=self._daemon
        )
        self._thread.start()
        try:
            self._calls = ready.result()
        except BaseException:
            # It failed, or Ctrl-C came first: then it must not stay once it is up.
            ready.add_done_callback(_stop_if_started)
            self._thread.join()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        calls, self._calls = self._calls, None
        if calls is not None and self._thread is not None:
            calls.stop()
            self._thread.join()

    def _run(self, ready: Future[_Calls]) -> None:
        try:
            trio.run(self._serve, ready)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: Future[_Calls]) -> None:
        async with self._open() as node, private_nursery() as nursery:
            calls = _Calls(node, nursery)
            ready.set_result(calls)
            try:
                await calls.stopped.wait()
            finally:
                calls.stopped.set()  # however it ends, nothing begins any more
            nursery.cancel_scope.cancel()

    def _call(self, function: Callable[[AsyncNode], Awaitable[_T]]) -> _T:
        _refuse_inside_event_loop()
        return self._running().call(function)

    def _call_plain(self, function: Callable[[], Awaitable[_T]]) -> _T:
        return self._call(lambda _node: function())

    def _running(self) -> _Calls:
        if self._calls is None:
            raise NodeClosed("the node is not running")
        return self._calls

    def _now(self, function: Callable[[AsyncNode], _T]) -> _T:
        async def call(node: AsyncNode) -> _T:
            return function(node)

        return self._call(call)

    @contextlib.contextmanager
    def _iterating(
        self, subscribe: Callable[[AsyncNode], AbstractAsyncContextManager[AsyncIterator[_T]]]
    ) -> Iterator[Iterator[_T]]:
        """Hold open what `subscribe` returns while the block runs, and give what comes of it."""
        _refuse_inside_event_loop()
        calls = self._running()
        opened: SimpleQueue[AsyncIterator[_T] | None] = SimpleQueue()
        done = trio.Event()

        async def hold(node: AsyncNode) -> None:
            async with subscribe(node) as found:
                opened.put(found)
                await done.wait()

        # Settled without anything opened, even without having begun: whoever waits learns of it.
        held = _Call(hold, on_settled=lambda: opened.put(None))
        calls.begin(held)
        try:
            if (found := opened.get()) is not None:
                yield self._each(found)
        finally:
            calls.soon(done.set)  # where the node has stopped, so has what it held
            held.wait()

    def _each(self, found: AsyncIterator[_T]) -> Iterator[_T]:
        while True:
            try:
                yield self._call_plain(lambda: anext(found))
            except StopAsyncIteration:
                return


class _Call(Generic[_T]):
    """One call on its way to the node's loop, and what came of it.

    What came of it travels through a SimpleQueue: Ctrl-C may interrupt the waiting at any point,
    and a Future's locks, taken in Python code, could then stay locked.
    """

    def __init__(
        self,
        function: Callable[[AsyncNode], Awaitable[_T]],
        on_settled: Callable[[], object] = lambda: None,
    ) -> None:
        self.function, self._on_settled = function, on_settled
        self.scope = trio.CancelScope()
        self.begun = self.given_up = False
        self._done: SimpleQueue[None] = SimpleQueue()
        self._result: list[_T] = []
        self._error: Exception = NodeClosed("the node stopped before the call was done")

    async def carry_out(self, node: AsyncNode) -> None:
        """Do it, in the node's thread."""
        try:
            with self.scope:
                self._result.append(await self.function(node))
        except Exception as error:  # noqa: BLE001  # it is the caller's, and raised over there
            self._error = error
        finally:
            self.settle()

    def settle(self) -> None:
        """Let `wait` return."""
        self._done.put(None)
        self._on_settled()

    def wait(self) -> _T:
        """Wait until the call is settled, and return or raise what came of it."""
        self._done.get()
        if self._result:
            return self._result[0]
        raise self._error


class _Calls:
    """Hands calls from other threads to the node's loop."""

    def __init__(self, node: AsyncNode, nursery: trio.Nursery) -> None:
        self._node, self._nursery = node, nursery
        self._token = trio.lowlevel.current_trio_token()
        self.stopped = trio.Event()

    def call(self, function: Callable[[AsyncNode], Awaitable[_T]]) -> _T:
        """Carry out a call, and return or raise what came of it. Raises NodeClosed."""
        call = _Call(function)
        try:
            self.begin(call)
            return call.wait()
        except KeyboardInterrupt:
            # The call must not begin any more, or must have ended before we do.
            if self.soon(lambda: self._give_up(call)):
                with contextlib.suppress(Exception):
                    call.wait()
            raise

    def begin(self, call: _Call[_T]) -> None:
        """Start a call; `call.wait` gives what comes of it. Raises NodeClosed."""
        if not self.soon(lambda: self._begin(call)):
            raise NodeClosed("the node has stopped")

    def stop(self) -> None:
        """Let the node end."""
        self.soon(self.stopped.set)

    def soon(self, function: Callable[[], object]) -> bool:
        """Have the node's thread call `function`; False where the node has ended."""
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            return False
        return True

    # in the node's thread

    def _begin(self, call: _Call[_T]) -> None:
        if self.stopped.is_set():
            call.settle()  # the nursery may be closed by now
        elif not call.given_up:
            call.begun = True
            self._nursery.start_soon(call.carry_out, self._node)

    def _give_up(self, call: _Call[_T]) -> None:
        call.given_up = True
        if call.begun:
            call.scope.cancel()
        else:
            call.settle()


def _stop_if_started(ready: Future[_Calls]) -> None:
    if ready.exception() is None:
        ready.result().stop()


def _refuse_inside_event_loop() -> None:
    """Blocking here would stop every task of the caller's loop."""
    import asyncio

    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise InsideEventLoop("lattica.Node blocks, and an asyncio loop runs in this thread")
    if trio.lowlevel.in_trio_run():
        raise InsideEventLoop("lattica.Node blocks, and a Trio loop runs in this thread")
