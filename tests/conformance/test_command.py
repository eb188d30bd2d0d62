"""`lattica conform`, as a shell sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from lattica.testing import sample_identity
from lattica.transport import Multiaddr, open_mesh

if TYPE_CHECKING:
    from pathlib import Path


def conform(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "lattica", "conform", *arguments],
        env={**os.environ, "LATTICA_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_vectors_hold_and_make_no_home(tmp_path: Path) -> None:
    result = conform(home=tmp_path / "home")
    assert (result.returncode, result.stderr) == (0, "")
    assert "pass  ticket: " in result.stdout
    assert result.stdout.splitlines()[-1].startswith("conforms: ")
    assert not (tmp_path / "home").exists()


async def test_a_running_node_conforms(tmp_path: Path) -> None:
    loopback = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
    async with open_mesh(sample_identity(1), listen=[loopback]) as mesh:
        address = mesh.listen_addresses[0].with_peer(mesh.peer_id)
        command = [sys.executable, "-P", "-m", "lattica", "conform", "--json"]
        with trio.fail_after(60):
            result = await trio.run_process(
                [*command, "--target", str(address)], capture_stdout=True
            )
    report = json.loads(result.stdout)
    assert report["conforms"] is True
    assert report["pass"] > 20


def test_a_node_that_is_not_there_does_not_conform(tmp_path: Path) -> None:
    result = conform("--target", "/ip4/127.0.0.1/tcp/1", home=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("fail  target/reached")


def test_what_is_no_address_or_suite_is_a_usage_error(tmp_path: Path) -> None:
    for arguments in (("--target", "nowhere"), ("--suite", "nothing")):
        result = conform(*arguments, home=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert "hint" in result.stderr
