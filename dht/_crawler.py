"""Carrying out a crawl: several peers at once, each for its whole table; see `_crawl`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.transport import PeerInfo

from ._crawl import Crawl, Visit
from ._messages import Message, MessageType
from ._results import CrawledPeer, CrawlResult

if TYPE_CHECKING:
    import random

    from lattica.transport import Mesh

    from ._client import Client

AT_ONCE = 16  # peers being asked
ASK_SECONDS = 10.0  # for one answer


async def crawl(
    mesh: Mesh, client: Client, *, protocol: str, most: int, seconds: float, rng: random.Random
) -> CrawlResult:
    """See `Dht.crawl`."""
    started = trio.current_time()
    seeds = [PeerInfo(contact.peer, ()) for contact in client.table]
    walk = Crawl(client.table.local, seeds, most=most, rng=rng)
    busy = 0
    news = trio.Event()

    async def visit(each: Visit) -> None:
        nonlocal busy
        try:
            await _visit(client, walk, each)
        finally:
            busy -= 1
            news.set()

    with trio.move_on_after(seconds) as walking:
        async with private_nursery() as nursery:
            while True:
                while busy < AT_ONCE and (each := walk.next_visit()) is not None:
                    busy += 1
                    nursery.start_soon(visit, each)
                if not busy:
                    break
                await news.wait()
                news = trio.Event()
    peers = [_result(mesh, client, each) for each in walk.visits.values()]
    peers.sort(key=lambda each: (not each.reachable, str(each.peer)))
    return CrawlResult(
        protocol=protocol,
        peers=tuple(peers),
        reachable=sum(each.reachable for each in peers),
        complete=walk.complete and not walking.cancelled_caught,
        seconds=trio.current_time() - started,
    )


async def _visit(client: Client, walk: Crawl, visit: Visit) -> None:
    info = PeerInfo(visit.peer, tuple(visit.addresses))
    keys: list[bytes] | None = None
    waiting = [visit.peer.raw]
    while waiting:
        answer: Message | str = "timed out"
        with trio.move_on_after(ASK_SECONDS):
            answer = await client.ask(info, Message(MessageType.FIND_NODE, waiting.pop()))
        if isinstance(answer, str):
            visit.error = answer
            return
        visit.answered = True
        closer = [each.info for each in answer.closer]
        walk.hear(closer, visit)
        if keys is None:
            keys = waiting = walk.keys_of(visit, closer)


def _result(mesh: Mesh, client: Client, visit: Visit) -> CrawledPeer:
    connection = mesh.connected(visit.peer)
    rtt = None if connection is None else connection.rtt
    info = client.info_of(visit.peer, visit.addresses)
    return CrawledPeer(
        peer=visit.peer,
        addresses=info.addresses,
        reachable=visit.answered,
        error=visit.error,
        agent=mesh.book.agent(visit.peer) or "",
        contacts=len(visit.named),
        rtt_ms=None if rtt is None or math.isnan(rtt) else rtt * 1000,
    )
