"""Nodes that exchange content: real stores and files, links in memory."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio

from lattica.content import (
    Exchange,
    ExchangeLimits,
    Fetched,
    FetchEvent,
    Store,
    StoredObject,
    build,
    open_exchange,
)
from lattica.testing import open_memory_meshes
from lattica.transport import MemoryNetwork, Mesh, PeerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from lattica.cid import CID

_T = TypeVar("_T")


@dataclass
class Peer:
    """One node: a mesh, a store, and the exchange over both."""

    mesh: Mesh
    store: Store
    exchange: Exchange
    folder: Path
    events: list[FetchEvent] = field(default_factory=list)

    @property
    def info(self) -> PeerInfo:
        """How others find it."""
        return PeerInfo(self.mesh.peer_id, tuple(self.mesh.addresses))

    @property
    def got(self) -> Path:
        """Where `fetch` puts things."""
        return self.folder / "got"

    def file(self, name: str, size: int, *, seed: int = 0) -> Path:
        """Make a file of seeded noise."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(seed).randbytes(size))
        return path

    def share(self, path: Path) -> StoredObject:
        """Share a file or directory."""
        return self.store.add(build(path))

    async def fetch(self, root: CID, *providers: Peer, **options: Any) -> Fetched:
        """Fetch to `got`, and remember the events."""
        options.setdefault("progress", self.events.append)
        options.setdefault("providers", [peer.info for peer in providers])
        return await self.exchange.fetch(root, self.got, **options)

    def told(self, kind: type[_T]) -> list[_T]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Swarm:
    """Opens peers on one network."""

    folder: Path
    network: MemoryNetwork = field(default_factory=MemoryNetwork)

    @asynccontextmanager
    async def peers(
        self, count: int, *, limits: ExchangeLimits | None = None, introduce: bool = True
    ) -> AsyncIterator[list[Peer]]:
        """Run `count` peers. The n-th is on the host `node-<n>`."""
        async with AsyncExitStack() as stack:
            meshes = await stack.enter_async_context(
                open_memory_meshes(count, network=self.network, introduce=introduce)
            )
            peers = []
            for number, mesh in enumerate(meshes):
                folder = self.folder / f"peer-{number}"
                folder.mkdir(exist_ok=True)
                store = stack.enter_context(Store.open(folder / "store"))
                exchange = await stack.enter_async_context(
                    open_exchange(mesh, store, limits=limits)
                )
                peers.append(Peer(mesh, store, exchange, folder))
            yield peers


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swarm:
    """A network without delays or faults, where worker threads take no time.

    A virtual clock would jump ahead while a real thread works.
    """
    monkeypatch.setattr(trio.to_thread, "run_sync", _run_at_once)
    monkeypatch.setattr(trio.from_thread, "check_cancelled", lambda: None)
    monkeypatch.setattr(trio.from_thread, "run_sync", lambda work, *args: work(*args))
    return Swarm(tmp_path)


async def _run_at_once(work: Callable[..., _T], *args: object, **_options: object) -> _T:
    await trio.lowlevel.checkpoint_if_cancelled()
    result = work(*args)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return result
