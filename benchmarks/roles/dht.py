"""Ours: nodes of the DHT, each a process; one puts, another gets.

usage: python -m benchmarks.roles.dht swarm NODES COUNT
       python -m benchmarks.roles.dht node BOOTSTRAP     `-`: the first
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any, Self

import trio

from lattica.dht import open_dht
from lattica.identity import Identity
from lattica.transport import Multiaddr, open_mesh

from ._drive import drive, quantiles, say

VALUE = bytes(100)


async def node(bootstrap: str) -> None:
    """Do what each line on standard input says, and answer with how long each took."""
    listen = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
    known = [] if bootstrap == "-" else [Multiaddr.parse(bootstrap)]
    async with open_mesh(Identity.generate(), listen=listen) as mesh:
        async with open_dht(mesh, bootstrap=known) as dht:
            say(ready=str(mesh.listen_addresses[0].with_peer(mesh.peer_id)))
            async for line in trio.wrap_file(sys.stdin):
                task = json.loads(line)
                milliseconds = []
                for key in task["keys"]:
                    started = time.perf_counter()
                    if task["do"] == "put":
                        await dht.put(key, VALUE)
                    else:
                        assert (await dht.get(key)).value == VALUE
                    milliseconds.append((time.perf_counter() - started) * 1e3)
                say(peers=len(dht.peers()), ms=milliseconds)


class Child:
    """A node in a process of its own."""

    def __init__(self, bootstrap: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.roles.dht", "node", bootstrap],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()

    def read(self) -> dict[str, Any]:
        """Return the next line."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def do(self, what: str, keys: list[str]) -> dict[str, Any]:
        """Have it put or get these keys."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, "keys": keys}) + "\n")
        self.process.stdin.flush()
        return self.read()


def swarm(nodes: int, count: int) -> None:
    """Run so many nodes; each `run` puts `count` values from one and gets them from another."""
    with ExitStack() as stack:
        first = stack.enter_context(Child("-"))
        address = first.read()["ready"]
        others = [stack.enter_context(Child(address)) for _ in range(nodes - 1)]
        for child in others:
            child.read()
        everybody = [first, *others]
        for _ in range(100):
            if all(child.do("put", [])["peers"] >= min(nodes - 1, 20) for child in everybody):
                break
            time.sleep(0.1)  # there is nothing to wait on from outside
        writer, reader = others[0], others[-1]

        def measure() -> dict[str, float]:
            keys = [f"/lattica/{os.urandom(16).hex()}" for _ in range(count)]
            return {
                **quantiles("put", writer.do("put", keys)["ms"]),
                **quantiles("get", reader.do("get", keys)["ms"]),
            }

        measure()
        drive(measure)


if __name__ == "__main__":
    if sys.argv[1] == "node":
        trio.run(node, sys.argv[2])
    else:
        swarm(int(sys.argv[2]), int(sys.argv[3]))
