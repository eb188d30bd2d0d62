"""Peer: hivemind 1.1.12, DHT nodes each in a process of its own; one puts, another gets.

Runs in its own virtual environment (it needs torch). hivemind forks a process for each node, and
starts a go-libp2p daemon beside it. Knows nothing of this project.
usage: python hivemind_dht.py NODES COUNT      prints the figures as `benchmarks.roles` do
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from typing import Any

sys.path = [entry for entry in sys.path if entry not in ("", os.getcwd())]
hivemind: Any = importlib.import_module("hivemind")

VALUE = bytes(100)


def say(**figures: Any) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def start(bootstraps: list[str]) -> Any:
    maddrs = ["/ip4/127.0.0.1/tcp/0"]
    return hivemind.DHT(initial_peers=bootstraps, host_maddrs=maddrs, start=True)


def measure(writer: Any, reader: Any, count: int) -> dict[str, float]:
    keys = [os.urandom(16).hex() for _ in range(count)]
    puts, gets = [], []
    for key in keys:
        started = time.perf_counter()
        assert writer.store(key, VALUE, expiration_time=time.time() + 3600)
        puts.append((time.perf_counter() - started) * 1e3)
    for key in keys:
        started = time.perf_counter()
        assert reader.get(key, latest=True).value == VALUE
        gets.append((time.perf_counter() - started) * 1e3)
    return {**quantiles("put", puts), **quantiles("get", gets)}


def quantiles(name: str, milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return {f"{name}_p50_ms": statistics.median(ordered), f"{name}_p99_ms": p99}


def main(nodes: int, count: int) -> None:
    first = start([])
    address = [str(each) for each in first.get_visible_maddrs()]
    everybody = [first, *(start(address) for _ in range(nodes - 1))]
    try:
        time.sleep(1.0)
        measure(everybody[1], everybody[-1], count)
        say(ready=True)
        for _ in sys.stdin:
            say(**measure(everybody[1], everybody[-1], count))
    finally:
        for node in everybody:
            node.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
