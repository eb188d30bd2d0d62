"""One fetch: an object from many peers into a file or directory, verified leaf by leaf.

The index is fetched first and verified from the root down; it says how large everything is before
anything is written. Then part files are laid out, what an earlier run left in them is hashed, and
the rest is asked for. Whoever provides is looked after by `Providers`, what to ask of whom is the
`Planner`'s to say; here, what they bring is checked, kept and told.

Cancelled or failed, a fetch leaves verified leaves in the part file, which are served on, and a
store that is sound; nothing where nothing came.
"""

from __future__ import annotations

import logging
import os
import random
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import InvalidInput, LatticaError
from lattica.transport import PeerInfo

from ._build import build_in_thread
from ._events import (
    BadLeaf,
    DiskFull,
    FetchDone,
    Fetched,
    FetchProgress,
    FetchStarted,
    ProviderJoined,
)
from ._names import check_written_names
from ._origin import pseudo_peer
from ._providers import Providers
from ._stages import IndexStage, LeafStage
from ._values import DestinationTaken, ObjectState, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from lattica.cid import CID
    from lattica.identity import PeerId
    from lattica.transport import Mesh

    from ._bans import Bans
    from ._budget import Budget
    from ._build import Segments
    from ._download import Download
    from ._events import FetchEvent, LeafMismatch
    from ._origin import Origin
    from ._part import PartFile
    from ._session import Item
    from ._stages import Stage
    from ._traffic import ExchangeLimits, ExchangeStats
    from ._values import StoredObject
    from .bitswap import Bitswap
    from .store import Store

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.1  # between two reports of progress


