"""Swarms in one process under a made clock: real meshes, stores and exchanges, links in memory."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import trio
import trio.testing

from lattica.content import Exchange, Fetched, LeafMismatch, Store, build, open_exchange
from lattica.testing import open_memory_meshes
from lattica.testing.providers import HostileProvider
from lattica.transport import MemoryNetwork, Mesh, PeerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from lattica.cid import CID
    from lattica.testing.providers import Misdeed

LEAF = 256 << 10
RATE = 10e6  # bytes a second of each link
_T = TypeVar("_T")


@dataclass
class Peer:
    """One node."""

    mesh: Mesh
    store: Store
    exchange: Exchange
    folder: Path

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.mesh.peer_id, tuple(self.mesh.addresses))


@dataclass
class Outcome:
    """What became of one fetch.

    Attributes:
        wrong_bytes: that were written, or are in the file.
        hung: whether it was not done in three times the time it should take.
        wasted: content bytes received beyond those of the object, as a fraction of it.
        named: whether the lie was told with its peer and offset, where there was one.
        again: content bytes that were fetched although they had been here and right.
    """

    wrong_bytes: int
    hung: bool
    wasted: float
    named: bool = True
    again: int = 0


def one_bad_of_five(folder: Path, misdeed: Misdeed, leaves: int, seed: int) -> Outcome:
    """Fetch from four honest providers and one that is not."""

    async def main() -> Outcome:
        async with _peers(folder, 6) as (*providers, receiver):
            data, root = _share(providers, leaves, seed)
            HostileProvider(providers[0].mesh, providers[0].store, misdeed)
            fetched = await _fetch(receiver, root, providers, 3 * leaves * LEAF / (4 * RATE) + 30)
            wrong = _wrong_bytes(receiver, data)
            received = fetched.received_bytes if fetched else 0
            return Outcome(wrong, fetched is None, max(0, received - len(data)) / len(data))

    with _threads_at_once():
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def lone_liar(folder: Path, misdeed: Misdeed, wrong: int, leaves: int, seed: int) -> Outcome:
    """Fetch from one provider whose leaf number `wrong` is wrong."""

    async def main() -> Outcome:
        async with _peers(folder, 2) as (provider, receiver):
            data, root = _share([provider], leaves, seed)
            HostileProvider(provider.mesh, provider.store, misdeed)
            named = hung = False
            try:
                hung = await _fetch(receiver, root, [provider], leaves * LEAF / RATE + 30) is None
            except* LeafMismatch as group:
                lie = group.exceptions[0]
                assert isinstance(lie, LeafMismatch)
                named = lie.peer == provider.mesh.peer_id and lie.offset == wrong * LEAF
            part = next(iter(receiver.folder.glob("got*")), None)
            kept = part.read_bytes() if part else b""
            past = len(kept[(wrong + 1) * LEAF :].strip(b"\0"))
            wrong_bytes = _wrong_in(kept, data)
            return Outcome(wrong_bytes, hung, past / len(data), named)

    with _threads_at_once():
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def damaged_and_repaired(folder: Path, leaves: int, seed: int) -> Outcome:
    """Damage some leaves of what was fetched, on disk, and have them mended from a peer."""

    async def main() -> Outcome:
        async with _peers(folder, 2) as (provider, receiver):
            data, root = _share([provider], leaves, seed)
            await _fetch(receiver, root, [provider], leaves * LEAF / RATE + 30)
            damaged = random.Random(seed).sample(range(leaves), 1 + seed % 8)
            with (receiver.folder / "got").open("r+b") as file:
                for leaf in damaged:
                    file.seek(leaf * LEAF + 99)
                    file.write(bytes([data[leaf * LEAF + 99] ^ 1]))
            found = receiver.store.verify(root).damaged_count == len(damaged)
            report, mended = 1, 0
            with trio.move_on_after(60):
                after, mended = await receiver.exchange.repair(root, providers=[provider.info])
                report = after.damaged_count
            again = max(0, mended - len(damaged) * LEAF)
            wrong = _wrong_bytes(receiver, data)
            return Outcome(wrong, bool(report), again / len(data), found, again)

    with _threads_at_once():
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@asynccontextmanager
async def _peers(folder: Path, count: int) -> AsyncIterator[list[Peer]]:
    network = MemoryNetwork(bandwidth=RATE, latency=0.005)
    async with AsyncExitStack() as stack:
        meshes = await stack.enter_async_context(open_memory_meshes(count, network=network))
        peers = []
        for number, mesh in enumerate(meshes):
            home = folder / f"peer-{number}"
            home.mkdir(parents=True)
            store = stack.enter_context(Store.open(home / "store"))
            exchange = await stack.enter_async_context(open_exchange(mesh, store))
            peers.append(Peer(mesh, store, exchange, home))
        yield peers


def _share(peers: list[Peer], leaves: int, seed: int) -> tuple[bytes, CID]:
    data = random.Random(seed).randbytes(leaves * LEAF)
    for peer in peers:
        path = peer.folder / "original"
        path.write_bytes(data)
        root = peer.store.add(build(path)).root
    return data, root


async def _fetch(
    receiver: Peer, root: CID, providers: list[Peer], seconds: float
) -> Fetched | None:
    with trio.move_on_after(seconds):
        infos = [peer.info for peer in providers]
        return await receiver.exchange.fetch(root, receiver.folder / "got", providers=infos)
    return None


def _wrong_bytes(receiver: Peer, data: bytes) -> int:
    path = receiver.folder / "got"
    return _wrong_in(path.read_bytes(), data) if path.exists() else 0


def _wrong_in(kept: bytes, data: bytes) -> int:
    """Bytes of leaves that are neither right nor a hole."""
    wrong = 0
    for start in range(0, len(kept), LEAF):
        there = kept[start : start + LEAF]
        if there not in (data[start : start + LEAF], bytes(len(there))):
            wrong += len(there)
    return wrong


@contextmanager
def _threads_at_once() -> Iterator[None]:
    """Have worker threads take no time: a made clock would jump ahead while a real one works."""

    async def run_at_once(work: Callable[..., _T], *args: object, **_options: object) -> _T:
        await trio.lowlevel.checkpoint_if_cancelled()
        result = work(*args)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    saved: Any = trio.to_thread.run_sync, trio.from_thread.check_cancelled
    trio.to_thread.run_sync = run_at_once  # type: ignore[assignment]  # as above
    trio.from_thread.check_cancelled = lambda: None
    try:
        yield
    finally:
        trio.to_thread.run_sync, trio.from_thread.check_cancelled = saved
