"""The control socket, from the running node's side. What is on it: `_control`."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from lattica._control import MAX_REQUEST, ControlError, decode_request, describe, encode_line
from lattica._home import short_socket_path
from lattica._nursery import private_nursery
from lattica.errors import LatticaError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from lattica._control import Request
    from lattica.results import Progress, ProgressCallback

    Handler = Callable[[Request, ProgressCallback], Awaitable[Any]]

MAX_CLIENTS = 32  # commands served at once; the next one is told to wait
_REQUEST_TIMEOUT_S = 10.0
_PROGRESS_INTERVAL_S = 0.1
_MAX_NEWS = 64  # kept for a command that reads slowly

logger = logging.getLogger(__name__)


class TooManyCommands(LimitExceeded):
    """As many commands use the running node as it serves at once."""

    code = "too-many-commands"
    hint = "wait until one of them has ended"


class ControlServer:
    """Answers commands while its block lasts. Made by `open_control`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._clients = 0
        self._idle = trio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no command uses this node."""
        await self._idle.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self._clients == 0:
            self._idle = trio.Event()
        self._clients += 1
        try:
            async with stream:
                # The command that goes away in the middle has had enough of the answer.
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._answer(stream)
        finally:
            self._clients -= 1
            if self._clients == 0:
                self._idle.set()

    async def _answer(self, stream: trio.SocketStream) -> None:
        progress = _Mailbox()
        async with private_nursery() as nursery:
            nursery.start_soon(_send_progress, stream, progress)
            line = await self._last_line(stream, progress)
            # The nursery ends when what is being sent has left: half a line would spoil the next.
            progress.close()
        await stream.send_all(line)

    async def _last_line(self, stream: trio.SocketStream, progress: _Mailbox) -> bytes:
        try:
            if self._clients > MAX_CLIENTS:
                error = TooManyCommands(f"{MAX_CLIENTS} commands use the running node")
                return encode_line({"error": describe(error)})
            request = await _read_request(stream)
            result = await _while_connected(
                stream, functools.partial(self._handler, request, progress.put)
            )
            return encode_line({"result": result})
        except LatticaError as error:
            return encode_line({"error": describe(error)})
        except trio.BrokenResourceError:
            raise
        except Exception:
            # One command's bug must not end the node that others use. It is told, and logged.
            logger.exception("a command failed")
            bug = LatticaError("the running node failed; its log has the traceback")
            return encode_line({"error": describe(bug)})


@contextlib.asynccontextmanager
async def open_control(path: Path, handler: Handler) -> AsyncIterator[ControlServer]:
    """Offer the control socket at `path` until the block ends.

    The caller owns the home: a socket that lies there already was left by a node that died.
    """
    server = ControlServer(handler)
    if not hasattr(socket, "AF_UNIX"):
        yield server  # nobody can come; everything else works
        return
    with _bound_socket(path) as bound:
        async with private_nursery() as nursery:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
            nursery.start_soon(trio.serve_listeners, server._serve, [listener])
            yield server
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _bound_socket(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        with short_socket_path(path) as address:
            bound.bind(address)
        try:
            path.chmod(0o600)  # before listen: nobody can have connected yet
            bound.listen(MAX_CLIENTS)
            bound.setblocking(False)
            yield bound
        finally:
            path.unlink(missing_ok=True)


class _Mailbox:
    """Holds the newest progress only: a command that reads slowly misses steps, not the end.

    What carries news is kept beside it, the latest few.
    """

    def __init__(self) -> None:
        self._changed = trio.Event()
        self._latest: Progress | None = None
        self._news: deque[Progress] = deque(maxlen=_MAX_NEWS)
        self.closed = trio.Event()

    def put(self, progress: Progress) -> None:
        if progress.news:
            self._news.append(progress)
        else:
            self._latest = progress
        self._changed.set()

    def close(self) -> None:
        self.closed.set()
        self._changed.set()

    async def take(self) -> Progress | None:
        """Wait for what is new; None once there is nothing and never will be."""
        while not (self._news or self._latest or self.closed.is_set()):
            self._changed = trio.Event()
            await self._changed.wait()
        if self._news:
            return self._news.popleft()
        latest, self._latest = self._latest, None
        return latest


async def _send_progress(stream: trio.SocketStream, mailbox: _Mailbox) -> None:
    while (progress := await mailbox.take()) is not None:
        try:
            await stream.send_all(encode_line({"progress": progress.to_json()}))
        except trio.BrokenResourceError:
            return  # _raise_when_gone ends the call
        with trio.move_on_after(_PROGRESS_INTERVAL_S):
            await mailbox.closed.wait()


async def _while_connected(stream: trio.SocketStream, call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what `call` returns; the peer that goes away cancels it: BrokenResourceError."""
    async with private_nursery() as nursery:
        nursery.start_soon(_raise_when_gone, stream)
        try:
            return await call()
        finally:
            nursery.cancel_scope.cancel()


async def _raise_when_gone(stream: trio.SocketStream) -> None:
    await stream.receive_some(1)  # a second request is as good as a goodbye
    raise trio.BrokenResourceError("the command went away")


async def _read_request(stream: trio.SocketStream) -> Request:
    buffer = bytearray()
    with trio.move_on_after(_REQUEST_TIMEOUT_S):
        while (end := buffer.find(b"\n")) < 0:
            if len(buffer) > MAX_REQUEST:
                raise ControlError(f"a request of more than {MAX_REQUEST} bytes")
            data = await stream.receive_some(MAX_REQUEST)
            if not data:
                raise trio.BrokenResourceError("the command went away")
            buffer += data
        return decode_request(bytes(buffer[:end]))
    raise ControlError(f"no request within {_REQUEST_TIMEOUT_S:.0f} s")
