"""What the DHT is told that this node has: all that is held whole, and what is on its way.

A fetch serves what it has verified so far, so it is announced from its first leaves on: receivers
that know nothing but the CID then find each other, not only whoever shared it. When it ends without
the rest, what there is is still served, and announced until it is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lattica.content import ObjectState

if TYPE_CHECKING:
    from lattica.cid import CID
    from lattica.content import Exchange, Store
    from lattica.dht import Dht


class Providing:
    """Keeps the DHT's view of a node in step with its store and its fetches."""

    def __init__(self, dht: Dht, store: Store, exchange: Exchange) -> None:
        self._dht, self._store = dht, store
        self._parts: set[CID] = set()  # what is here in part
        exchange.watch_parts(self._part)

    async def tell(self) -> None:
        """Have the DHT told of all that is here and as it was, whole or in part, and no more."""
        for root in self._store.take_evicted():
            self._dht.stop_providing(root.multihash)
        if self._dht.server:  # a visitor would leave records that outlive it
            held, changed = await trio.to_thread.run_sync(self._held)
            for root in changed:
                self._dht.stop_providing(root.multihash)
            self._dht.keep_providing(held)

    def _held(self) -> tuple[list[bytes], list[CID]]:
        objects = self._store.objects()
        changed = [item.root for item in objects if item.state is ObjectState.CHANGED]
        self._parts &= {item.root for item in objects if item.state is ObjectState.PARTIAL}
        return [*self._store.provided(), *(root.multihash for root in self._parts)], changed

    def _part(self, root: CID, here: bool) -> None:
        """Note that a part of `root` is here, or that nothing of it is left."""
        if here:
            self._parts.add(root)
            if self._dht.server:
                self._dht.keep_providing([root.multihash])
        else:
            self._parts.discard(root)
            stored = self._store.object(root)
            if stored is None or stored.state is not ObjectState.COMPLETE:
                self._dht.stop_providing(root.multihash)
