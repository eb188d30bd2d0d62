"""Who should keep the values of a key, and bringing values to them."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

import trio

from lattica.transport import PeerInfo

from ._keeper import requests_for
from ._keys import K, position
from ._namespaces import Item, Reason, ValueRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.identity import PeerId

    from ._asking import Asking
    from ._client import Client
    from ._clock import Clock
    from ._keeper import Keeper
    from ._messages import Message
    from ._requests import Reply

_log = logging.getLogger(__name__)

ASK_SECONDS = 10.0  # for peers to keep what one request brings
REST_SECONDS = 5.0  # for the others, once most have


class Placer:
    """Brings values to the k peers nearest to their keys, this node among them where it serves.

    Args:
        local: this node.
        server: says whether this node keeps values for others.
    """

    def __init__(
        self,
        local: PeerId,
        client: Client,
        keeper: Keeper,
        clock: Clock,
        *,
        server: Callable[[], bool],
    ) -> None:
        self._local, self._client, self._keeper, self._clock = local, client, keeper, clock
        self._server = server

    async def holders_of(self, key: bytes) -> list[PeerInfo]:
        """Return the others that should keep what stands under `key`, nearest first."""
        table = self._client.table
        if table.holds_everybody(trio.current_time()):  # a small network: nobody need be looked for
            return [PeerInfo(peer, ()) for peer in table.closest(position(key))]
        return (await self._client.find_node(key)).closest()

    def is_holder(self, key: bytes, peers: Sequence[PeerInfo]) -> bool:
        """Say whether this node is among the k nearest, those `peers` being the nearest others."""
        is_server = self._server()
        if not is_server or len(peers) < K:
            return is_server
        target = position(key)
        ours = position(self._local.raw) ^ target
        return ours < position(peers[K - 1].peer.raw) ^ target

    def keep(self, key: bytes, item: Item, peers: Sequence[PeerInfo]) -> bool:
        """Keep `item` here, if this node is among its holders; says whether it does now."""
        if not self.is_holder(key, peers):
            return False
        try:
            self._keeper.store.add(key, item, now=self._clock.now())
        except ValueRefused as error:
            _log.debug("not kept here: %s", error)
            return False
        return True

    def telling(self, key: bytes, items: Sequence[Item], peers: Sequence[PeerInfo]) -> Telling:
        """Return what puts `items` to all of `peers` once it runs."""
        return Telling(self, key, items, peers, requests_for(self._keeper.namespaces, key, items))

    async def tell_one(
        self, peer: PeerInfo, key: bytes, requests: Sequence[Message], items: Sequence[Item]
    ) -> tuple[str | None, int]:
        """Put to one peer. Returns why it did not take it, and a newer sequence that it holds.

        It waits for as long as the peer takes: give it a deadline.
        """
        for request in requests:
            answer = await self._client.ask(peer, request)
            if isinstance(answer, str):
                return answer, 0
            why, sequence = self.judge(key, answer, items)
            if why is not None:
                return why, sequence
        return None, 0

    def judge(self, key: bytes, answer: Message, items: Sequence[Item]) -> tuple[str | None, int]:
        """Return why `items` were not taken, None if they were, and a newer sequence held there."""
        if answer.refusal == Reason.STALE.value:
            return answer.refusal, self._newer_in(key, answer, items)
        if answer.refusal or (answer.record is None and not answer.brief):
            return answer.refusal or "no-record", 0
        return None, 0

    def asking(self) -> Asking:
        """Return what asks several peers together."""
        return self._client.asking()

    def _newer_in(self, key: bytes, answer: Message, items: Sequence[Item]) -> int:
        """Return the sequence of the valid entry in `answer` that stands where ours should."""
        if answer.record is None:
            return 0
        valid, _ = self._keeper.read(key, answer.record.value, now=self._clock.now())
        places = {item.place for item in items}
        return max(
            (each.entry.sequence for each in valid if each.entry and each.place in places),
            default=0,
        )


class Telling:
    """Values on their way to some peers: `run` brings them there.

    Attributes:
        peers: who is told.
        told: who of them took everything.
        refused: how many did not, by why.
        newer: the greatest sequence that one of them holds in a place that was put to; or 0.
    """

    def __init__(
        self,
        placer: Placer,
        key: bytes,
        items: Sequence[Item],
        peers: Sequence[PeerInfo],
        requests: Sequence[Message],
    ) -> None:
        """Use `Placer.telling`."""
        self.peers = peers
        self.told: list[PeerId] = []
        self.refused: Counter[str] = Counter()
        self.newer = 0
        self._placer, self._key, self._items = placer, key, items
        self._requests = {peer.peer: deque(requests) for peer in peers}
        self._asking = placer.asking()
        self._ends_at: float | None = None

    @property
    def waiting(self) -> int:
        """How many have been asked to take it, and have not said."""
        return len(self._asking)

    async def run(self, *, until_most: bool = False) -> None:
        """Tell all of them, and wait for the last, though not long once most have taken it.

        Most are more than half, as many as a reader asks at least (spec/dht.md §7.8), so that each
        reader meets one of them.

        Args:
            until_most: return as soon as most have taken it; another call goes on.
        """
        asking, most = self._asking, len(self.peers) // 2 + 1
        try:
            if self._ends_at is None:
                longest = max(map(len, self._requests.values()), default=0)
                self._ends_at = trio.current_time() + ASK_SECONDS * longest
                for peer in self.peers:
                    asking.start(peer, self._requests[peer.peer].popleft())
            while asking and not (until_most and len(self.told) >= most):
                missing = most - len(self.told)
                with trio.move_on_at(self._ends_at) as scope:
                    await asking.wait(missing if missing > 0 else len(asking))
                for peer, reply in asking.take():
                    self._hear(peer, reply)
                if scope.cancelled_caught:
                    self.refused["timed out"] += len(asking)
                    asking.close()
                elif missing > 0 and len(self.told) >= most:
                    self._ends_at = min(self._ends_at, trio.current_time() + REST_SECONDS)
        except BaseException:
            asking.close()
            raise

    def _hear(self, peer: PeerInfo, reply: Reply | str) -> None:
        if isinstance(reply, str):
            self.refused[reply] += 1
            return
        why, sequence = self._placer.judge(self._key, reply.message, self._items)
        if why is not None:
            self.refused[why] += 1
            self.newer = max(self.newer, sequence)
        elif self._requests[peer.peer]:
            self._asking.start(peer, self._requests[peer.peer].popleft())
        else:
            self.told.append(peer.peer)
