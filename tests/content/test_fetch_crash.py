"""A receiver that is killed: what it had verified is not asked for again."""

from __future__ import annotations

import json
import random
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.content import Store, build, open_exchange
from lattica.testing import sample_identity
from lattica.transport import Multiaddr, open_mesh

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

SIZE = 24 << 20

RECEIVER = """
import json, os, signal, sys
from pathlib import Path
import trio
from lattica.cid import CID
from lattica.content import FetchStarted, PartFile, Store, open_exchange
from lattica.testing import sample_identity
from lattica.transport import Multiaddr, PeerInfo, open_mesh

root, address, folder, kill_at = sys.argv[1:]
address, folder, left = Multiaddr.parse(address), Path(folder), int(kill_at)
write, seen = PartFile.write, {}

def write_until_killed(part, index, buffers):
    global left
    for number, buffer in enumerate(buffers):
        write(part, index + number, [buffer])
        left -= len(buffer)
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

if left:
    PartFile.write = write_until_killed

def note(event):
    if isinstance(event, FetchStarted):
        seen["resumed"] = event.verified_bytes

async def main():
    provider = PeerInfo(address.peer_id, (address.without_peer(),))
    with Store.open(folder / "store") as store:
        async with open_mesh(sample_identity(2)) as mesh, open_exchange(mesh, store) as exchange:
            fetched = await exchange.fetch(
                CID.parse(root), folder / "got", providers=[provider], progress=note
            )
    print(json.dumps(seen | {"received": fetched.received_bytes}))

trio.run(main)
"""


@pytest.mark.parametrize("share", [0.01, 0.6, 0.999])
async def test_a_killed_receiver_resumes_with_what_it_had(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(random.Random(share).randbytes(SIZE))
    with Store.open(tmp_path / "store") as store:
        shared = store.add(build(path))
        loopback = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
        async with open_mesh(sample_identity(1), listen=loopback) as mesh:
            async with open_exchange(mesh, store) as exchange:
                (address,) = mesh.listen_addresses
                receive = partial(
                    _receive, str(shared.root), str(address.with_peer(mesh.peer_id)), tmp_path
                )
                killed = await receive(int(SIZE * share))
                assert killed.returncode == -signal.SIGKILL
                resumed = await receive(0)
                assert resumed.returncode == 0
                sent = exchange.stats.total.sent_bytes
    told: dict[str, Any] = json.loads(resumed.stdout)
    assert (tmp_path / "receiver" / "got").read_bytes() == path.read_bytes()
    assert told["resumed"] >= SIZE * share
    assert told["received"] == SIZE - told["resumed"]
    assert sent < 2.2 * SIZE  # a process that dies may have all of a window on its way to it


async def _receive(
    root: str, address: str, folder: Path, kill_at: int
) -> subprocess.CompletedProcess[bytes]:
    home = folder / "receiver"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-c", RECEIVER, root, address, str(home), str(kill_at)]
    with trio.fail_after(30):
        return await trio.run_process(command, capture_stdout=True, check=False)
