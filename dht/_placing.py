"""Who should keep the values of a key, and bringing values to them."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.transport import PeerInfo

from ._keeper import requests_for
from ._keys import K, position
from ._namespaces import Item, Reason, ValueRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lattica.identity import PeerId

    from ._client import Client
    from ._clock import Clock
    from ._keeper import Keeper
    from ._messages import Message

_log = logging.getLogger(__name__)

ASK_SECONDS = 10.0  # for one peer to keep a value
SLOW_SECONDS = 1.0  # so long are the last few waited for, once most have taken it


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

    async def tell_all(
        self, key: bytes, items: Sequence[Item], peers: Sequence[PeerInfo]
    ) -> tuple[list[PeerId], Counter[str], int]:
        """Put `items` to all; returns who took them, why others did not, and a newer sequence."""
        told: list[PeerId] = []
        refused: Counter[str] = Counter()
        newer = 0
        requests = requests_for(self._keeper.namespaces, key, items)
        waiting = len(peers)

        async def tell(peer: PeerInfo) -> None:
            nonlocal newer, waiting
            why, sequence = await self.tell_one(peer, key, requests, items)
            if why is None:
                told.append(peer.peer)
            else:
                refused[why] += 1
                newer = max(newer, sequence)
            waiting -= 1
            if 2 * len(told) > len(peers):
                nursery.cancel_scope.deadline = min(
                    nursery.cancel_scope.deadline, trio.current_time() + SLOW_SECONDS
                )

        async with private_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(tell, peer)
        if waiting:
            refused["slow"] += waiting
        return told, refused, newer

    async def tell_one(
        self, peer: PeerInfo, key: bytes, requests: Sequence[Message], items: Sequence[Item]
    ) -> tuple[str | None, int]:
        """Put to one peer. Returns why it did not take it, and a newer sequence that it holds."""
        for request in requests:
            answer: Message | str = "timed out"
            with trio.move_on_after(ASK_SECONDS):
                answer = await self._client.ask(peer, request)
            if isinstance(answer, str):
                return answer, 0
            if answer.refusal == Reason.STALE.value:
                return answer.refusal, self._newer_in(key, answer, items)
            if answer.refusal or answer.record is None:
                return answer.refusal or "no-record", 0
        return None, 0

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
