"""Ours: a node that shares a file, and one that gets it from nothing whenever told to.

usage: python -m benchmarks.roles.content share HOME PATH
       python -m benchmarks.roles.content get TICKET FOLDER
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import trio

import lattica

from ._drive import drive_async, say, until_told_to_end

LISTEN = ["/ip4/127.0.0.1/tcp/0"]


async def share(home: Path, path: Path) -> None:
    """Share `path` in place until the process ends."""
    async with lattica.open_node(home=home, listen=LISTEN, mdns=False) as node:
        shared = await node.share(path)
        say(ready=str(shared.ticket))
        await until_told_to_end()


async def get(ticket: str, folder: Path) -> None:
    """Get `ticket` with a new home and no copy each time; only the get is timed."""

    async def measure() -> dict[str, float]:
        shutil.rmtree(folder / "home", ignore_errors=True)
        async with lattica.open_node(home=folder / "home", listen=LISTEN, mdns=False) as node:
            # As late as others truncate theirs: what has been free for a while a virtual machine
            # gives back to its host, and to get it again takes longer than to write to it.
            (folder / "copy").unlink(missing_ok=True)
            started, cpu = time.perf_counter(), time.process_time()
            result = await node.get(ticket, folder / "copy")
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        size = result.size
        return {"mb_per_s": size / seconds / 1e6, "cpu_s_per_gb": cpu / size * 1e9}

    await drive_async(measure)


if __name__ == "__main__":
    if sys.argv[1] == "share":
        trio.run(share, Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        Path(sys.argv[3]).mkdir()
        trio.run(get, sys.argv[2], Path(sys.argv[3]))
