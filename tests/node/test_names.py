"""The newest version of a name among peers, some of whom say again what was true before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import trio

from lattica.dht._record_store import RecordStore
from lattica.models import Name, NameRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

    import lattica
    from lattica.cid import CID

    from .conftest import Lab


async def test_of_eight_peers_three_that_replay_an_old_version_take_nobody_back(
    lab: Lab, autojump_clock: MockClock
) -> None:
    ends: dict[str, trio.CancelScope] = {}

    async def run(
        home: str, *where: object, task_status: trio.TaskStatus[lattica.AsyncNode]
    ) -> None:
        with trio.CancelScope() as ends[home]:
            async with lab.node(home, *where) as node:
                task_status.started(node)
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        peers = [await nursery.start(run, "p0")]
        where = peers[0].addresses[0]
        peers += [await nursery.start(run, f"p{number}", where) for number in range(1, 8)]
        liars, honest = peers[5:], peers[:5]
        a = await nursery.start(run, "a", where)
        name = Name(a.id, "tiny")

        def hold(nodes: Sequence[lattica.AsyncNode], cid: CID) -> bool:
            kept = [
                node.dht._keeper.store.items(name.dht_key.encode(), now=time.time())
                for node in nodes
            ]
            return all(items and bytes(cid) in items[0].encoded for items in kept)

        first = await a.publish("tiny", {"w": np.ones(100)})
        await until(lambda: hold(peers, first.cid))
        for liar in liars:  # they say that they keep what is newer, and do not
            liar.dht._keeper._keep_all = lambda *_: True
        second = await a.publish("tiny", {"w": np.zeros(100)})
        await until(lambda: hold(honest, second.cid))
        assert hold(liars, first.cid)
        reader = await nursery.start(run, "reader", where)
        assert (await reader.dht.get(name.dht_key)).holders > len(liars), "they are outvoted"
        assert (await reader.latest(name)).cid == second.cid
        # It stays there when nobody but those three is left.
        for home in ("a", "p0", "p1", "p2", "p3", "p4"):
            ends[home].cancel()
        await trio.sleep(60)
        reader.dht._keeper.store = RecordStore(reader.dht._keeper.namespaces)  # it held it, too
        found = await reader.dht.get(name.dht_key)
        assert [NameRecord.decode(one.value).manifest for one in found.entries] == [first.cid]
        assert (await reader.latest(name)).cid == second.cid
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    """Wait until the DHT has brought something about."""
    for _ in range(600):
        if true():
            return
        await trio.sleep(1)
    raise AssertionError("it has not")
