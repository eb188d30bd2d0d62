"""rust-libp2p, inside Gradient's Lattica, as far as that lets us."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from install_peers import RUST_PYTHON

pytestmark = pytest.mark.interop
SCENARIO = Path(__file__).with_name("rust_scenario.py")


@pytest.mark.parametrize("scenario", ["we-dial", "they-dial", "echo", "bitswap", "records"])
def test_rust_and_we_understand_each_other(scenario: str) -> None:
    if not RUST_PYTHON.exists():
        pytest.skip(f"{RUST_PYTHON} is not there: run `make interop`")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no `unshare` and `ip` to keep it on loopback")
    inside = f"ip link set lo up && exec {sys.executable} {SCENARIO} {scenario}"
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", inside]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
