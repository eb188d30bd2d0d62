"""Peer: Gradient's Lattica 1.0.21, one block over Bitswap between two processes.

Runs in its own virtual environment and in a network namespace that has loopback alone, because it
contacts public servers when it starts. Knows nothing of this project.
usage: python gradient.py SIZE      prints the figures as `benchmarks.roles` do
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path = [entry for entry in sys.path if entry not in ("", os.getcwd())]  # our `lattica` is here
Lattica: Any = importlib.import_module("lattica").Lattica  # theirs, then

PORT = 4001  # it does not tell which port it was given; in a namespace of its own any is free


def say(**figures: Any) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def node(folder: str, bootstraps: list[str]) -> Any:
    port = 0 if bootstraps else PORT
    builder = Lattica.builder().with_listen_addrs([f"/ip4/127.0.0.1/tcp/{port}"]).with_mdns(False)
    builder = builder.with_upnp(False).with_autonat(False).with_dcutr(False)
    builder = builder.with_storage_path(f"{folder}/storage").with_key_path(f"{folder}/key")
    builder = builder.with_dht_db_path(f"{folder}/dht")
    return (builder.with_bootstraps(bootstraps) if bootstraps else builder).build()


def serve(size: int) -> None:
    """Hold blocks; print where and which. A new block for every line on standard input."""
    with tempfile.TemporaryDirectory() as folder:
        provider = node(folder, [])
        say(ready=f"/ip4/127.0.0.1/tcp/{PORT}/p2p/{provider.peer_id()}")
        for _ in sys.stdin:
            say(cid=provider.put_block(os.urandom(size)))


def measure(size: int) -> None:
    command = [sys.executable, __file__, "serve", str(size)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, **pipes) as provider,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert provider.stdout is not None
        assert provider.stdin is not None
        address = _read(provider)["ready"]
        getter = node(folder, [address])
        for _ in range(100):
            if getter.get_all_peers():
                break
            time.sleep(0.1)  # it offers nothing to wait on
        say(ready=True)
        for _ in sys.stdin:
            provider.stdin.write("\n")
            provider.stdin.flush()
            cid = _read(provider)["cid"]
            started = time.perf_counter()
            _, data = getter.get_block(cid, timeout_secs=60)
            seconds = time.perf_counter() - started
            assert len(data) == size
            say(mb_per_s=size / seconds / 1e6)
        provider.terminate()


def _read(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise RuntimeError("the provider ended")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        measure(int(sys.argv[1]))
