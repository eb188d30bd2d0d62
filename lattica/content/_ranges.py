"""Reading a part of an object, wherever it is: verified from the root, and nothing else touched.

    async with exchange.open(root, providers=[provider]) as reader:
        header = await reader.read(0, 4096)
        async with reader.stream(offset, length) as pieces:
            async for piece in pieces:
                ...

A read walks from the root to the leaves that its range lies in. Index blocks and leaves come from
memory, from the store, else from peers; what has been proven is remembered for the next read, up to
a bound. Reads may run at the same time; together they hold a bounded number of leaves.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, overload

import trio

from lattica.cid import Codec
from lattica.errors import InvalidInput, NotFound

from ._blocks import Want
from ._segments import SegmentRoots
from ._select import Selecting
from ._unixfs import DagError, DirectoryNode, decode
from ._walk import MAX_TREE_DEPTH, Tree, Walker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from lattica.cid import CID

    from ._blocks import Blocks
    from ._dag import Leaf
    from ._select import Selected, Selection
    from ._unixfs import FileNode
    from ._walk import TreeFile

_AHEAD_BYTES = 16 << 20  # of leaves that one read has asked for and not taken
_INDEX_AHEAD = 4  # index blocks asked for at once: 4 GiB of content in leaves of 1 MiB
_MAX_AHEAD_LEAVES = 128  # of all reads of one reader: 32 MiB in most files, 256 MiB at the worst


class RangeOutside(InvalidInput):
    """A range does not lie in the file."""

    code = "range"
    hint = "offset and length are in bytes, and end within the file"


class NotInObject(NotFound):
    """An object has no file or directory at a path."""

    code = "not-in-object"
    hint = "paths are relative to the object, with `/` between names"


class ObjectReader:
    """Reads parts of one file of an object, or lists a directory. Made by `Exchange.open`.

    Attributes:
        root: of the file or directory.
        path: where that is in the object that was opened; "" when it is the object.
        is_directory: whether it is a directory: then `open` a file in it.
    """

    def __init__(self, blocks: Blocks, root: CID, path: str, size: int | None) -> None:
        self.root, self.path, self.is_directory = root, path, size is None
        self._blocks, self._size = blocks, size
        self._ahead = trio.Semaphore(_MAX_AHEAD_LEAVES)

    @property
    def size(self) -> int:
        """Bytes of the file. Raises InvalidInput for a directory."""
        if self._size is None:
            raise InvalidInput(
                f"{self.root} is a directory",
                cid=self.root,
                hint="name a file in it (--file PATH; `get REF --dry-run` lists them)",
            )
        return self._size

    @property
    def received_bytes(self) -> int:
        """What came over the network for all readers of the object that was opened."""
        return self._blocks.received_bytes

    @overload
    async def read(self, offset: int, length: int) -> bytes: ...

    @overload
    async def read(
        self, offset: int, length: int, *, out: bytearray | memoryview
    ) -> memoryview: ...

    async def read(
        self, offset: int, length: int, *, out: bytearray | memoryview | None = None
    ) -> bytes | memoryview:
        """Return `length` bytes from `offset` of the file.

        Args:
            offset: in bytes.
            length: in bytes.
            out: memory to read into, of `length` bytes or more, instead of new memory. When the
                read fails or is cancelled, it may hold some of the bytes.

        Returns:
            The bytes; with `out`, a view of what was filled.

        Raises:
            RangeOutside: the range leaves the file.
            NoProvider, ProvidersLost, IntegrityError, SourceChanged, FetchStalled: as `fetch`.
            DagError: the object is malformed.
        """
        self._check(offset, length)
        target = None if out is None else memoryview(out).cast("B")[:length]
        if target is not None and len(target) < length:
            raise InvalidInput(f"a buffer of {len(target)} bytes for {length}")
        pieces: list[memoryview] = []
        done = 0
        async with self.stream(offset, length) as stream:
            async for piece in stream:
                if target is None:
                    pieces.append(piece)
                else:
                    target[done : done + len(piece)] = piece
                    done += len(piece)
        return b"".join(pieces) if target is None else target

    @asynccontextmanager
    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[memoryview]]:
        """Read `length` bytes (to the end, by default) from `offset`, in pieces as they come.

        Some mebibytes are asked for ahead of who takes the pieces. Raises as `read`, from the
        iteration.
        """
        length = self.size - offset if length is None else length
        self._check(offset, length)
        async with aclosing(self._pieces(offset, offset + length)) as pieces:
            yield pieces

    async def files(self) -> list[TreeFile]:
        """Return every file at and below this path, sorted; each with its root and exact size.

        Fetches the directories and one index block of each file of several leaves; no leaves, but
        where the object is a single one.
        """
        tree = Tree(self.root)
        while not tree.done:
            needed = tree.needed()
            wants = await self._blocks.request([Want(cid.multihash, None, 0, "") for cid in needed])
            for cid, want in zip(needed, wants, strict=True):
                tree.receive(cid, await want.wait())
        return tree.files

    async def names(self) -> list[str]:
        """Return the names in this directory, sorted, of files and directories; one block is read.

        Raises:
            InvalidInput: it is a file.
        """
        node = await self._node(self.root) if self.is_directory else None
        if not isinstance(node, DirectoryNode):
            raise InvalidInput(f"{self.root} is no directory", cid=self.root)
        return [entry.name for entry in node.entries]

    async def select(self, selection: Selection) -> Selected:
        """Return what of this directory, or file, `selection` takes; fetches what `files` does.

        Raises:
            InvalidInput: patterns for what is a single file.
            NothingSelected: no file is taken.
        """
        selecting = Selecting(self.root, selection)
        while not selecting.tree.done:
            needed = selecting.tree.needed()
            wants = await self._blocks.request([Want(cid.multihash, None, 0, "") for cid in needed])
            for cid, want in zip(needed, wants, strict=True):
                selecting.receive(cid, await want.wait())
        return selecting.result()

    async def segments(self, lengths: Sequence[int]) -> list[CID]:
        """Return the root of each segment of this file, which is cut into `lengths`, in bytes.

        Fetches the topmost index blocks: one for up to 1 024 segments.

        Raises:
            NotCutSo: the file is not cut so.
        """
        roots = SegmentRoots(self.root, lengths)
        while needed := roots.needed():
            wants = [Want(cid.multihash, None, 0, self.path) for cid in needed]
            for cid, want in zip(needed, await self._blocks.request(wants), strict=True):
                roots.receive(cid, await want.wait())
        return roots.found()

    async def open(self, path: str) -> ObjectReader:
        """Return a reader of what is at `path` below this directory; it shares all that this has.

        Raises:
            NotInObject: nothing is there.
        """
        root, size = self.root, self._size
        names = path.split("/") if path else []
        if len(names) > MAX_TREE_DEPTH:
            raise NotInObject(f"{path!r} is deeper than a directory may be", cid=self.root)
        for name in names:
            node = await self._node(root) if size is None else None
            if not isinstance(node, DirectoryNode):
                raise NotInObject(f"what is above {path!r} is no directory", cid=self.root)
            entry = next((entry for entry in node.entries if entry.name == name), None)
            if entry is None:
                raise NotInObject(f"{self.root} has no {path!r}", cid=self.root)
            root = entry.cid
            size = entry.total_size if root.codec == Codec.RAW else await _size(self._blocks, root)
        inside = "/".join(filter(None, (self.path, path)))
        return ObjectReader(self._blocks, root, inside, size)

    # --- inside

    def _check(self, offset: int, length: int) -> None:
        if not (offset >= 0 and length >= 0 and offset + length <= self.size):
            raise RangeOutside(
                f"{length} bytes at {offset} of a file of {self.size}", cid=self.root
            )

    async def _node(self, cid: CID) -> FileNode | DirectoryNode:
        return decode(cid, await self._blocks.get(cid.multihash))

    async def _pieces(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """Give the bytes of a range, in order, while what follows is on its way."""
        walker = Walker(self.root, size=self.size, start=start, stop=stop, known=self._blocks.nodes)
        ahead: deque[tuple[Leaf, Want]] = deque()
        size = held = 0  # bytes of what is ahead; leaves of `self._ahead` that we hold
        try:
            while start < stop:
                if size <= _AHEAD_BYTES // 2:
                    batch: list[Leaf] = []
                    while size < _AHEAD_BYTES and await self._take_room(waiting=not held):
                        held += 1
                        leaf = next(walker.leaves(), None)
                        if leaf is None:
                            held -= 1
                            self._ahead.release()
                            break
                        batch.append(leaf)
                        size += leaf.length
                    ahead += zip(batch, await self._request(batch), strict=True)
                if not ahead:
                    await self._walk_on(walker)
                    continue
                leaf, want = ahead.popleft()
                data = memoryview(await want.wait())
                held, size = held - 1, size - leaf.length
                self._ahead.release()
                if len(data) != leaf.length:
                    raise DagError(
                        f"leaf {leaf.cid} has {len(data)} bytes, its index declares {leaf.length}",
                        cid=self.root,
                    )
                piece = data[start - leaf.offset : stop - leaf.offset]
                start += len(piece)
                yield piece
        finally:
            for _ in range(held):
                self._ahead.release()

    async def _take_room(self, *, waiting: bool) -> bool:
        """Take room for one more leaf. Who holds none waits for it: those who do can go on."""
        if waiting:
            await self._ahead.acquire()
            return True
        try:
            self._ahead.acquire_nowait()
        except trio.WouldBlock:
            return False
        return True

    async def _request(self, leaves: list[Leaf]) -> list[Want]:
        wants = [Want(leaf.multihash, leaf.length, leaf.offset, self.path) for leaf in leaves]
        return await self._blocks.request(wants) if wants else []

    async def _walk_on(self, walker: Walker) -> None:
        """Give the walker the next index block, and have those after it fetched meanwhile."""
        needed = walker.needed(_INDEX_AHEAD)
        wants = [Want(cid.multihash, None, 0, self.path) for cid in needed]
        for number, want in enumerate(await self._blocks.request(wants)):
            if number == 0 or want.ended:
                walker.receive(needed[number], await want.wait())


async def open_object(blocks: Blocks, root: CID, path: str) -> ObjectReader:
    """Return a reader of what is at `path` in the object `root`. Raises as `ObjectReader.read`."""
    whole = ObjectReader(blocks, root, "", await _size(blocks, root))
    return await whole.open(path) if path else whole


async def _size(blocks: Blocks, root: CID) -> int | None:
    """Return the size of a file from its root block; None for a directory."""
    known = blocks.nodes.get(root)
    if known is not None:
        return known.size
    block = await blocks.get(root.multihash)
    if root.codec == Codec.RAW:
        return len(block)
    node = decode(root, block)
    if isinstance(node, DirectoryNode):
        return None
    blocks.nodes[root] = node
    return node.size
