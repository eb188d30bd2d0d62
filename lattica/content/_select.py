"""Some files of a directory: which patterns take, and the directory that is left of it. Pure.

What is left is an object of its own: the same directories and names without the files that were not
taken, and without directories that nothing is left in. Its root follows from the index blocks of
the directories alone, no content is hashed. So whoever gets a part of a directory ends up with what
somebody would have who shared just that part: one complete object, that others can fetch whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lattica.cid import CID, Codec
from lattica.errors import InvalidInput

from ._unixfs import DirectoryNode, Entry, decode, encode_directory
from ._walk import Tree, Walker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lattica.cid import HashFunction

    from ._walk import TreeFile

MAX_PATTERNS = 256
_MAX_PATTERN = 1024  # characters: as long as a path may be


class NothingSelected(InvalidInput):
    """No file of a directory is taken."""

    code = "nothing-selected"
    hint = "patterns are matched against paths in the directory, as `*.json` or `weights/*`"


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns for the relative paths of files, as `fnmatch` has them: `*` matches `/` as well.

    A file is taken that matches one of `include` (any file, if there is none) and none of
    `exclude`. A pattern that ends in `/` stands for all below that directory. Upper and lower case
    differ. An empty selection takes everything. Raises InvalidInput.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patterns = (*self.include, *self.exclude)
        if len(patterns) > MAX_PATTERNS:
            raise InvalidInput(f"{len(patterns)} patterns, limit {MAX_PATTERNS}")
        for pattern in patterns:
            if not 0 < len(pattern) <= _MAX_PATTERN:
                raise InvalidInput(f"a pattern of {len(pattern)} characters, limit {_MAX_PATTERN}")

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def takes(self, path: str) -> bool:
        """Whether a file at `path`, relative and with "/", is taken."""
        if self.include and not any(_matches(path, pattern) for pattern in self.include):
            return False
        return not any(_matches(path, pattern) for pattern in self.exclude)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)


@dataclass(frozen=True, slots=True)
class Selected:
    """A part of an object, by what is known from its index.

    Attributes:
        root: of the directory that is left; the object's own where everything was taken.
        files: those that were taken, sorted.
        blocks: the index blocks of the directories that are left, where some file was not taken.
    """

    root: CID
    files: tuple[TreeFile, ...]
    blocks: Mapping[CID, bytes]

    @property
    def size(self) -> int:
        """Content bytes of the files."""
        return sum(file.size for file in self.files)


def prune(
    root: CID, nodes: Mapping[CID, DirectoryNode], selection: Selection
) -> tuple[CID, dict[CID, bytes]]:
    """Return the root of what is left of a directory, and the blocks of its directories.

    Args:
        root: of the directory.
        nodes: it and every directory below it.
        selection: what to take.

    Raises:
        NothingSelected: nothing would be left.
    """
    blocks: dict[CID, bytes] = {}
    left = _prune(root, "", nodes, selection, blocks, root.hash_function)
    if left is None:
        raise NothingSelected(f"no file of {root} is selected", cid=root)
    return left[0], blocks


class Selecting:
    """Finds out what a selection takes of an object, from its directories: blocks in, result out.

    Attributes:
        tree: says which blocks are needed.
    """

    def __init__(self, root: CID, selection: Selection) -> None:
        """Begin at `root`. Raises InvalidInput when it cannot name content."""
        self.tree = Tree(root)
        self._selection = selection
        self._nodes: dict[CID, DirectoryNode] = {}

    def receive(self, cid: CID, block: bytes | memoryview) -> None:
        """Take a block that is needed. Raises as `Tree.receive`."""
        self.tree.receive(cid, block)
        node = decode(cid, block) if cid.codec == Codec.DAG_PB else None
        if isinstance(node, DirectoryNode):
            self._nodes[cid] = node

    def result(self) -> Selected:
        """Return what is taken, once the tree is done.

        Raises:
            InvalidInput: patterns for what is a single file.
            NothingSelected: no file is taken.
        """
        root, files = self.tree.root, self.tree.files
        if not self._selection:
            return Selected(root, tuple(files), {})
        if not self.tree.is_directory:
            raise InvalidInput(
                f"{root} is a single file", cid=root, hint="patterns are for directories"
            )
        left, blocks = prune(root, self._nodes, self._selection)
        taken = tuple(file for file in files if self._selection.takes(file.path))
        return Selected(left, taken, blocks)


def select_from(
    root: CID, blocks: Mapping[CID, bytes | memoryview], selection: Selection
) -> Selected | None:
    """Return what `selection` takes of an object whose index blocks are at hand; None: some lack.

    *Slow*, where the index is large. The result's `blocks` are all that a fetch needs.

    Raises:
        IntegrityError, DagError, TreeTooLarge: a block is not what it claims, or malformed.
        Else as `Selecting.result`.
    """
    selecting = Selecting(root, selection)
    while not selecting.tree.done:
        for cid in selecting.tree.needed():
            if cid not in blocks:
                return None
            selecting.receive(cid, blocks[cid])
    selected = selecting.result()
    needed = dict(selected.blocks)
    for file in selected.files:
        if file.root.codec == Codec.DAG_PB and not _take_index(file, blocks, needed):
            return None
    return Selected(selected.root, selected.files, needed)


def _take_index(
    file: TreeFile, blocks: Mapping[CID, bytes | memoryview], into: dict[CID, bytes]
) -> bool:
    """Copy the index blocks of a file, each checked. False: some lack."""
    walker = Walker(file.root, size=file.size)
    while not walker.done:
        for cid in walker.needed():
            if cid not in blocks:
                return False
            into[cid] = bytes(blocks[cid])
            walker.receive(cid, into[cid])
        for _ in walker.leaves():
            pass
    return True


def _prune(
    cid: CID,
    path: str,
    nodes: Mapping[CID, DirectoryNode],
    selection: Selection,
    blocks: dict[CID, bytes],
    function: HashFunction,
) -> tuple[CID, int] | None:
    """Return the root and total size of what is left at `path`; None where that is nothing."""
    entries = []
    for entry in nodes[cid].entries:
        inside = f"{path}/{entry.name}" if path else entry.name
        if entry.cid in nodes:
            left = _prune(entry.cid, inside, nodes, selection, blocks, function)
            if left is not None:
                entries.append(Entry(entry.name, *left))
        elif selection.takes(inside):
            entries.append(entry)
    if not entries:
        return None
    block = encode_directory(entries)
    left_cid = CID.of(block, Codec.DAG_PB, function)
    blocks[left_cid] = block
    return left_cid, len(block) + sum(entry.total_size for entry in entries)
