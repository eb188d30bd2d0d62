"""Peer: Gradient's Lattica 1.0.21, DHT nodes each in a process; one puts, another gets.

Runs in its own virtual environment and in a network namespace that has loopback alone, because it
contacts public servers when it starts. Knows nothing of this project.
usage: python gradient_dht.py swarm NODES COUNT      prints the figures as `benchmarks.roles` do
       python gradient_dht.py node BOOTSTRAP PORT
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path = [entry for entry in sys.path if entry not in ("", os.getcwd())]  # our `lattica` is here
Lattica: Any = importlib.import_module("lattica").Lattica  # theirs, then

FIRST_PORT = (
    4001  # it does not tell which port it was given; in a namespace of its own all are free
)
VALUE = bytes(100)


def say(**figures: Any) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def node(bootstrap: str, port: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        builder = Lattica.builder().with_listen_addrs([f"/ip4/127.0.0.1/tcp/{port}"])
        builder = builder.with_mdns(False).with_upnp(False).with_autonat(False).with_dcutr(False)
        builder = builder.with_storage_path(f"{folder}/storage").with_key_path(f"{folder}/key")
        builder = builder.with_dht_db_path(f"{folder}/dht")
        if bootstrap != "-":
            builder = builder.with_bootstraps([bootstrap])
        peer = builder.build()
        say(ready=f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer.peer_id()}")
        for line in sys.stdin:
            task = json.loads(line)
            milliseconds = []
            for key in task["keys"]:
                started = time.perf_counter()
                if task["do"] == "put":
                    assert peer.store(key, VALUE, time.time() + 3600)
                else:
                    assert peer.get(key).value == VALUE
                milliseconds.append((time.perf_counter() - started) * 1e3)
            say(peers=len(peer.get_all_peers()), ms=milliseconds)


class Child:
    def __init__(self, bootstrap: str, number: int) -> None:
        command = [sys.executable, __file__, "node", bootstrap, str(FIRST_PORT + number)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError("a node ended")

    def do(self, what: str, keys: list[str]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, "keys": keys}) + "\n")
        self.process.stdin.flush()
        return self.read()


def swarm(nodes: int, count: int) -> None:
    first = Child("-", 0)
    children = [first]
    try:
        address = first.read()["ready"]
        children += [Child(address, number) for number in range(1, nodes)]
        for child in children[1:]:
            child.read()
        for _ in range(100):
            if first.do("put", [])["peers"] >= nodes - 1:
                break
            time.sleep(0.1)  # it offers nothing to wait on
        time.sleep(2.0)
        figures(children[1], children[-1], count)
        say(ready=True)
        for _ in sys.stdin:
            say(**figures(children[1], children[-1], count))
    finally:
        for child in children:
            child.process.kill()
            child.process.communicate()


def figures(writer: Child, reader: Child, count: int) -> dict[str, float]:
    keys = [os.urandom(16).hex() for _ in range(count)]
    return {
        **quantiles("put", writer.do("put", keys)["ms"]),
        **quantiles("get", reader.do("get", keys)["ms"]),
    }


def quantiles(name: str, milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return {f"{name}_p50_ms": statistics.median(ordered), f"{name}_p99_ms": p99}


if __name__ == "__main__":
    if sys.argv[1] == "node":
        node(sys.argv[2], sys.argv[3])
    else:
        swarm(int(sys.argv[2]), int(sys.argv[3]))
