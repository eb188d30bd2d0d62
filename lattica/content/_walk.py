"""From a root CID and index blocks, fed as they arrive, to leaves and files. Pure.

    walker = Walker(root)
    while not walker.done:
        for cid in walker.needed():             # in file order; ask the store, then peers
            walker.receive(cid, block_of(cid))  # IntegrityError: the sender lied
        for leaf in walker.leaves():            # what can be told now, in file order
            ...

A walk goes through the tree in file order, and unfolds an index block only when it reaches it. So
it holds the links of one block per level and a bounded number of blocks ahead, whatever the size of
the file, and a small DAG that unfolds into a huge one is harmless. What a parent says of a child's
size is held against the child, always: a walk that ends has seen sizes that agree everywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lattica.cid import CID, Codec
from lattica.errors import IntegrityError, InvalidInput, LimitExceeded

from ._dag import Leaf
from ._unixfs import (
    MAX_BLOCK_BYTES,
    DagError,
    DirectoryNode,
    Entry,
    FileNode,
    Link,
    decode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 16  # index blocks above a leaf; 1024 links a level reach 2**63 bytes in 6
MAX_AHEAD = 32  # index blocks ahead of the walk: 8 MiB decoded, 8 GiB of content
MAX_TREE_ENTRIES = 100_000  # files and directories of one object: bounds a listing's memory
MAX_TREE_DEPTH = 32  # directories above a file
MAX_PATH_BYTES = 1024  # of a relative path, in UTF-8

_UNKNOWN = -1  # a size that no parent has declared


class TreeTooLarge(LimitExceeded):
    """A directory tree has more entries, or is nested deeper, than one object may."""

    code = "tree-too-large"
    retryable = False
    hint = "share its parts as objects of their own, or as one archive file"


class _Step(NamedTuple):
    """A child that the walk has yet to reach, and the index block that names it."""

    link: Link
    parent: CID
    offset: int  # of its first byte in the file
    depth: int


class Walker:
    """The leaves of one file, or of a byte range of it, from index blocks given as they arrive.

    Attributes:
        root: the file's root.
        size: bytes of the whole file; None while nothing is known of it.
    """

    def __init__(
        self,
        root: CID,
        *,
        size: int | None = None,
        start: int = 0,
        stop: int | None = None,
        known: OrderedDict[CID, FileNode] | None = None,
    ) -> None:
        """Walk bytes `start` to `stop` (the end, by default) of `root`.

        `size` is what the parent (a directory) declares, where there is one: it is checked. A raw
        `root` is its own leaf: its size must be given here, or its bytes to `receive`. In `known`
        are index blocks of earlier walks, which are not needed again; those of this one join them.

        Raises:
            InvalidInput: `root` cannot be a file, or its hash is one that we do not compute.
        """
        check_root(root)
        self.root, self.size = root, size
        self._start, self._stop = start, stop
        link = Link(root, _UNKNOWN if size is None else size, _UNKNOWN)
        self._steps = [_Step(link, root, 0, 0)]  # a stack: what comes next is last
        self._known = OrderedDict() if known is None else known  # oldest first
        self._wanted: dict[CID, _Step] = {}
        self._count = 0  # leaves given out

    @property
    def done(self) -> bool:
        """Whether every leaf has been given out."""
        return not self._steps

    def needed(self, limit: int = MAX_AHEAD) -> list[CID]:
        """Return up to `limit` distinct index blocks that are needed next, in file order.

        Raises DagError when blocks received before disagree on sizes.
        """
        self._wanted = {}
        self._look_ahead(self._steps, set())
        return list(self._wanted)[:limit]

    def receive(self, cid: CID, block: bytes | bytearray | memoryview) -> None:
        """Take an index block that `needed` named last; another one is ignored.

        Raises:
            IntegrityError: the bytes do not hash to `cid`.
            DagError: they do, and the index is malformed or disagrees with itself on sizes.
        """
        step = self._wanted.get(cid)
        if step is None:
            return
        if cid.codec == Codec.RAW:
            self._receive_raw_root(block)
            return
        node = decode(cid, block)
        if isinstance(node, DirectoryNode):
            raise DagError(f"{cid} is a directory where a file was expected", cid=cid)
        _check_declared(step.link, node, step.parent)
        if cid == self.root:
            self.size = node.size
        del self._wanted[cid]
        self._known[cid] = node
        # At most MAX_AHEAD of them are still to be walked over; the others are kept because blocks
        # of equal content (a tensor of zeros) come again, and soon.
        if len(self._known) > 2 * MAX_AHEAD:
            self._known.popitem(last=False)

    def leaves(self) -> Iterator[Leaf]:
        """Give the leaves that are known, in file order, up to the first missing index block.

        `Leaf.index` counts from the walk's first leaf: the leaf's number in the file when
        `start` is 0. Leaves that overlap the range are given whole. Raises DagError.
        """
        while self._steps:
            step = self._steps[-1]
            if step.link.cid.codec == Codec.RAW:
                if step.link.size == _UNKNOWN:
                    return
                self._steps.pop()
                if step.depth == 0 and 0 < step.link.size <= self._start:
                    return  # a range that begins behind the only leaf
                self._count += 1
                yield Leaf(self._count - 1, step.offset, step.link.size, step.link.cid.multihash)
                continue
            node = self._known.get(step.link.cid)
            if node is None:
                return
            self._known.move_to_end(step.link.cid)
            self._steps.pop()
            self._steps += reversed(self._unfold(step, node))

    def _look_ahead(self, steps: list[_Step], seen: set[CID]) -> None:
        """Note missing index blocks in file order, until MAX_AHEAD blocks are ahead of the walk."""
        for step in reversed(steps):
            cid = step.link.cid
            if len(seen) >= MAX_AHEAD:
                return
            if cid in seen or (cid.codec == Codec.RAW and step.link.size != _UNKNOWN):
                continue
            seen.add(cid)
            if (node := self._known.get(cid)) is None:
                self._wanted[cid] = step
            elif any(link.cid.codec != Codec.RAW for link in node.links):
                self._look_ahead(self._unfold(step, node)[::-1], seen)

    def _unfold(self, step: _Step, node: FileNode) -> list[_Step]:
        """Return the children of a node that overlap the range, in file order."""
        if step.depth == MAX_DEPTH:
            raise DagError(
                f"{self.root} is nested more than {MAX_DEPTH} blocks deep", cid=self.root
            )
        _check_declared(step.link, node, step.parent)
        steps, offset = [], step.offset
        for link in node.links:
            if offset + link.size > self._start and (self._stop is None or offset < self._stop):
                steps.append(_Step(link, step.link.cid, offset, step.depth + 1))
            offset += link.size
        return steps

    def _receive_raw_root(self, block: bytes | bytearray | memoryview) -> None:
        _check_raw(self.root, block)
        self.size = len(block)
        link = Link(self.root, self.size, self.size)
        self._steps = [_Step(link, self.root, 0, 0)]
        self._wanted = {}


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of an object.

    Attributes:
        path: relative, with "/"; "" when the object is this file.
        root: the file's own root.
        size: bytes. For a raw root in a directory this is what the directory declares: hold the
            leaf's length against it.
    """

    path: str
    root: CID
    size: int


