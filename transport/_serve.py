"""Handlers: what this node does with the streams that others open.

A handler serves strangers, so nothing it raises gets past here. What the peer or the network did
wrong is noted at debug level, anything else is a bug of ours and logged with its traceback; either
way that one stream is reset, and the node lives on. A handler that returns has its stream closed.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica.errors import InvalidInput, LatticaError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lattica.identity import PeerId

    from ._stream import Stream
    from .connection import Connection

    Handler = Callable[[Stream], Awaitable[None]]

_log = logging.getLogger(__name__)
_FEW = 8  # handlers of a peer that has few
MAX_PROTOCOL_BYTES = 256  # of a protocol name
_FAULTS_OF_OTHERS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)


class HandlerTaken(InvalidInput):
    """The protocol has a handler already."""

    code = "handler-taken"
    hint = "remove the other handler first, or use another protocol name"


class HandlerLimit(LimitExceeded):
    """As many streams are being served, of a peer or of all, as may be; the new one is reset."""

    code = "handler-limit"


class Handlers:
    """Handlers by protocol, and how many run for whom."""

    def __init__(self, per_peer: int, in_all: int) -> None:
        """Serve at most `per_peer` streams of a peer at once, and `in_all` of all peers."""
        self._per_peer, self._in_all = per_peer, in_all
        self._by_protocol: dict[str, Handler] = {}
        self._running: Counter[PeerId] = Counter()
        self._count = 0
        self._scopes: dict[Connection, set[trio.CancelScope]] = {}
        self.refused: Counter[str] = Counter()  # by the reason's code

    def add(self, protocol: str, handler: Handler) -> None:
        """Serve `protocol` with `handler`. Raises HandlerTaken, InvalidInput."""
        if protocol in self._by_protocol:
            raise HandlerTaken(f"{protocol} has a handler already")
        if (
            not protocol
            or len(protocol.encode()) > MAX_PROTOCOL_BYTES
            or not protocol.isprintable()
        ):
            raise InvalidInput(f"{protocol!r} is not a protocol name")
        self._by_protocol[protocol] = handler

    def get(self, protocol: str) -> Handler | None:
        """Return who serves `protocol`."""
        return self._by_protocol.get(protocol)

    def remove(self, protocol: str) -> None:
        """Serve `protocol` no more; streams that are being served go on."""
        self._by_protocol.pop(protocol, None)

    @property
    def protocols(self) -> frozenset[str]:
        """What is served now."""
        return frozenset(self._by_protocol)

    @property
    def running(self) -> int:
        """How many streams are being served."""
        return self._count

    def __contains__(self, protocol: object) -> bool:
        return protocol in self._by_protocol

    def wind_up(self, connection: Connection, grace_s: float) -> None:
        """Let handlers of `connection`, which is gone, finish within `grace_s` seconds.

        What the peer sent before it left may be all that a handler needs; but one that waits for
        something else would never notice.
        """
        for scope in self._scopes.get(connection, ()):
            scope.deadline = trio.current_time() + grace_s

    async def serve(self, stream: Stream) -> None:
        """Serve one stream to its end. Raises nothing but Cancelled."""
        peer = stream.peer
        handler = self._by_protocol.get(stream.protocol)
        if handler is None:  # removed since it was agreed on
            stream.reset()
            return
        try:
            self._check_room(peer)
        except HandlerLimit as error:
            self.refused[error.code] += 1
            _log.debug("%s from %s refused: %s", stream.protocol, peer, error)
            stream.reset()
            return
        scope = trio.CancelScope()
        scopes = self._scopes.setdefault(stream.connection, set())
        scopes.add(scope)
        self._running[peer] += 1
        self._count += 1
        try:
            await _run(handler, stream, scope)
        finally:
            self._count -= 1
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]
            scopes.discard(scope)
            if not scopes:
                self._scopes.pop(stream.connection, None)

    def _check_room(self, peer: PeerId) -> None:
        if self._running[peer] >= self._per_peer:
            raise HandlerLimit(f"limit `handlers_per_peer` is {self._per_peer}", peer=peer)
        few = self._running[peer] < _FEW
        if self._count >= (self._in_all if few else self._in_all - self._in_all // 4):
            raise HandlerLimit(f"limit `handlers` is {self._in_all}", peer=peer)


async def _run(handler: Handler, stream: Stream, scope: trio.CancelScope) -> None:
    try:
        with scope:
            await handler(stream)
            await stream.aclose()
        if scope.cancelled_caught:
            stream.reset()
    except Exception as error:  # noqa: BLE001  # whatever a stranger triggers ends here
        stream.reset()
        _note(stream, error)
    except BaseExceptionGroup as group:
        # The handler's tasks were cancelled, and one of them failed over it.
        stream.reset()
        failures, others = group.split(Exception)
        if failures is not None:
            _note(stream, failures)
        assert others is not None
        raise others from None
    except BaseException:
        stream.reset()
        raise


def _note(stream: Stream, error: Exception) -> None:
    if isinstance(error, ExceptionGroup):
        bugs: Exception | None = error.split(_FAULTS_OF_OTHERS)[1]
    else:
        bugs = None if isinstance(error, _FAULTS_OF_OTHERS) else error
    if bugs is None:
        _log.debug("%s with %s failed: %s", stream.protocol, stream.peer, error, exc_info=error)
    else:
        _log.error(
            "handler of %s failed on a stream of %s", stream.protocol, stream.peer, exc_info=error
        )
