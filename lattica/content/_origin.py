"""Origins: where an object lies besides with peers, as a plain file that knows nothing of leaves.

A web server, a directory, a cache. An origin is the last resort: it is asked only while no peer is
connected, or those that are deliver nothing, and peers take over as soon as there are some. What it
gives is held against the same hashes. To the planner it is one more provider, an `OriginSession`.

It lacks an index. That comes from peers, or from an index file beside the content (`_car`), and
then each leaf is checked as it arrives. Else all of a file has to be here before anything is known:
it is received beside the part file, hashed, and believed if its root is what was asked for.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from lattica._new_file import open_new
from lattica._nursery import private_nursery
from lattica.cid import Codec
from lattica.identity import PeerId

from ._build import Kind, Symlinks, UnreadableSource, build_in_thread
from ._car import IndexFileError, decode_index
from ._events import OriginError, OriginLacksIt, OriginMismatch, OriginUsed
from ._messages import MAX_BLOCK, Status
from ._stages import IndexStage, LeafStage
from ._values import StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from lattica.cid import CID

    from ._build import Built, Segments
    from ._events import FetchEvent
    from ._peer_state import Ask
    from ._session import Side
    from ._stages import Stage

ALONE_SECONDS = 3.0  # without any peer, after which an origin is asked
STALLED_SECONDS = 10.0  # with peers that deliver nothing, after which it is asked as well
_CUT_SUFFIX = ".safetensors"  # a file that is received whole is cut as one of these, or not at all
_SPOOL_SHARE = 0.9  # of the free disk, which a file of unknown size may take at most
_ALIVE_BYTES = 8 << 10  # that count as progress: as patience ends, some 270 bytes a second
_log = logging.getLogger(__name__)


class Origin(Protocol):
    """Somewhere that holds an object as a file or a directory of files.

    Attributes:
        name: its address, for people.
        local: where it is on this machine's disks, if it is.
    """

    name: str

    @property
    def local(self) -> Path | None: ...

    async def index(self) -> bytes | None:
        """Return the index file, or None when there is none. Raises OriginError."""

    def stream(
        self, path: str, offset: int, length: int | None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | memoryview]]:
        """Give `length` bytes (all, if None) of the file at `path` from `offset` on, in pieces.

        `path` is "" when the object is a file. Raises OriginError, OriginLacksIt.
        """


def pseudo_peer(origin: Origin) -> PeerId:
    """Return what the planner knows an origin as: nobody's key, the same for the same address."""
    return PeerId.from_bytes(b"\x12\x20" + hashlib.sha256(origin.name.encode()).digest())


async def index_of_origin(
    origin: Origin, root: CID, segments: Segments | None
) -> Mapping[CID, bytes | memoryview]:
    """Return the index blocks of `root` that an origin has or, on this machine, leads to.

    Each as claimed: hash it before use. Raises OriginError.
    """
    if (data := await origin.index()) is not None:
        with suppress(IndexFileError):
            return await trio.to_thread.run_sync(decode_index, data, root)
    if origin.local is None:
        return {}
    built = await build_in_thread(
        origin.local,
        segments=segments,
        hash_function=root.hash_function,
        symlinks=Symlinks.FOLLOW,
    )
    return built.index


class OriginSide(Protocol):
    """What an origin asks of the fetch, beyond `_session.Side`."""

    def peers_heard(self) -> list[float]:
        """Return when each connected peer, origins aside, last delivered, or joined."""

    def alive(self) -> None:
        """Note that something comes, although nothing is verified yet."""

    def received_whole(self, peer: PeerId, size: int) -> None:
        """Note that so much came of a file that can be verified only at its end."""

    def tell(self, event: FetchEvent) -> None:
        """Pass an event on to the caller."""