class Tree:
    """What an object consists of: its files and directories, from blocks given as they arrive.

    Needs the block of each directory and the root block of each file of more than one leaf. A root
    that is raw is a file of one leaf: its bytes are needed once, and kept as `inline`.

    Attributes:
        root: what the object is named by.
        inline: the content of a raw root, once received.
        is_directory: whether the root is a directory; False until its block is known.
        size: content bytes of the files found so far.
    """

    def __init__(self, root: CID) -> None:
        """Start at `root`. Raises InvalidInput as `Walker` does."""
        check_root(root)
        self.root = root
        self.inline: bytes | None = None
        self.is_directory = False
        self.size = 0
        self._files: list[TreeFile] = []
        self._directories: list[str] = []
        self._entries = 0  # of all directories found so far
        # Missing blocks, and at which paths they are needed: (path, declared total size, parent).
        self._missing: dict[CID, list[tuple[str, int, CID]]] = {root: [("", _UNKNOWN, root)]}

    @property
    def done(self) -> bool:
        """Whether all blocks have been received."""
        return not self._missing

    @property
    def files(self) -> list[TreeFile]:
        """The files found so far, sorted by path."""
        return sorted(self._files, key=lambda file: file.path.split("/"))

    @property
    def directories(self) -> list[str]:
        """Relative paths of the directories below the root, parents first."""
        return sorted(self._directories, key=lambda path: path.split("/"))

    def needed(self, limit: int = MAX_AHEAD) -> list[CID]:
        """Return up to `limit` blocks that are needed next."""
        return [cid for cid, _ in zip(self._missing, range(limit), strict=False)]

    def receive(self, cid: CID, block: bytes | bytearray | memoryview) -> None:
        """Take a block that is needed; another one is ignored.

        Raises:
            IntegrityError: the bytes do not hash to `cid`.
            DagError: they do, and are malformed or disagree with their directory on sizes.
            TreeTooLarge: the object has too many entries, or nests too deep.
        """
        if cid not in self._missing:
            return
        if cid.codec == Codec.RAW:
            _check_raw(cid, block)
            self.inline = bytes(block)
            del self._missing[cid]
            self._add_file("", cid, len(block))
            return
        node = decode(cid, block)
        places = self._missing.pop(cid)
        for path, declared, parent in places:
            if declared not in (_UNKNOWN, node.total_size):
                raise DagError(
                    f"{parent} declares {declared} bytes of blocks for {path!r}, which has"
                    f" {node.total_size}",
                    cid=parent,
                )
            if isinstance(node, FileNode):
                self._add_file(path, cid, node.size)
            else:
                self._add_directory(path, cid, node)

    def _add_file(self, path: str, root: CID, size: int) -> None:
        self._files.append(TreeFile(path, root, size))
        self.size += size

    def _add_directory(self, path: str, cid: CID, node: DirectoryNode) -> None:
        if cid == self.root:
            self.is_directory = True
        else:
            self._directories.append(path)
        check_tree_depth(path)
        self._entries += len(node.entries)
        if self._entries > MAX_TREE_ENTRIES:
            raise TreeTooLarge(
                f"{self.root} has more than {MAX_TREE_ENTRIES} entries", cid=self.root
            )
        for entry in node.entries:
            self._add_entry(f"{path}/{entry.name}" if path else entry.name, cid, entry)

    def _add_entry(self, path: str, parent: CID, entry: Entry) -> None:
        check_path(path)
        if entry.cid.codec == Codec.RAW:
            self._add_file(path, entry.cid, entry.total_size)
        else:
            places = self._missing.setdefault(entry.cid, [])
            places.append((path, entry.total_size, parent))


