"""All that is known of one object: what it is, where it lies, and who else holds it now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.content import ObjectState, ask_holder
from lattica.errors import LatticaError
from lattica.results import ObjectHolder, ObjectStat
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.cid import CID
    from lattica.content import Store, StoredObject
    from lattica.dht import Dht
    from lattica.transport import Mesh

_LOOK_SECONDS = 10.0  # for providers, and for their answers
_MAX_ASKED = 64  # peers
_ASKED_AT_ONCE = 16


async def stat_of(
    store: Store, stored: StoredObject, holders: Iterable[ObjectHolder] | None
) -> ObjectStat:
    """Return what the store knows of an object."""
    extent = await trio.to_thread.run_sync(store.extent, stored.root)
    leaves_here = extent.leaves
    if stored.state is ObjectState.PARTIAL:
        held = await trio.to_thread.run_sync(store.availability, stored.root)
        leaves_here = 0 if held is None else int.from_bytes(held.bitmap, "little").bit_count()
    return ObjectStat(
        cid=stored.root,
        name=stored.name,
        path=stored.path,
        kind=stored.kind,
        size=stored.size,
        state=stored.state,
        added=stored.added,
        pinned=stored.pinned,
        files=extent.files,
        leaves=extent.leaves,
        leaves_here=leaves_here,
        index_blocks=extent.index_blocks,
        index_bytes=extent.index_bytes,
        peers=None if holders is None else tuple(holders),
    )


async def find_holders(
    mesh: Mesh, dht: Dht, cid: CID, known: Iterable[PeerInfo]
) -> list[ObjectHolder]:
    """Ask the peers that are connected, those in `known` and those that the DHT names.

    At most 64 are asked, for ten seconds in all. Those that hold all of it come first.
    """
    found: list[ObjectHolder] = []
    asked = {mesh.peer_id}
    slots = trio.CapacityLimiter(_ASKED_AT_ONCE)

    async def ask(info: PeerInfo) -> None:
        async with slots:
            holder = await ask_holder(mesh, info, cid)
        if holder is not None:
            found.append(ObjectHolder(holder.peer, holder.leaves is None, holder.leaves))

    with trio.move_on_after(_LOOK_SECONDS):
        async with private_nursery() as nursery:

            def take_up(info: PeerInfo) -> None:
                if info.peer not in asked and len(asked) <= _MAX_ASKED:
                    asked.add(info.peer)
                    nursery.start_soon(partial(ask, info))

            for info in [*known, *(PeerInfo(link.peer, ()) for link in mesh.connections())]:
                take_up(info)
            try:
                async for info in dht.find_providers(cid.multihash):
                    take_up(info)
            except LatticaError:  # there is no DHT to ask; who is connected may hold it still
                pass
    return sorted(found, key=lambda holder: (not holder.whole, -(holder.leaves or 0)))
