"""Asking several peers at once, and waiting for enough of their answers.

A lookup, and a put, ask a handful of peers together. A task for each of them, started and woken,
would cost more than the asking itself. So where a stream to the peer is kept the request goes out
at once, and its answer is read where it arrives (`Requester.ask_now`); whoever asks waits in one
task, and is woken when as many answers are there as it needs. A task of its own has only who must
be connected first, or has let go of the stream meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self, TypeAlias

    from lattica.identity import PeerId
    from lattica.transport import PeerInfo

    from ._messages import Message
    from ._requests import Reply, Requester

    Outcome: TypeAlias = Reply | Exception  # what came of a request: its answer, or what went wrong

CLOSED = "closed"  # why nobody answers once the DHT has ended


class Asking:
    """Requests under way that belong together. Made by `Client.asking`; its block ends them.

    Args:
        requester: sends them.
        slowly: sends one that has to wait, and returns the answer, or in a word why there is none.
        conclude: notes what came of one on a kept stream, and when (on the wall clock) it was sent
            and came; returns the same.
        wall: the wall clock.
        tasks: where those run that have to wait.
    """

    def __init__(
        self,
        requester: Requester,
        slowly: Callable[[PeerInfo, Message], Awaitable[Reply | str]],
        conclude: Callable[[PeerId, Outcome, float, float], Reply | str],
        *,
        wall: Callable[[], float],
        tasks: trio.Nursery,
    ) -> None:
        self._requester, self._slowly, self._conclude = requester, slowly, conclude
        self._wall, self._tasks = wall, tasks
        self._under_way: dict[PeerId, Callable[[], None]] = {}  # how to give each up
        self._outcomes: list[tuple[PeerInfo, Callable[[], Reply | str]]] = []
        self._wanted = 0
        self._news = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up all that is under way."""
        for give_up in self._under_way.values():
            give_up()
        self._under_way.clear()

    def __len__(self) -> int:
        """How many have neither been answered nor failed."""
        return len(self._under_way)

    def start(self, peer: PeerInfo, request: Message) -> None:
        """Ask one more. Each peer has one request at a time."""
        asked = self._wall()

        def done(outcome: Outcome | None) -> None:
            if outcome is None:
                self._start_slowly(peer, request)
            else:
                answered = self._wall()
                self._note(peer, lambda: self._conclude(peer.peer, outcome, asked, answered))

        give_up = self._requester.ask_now(peer.peer, request, done)
        if give_up is None:
            self._start_slowly(peer, request)
        else:
            self._under_way[peer.peer] = give_up

    def give_up(self, peer: PeerId) -> None:
        """Wait no longer for the answer of `peer`."""
        self._under_way.pop(peer)()

    async def wait(self, count: int = 1) -> None:
        """Wait until `count` more have been answered or failed, or as many as there are."""
        self._wanted = count
        if self._under_way and len(self._outcomes) < count:
            self._news = trio.Event()
            await self._news.wait()

    def take(self) -> list[tuple[PeerInfo, Reply | str]]:
        """Return what came of those that have been answered or failed, each once."""
        outcomes, self._outcomes = self._outcomes, []
        return [(peer, conclude()) for peer, conclude in outcomes]

    def _start_slowly(self, peer: PeerInfo, request: Message) -> None:
        scope = trio.CancelScope()

        async def ask() -> None:
            reply: Reply | str = CLOSED
            try:
                with scope:
                    reply = await self._slowly(peer, request)
            finally:
                if not scope.cancel_called:
                    self._note(peer, lambda: reply)

        self._under_way[peer.peer] = scope.cancel
        try:
            self._tasks.start_soon(ask)
        except RuntimeError:  # the nursery has ended, and with it the DHT
            self._note(peer, lambda: CLOSED)

    def _note(self, peer: PeerInfo, conclude: Callable[[], Reply | str]) -> None:
        del self._under_way[peer.peer]
        self._outcomes.append((peer, conclude))
        if len(self._outcomes) >= self._wanted or not self._under_way:
            self._news.set()
