"""Ours in a swarm: nodes that share a file, and nodes that get it once and serve it from then on.

usage: python -m benchmarks.roles.swarm share FOLDER IP[:PORT] PATH [BOOTSTRAP]
       python -m benchmarks.roles.swarm get FOLDER IP[:PORT] REF [BOOTSTRAP]
       python -m benchmarks.roles.swarm watch FOLDER IP[:PORT] REF SECONDS

Each `run` on standard input is answered with figures: what a sharer has sent so far; of a getter
the first time how the get went, and then what it has sent; of who watches, what came in so many
seconds of a get, after the first, and how long pings to the sharer took meanwhile.
"""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import trio

import lattica

from ._drive import say


async def share(node: lattica.AsyncNode, path: Path) -> None:
    """Share `path`, and tell what was sent whenever asked."""
    shared = await node.share(path)
    say(ready={"ticket": str(shared.ticket), "cid": str(shared.cid), "at": str(node.addresses[0])})
    async for _ in trio.wrap_file(sys.stdin):
        say(sent=node.exchange.stats.total.sent_bytes)


async def get(node: lattica.AsyncNode, folder: Path, ref: str) -> None:
    """Get `ref` when asked, tell how it went, and serve it until the end."""
    say(ready={})
    async for _ in trio.wrap_file(sys.stdin):
        if (folder / "copy").exists():
            say(sent=node.exchange.stats.total.sent_bytes)
            continue
        started, cpu = time.perf_counter(), time.process_time()
        began: list[int] = []  # bytes that were here and right when it began

        def note(report: lattica.Progress, began: list[int] = began) -> None:
            if report.phase is lattica.Phase.FETCH and not began:
                began.append(report.done_bytes)

        first: dict[str, float] = {}

        async def watch(first: dict[str, float] = first, started: float = started) -> None:
            while True:  # when each provider was first of use
                for peer, traffic in node.exchange.stats.peers.items():
                    if traffic.received_bytes > 1 << 20:
                        first.setdefault(str(peer), time.perf_counter() - started)
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            result = await node.get(ref, folder / "copy", progress=note)
            nursery.cancel_scope.cancel()
        say(
            seconds=time.perf_counter() - started,
            cpu_s=time.process_time() - cpu,
            received=result.received_bytes,
            size=result.size,
            began=began[0] if began else result.size,
            first=sorted(first.values()),
        )


async def watch_get(node: lattica.AsyncNode, folder: Path, ref: str, seconds: float) -> None:
    """Get `ref` for a while when asked, counting bytes and pinging whoever shares it."""
    ticket = lattica.Ticket.parse(ref)
    say(ready={})
    async for _ in trio.wrap_file(sys.stdin):
        trips: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.get, ref, folder / "copy")
            await trio.sleep(1)  # what a bucket may give at once is over
            started, before = time.perf_counter(), node.exchange.stats.total.received_wire_bytes
            while time.perf_counter() < started + seconds:
                trips += (await node.ping(ticket.peer, count=1)).round_trips_ms
                await trio.sleep(0.02)
            came = node.exchange.stats.total.received_wire_bytes - before
            rate = came / (time.perf_counter() - started)
            nursery.cancel_scope.cancel()
        say(rate=rate, trips_ms=trips)


async def main() -> None:
    what, folder, ip, ref, *bootstrap = sys.argv[1:]
    home = Path(folder)
    host, _, port = ip.partition(":")
    listen = [f"/ip4/{host}/tcp/{port or 0}"]
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(
            lattica.open_node(
                home / "home",
                listen=listen,
                bootstrap=[] if what == "watch" else bootstrap,
                mdns=False,
            )
        )
        if what == "watch":
            await watch_get(node, home, ref, float(bootstrap[0]))
            return
        await (share(node, Path(ref)) if what == "share" else get(node, home, ref))


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    trio.run(main)
