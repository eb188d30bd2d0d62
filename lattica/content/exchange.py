"""Content to and from peers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
    from pathlib import Path

    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Mesh, PeerInfo

    from ._build import Segments
    from ._events import Fetched, FetchEvent
    from .store import Store


@dataclass(slots=True)
class Traffic:
    """What went through the exchange, in content bytes and leaves (index blocks count as such)."""

    sent_bytes: int = 0
    sent_leaves: int = 0
    received_bytes: int = 0
    received_leaves: int = 0


@dataclass(slots=True)
class ExchangeStats:
    """Counters since the exchange was opened. `peers` keeps the latest thousand."""

    total: Traffic = field(default_factory=Traffic)
    peers: dict[PeerId, Traffic] = field(default_factory=dict)


class Exchange:
    """Serves what the store holds, and fetches. Made by `open_exchange`."""

    stats: ExchangeStats

    async def fetch(
        self,
        root: CID,
        destination: Path,
        *,
        providers: Iterable[PeerInfo] = (),
        more: AsyncIterable[PeerInfo] | None = None,
        overwrite: bool = False,
        name: str | None = None,
        segments: Segments | None = None,
        patience: float = 30.0,
        progress: Callable[[FetchEvent], object] | None = None,
    ) -> Fetched:
        """Fetch what `root` names into `destination`: verified, written in place, then renamed.

        Cancelled or failed, what was verified stays beside `destination`, and the same call
        resumes: it hashes what is there and asks for the rest only. While it runs, every verified
        leaf is served to others; afterwards the object is in the store and served from its place.

        Args:
            root: a file or a directory.
            destination: what to make. If something stands there it must be the same content
                (then nothing is fetched), or `overwrite` be set.
            providers: peers to ask first. One without addresses is looked up in the address book.
            more: where further ones come from, while the fetch runs; it may end or never end.
            overwrite: replace what stands at `destination`.
            name: what the store lists the object as.
            segments: how to cut files, to recognise content that is at `destination` already.
            patience: seconds without a connected provider before the fetch gives up.
            progress: called with each event, on the loop; what it raises ends the fetch.

        Raises:
            IntegrityError: only peers that sent wrong bytes are left to ask.
            SourceChanged: only peers are left whose copies have changed.
            NoProvider: nobody who could be asked holds what is missing.
            ProvidersLost: those who might hold it could not be reached.
            InvalidInput: something else stands at `destination`.
            DiskFull: no room for it. StoreError: the disk refuses otherwise.
            DagError: the object itself is malformed.
        """
        raise NotImplementedError


@asynccontextmanager
async def open_exchange(mesh: Mesh, store: Store) -> AsyncIterator[Exchange]:
    """Serve `store` to the peers of `mesh`, and fetch from them, until the block ends."""
    raise NotImplementedError
    yield Exchange()
