"""What a simulated DHT node has under way: lookups, and values being told to their holders.

`Walk` does what `lattica.dht._client.Client.walk` does, `Telling` what `_placing` does, with
callbacks where those wait.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lattica.dht._client import LOOKUP_SECONDS
from lattica.dht._keeper import requests_for
from lattica.dht._lookup_report import Outcome
from lattica.dht._placing import ASK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.dht._lookup import Lookup
    from lattica.dht._messages import Message
    from lattica.dht._namespaces import Item
    from lattica.identity import PeerId
    from lattica.transport import PeerInfo

    from ._dht_node import SimulatedDht
    from ._simulation import Timer


class Walk:
    """A lookup on its way: sends what it wants sent, tells it what came; then calls `done`."""

    def __init__(
        self,
        node: SimulatedDht,
        lookup: Lookup,
        request: Message,
        done: Callable[[Lookup], None],
        *,
        found: Callable[[Sequence[PeerInfo]], None] = lambda _: None,
        heard: Callable[[PeerId, Message], None] = lambda _peer, _answer: None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin to ask; what the callbacks mean stands at `lattica.dht._client.Client.walk`."""
        self._node, self._lookup, self._request = node, lookup, request
        self._done, self._found, self._heard, self._enough = done, found, heard, enough
        self._ends_at = node.host.now + LOOKUP_SECONDS
        self._under_way: dict[PeerId, Callable[[], None]] = {}
        self._timer: Timer | None = None
        self._wakes_at = float("inf")
        self._is_over = False
        self._step()

    def _step(self) -> None:
        node, lookup = self._node, self._lookup
        for info in lookup.next_requests(node.host.now):
            then = partial(self._answered, info.peer)
            self._under_way[info.peer] = node.ask(info.peer, self._request, then)
        if lookup.finished:
            self._finish()
            return
        wakes_at = min(lookup.next_timeout(), self._ends_at)
        if wakes_at < self._wakes_at:
            if self._timer is not None:
                self._timer.cancel()
            self._wakes_at = wakes_at
            self._timer = node.host.at(wakes_at, self._wake)

    def _answered(self, peer: PeerId, answer: Message | str) -> None:
        now = self._node.host.now
        self._under_way.pop(peer, None)
        if isinstance(answer, str):
            self._node.note_failure(peer)
            self._lookup.fail(peer, answer, now=now)
        else:
            self._node.meet(peer)
            closer = [each.info for each in answer.closer]
            providers = [each.info for each in answer.providers]
            lookup, group = self._lookup, self._node.world.group(peer)
            self._found(lookup.receive(peer, closer, providers, now=now, group=group))
            if lookup.path_of(peer) is not None:
                self._heard(peer, answer)
            if self._enough():
                lookup.stop(now)
        self._step()

    def _wake(self) -> None:
        now = self._node.host.now
        self._wakes_at, self._timer = float("inf"), None
        for late in self._lookup.handle_timeout(now):
            self._node.note_failure(late)
            self._under_way.pop(late)()
        if now >= self._ends_at:
            self._lookup.stop(now, Outcome.OUT_OF_TIME)
        self._step()

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        for cancel in self._under_way.values():
            cancel()
        node = self._node
        if self._lookup.report().complete:
            node.table.looked_up(self._lookup.target, now=node.host.now)
        self._done(self._lookup)


class Telling:
    """Puts on their way: values told to some peers; then calls `done` with how many took them."""

    def __init__(
        self,
        node: SimulatedDht,
        peers: Sequence[PeerId],
        key: bytes,
        items: Sequence[Item],
        done: Callable[[int], None],
    ) -> None:
        self._waiting, self._took, self._done = len(peers), 0, done
        requests = requests_for(node.keeper.namespaces, key, items)
        for peer in peers:
            _Told(node, peer, requests, self._settle)
        if not peers:
            done(0)

    def _settle(self, took: bool) -> None:
        self._waiting -= 1
        self._took += took
        if not self._waiting:
            self._done(self._took)


class _Told:
    """Requests to one peer, one after the other, until one is not taken."""

    def __init__(
        self,
        node: SimulatedDht,
        peer: PeerId,
        requests: Sequence[Message],
        done: Callable[[bool], None],
    ) -> None:
        self._node, self._peer, self._requests, self._done = node, peer, list(requests), done
        self._next()

    def _next(self) -> None:
        request = self._requests.pop(0)
        self._cancel = self._node.ask(self._peer, request, self._answered)
        self._timer = self._node.host.after(ASK_SECONDS, self._give_up)

    def _answered(self, answer: Message | str) -> None:
        self._timer.cancel()
        if isinstance(answer, str):
            self._node.note_failure(self._peer)
            self._done(False)
            return
        self._node.meet(self._peer)
        if answer.refusal or (answer.record is None and not answer.brief):
            self._done(False)
        elif self._requests:
            self._next()
        else:
            self._done(True)

    def _give_up(self) -> None:
        self._cancel()
        self._answered("timed out")
