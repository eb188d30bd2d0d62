"""The two stages of a fetch: first the index from the root down, then the leaves it vouches for.

Both are the same to a provider and to whoever talks to one: numbered items with multihashes, asked
for as a `Planner` says, each checked against its hash and settled. The index stage settles a block
by walking on from it, which makes further items known; the leaf stage by writing leaves in place.

`settle` and `load` hash, read and write: they run in a worker thread. All else is for the loop.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from lattica.cid import Codec
from lattica.codec import PlanesError, unpack_planes
from lattica.errors import LimitExceeded, ProtocolError

from ._dag import LeafTable
from ._events import LeafMismatch
from ._messages import MAX_BLOCK, unpack_bitmap
from ._planner import Planner
from ._walk import Tree, Walker

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lattica.cid import CID
    from lattica.identity import PeerId

    from ._download import Download
    from ._part import PartFile
    from ._plan import PlannerLimits
    from ._walk import TreeFile
    from .store import Store

MAX_LEAVES = 1 << 22  # of one object; some 50 bytes each: 1 TiB in leaves of 256 KiB
MAX_SMALL_LEAVES = 1 << 18  # of one object: more than any file has tensors
SMALL_LEAF_BYTES = 4096  # on average; publishers make none of fewer than four times as many
INDEX_ESTIMATE = 52_000  # bytes of a full index block: what one is planned as
_MAX_WANTED = 64  # index blocks that are asked for at the same time
_MAX_WALKERS = 32  # files whose index is walked at the same time


class UnexpectedAnswer(ProtocolError):
    """A provider answered what was not asked, or with a length that the index contradicts."""

    code = "unexpected-answer"


class ObjectTooLarge(LimitExceeded):
    """An object has more leaves than can be fetched at once."""

    code = "object-too-large"
    retryable = False
    hint = "fetch its files one by one"


class Stage(Protocol):
    """What providers are asked for at the moment.

    Attributes:
        planner: says which item to ask of whom.
        is_content: whether the items are content, not index.
    """

    planner: Planner
    is_content: bool

    def hashes(self, first: int, count: int) -> tuple[bytes, ...]:
        """Return the multihashes of a run of items."""

    def codec(self, item: int) -> int:
        """Return what kind of block an item is: a `Codec`."""

    def size_of(self, item: int) -> int:
        """Return the content bytes of an item; 0 where they are not known, so it comes raw."""

    def check(self, item: int, length: int) -> None:
        """Hold the length that a provider declares for an item against what is known of it.

        Raises:
            UnexpectedAnswer: no content of that length hashes to what was asked for.
        """

    def settle(self, items: Sequence[tuple[int, memoryview]]) -> list[int]:
        """*Slow.* Check items against their hashes, keep those that match, return the others.

        What comes after a leaf that does not match is not kept either: it is from the same liar.

        An item of fewer bytes than its content is a packed one.

        Raises:
            StorageError: the disk refuses. DagError: the object is malformed.
        """

    def mismatch(self, item: int, peer: PeerId) -> LeafMismatch:
        """Return the error that says what `peer` did."""


class IndexStage:
    """From a root CID to the leaves of all files. One `settle` or `load` at a time.

    Attributes:
        planner: plans index blocks, as they become known.
        files: what the object consists of, in path order; complete when `done`.
        tables: for each file, its leaves.
        inline: the content, when the object is a single leaf.
    """

    def __init__(self, root: CID, store: Store, download: Download, ids: Iterator[int]) -> None:
        """Start at `root`. Raises InvalidInput when it cannot name content."""
        self.root = root
        self.planner = Planner(0, lambda _: INDEX_ESTIMATE, ids=ids)
        self.files: list[TreeFile] = []
        self.tables: list[LeafTable] = []
        self.is_content = root.codec == Codec.RAW
        self._tree = Tree(root)
        self._store, self._download = store, download
        self._items: list[CID] = []  # that peers are asked for, in the order they became known
        self._asked: set[CID] = set()  # those of them that have not come
        self._wanted: list[CID] = []  # neither here nor asked for yet
        self._walking: list[tuple[int, Walker]] = []  # by file number
        self._leaf_count = self._most_leaves = 0

    @property
    def inline(self) -> bytes | None:
        """The content, when the object is a single leaf: it is its own index."""
        return self._tree.inline

    @property
    def is_directory(self) -> bool:
        """Whether the object is a directory."""
        return self._tree.is_directory

    @property
    def directories(self) -> list[str]:
        """The directories below the root, parents first."""
        return self._tree.directories

    @property
    def done(self) -> bool:
        """Whether every leaf is known."""
        return self._tree.done and len(self.tables) == len(self.files) and not self._walking

    def load(self) -> None:
        """*Slow.* Go as far as index blocks that the store has already reach."""
        while True:
            found = False
            self._wanted = []
            for cid in self._needed():
                if cid in self._asked:
                    continue
                block = None if cid.codec == Codec.RAW else self._store.read_index(cid)
                if block is None:
                    self._wanted.append(cid)
                else:
                    self._feed(cid, block)
                    found = True
            if not found:
                return

    @property
    def part_path(self) -> Path:
        """Where the object is written until it is whole."""
        return self._download.part_path

    @property
    def destination(self) -> Path:
        """Where the object will be."""
        return self._download.destination

    def wanted_of(
        self, blocks: Mapping[CID, bytes | bytearray | memoryview]
    ) -> list[tuple[int, memoryview]]:
        """Return those of `blocks` that are needed next, as items to be settled."""
        return [
            (item, memoryview(blocks[cid]))
            for item, cid in enumerate(self._items)
            if cid in self._asked and cid in blocks
        ]

    def plan(self) -> bool:
        """Plan the blocks that became known to be needed. Returns whether there are any."""
        self._items += self._wanted
        self._asked.update(self._wanted)
        count, self._wanted = len(self._wanted), []
        self.planner.extend(count)
        return bool(count)

    def hashes(self, first: int, count: int) -> tuple[bytes, ...]:
        """As `Stage.hashes`."""
        return tuple(cid.multihash for cid in self._items[first : first + count])

    def codec(self, item: int) -> int:
        """As `Stage.codec`."""
        return self._items[item].codec

    def size_of(self, item: int) -> int:
        """As `Stage.size_of`: an index block says how long it is by coming."""
        return 0

    def check(self, item: int, length: int) -> None:
        """As `Stage.check`: an index block has no size of its own but the bound of all blocks."""
        if length > MAX_BLOCK:
            raise UnexpectedAnswer(f"index block {item} of {length} bytes, limit {MAX_BLOCK}")

    def settle(self, items: Sequence[tuple[int, memoryview]]) -> list[int]:
        """As `Stage.settle`."""
        wrong = []
        for item, view in items:
            cid = self._items[item]
            if not cid.matches(view):
                wrong.append(item)
                continue
            block = bytes(view)
            if cid.codec != Codec.RAW:
                self._download.add_index(cid, block)
            self._asked.discard(cid)
            self._feed(cid, block)
        self.load()
        return wrong

    def mismatch(self, item: int, peer: PeerId) -> LeafMismatch:
        """As `Stage.mismatch`."""
        cid = self._items[item]
        return LeafMismatch(cid=cid, leaf=item, offset=0, path="", peer=peer, index=True)

    def _feed(self, cid: CID, block: bytes) -> None:
        if not self._tree.done:
            self._tree.receive(cid, block)
            return
        for _, walker in self._walking:
            walker.receive(cid, block)

    def _needed(self) -> list[CID]:
        """Return the blocks needed next, in the order of the content; moves on as far as it can."""
        if not self._tree.done:
            return self._tree.needed(_MAX_WANTED)
        if not self.files:
            self.files = self._tree.files
            # A hundred kilobytes of index can unfold into millions of leaves of a byte, each of
            # which costs a row and a hash.
            most = len(self.files) + self._tree.size // SMALL_LEAF_BYTES
            self._most_leaves = MAX_SMALL_LEAVES + most
        while True:
            while len(self._walking) < _MAX_WALKERS and len(self.tables) < len(self.files):
                self._start_walker(self.files[len(self.tables)])
            self._walking = [entry for entry in self._walking if not self._walk(*entry)]
            if len(self._walking) == _MAX_WALKERS or len(self.tables) == len(self.files):
                break
        needed = [cid for _, walker in self._walking for cid in walker.needed()]
        return list(dict.fromkeys(needed))[:_MAX_WANTED]

    def _start_walker(self, file: TreeFile) -> None:
        self._walking.append((len(self.tables), Walker(file.root, size=file.size)))
        self.tables.append(LeafTable(file.root))

    def _walk(self, number: int, walker: Walker) -> bool:
        """Take the leaves that are known; returns whether they are all."""
        table = self.tables[number]
        for leaf in walker.leaves():
            table.append(leaf.length, leaf.multihash)
            self._leaf_count += 1
            if self._leaf_count > MAX_LEAVES:
                raise ObjectTooLarge(
                    f"{self.root} has more than {MAX_LEAVES} leaves", cid=self.root
                )
            if self._leaf_count > self._most_leaves:
                raise ObjectTooLarge(
                    f"{self.root} has more than {self._most_leaves} leaves for its"
                    f" {self._tree.size} bytes: a few blocks that name each other, to keep readers"
                    " busy",
                    cid=self.root,
                )
        return walker.done


class LeafStage:
    """The leaves of all files, numbered through in the order of the files.

    Attributes:
        planner: plans the leaves.
        size: content bytes of all files.
    """

    def __init__(
        self,
        files: Sequence[TreeFile],
        parts: Sequence[PartFile],
        ids: Iterator[int],
        limits: PlannerLimits | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """*Slow.* Plan what the part files do not have yet."""
        self.is_content = True
        self._files, self._parts = files, parts
        self._sizes = array("I")
        self._firsts: list[int] = []  # number of each file's first leaf
        for part in parts:
            self._firsts.append(len(self._sizes))
            self._sizes.extend(leaf.length for leaf in part.leaves)
        self.size = sum(part.leaves.size for part in parts)
        size = self._sizes.__getitem__
        self.planner = Planner(len(self._sizes), size, ids=ids, limits=limits, rng=rng)
        for first, part in zip(self._firsts, parts, strict=True):
            self._mark(first, unpack_bitmap(part.bitmap(), len(part.leaves)))

    @property
    def verified_bytes(self) -> int:
        """How much is written and right."""
        return sum(part.verified_bytes for part in self._parts)

    def spans(self, first: int, count: int) -> list[tuple[str, int, list[int]]]:
        """Return where a run of leaves is: for each file its path, an offset, and their lengths."""
        found: list[tuple[str, int, list[int]]] = []
        for item in range(first, first + count):
            part, number = self._locate(item)
            leaf = self._parts[part].leaves[number]
            if not found or found[-1][0] != self._files[part].path:
                found.append((self._files[part].path, leaf.offset, []))
            found[-1][2].append(leaf.length)
        return found

    def hashes(self, first: int, count: int) -> tuple[bytes, ...]:
        """As `Stage.hashes`."""
        found = []
        for item in range(first, first + count):
            part, leaf = self._locate(item)
            found.append(self._parts[part].leaves[leaf].multihash)
        return tuple(found)

    def codec(self, _item: int) -> int:
        """As `Stage.codec`."""
        return Codec.RAW

    def size_of(self, item: int) -> int:
        """As `Stage.size_of`."""
        return self._sizes[item]

    def check(self, item: int, length: int) -> None:
        """As `Stage.check`: the index says exactly how long a leaf is."""
        if length != self._sizes[item]:
            raise UnexpectedAnswer(f"leaf {item} of {length} bytes, not {self._sizes[item]}")

    def settle(self, items: Sequence[tuple[int, memoryview]]) -> list[int]:
        """As `Stage.settle`. Adjacent leaves are written with one system call."""
        wrong: list[int] = []
        runs: list[tuple[int, int, list[memoryview]]] = []  # part, first leaf, bytes
        for number, (item, received) in enumerate(items):
            part, leaf = self._locate(item)
            table = self._parts[part].leaves
            view = unpacked(received, self._sizes[item])
            if view is None or table.hash_function.multihash(view) != table[leaf].multihash:
                wrong = [later for later, _ in items[number:]]  # nothing more is taken from a liar
                break
            if runs and runs[-1][0] == part and runs[-1][1] + len(runs[-1][2]) == leaf:
                runs[-1][2].append(view)
            else:
                runs.append((part, leaf, [view]))
        for part, leaf, views in runs:
            self._parts[part].write(leaf, views)
        return wrong

    def mismatch(self, item: int, peer: PeerId) -> LeafMismatch:
        """As `Stage.mismatch`."""
        part, number = self._locate(item)
        leaf = self._parts[part].leaves[number]
        return LeafMismatch(
            cid=self._files[part].root,
            leaf=number,
            offset=leaf.offset,
            path=self._files[part].path,
            peer=peer,
        )

    def _locate(self, item: int) -> tuple[int, int]:
        """Return which file an item is in, and the leaf's number there."""
        part = bisect_right(self._firsts, item) - 1
        return part, item - self._firsts[part]

    def _mark(self, first: int, flags: bytes) -> None:
        start = flags.find(1)
        while start >= 0:
            end = flags.find(0, start)
            end = end if end >= 0 else len(flags)
            self.planner.mark_verified(first + start, end - start)
            start = flags.find(1, end)


def unpacked(received: memoryview, size: int) -> memoryview | None:
    """*Slow.* Return what was received as content of `size` bytes; None where it cannot be that."""
    if len(received) == size:
        return received
    content = memoryview(bytearray(size))
    try:
        unpack_planes(received, content)
    except PlanesError:
        return None
    return content
