"""The node for programs that do not use Trio: `with lattica.Node() as node`.

The node runs in a thread of its own, with its own event loop. Each method here is the method of
the same name of `AsyncNode`: it hands the call over, waits, and gives back what came of it. Ctrl-C
while waiting cancels the call over there, too. Progress callbacks run in the node's thread.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import trio

from lattica._nursery import private_nursery
from lattica._progress import shown
from lattica._sync_dht import BlockingDht
from lattica._sync_models import BlockingModelCalls
from lattica._sync_opened import BlockingObject
from lattica.errors import InvalidInput
from lattica.node import AsyncNode, open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from lattica._following import Versions
    from lattica._opened import OpenObject
    from lattica.cid import CID, HashFunction
    from lattica.identity import PeerId
    from lattica.models import Name, NameRecord, Rule
    from lattica.pubsub import Message, Subscription
    from lattica.results import (
        Announcement,
        Collected,
        Fetched,
        ObjectStat,
        Peer,
        Pong,
        Preview,
        ProgressCallback,
        RangeRead,
        Share,
        SharedObject,
        Status,
        StoreUsage,
        Verification,
    )
    from lattica.ticket import Ticket
    from lattica.transport import Multiaddr

_T = TypeVar("_T")


class InsideEventLoop(InvalidInput):
    """The blocking API was used where it would block an event loop."""

    code = "inside-event-loop"
    hint = "use `async with lattica.open_node(...) as node` there: it has the same methods"


class NodeClosed(InvalidInput):
    """The node is not running: its block has not begun, or has ended."""

    code = "node-closed"
    hint = "use the node inside `with lattica.Node(...) as node:`"


class Node(BlockingModelCalls):
    """A node in a thread of its own. Takes what `open_node` takes; use it with `with`.

    Where a method takes `progress`, it is a callable, or True for a display on stderr.
    """

    _daemon = False  # whether the interpreter may end without waiting for the node

    def __init__(self, home: Path | str | None = None, **options: Any) -> None:
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

    def _running(self) -> _Calls:
        if self._calls is None:
            raise NodeClosed("the node is not running")
        return self._calls

    def _now(self, function: Callable[[AsyncNode], _T]) -> _T:
        async def call(node: AsyncNode) -> _T:
            return function(node)

        return self._call(call)

    # the methods of AsyncNode

    @property
    def id(self) -> PeerId:
        """The name of this node."""
        return self._now(lambda node: node.id)

    @property
    def home(self) -> Path:
        """The folder that this node owns."""
        return self._now(lambda node: node.home)

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where others reach this node, each ending in `/p2p/<id>`, best first."""
        return self._now(lambda node: node.addresses)

    def status(self) -> Status:
        """Say who this node is and how it does."""
        return self._now(lambda node: node.status())

    def peers(self) -> list[Peer]:
        """Return the connections, the oldest first."""
        return self._now(lambda node: node.peers())

    def ping(
        self, peer: PeerId | Multiaddr | str, *, count: int = 3, timeout: float | None = None
    ) -> Pong:
        """Measure round trips to a peer; see `AsyncNode.ping`."""
        return self._call(lambda node: node.ping(peer, count=count, timeout=timeout))

    def share(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        hash_function: HashFunction | None = None,
        follow_symlinks: bool = False,
        symlinks: str = "refuse",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origin: str | None = None,
        chunk: str | None = None,
        base: Path | str | None = None,
        encrypt_to: Sequence[PeerId | str] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Share:
        """Share a file or directory in place; see `AsyncNode.share`."""
        options = {} if hash_function is None else {"hash_function": hash_function}
        with shown(progress, f"share {path}") as callback:
            return self._call(
                lambda node: node.share(
                    path,
                    name=name,
                    follow_symlinks=follow_symlinks,
                    symlinks=symlinks,
                    origin=origin,
                    include=include,
                    base=base,
                    exclude=exclude,
                    chunk=chunk,
                    encrypt_to=encrypt_to,
                    progress=callback,
                    timeout=timeout,
                    **options,
                )
            )

    def get(
        self,
        ref: Ticket | CID | str,
        destination: Path | str | None = None,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origins: Sequence[str] = (),
        use_origin: bool = False,
        base: Path | str | None = None,
        rule: Rule | None = None,
        overwrite: bool = False,
        unseal: bool | None = None,
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object, verified leaf by leaf; see `AsyncNode.get`."""
        with shown(progress, "get") as callback:
            return self._call(
                lambda node: node.get(
                    ref,
                    destination,
                    peers=peers,
                    include=include,
                    base=base,
                    exclude=exclude,
                    origins=origins,
                    use_origin=use_origin,
                    rule=rule,
                    overwrite=overwrite,
                    unseal=unseal,
                    progress=callback,
                    timeout=timeout,
                )
            )

    def cache(
        self,
        ref: Ticket | CID | str,
        *,
        pin: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object for the store to keep; see `AsyncNode.cache`."""
        with shown(progress, "get") as callback:
            return self._call(
                lambda node: node.cache(
                    ref, pin=pin, peers=peers, progress=callback, timeout=timeout
                )
            )

    def pin(self, ref: Ticket | CID | str, pinned: bool = True) -> None:
        """Keep an object when the store needs room, or no longer; see `AsyncNode.pin`."""
        self._call(lambda node: node.pin(ref, pinned))

    def usage(self) -> StoreUsage:
        """Say what the store uses of the disk."""
        return self._call(lambda node: node.usage())

    def stat(
        self, ref: Ticket | CID | str, *, ask_peers: bool = False, timeout: float | None = None
    ) -> ObjectStat:
        """Say all that is known of an object that is here; see `AsyncNode.stat`."""
        return self._call(lambda node: node.stat(ref, ask_peers=ask_peers, timeout=timeout))

    def collect_garbage(self) -> Collected:
        """Delete what no object needs; see `AsyncNode.collect_garbage`."""
        return self._call(lambda node: node.collect_garbage())

    def open(
        self, ref: Ticket | CID | str, path: str = "", *, peers: Sequence[Multiaddr | str] = ()
    ) -> BlockingObject:
        """Open an object, to read parts of its bytes or tensors; see `AsyncNode.open`.

        It stays open until `close`, the end of its `with` block, or of the node.
        """

        async def opening(node: AsyncNode) -> OpenObject:
            return await node.open(ref, path, peers=peers)

        return BlockingObject(self._call(opening), self._call_plain)

    def _call_plain(self, function: Callable[[], Awaitable[_T]]) -> _T:
        return self._call(lambda _node: function())

    def read(
        self,
        ref: Ticket | CID | str,
        offset: int,
        length: int,
        *,
        path: str = "",
        out: bytearray | memoryview | None = None,
        peers: Sequence[Multiaddr | str] = (),
        timeout: float | None = None,
    ) -> bytes | memoryview:
        """Return a part of an object, verified; see `AsyncNode.read`."""
        return self._call(
            lambda node: node.read(
                ref, offset, length, path=path, out=out, peers=peers, timeout=timeout
            )
        )

    def read_to(
        self,
        ref: Ticket | CID | str,
        offset: int,
        length: int | None,
        destination: Path | str,
        *,
        path: str = "",
        peers: Sequence[Multiaddr | str] = (),
        overwrite: bool = False,
        timeout: float | None = None,
    ) -> RangeRead:
        """Write a part of an object into a file; see `AsyncNode.read_to`."""
        return self._call(
            lambda node: node.read_to(
                ref,
                offset,
                length,
                destination,
                path=path,
                peers=peers,
                overwrite=overwrite,
                timeout=timeout,
            )
        )

    def preview(
        self,
        ref: Ticket | CID | str,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Preview:
        """Say what `get` would fetch; see `AsyncNode.preview`."""
        return self._call(
            lambda node: node.preview(
                ref, peers=peers, include=include, exclude=exclude, timeout=timeout
            )
        )

    def objects(self) -> list[SharedObject]:
        """Return what this node holds, oldest first."""
        return self._now(lambda node: node.objects())

    def verify(
        self,
        ref: Ticket | CID | str,
        *,
        repair: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Verification:
        """Hash an object on disk again, and mend it if asked to; see `AsyncNode.verify`."""
        with shown(progress, "verify") as callback:
            return self._call(
                lambda node: node.verify(
                    ref, repair=repair, peers=peers, progress=callback, timeout=timeout
                )
            )

    @property
    def dht(self) -> BlockingDht:
        """The methods of `AsyncNode.dht`, blocking."""
        return BlockingDht(self._call)

    @contextlib.contextmanager
    def subscribe(self, topic: str) -> Iterator[Iterator[Message]]:
        """Subscribe to a topic: `with node.subscribe(t) as messages: for message in messages`."""
        opened: SimpleQueue[Subscription | None] = SimpleQueue()
        done = trio.Event()

        async def hold(node: AsyncNode) -> None:
            async with node.subscribe(topic) as subscription:
                opened.put(subscription)
                await done.wait()

        with self._held(hold, opened, done) as subscription:
            yield self._each(subscription)

    @contextlib.contextmanager
    def follow(self, name: Name | str) -> Iterator[Iterator[NameRecord]]:
        """Hear of new versions: `with node.follow(name) as versions: for record in versions`."""
        opened: SimpleQueue[Versions | None] = SimpleQueue()
        done = trio.Event()

        async def hold(node: AsyncNode) -> None:
            async with node.follow(name) as versions:
                opened.put(versions)
                await done.wait()

        with self._held(hold, opened, done) as versions:
            yield self._each(versions)

    @contextlib.contextmanager
    def _held(
        self,
        hold: Callable[[AsyncNode], Awaitable[None]],
        opened: SimpleQueue[_T | None],
        done: trio.Event,
    ) -> Iterator[_T]:
        """Run `hold`, which puts what it opened into `opened` and waits for `done`."""
        _refuse_inside_event_loop()
        calls = self._running()
        # Settled without anything opened, even without having begun: whoever waits learns of it.
        held = _Call(hold, on_settled=lambda: opened.put(None))
        calls.begin(held)
        try:
            if (found := opened.get()) is not None:
                yield found
        finally:
            calls._soon(done.set)  # where the node has stopped, so has what it held
            held.wait()

    def _each(self, found: AsyncIterator[_T]) -> Iterator[_T]:
        async def following(_node: AsyncNode) -> _T:
            return await anext(found)

        while True:
            try:
                yield self._call(following)
            except StopAsyncIteration:
                return

    def broadcast(self, topic: str, data: bytes) -> int:
        """Send a signed message to all who subscribe to `topic`; see `AsyncNode.broadcast`."""
        return self._call(lambda node: node.broadcast(topic, data))

    def join_swarm(self, name: str) -> None:
        """Announce what is shared to a swarm, and hear its announcements."""
        self._call(lambda node: node.join_swarm(name))

    def announcements(self) -> list[Announcement]:
        """Return what peers of the joined swarms announced, newest last."""
        return self._now(lambda node: node.announcements())

    def serve_forever(self) -> None:
        """Serve until Ctrl-C, which ends the call without an error."""
        with contextlib.suppress(KeyboardInterrupt):
            self._call(lambda node: node.serve_forever())


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
        call = _Call(function)
        try:
            self.begin(call)
            return call.wait()
        except KeyboardInterrupt:
            # The call must not begin any more, or must have ended before we do.
            if self._soon(lambda: self._give_up(call)):
                with contextlib.suppress(Exception):
                    call.wait()
            raise

    def begin(self, call: _Call[_T]) -> None:
        """Start a call; `call.wait` gives what comes of it. Raises NodeClosed."""
        if not self._soon(lambda: self._begin(call)):
            raise NodeClosed("the node has stopped")

    def stop(self) -> None:
        self._soon(self.stopped.set)

    def _soon(self, function: Callable[[], object]) -> bool:
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
