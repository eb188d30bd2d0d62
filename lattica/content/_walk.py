"""From a root CID and index blocks, fed as they arrive, to leaves and files. Pure.

    walker = Walker(root)
    while not walker.done:
        for cid in walker.needed(32):            # in file order; ask the store, then peers
            walker.receive(cid, block_of(cid))   # IntegrityError: the sender lied; DagError: malformed
        for leaf in walker.leaves():             # what can be told now, in file order
            ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lattica.cid import CID

from ._dag import Leaf


class Walker:
    """The leaves of one file, or of a byte range of it, from index blocks given as they arrive."""

    size: int | None  # bytes of the whole file; None before the root block is known

    def __init__(
        self, root: CID, *, size: int | None = None, start: int = 0, stop: int | None = None
    ) -> None:
        """Walk bytes `start` to `stop` (the end, by default) of `root`.

        `size` is what the parent (a directory) declares, where there is one: it is checked. A raw
        `root` is its own leaf: its size must be given here, or its bytes to `receive`.
        """

    @property
    def done(self) -> bool:
        """Whether every leaf has been given out."""
        raise NotImplementedError

    def needed(self, limit: int = 32) -> list[CID]:
        """Return up to `limit` distinct index blocks that are needed next, in file order."""
        raise NotImplementedError

    def receive(self, cid: CID, block: bytes | bytearray | memoryview) -> None:
        """Take an index block that `needed` named (another one is ignored).

        Raises:
            IntegrityError: the bytes do not hash to `cid`.
            DagError: they do, and the index is malformed or disagrees with itself on sizes.
        """
        raise NotImplementedError

    def leaves(self) -> Iterator[Leaf]:
        """Give the leaves that are known, in file order, up to the first missing index block.

        `Leaf.index` counts from the walk's first leaf: the leaf's number in the file when
        `start` is 0. Leaves that overlap the range are given whole.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of an object.

    Attributes:
        path: relative, with "/"; "" when the object is this file.
        root: the file's own root.
        size: bytes. For a raw root this is what the directory declares: hold the leaf against it.
    """

    path: str
    root: CID
    size: int


class Tree:
    """What an object consists of: its files and directories, from blocks given as they arrive.

    Needs the block of each directory and the root block of each file of more than one leaf. A root
    that is raw is a file of one leaf: its bytes are needed once, and kept as `inline`.
    """

    inline: bytes | None  # the content of a raw root

    def __init__(self, root: CID) -> None: ...

    @property
    def done(self) -> bool:
        """Whether all blocks have been received."""
        raise NotImplementedError

    @property
    def is_directory(self) -> bool:
        """Whether the root is a directory; False until its block is known."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Content bytes of the files found so far."""
        raise NotImplementedError

    @property
    def files(self) -> list[TreeFile]:
        """The files, in the order of their paths. Complete when `done`."""
        raise NotImplementedError

    @property
    def directories(self) -> list[str]:
        """Relative paths of the directories below the root, parents first."""
        raise NotImplementedError

    def needed(self, limit: int = 32) -> list[CID]:
        """As `Walker.needed`."""
        raise NotImplementedError

    def receive(self, cid: CID, block: bytes | bytearray | memoryview) -> None:
        """As `Walker.receive`."""
        raise NotImplementedError
