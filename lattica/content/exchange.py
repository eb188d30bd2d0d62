"""Content to and from peers: the one service of this package.

    async with open_exchange(mesh, store) as exchange:
        await exchange.fetch(root, destination, providers=[provider])

Serving: every stream that a peer opens is a `Conversation` (`_serve`) over the store. Fetching:
each call is a `Fetch` (`fetch`), planned by a `Planner`. The two meet here: what a fetch has
verified is served at once, and a peer that asks us for what we are fetching is one we may ask, too.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import IntegrityError, NotFound, Unreachable

from ._bans import Bans
from ._blocks import Blocks
from ._budget import Budget
from ._compress import Compress
from ._events import Fetched, OriginError, OriginLacksIt
from ._library import StoreLibrary
from ._messages import PROTOCOL
from ._origin import index_of_origin
from ._ranges import open_object
from ._repair import repair
from ._running import Running
from ._select import select_from
from ._traffic import ExchangeLimits, ExchangeStats
from ._uploads import Uploads
from ._values import ObjectState, StoreError
from ._walk import check_root
from .bitswap import open_bitswap
from .fetch import Fetch

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Callable,
        Iterable,
        Mapping,
        Sequence,
    )
    from pathlib import Path

    from lattica.cid import CID
    from lattica.transport import Mesh, PeerInfo

    from ._build import Progress, Segments
    from ._events import FetchEvent
    from ._origin import Origin
    from ._ranges import ObjectReader
    from ._select import Selected, Selection
    from ._values import VerifyReport
    from .bitswap import Bitswap
    from .store import Store

_log = logging.getLogger(__name__)
_SELECT_SECONDS = 6.0  # that peers have to tell the index, where origins may know it
_REPAIR_CACHE_BYTES = 16 << 20  # of blocks kept while an object is mended


class Exchange:
    """Serves what the store holds, and fetches. Made by `open_exchange`.

    Attributes:
        stats: counters, in all and by peer.
        bans: peers that are not asked for a time.
        uploads: where whoever sends content waits for its turn.
        limits: bounds of serving and fetching.
        compress: whether leaves are sent, and asked for, smaller.
    """

    def __init__(
        self, mesh: Mesh, store: Store, limits: ExchangeLimits, compress: Compress
    ) -> None:
        self.stats, self.bans = ExchangeStats(), Bans()
        self.limits, self.compress = limits, compress
        self._downloads = Budget(limits.max_down, limits.max_down_per_peer)
        self.uploads = Uploads(Budget(limits.max_up, limits.max_up_per_peer))
        self._mesh, self._store = mesh, store
        self._bitswap: Bitswap | None = None
        self._running = Running()
        self._library = StoreLibrary(
            store,
            self._running.fetches,
            limits=self.limits,
            stats=self.stats,
            compress=compress,
            uploads=self.uploads,
        )
        self._nursery: trio.Nursery

    async def fetch(
        self,
        root: CID,
        destination: Path,
        *,
        providers: Iterable[PeerInfo] = (),
        more: AsyncIterable[PeerInfo | None] | None = None,
        overwrite: bool = False,
        name: str | None = None,
        segments: Segments | None = None,
        selection: Selection | None = None,
        origins: Sequence[Origin] = (),
        patience: float = 30.0,
        progress: Callable[[FetchEvent], object] | None = None,
    ) -> Fetched:
        """Fetch what `root` names into `destination`: verified, written in place, then renamed.

        Cancelled or failed, what was verified stays beside `destination`, and the same call
        resumes: it hashes what is there and asks for the rest only. While it runs, every verified
        leaf is served to others; afterwards the object is in the store and served from its place.

        While another call fetches the same to the same place, this one waits for its result: both
        bring the providers they know of. Who is cancelled leaves; the last to leave ends it.

        Args:
            root: a file or a directory.
            destination: what to make. If something stands there it must be the same content
                (then nothing is fetched), or `overwrite` be set.
            providers: peers to ask first. One without addresses is looked up in the address book.
            more: where further ones come from, while the fetch runs; it may end or never end. None
                says that a whole look around is over, and these were all.
            overwrite: replace what stands at `destination`.
            name: what the store lists the object as.
            segments: how to cut files, to recognise content that is at `destination` already.
            selection: which files of a directory to fetch; what arrives is a directory with a root
                of its own.
            origins: where it lies besides, to be read while no peer serves it.
            patience: seconds without anyone to ask before the fetch gives up.
            progress: called with each event, on the loop; what it raises ends the fetch.

        Raises:
            IntegrityError: only peers that sent wrong bytes are left to ask.
            SourceChanged: only peers are left whose copies have changed.
            NoProvider: nobody who could be asked holds what is missing.
            ProvidersLost: those who might hold it could not be reached.
            FetchStalled: they are busy, or deliver next to nothing, for five minutes.
            OriginError, OriginLacksIt, OriginMismatch: there is but an origin, of no use.
            InvalidInput: something else stands at `destination`, or no file is selected.
            StorageError: the disk refuses, or has no room (DiskFull).
            DagError: the object itself is malformed.
        """
        part = None
        if selection:
            recorder = None if more is None else _Recorder(more)
            wait = min(patience, _SELECT_SECONDS) if origins else patience
            try:
                async with self.open(
                    root, providers=providers, more=recorder, patience=wait
                ) as reader:
                    selected = await reader.select(selection)
            except (NotFound, Unreachable):
                found = await self._select_at_origins(root, selection, origins, segments)
                if found is None:
                    raise
                selected = found
            if selected.root != root:
                part, root = (root, selected.blocks), selected.root
            providers = [*providers, *(recorder.heard if recorder else ())]
        return await self._running.run(
            self._nursery,
            partial(self._fetch, root, destination, patience, part=part, segments=segments),
            root,
            destination,
            (providers, more, origins, patience),
            progress,
            overwrite=overwrite,
            name=name,
            segments=segments,
        )

    async def _select_at_origins(
        self,
        root: CID,
        selection: Selection,
        origins: Sequence[Origin],
        segments: Segments | None,
    ) -> Selected | None:
        """Find out from the first origin that knows the index what is selected."""
        for origin in origins:
            with suppress(OriginError, OriginLacksIt, IntegrityError):
                blocks = await index_of_origin(origin, root, segments)
                select = partial(select_from, root, blocks, selection)
                if (found := await trio.to_thread.run_sync(select)) is not None:
                    return found
        return None

    def _fetch(
        self,
        root: CID,
        destination: Path,
        patience: float,
        progress: Callable[[FetchEvent], object],
        *,
        pinned: bool = False,
        part: tuple[CID, Mapping[CID, bytes]] | None = None,
        segments: Segments | None = None,
    ) -> Fetch:
        return Fetch(
            self._mesh,
            self._store,
            root,
            destination,
            limits=self.limits,
            stats=self.stats,
            encodings=self.compress.encodings,
            bans=self.bans,
            budget=self._downloads,
            patience=patience,
            progress=progress,
            bitswap=self._bitswap,
            pinned=pinned,
            part=part,
            segments=segments,
        )

    async def fetch_to_store(
        self,
        root: CID,
        *,
        providers: Iterable[PeerInfo] = (),
        more: AsyncIterable[PeerInfo | None] | None = None,
        name: str | None = None,
        pinned: bool = False,
        patience: float = 30.0,
        progress: Callable[[FetchEvent], object] | None = None,
    ) -> Fetched:
        """Fetch `root` for the store to keep, as long as its quota allows or while it is pinned.

        What is here already, in whatever place, stays there; what of it is damaged is mended.

        Args:
            root: a file or a directory.
            providers: as `fetch`.
            more: as `fetch`.
            name: what the store lists the object as.
            pinned: keep it when others need the room.
            patience: as `fetch`.
            progress: as `fetch`.

        Raises:
            QuotaExceeded: what is pinned, or running, leaves too little room.
            Else as `fetch`.
        """
        stored = await trio.to_thread.run_sync(self._store.object, root)
        if stored is not None and stored.state is not ObjectState.PARTIAL:
            if stored.state is ObjectState.CHANGED:
                await self.repair(root, providers=providers, more=more, patience=patience)
            if pinned:
                await trio.to_thread.run_sync(self._store.pin, root)
            await trio.to_thread.run_sync(self._store.touch, root)
            found = await trio.to_thread.run_sync(self._store.object, root)
            return Fetched(found or stored, 0)
        destination = self._store.cache_path(root)
        fetched = await self._running.run(
            self._nursery,
            partial(self._fetch, root, destination, patience, pinned=pinned),
            root,
            destination,
            (providers, more, (), patience),
            progress,
            name=name or str(root),
        )
        if pinned:  # where another call began it, which did not ask for that
            await trio.to_thread.run_sync(self._store.pin, root)
        return fetched

    async def repair(
        self,
        root: CID,
        *,
        providers: Iterable[PeerInfo] = (),
        more: AsyncIterable[PeerInfo | None] | None = None,
        patience: float = 30.0,
        progress: Progress | None = None,
    ) -> tuple[VerifyReport, int]:
        """Hash an object, and write what is damaged anew, in place, from peers.

        Files become again what they were when they were shared: changes made since are undone.
        Peers are asked only if something is damaged that is nowhere else here. Cancelled or killed,
        what was sound is as it was.

        Returns:
            How it is in the end, and how many content bytes were mended.

        Raises:
            NotFound: it is not here. InvalidInput: it is not here whole.
            NoProvider, ProvidersLost, IntegrityError, FetchStalled: as `fetch`.
            StorageError: the disk refuses.
        """
        async with self._blocks(root, providers, more, patience, _REPAIR_CACHE_BYTES) as blocks:
            return await repair(self._store, blocks, root, progress)

    @asynccontextmanager
    async def open(
        self,
        root: CID,
        *,
        path: str = "",
        providers: Iterable[PeerInfo] = (),
        more: AsyncIterable[PeerInfo | None] | None = None,
        patience: float = 30.0,
        cache_bytes: int = 32 << 20,
    ) -> AsyncIterator[ObjectReader]:
        """Read parts of an object while the block lasts, verified, from here or from peers.

        Nothing is kept on disk. Peers are asked for what is not here only, and stay connected until
        the block ends.

        Args:
            root: a file or a directory.
            path: which file of a directory; "" is the object itself.
            providers: peers to ask first.
            more: where further ones come from; iterated over when the first block is missing, and
                again after a read has found nobody to help.
            patience: seconds without anyone to ask before a read gives up.
            cache_bytes: of blocks that are remembered between reads.

        Raises:
            NotInObject: nothing is at `path`.
            InvalidInput: `root` cannot name content.
            NoProvider, ProvidersLost, IntegrityError, SourceChanged, FetchStalled: as `fetch`.
        """
        check_root(root)
        async with self._blocks(root, providers, more, patience, cache_bytes) as blocks:
            yield await open_object(blocks, root, path)

    @asynccontextmanager
    async def _blocks(
        self,
        root: CID,
        providers: Iterable[PeerInfo],
        more: AsyncIterable[PeerInfo | None] | None,
        patience: float,
        cache_bytes: int,
    ) -> AsyncIterator[Blocks]:
        blocks = Blocks(
            self._mesh,
            self._store,
            root,
            providers=providers,
            more=more,
            limits=self.limits,
            stats=self.stats,
            encodings=self.compress.encodings,
            bans=self.bans,
            budget=self._downloads,
            patience=patience,
            cache_bytes=cache_bytes,
            bitswap=self._bitswap,
        )
        async with private_nursery() as nursery:
            nursery.start_soon(blocks.run)
            yield blocks
            nursery.cancel_scope.cancel()

    def watch_parts(self, listener: Callable[[CID, bool], object]) -> None:
        """Call `listener` when parts of an object come to be here, and when they go.

        With True once some leaves are here that a fetch has brought, now or before this node was
        started, and with False when a fetch ends and nothing of it is left.
        """
        self._running.watch_parts(listener)

    async def look_at_leftovers(self) -> None:
        """Find out what fetches of an earlier process left, so that it is served, too.

        It has to be hashed: in a worker thread, one file after another.
        """
        for root in await trio.to_thread.run_sync(self._store.leftovers):
            if root in self._running.fetches:
                continue  # which looks for itself
            look = partial(self._store.look_at_leftovers, root, _check_cancelled)
            try:
                found = await trio.to_thread.run_sync(look)
            except StoreError as error:
                _log.warning("cannot tell what is left of %s: %s", root, error)
                continue
            if found and root not in self._running.fetches:
                self._running.note_left(root)
                self.note_gains()

    def note_gains(self) -> None:
        """Look whether anybody waits for what the store has gained: say so after adding to it."""
        if self._bitswap is not None:
            self._bitswap.look_again()


def _check_cancelled(_count: int) -> None:
    trio.from_thread.check_cancelled()


class _Recorder:
    """Passes on what it is given, and remembers it: a second fetch need not wait for it again."""

    def __init__(self, infos: AsyncIterable[PeerInfo | None]) -> None:
        self.heard: list[PeerInfo] = []
        self._infos = infos

    async def __aiter__(self) -> AsyncIterator[PeerInfo | None]:
        async for info in self._infos:
            if info is not None:
                self.heard.append(info)
            yield info


@asynccontextmanager
async def open_exchange(
    mesh: Mesh,
    store: Store,
    *,
    limits: ExchangeLimits | None = None,
    compress: Compress = Compress.AUTO,
) -> AsyncIterator[Exchange]:
    """Serve `store` to the peers of `mesh`, and fetch from them, until the block ends."""
    exchange = Exchange(mesh, store, limits or ExchangeLimits(), compress)
    async with (
        open_bitswap(mesh, exchange._library) as exchange._bitswap,
        private_nursery() as exchange._nursery,
    ):
        exchange._nursery.start_soon(exchange.look_at_leftovers)
        mesh.handle(PROTOCOL, exchange._library.serve)
        try:
            yield exchange
        finally:
            exchange._nursery.cancel_scope.cancel()
            mesh.unhandle(PROTOCOL)
            await exchange._library.close()
