"""Two machines on one network find each other with no configuration: in network namespaces."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = """
import logging, sys, trio
from lattica._mdns import open_mdns
from lattica.identity import Identity
from lattica.transport import Multiaddr, PeerConnected, PeerIdentified, open_mesh

async def main():
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    listen = [Multiaddr.parse("/ip4/0.0.0.0/tcp/0")]
    async with open_mesh(Identity.generate(), listen=listen) as mesh, mesh.events() as events:
        print(mesh.peer_id, flush=True)
        async with open_mdns(mesh):
            with trio.fail_after(30):
                async for event in events:
                    if isinstance(event, PeerIdentified):
                        print(event.peer, flush=True)
                        break
            await trio.to_thread.run_sync(sys.stdin.readline)

trio.run(main)
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces that a cable joins. Nothing leads out of them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    tag = secrets.token_hex(3)
    names = f"lat-{tag}-a", f"lat-{tag}-b"
    made: list[str] = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            plugs = f"v{tag}a", f"v{tag}b"
            ip("link", "add", plugs[0], "type", "veth", "peer", "name", plugs[1])
            for number, (name, plug) in enumerate(zip(names, plugs, strict=True), start=1):
                ip("link", "set", plug, "netns", name)
                ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", plug)
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", plug, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)


def test_two_machines_on_one_network_find_each_other(machines: tuple[str, str]) -> None:
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", machine, sys.executable, "-c", NODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in machines
    ]
    try:
        pairs = []
        for node in nodes:
            assert node.stdout is not None
            pairs.append((node.stdout.readline(), node.stdout.readline()))
        (one, met_by_one), (other, met_by_other) = pairs
        assert met_by_one == other != ""
        assert met_by_other == one != ""
        for number, node in enumerate(nodes, start=1):
            _, log = node.communicate("done\n", timeout=20)
            assert node.returncode == 0
            assert f"10.77.0.{number}" in log  # which interfaces are used is told
            assert "Traceback" not in log
    finally:
        for node in nodes:
            node.kill()
            node.wait()
