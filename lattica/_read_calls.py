"""What a node does to read parts of an object: opened, read once, or only looked at."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from lattica._deadline import deadline
from lattica._finding import Finding
from lattica._opened import Opening, OpenObject
from lattica._reads import write_range
from lattica._reference import is_name, read_reference
from lattica._sealed import UnsealedFile, unsealed_file
from lattica.content import Selection
from lattica.errors import LimitExceeded
from lattica.results import Preview, preview_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import trio

    from lattica.cid import CID
    from lattica.content import ObjectReader
    from lattica.results import RangeRead
    from lattica.ticket import Ticket
    from lattica.transport import Multiaddr

MAX_OPEN = 256  # objects held open by `await node.open(…)`: each has streams and a cache


class TooManyOpen(LimitExceeded):
    """As many objects are open as one node holds."""

    code = "too-many-open"
    hint = "close some with `aclose`, or open them with `async with`"


class ReadCalls(Finding):
    """The part of `AsyncNode` that reads."""

    _open_objects = 0

    async def preview(
        self,
        ref: Ticket | CID | str,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Preview:
        """Say what `get` would fetch, from the index alone. Arguments and errors as there."""
        selection = Selection(tuple(include), tuple(exclude))
        with deadline(timeout, f"look at {ref}"):
            async with self.open(ref, peers=peers) as reader:
                return preview_of(await reader.select(selection))

    def open(
        self, ref: Ticket | CID | str, path: str = "", *, peers: Sequence[Multiaddr | str] = ()
    ) -> Opening:
        """Open an object, to read parts of its bytes or tensors: verified, from here or from peers.

            async with node.open(ref) as model:   # open as long as the block
            model = await node.open(ref)          # open until `await model.aclose()`

        Only the leaves and index blocks are fetched that a read needs; they are remembered in
        memory, up to a bound, and nothing is written to disk.

        Args:
            ref: a ticket or a CID; of a model, its name or manifest, too.
            path: which file, when the object is a directory.
            peers: addresses of peers to ask beside those that are found.

        Raises:
            NotInObject: nothing is at `path`.
            NoProvider, Unreachable, IntegrityError, InvalidInput: as `get`.
        """
        return Opening(self._opened(ref, path, peers), self._keep_open)

    async def read(
        self,
        ref: Ticket | CID | str,
        offset: int,
        length: int,
        *,
        path: str = "",
        out: bytearray | memoryview | None = None,
        peers: Sequence[Multiaddr | str] = (),
        unseal: bool | None = None,
        timeout: float | None = None,
    ) -> bytes | memoryview:
        """Return `length` bytes from `offset` of an object, or of the file at `path` in it.

        For many reads of one object, `open` it: connections and index are then kept.

        Args:
            ref: as `open`.
            path: as `open`.
            peers: as `open`.
            offset: in bytes.
            length: in bytes; the range must lie in the file.
            out: memory to read into instead; then a view of what was filled is returned.
            unseal: read what was sealed for this node, only the chunks that it takes; False reads
                the sealed bytes. Default: what the ticket says.
            timeout: seconds for all of it.

        Raises:
            RangeOutside: the range leaves the file.
            NotARecipient: it is sealed to others; nothing but its header was read.
            Else as `open`.
        """
        cid = None if is_name(ref) else read_reference(ref)[0]
        with deadline(timeout, f"read {cid or ref}", cid):
            async with self._file(ref, path, peers, unseal) as file:
                if out is None:
                    return await file.read(offset, length)
                return await file.read(offset, length, out=out)

    async def read_to(
        self,
        ref: Ticket | CID | str,
        offset: int,
        length: int | None,
        destination: Path | str,
        *,
        path: str = "",
        peers: Sequence[Multiaddr | str] = (),
        overwrite: bool = False,
        unseal: bool | None = None,
        timeout: float | None = None,
    ) -> RangeRead:
        """Write a range of an object (to its end, if `length` is None) into a file; see `read`.

        Raises:
            DestinationTaken: something stands at `destination`, and `overwrite` is not set.
        """
        cid = None if is_name(ref) else read_reference(ref)[0]
        with deadline(timeout, f"read {cid or ref}", cid):
            async with self._file(ref, path, peers, unseal) as file:
                return await write_range(file, offset, length, destination, overwrite=overwrite)

    async def _keep_open(self, manager: AbstractAsyncContextManager[OpenObject]) -> OpenObject:
        """Hold an object open until it is closed, or the node ends."""
        if self._open_objects >= MAX_OPEN:
            raise TooManyOpen(f"{MAX_OPEN} objects are open")

        async def hold(task_status: trio.TaskStatus[OpenObject]) -> None:
            self._open_objects += 1
            try:
                async with manager as opened:
                    task_status.started(opened)
                    await opened._done.wait()
            finally:
                self._open_objects -= 1

        opened: OpenObject = await self._nursery.start(hold)
        return opened

    @asynccontextmanager
    async def _file(
        self,
        ref: Ticket | CID | str,
        path: str,
        peers: Sequence[Multiaddr | str],
        unseal: bool | None,
    ) -> AsyncIterator[ObjectReader | UnsealedFile]:
        ref, _ = await self._content_of(ref, peers)
        ticket = read_reference(ref)[1]
        if not (unseal or (unseal is None and ticket is not None and ticket.sealed)):
            async with self._reader(ref, path, peers) as reader:
                yield reader
            return
        async with self._reader(ref, "", peers) as reader:
            yield await unsealed_file(reader, self.mesh.identity, path)

    @asynccontextmanager
    async def _reader(
        self, ref: Ticket | CID | str, path: str, peers: Sequence[Multiaddr | str]
    ) -> AsyncIterator[ObjectReader]:
        cid, known = await self._known(ref, peers)
        async with self._root_reader(cid, known, path) as reader:
            yield reader

    async def _content_of(
        self, ref: Any, peers: Sequence[Multiaddr | str]
    ) -> tuple[Ticket | CID | str, object]:
        raise NotImplementedError  # as below

    def _opened(
        self, ref: Any, path: str, peers: Sequence[Multiaddr | str]
    ) -> AbstractAsyncContextManager[OpenObject]:
        raise NotImplementedError  # `ModelCalls` knows manifests and deltas, too