def check_path(path: str) -> None:
    """Refuse a relative path that is too long for an object. Raises TreeTooLarge."""
    if len(path.encode()) > MAX_PATH_BYTES:
        raise TreeTooLarge(f"a path of {len(path.encode())} bytes, limit {MAX_PATH_BYTES}")


def check_tree_entries(count: int) -> None:
    """Refuse an object of too many files and directories. Raises TreeTooLarge."""
    if count > MAX_TREE_ENTRIES:
        raise TreeTooLarge(f"a directory tree of more than {MAX_TREE_ENTRIES} entries")


def check_tree_depth(directory: str) -> None:
    """Refuse a directory (its relative path) that is nested too deep. Raises TreeTooLarge."""
    if directory.count("/") >= MAX_TREE_DEPTH - 1:
        raise TreeTooLarge(f"directories nested {MAX_TREE_DEPTH} deep or more")


def check_root(root: CID) -> None:
    """Refuse a CID that cannot name a file or directory. Raises InvalidInput."""
    if root.codec not in (Codec.RAW, Codec.DAG_PB):
        raise InvalidInput(f"{root} is no file or directory: its codec is 0x{root.codec:x}")
    _ = root.hash_function  # raises for a hash that we cannot check


def _check_raw(cid: CID, block: bytes | bytearray | memoryview) -> None:
    if len(block) > MAX_BLOCK_BYTES or not cid.matches(block):
        raise IntegrityError(f"a leaf of {len(block)} bytes does not hash to {cid}", cid=cid)


def _check_declared(link: Link, node: FileNode, parent: CID) -> None:
    if link.size not in (_UNKNOWN, node.size):
        raise DagError(
            f"{parent} declares {link.size} bytes for {link.cid}, which holds {node.size}",
            cid=parent,
        )
    if link.total_size not in (_UNKNOWN, node.total_size):
        raise DagError(
            f"{parent} declares {link.total_size} bytes of blocks for {link.cid},"
            f" which has {node.total_size}",
            cid=parent,
        )