class OriginSession:
    """One origin, in place of `_session.Session`. `run` it once.

    Attributes:
        peer: what the planner knows it as.
        partial: True: it may always come to help.
    """

    def __init__(
        self, origin: Origin, side: Side, origin_side: OriginSide, segments: Segments | None
    ) -> None:
        self.peer, self.partial = pseudo_peer(origin), True
        self._origin, self._side, self._fetch = origin, side, origin_side
        self._segments = segments
        self._bell = trio.Event()
        self._alone_since: float | None = None
        self._said_so = False
        self._arrived: list[tuple[LeafStage, int, memoryview]] = []  # and not settled

    def ring(self) -> None:
        """Look whether there is something to do."""
        self._bell.set()

    def cancel_request(self, request_id: int) -> None:
        """Nothing is lost: a leaf that came from elsewhere is dropped."""

    def join(self, stage: Stage, now: float) -> None:
        """Let the planner of `stage` ask for leaves of this origin."""
        if isinstance(stage, LeafStage):
            stage.planner.add_peer(self.peer, now, complete=True)
        self._bell.set()

    async def run(self) -> None:
        """Help when nobody else does, until cancelled, or until the origin proves to be of no use.

        Raises:
            OriginError, OriginLacksIt: it cannot be read.
            OriginMismatch: it has something else.
            LeafMismatch: a leaf of it is not what was asked for.
        """
        try:
            while True:
                await self._until_needed()
                stage = self._side.stage
                if isinstance(stage, IndexStage) and not stage.done:
                    await self._bring_index(stage)
                    continue
                if isinstance(stage, LeafStage):
                    ask = stage.planner.next_request(self.peer, trio.current_time())
                    self._side.asked()
                    if ask is not None:
                        await self._bring_leaves(stage, ask)
                        continue
                await self._bell.wait()
        finally:
            for leaves, item, _ in self._arrived:
                leaves.planner.leaf_wrong(item)

    async def _until_needed(self) -> None:
        while True:
            self._bell = trio.Event()
            now = trio.current_time()
            if heard := self._fetch.peers_heard():
                self._alone_since = None
                due = max(heard) + STALLED_SECONDS
            else:
                self._alone_since = now if self._alone_since is None else self._alone_since
                due = self._alone_since + ALONE_SECONDS
            if now >= due:
                if not self._said_so:
                    self._fetch.tell(OriginUsed(self._origin.name))
                self._said_so = True
                return
            with trio.move_on_at(due):
                await self._bell.wait()

    # --- leaves

    async def _bring_leaves(self, stage: LeafStage, ask: Ask) -> None:
        """Read the run of leaves that the planner asks for, file by file, and settle it."""
        item = ask.first
        for path, offset, lengths in stage.spans(ask.first, ask.count):
            size = sum(lengths)
            async with self._origin.stream(path, offset, size) as pieces:
                async with aclosing(self._cut(pieces, lengths, path)) as leaves:
                    async for leaf in leaves:
                        self._take(stage, item, leaf)
                        item += 1
        items = [(item, leaf) for _, item, leaf in self._arrived]
        lie = await self._side.settle(self.peer, stage, items)
        self._arrived = []
        if lie is not None:
            raise lie
        stage.planner.request_ended(self.peer, Status.OK, trio.current_time())
        self._side.asked()

    def _take(self, stage: LeafStage, item: int, leaf: memoryview) -> None:
        stage.planner.receive_bytes(self.peer, len(leaf), trio.current_time())
        self._side.received(self.peer, stage, len(leaf), len(leaf))
        if stage.planner.leaf_arrived(self.peer):
            self._arrived.append((stage, item, leaf))

    async def _cut(
        self, pieces: AsyncIterator[bytes | memoryview], lengths: Sequence[int], path: str
    ) -> AsyncGenerator[memoryview, None]:
        """Give the leaves that `pieces` consist of."""
        leaf, filled = memoryview(bytearray(lengths[0])), 0
        waiting = iter(lengths[1:])
        done = False
        async for piece in pieces:
            rest = memoryview(piece)
            while not done and (rest or filled == len(leaf)):
                take = min(len(rest), len(leaf) - filled)
                leaf[filled : filled + take] = rest[:take]
                filled, rest = filled + take, rest[take:]
                if filled < len(leaf):
                    break
                yield leaf
                length = next(waiting, None)
                done = length is None
                leaf, filled = memoryview(bytearray(length or 0)), 0
        if not done and not (filled == len(leaf) and next(waiting, None) is None):
            raise OriginError(f"{self._origin.name}: {path or 'the file'} ended early")
        if not done:  # of an empty file, no piece comes
            yield leaf

    # --- the index

    async def _bring_index(self, stage: IndexStage) -> None:
        """Find out the index in one way or another. Given up when peers have told it meanwhile."""
        async with private_nursery() as nursery:
            nursery.start_soon(self._until_told, stage, nursery.cancel_scope)
            root = stage.root
            if root.codec == Codec.RAW:
                await self._bring_single_leaf(stage)
            elif (data := await self._index_file(root)) is not None:
                await self._offer(stage, data)
            if not stage.done:
                await self._offer(stage, (await self._hashed(stage)).index)
            nursery.cancel_scope.cancel()

    async def _until_told(self, stage: IndexStage, scope: trio.CancelScope) -> None:
        while self._side.stage is stage:
            await self._bell.wait()
            self._bell = trio.Event()
        scope.cancel()

    async def _bring_single_leaf(self, stage: IndexStage) -> None:
        """An object of a single leaf is its own index."""
        data = bytearray()
        async with self._origin.stream("", 0, None) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > MAX_BLOCK:
                    break
        if not stage.root.matches(data):
            raise OriginMismatch(f"{self._origin.name} is not {stage.root}", cid=stage.root)
        await self._offer(stage, {stage.root: data})

    async def _index_file(self, root: CID) -> Mapping[CID, memoryview] | None:
        data = await self._origin.index()
        if data is None:
            return None
        try:
            return await trio.to_thread.run_sync(decode_index, data, root)
        except IndexFileError as error:
            _log.warning("%s: %s", self._origin.name, error)
            return None

    async def _offer(
        self, stage: IndexStage, blocks: Mapping[CID, bytes | bytearray | memoryview]
    ) -> None:
        """Have the fetch walk on from these blocks, as far as they lead."""
        while items := stage.wanted_of(blocks):
            for _, view in items:
                self._side.received(self.peer, stage, len(view), len(view))
            lie = await self._side.settle(self.peer, stage, items)
            if lie is not None:
                raise lie

    async def _hashed(self, stage: IndexStage) -> Built:
        """Hash all that the origin has; raises OriginMismatch unless its root is the right one."""
        root = stage.root
        if self._origin.local is not None:
            built = await self._build(self._origin.local, root, self._segments)
        elif stage.is_directory:
            raise OriginLacksIt(
                f"{self._origin.name} cannot list a directory, and no peer tells its index",
                hint="put its index file beside it: `lattica index DIRECTORY`",
            )
        else:
            # Not where peers' leaves go: those are verified, and whoever writes there is trusted.
            spool = stage.part_path.with_name(f"{stage.part_path.name}.origin{_CUT_SUFFIX}")
            try:
                await self._receive(spool)
                is_cut = stage.destination.name.endswith(_CUT_SUFFIX)  # as far as its name says
                built = await self._build(spool, root, self._segments if is_cut else None)
                if built.root == root:
                    await trio.to_thread.run_sync(os.replace, spool, stage.part_path)
            finally:
                with suppress(OSError):
                    spool.unlink()
        if built.root != root:
            raise OriginMismatch(f"{self._origin.name} is not {root}, but {built.root}", cid=root)
        return built

    async def _build(self, path: Path, root: CID, segments: Segments | None) -> Built:
        """Hash `path`; a file whose name tells nothing, cut in either way."""
        build = partial(
            build_in_thread,
            path,
            hash_function=root.hash_function,
            symlinks=Symlinks.FOLLOW,
            progress=lambda _count: self._fetch.alive(),
        )
        try:
            built = await build(segments=segments)
        except UnreadableSource as error:
            raise OriginLacksIt(str(error)) from error
        if built.root != root and self._segments is not None and built.kind is Kind.FILE:
            built = await build(segments=None if segments else self._segments)
        return built

    async def _receive(self, spool: Path) -> None:
        """Receive the whole file, of whatever size that is, into `spool`."""
        size = told = 0
        try:
            async with (
                trio.wrap_file(await trio.to_thread.run_sync(open_new, spool)) as file,
                self._origin.stream("", 0, None) as pieces,
            ):
                disk = os.fstatvfs(file.fileno())
                most = int(disk.f_bavail * disk.f_frsize * _SPOOL_SHARE)
                async for piece in pieces:
                    size += len(piece)
                    if size > most:
                        raise OriginLacksIt(
                            f"{self._origin.name} sends more than {most} bytes and names no end",
                            hint="put its index file beside it, which tells how much it is:"
                            " `lattica index FILE`; or make room on the disk",
                        )
                    await file.write(piece)
                    if size - told >= _ALIVE_BYTES:  # or drops would keep a fetch going for ever
                        self._fetch.received_whole(self.peer, size - told)
                        told = size
                self._fetch.received_whole(self.peer, size - told)
        except OSError as error:
            raise StorageError(f"cannot write {spool}: {error.strerror}") from error