class Fetch:
    """One call of `Exchange.fetch`. `run` it once.

    Attributes:
        root: what is fetched.
        left: whether some of it is here, and served, though the fetch has failed.
        version: counts the times that leaves were verified (see `_serve.Gains`).
    """

    def __init__(
        self,
        mesh: Mesh,
        store: Store,
        root: CID,
        destination: Path,
        *,
        limits: ExchangeLimits,
        stats: ExchangeStats,
        encodings: tuple[int, ...],
        bans: Bans,
        budget: Budget,
        patience: float,
        progress: Callable[[FetchEvent], object] | None,
        bitswap: Bitswap | None = None,
        pinned: bool = False,
        part: tuple[CID, Mapping[CID, bytes]] | None = None,
        segments: Segments | None = None,
    ) -> None:
        """Fetch `root`. `part`: of which object it is a part, and the blocks that only it has."""
        self.root, self.version, self.left = root, 0, False
        self._destination, self._store, self._stats = destination.absolute(), store, stats
        self._progress, self._pinned = progress, pinned
        asked, self._blocks = part or (root, {})
        self._providers = Providers(
            mesh,
            asked,
            self,
            limits,
            encodings,
            bans,
            budget,
            patience,
            watch=part is None,  # what they say they hold is numbered by all of it
            bitswap=bitswap,
            segments=segments,
        )
        self._origins: set[PeerId] = set()
        self._leaves: LeafStage | None = None
        self._done = trio.Event()  # with the present stage
        self._index_turn = trio.Lock()  # the index is walked by one thread at a time
        self._received: dict[PeerId, int] = {}
        self._wire_bytes = 0  # that this took
        self._gained = trio.Event()
        self._told_at = 0.0
        self._over = False

    def join(
        self,
        providers: Iterable[PeerInfo],
        more: AsyncIterable[PeerInfo | None] | None,
        origins: Sequence[Origin] = (),
        patience: float = 0.0,
    ) -> None:
        """Take up what a caller knows of: the first one, before `run`, or a later one."""
        self._origins |= {pseudo_peer(origin) for origin in origins}
        self._providers.join(providers, more, origins, patience)

    def so_far(self) -> list[FetchEvent]:
        """Return what a later caller has missed, as far as it still matters."""
        events: list[FetchEvent] = list(map(ProviderJoined, self._providers.connected))
        if (leaves := self._leaves) is not None:
            events.append(FetchStarted(self.root, leaves.size, leaves.verified_bytes))
        return events

    async def run(self, *, overwrite: bool, name: str | None, segments: Segments | None) -> Fetched:
        """Fetch; see `Exchange.fetch`."""
        started = trio.current_time()
        stored = None
        if not overwrite and await trio.to_thread.run_sync(os.path.lexists, self._destination):
            stored = await self._recognise(name, segments)
        if stored is None:
            stored = await self._download(overwrite=overwrite, name=name)
        received = sum(self._received.values())
        from_origins = sum(self._received.pop(peer, 0) for peer in self._origins)
        self.tell(FetchDone(self.root, stored.size, received, trio.current_time() - started))
        return Fetched(
            stored,
            received,
            dict(self._received),
            tuple(self._providers.lies),
            wire_bytes=self._wire_bytes,
            origin_bytes=from_origins,
        )

    async def _recognise(self, name: str | None, segments: Segments | None) -> StoredObject:
        """Return what stands at the destination if it is the object. Raises DestinationTaken."""
        stored = await trio.to_thread.run_sync(self._store.object, self.root)
        complete = stored is not None and stored.state is ObjectState.COMPLETE
        if stored is not None and complete and stored.path == self._destination:
            report = await trio.to_thread.run_sync(self._store.verify, self.root, _check_cancelled)
            if not report.damaged_count:
                return stored
        try:
            built = await build_in_thread(
                self._destination, segments=segments, hash_function=self.root.hash_function
            )
        except InvalidInput as error:
            raise DestinationTaken(f"{self._destination} exists: {error}") from error
        if built.root != self.root:
            raise DestinationTaken(f"{self._destination} exists, with other content")
        return await trio.to_thread.run_sync(partial(self._store.add, built, name=name))

    async def _download(self, *, overwrite: bool, name: str | None) -> StoredObject:
        begin = partial(
            self._store.download,
            self.root,
            self._destination,
            overwrite=overwrite,
            pinned=self._pinned,
        )
        with await trio.to_thread.run_sync(begin) as download:
            try:
                await self._receive(download)
                return await trio.to_thread.run_sync(partial(download.finish, name=name))
            except BaseException:
                self.left = download.received
                if not self.left:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(_discard_if_empty, download)
                raise
            finally:
                self._over = True
                self._gain()

    async def _receive(self, download: Download) -> None:
        """Bring everything that is missing into the part files."""
        for cid, block in self._blocks.items():
            await trio.to_thread.run_sync(download.add_index, cid, block)
        index = IndexStage(self.root, self._store, download, self._providers.ids)
        await trio.to_thread.run_sync(index.load)
        index.plan()
        async with private_nursery() as nursery:
            try:
                if not index.done:
                    self._providers.start(nursery)
                    await self._providers.work(index, self._done)
                leaves = await trio.to_thread.run_sync(self._lay_out, download, index)
                self._leaves, self._done = leaves, trio.Event()
                self.tell(FetchStarted(self.root, leaves.size, leaves.verified_bytes))
                if not leaves.planner.done:
                    self._providers.start(nursery)
                    await self._providers.work(leaves, self._done)
                self._tell_progress(leaves)
            finally:
                self._providers.close()
                nursery.cancel_scope.cancel()
        if self._providers.failure is not None:
            raise self._providers.failure

    def _lay_out(self, download: Download, index: IndexStage) -> LeafStage:
        """*Slow.* Make part files and directories; hash and copy what is here already."""
        check_written_names([*(file.path for file in index.files), *index.directories])
        download.reserve(sum(table.size for table in index.tables))
        _check_room(download.part_path, index)
        for directory in ["", *index.directories] if index.is_directory else []:
            download.make_directory(directory)
        parts: list[PartFile] = []
        others = any(
            stored.root != self.root or stored.state is ObjectState.COMPLETE  # at another place
            for stored in self._store.objects()
        )
        for file, table in zip(index.files, index.tables, strict=True):
            part = download.open_part(table, file.path)
            part.rescan(_check_cancelled)
            part.fill_zeros()
            if others:  # else looking each leaf up would be in vain
                part.fill_from_store(_check_cancelled)
            parts.append(part)
        if index.inline is not None and not parts[0].done:
            parts[0].write(0, [index.inline])
        return LeafStage(index.files, parts, self._providers.ids, rng=random.Random())

    # --- what providers bring (see `_providers.Keeper`)

    async def settle(self, peer: PeerId, stage: Stage, items: list[Item]) -> LeafMismatch | None:
        """Check and keep what `peer` sent. Cancelled before a thread took it up, nothing is done.

        Returns:
            The peer's lie, if something does not match its hash; the rest is kept.
        """
        try:
            if isinstance(stage, IndexStage):
                async with self._index_turn:
                    wrong = await trio.to_thread.run_sync(stage.settle, items)
            else:
                wrong = await trio.to_thread.run_sync(stage.settle, items)
        except LatticaError as error:  # the disk, or the object itself: no provider is to blame
            self._providers.fail(error)
            await trio.sleep_forever()
        # From here on nothing waits, so that the plan and the disk agree whatever is cancelled.
        lie = stage.mismatch(wrong[0], peer) if wrong else None
        if lie is not None:
            self._providers.ban(lie)
        for item, _ in items:
            if item in wrong:
                stage.planner.leaf_wrong(item)
            else:
                stage.planner.leaf_verified(item)
        self._advance(stage)
        self._providers.gained(stage.planner)
        if lie is not None:
            self._providers.ring()
            self.tell(BadLeaf(lie))
        return lie

    def _advance(self, stage: Stage) -> None:
        if stage is not self._providers.stage:
            return  # what came too late to matter
        if isinstance(stage, IndexStage):
            if stage.plan():
                self._providers.ring()
            if stage.done:
                self._done.set()
        elif isinstance(stage, LeafStage):
            self._gain()
            if stage.planner.done:
                self._done.set()
            elif trio.current_time() >= self._told_at + _PROGRESS_SECONDS:
                self._tell_progress(stage)

    def received(self, peer: PeerId, stage: Stage | None, size: int, wire: int) -> None:
        """Count what came, whether it will prove right or not."""
        self._stats.received(peer, size, wire)
        if stage is None or stage.is_content:
            self._received[peer] = self._received.get(peer, 0) + size
            self._wire_bytes += wire

    def tell(self, event: FetchEvent) -> None:
        """Pass an event on to the caller. What the caller raises ends the fetch, whoever told."""
        if self._progress is None:
            return
        try:
            self._progress(event)
        except LatticaError as error:  # not to be taken for one of the provider's
            self._providers.fail(error)

    def _tell_progress(self, leaves: LeafStage) -> None:
        self._told_at = trio.current_time()
        received = sum(self._received.values())
        self.tell(
            FetchProgress(
                self.root,
                leaves.size,
                leaves.verified_bytes,
                received,
                self._providers.rates,
                self._wire_bytes,
            )
        )

    # --- what conversations ask of a fetch (see `_serve.Gains`)

    @property
    def complete(self) -> bool:
        """Whether every leaf is here."""
        return self._leaves is not None and self._leaves.planner.done

    def flags(self) -> bytes:
        """Return a byte for each leaf: 1 if it is here, else 0."""
        return self._leaves.planner.verified_flags() if self._leaves is not None else b""

    async def changed(self, version: int) -> bool:
        """Wait until `version` is not the newest any more. False: no more will come."""
        while self.version == version and not self._over:
            await self._gained.wait()
        return not self._over or self.complete

    def meet(self, peer: PeerId) -> None:
        """Note that `peer` wants the object, too, so it may come to hold some of it."""
        self._providers.found([PeerInfo(peer, ())])

    def _gain(self) -> None:
        self.version += 1
        self._gained.set()
        self._gained = trio.Event()


def _discard_if_empty(download: Download) -> None:
    try:
        download.discard_if_empty()
    except StorageError as error:  # what ends the fetch is what counts
        _log.warning("an empty download of %s stays: %s", download.root, error)


def _check_cancelled(_count: int) -> None:
    trio.from_thread.check_cancelled()


def _check_room(part_path: Path, index: IndexStage) -> None:
    """Refuse an object that the disk has no room for, before anything is written. DiskFull."""
    here = 0
    for file in index.files:
        try:
            here += (part_path / file.path if file.path else part_path).lstat().st_blocks * 512
        except OSError:
            continue
    missing = sum(table.size - table.zero_bytes for table in index.tables) - here
    folder = next(folder for folder in part_path.parents if folder.exists())
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if missing > free:
        raise DiskFull(f"{missing} more bytes are needed in {folder}, the disk has {free}")
