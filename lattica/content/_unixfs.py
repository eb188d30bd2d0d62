"""UnixFS index blocks: the dag-pb bytes of files and directories. Pure (spec/content.md §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from lattica.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.cid import CID

MAX_BLOCK_BYTES = 2 << 20  # of any block, index or leaf: what every IPFS node accepts
MAX_LINKS = 1024  # links of one file index block
MAX_ENTRIES = 10_000  # entries of one directory
MAX_NAME_BYTES = 255  # of an entry's name, in UTF-8
MAX_SIZE = (1 << 63) - 1  # bytes of content under one block


class DagError(CodecError):
    """A block hashes to its CID but is not an index block of ours. No peer is to blame."""

    code = "dag"
    exit_code: ClassVar[int] = 5
    hint = "the object itself is malformed; whoever published it must publish it again"


class Link(NamedTuple):
    """One child of a file: its CID, its content bytes, and `total_size` (dag-pb's Tsize)."""

    cid: CID
    size: int
    total_size: int


class Entry(NamedTuple):
    """One entry of a directory. For a raw `cid`, `total_size` is the length of the content."""

    name: str
    cid: CID
    total_size: int


@dataclass(frozen=True, slots=True)
class FileNode:
    """An index block of a file. `size` is the content below it, `total_size` the DAG with it."""

    links: tuple[Link, ...]
    size: int
    total_size: int


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A plain (unsharded) directory, its entries sorted by the bytes of their names."""

    entries: tuple[Entry, ...]
    total_size: int


def encode_file(links: Sequence[Link]) -> bytes:
    """Return the index block over `links`, in file order."""
    raise NotImplementedError


def encode_directory(entries: Sequence[Entry]) -> bytes:
    """Return the directory block of `entries`, sorted here."""
    raise NotImplementedError


def decode(cid: CID, block: bytes | bytearray | memoryview) -> FileNode | DirectoryNode:
    """Read the index block of `cid`, a dag-pb CID, after checking that it hashes to it.

    Raises:
        IntegrityError: it does not hash to `cid`: whoever sent it lied.
        DagError: it does, and is not in the one form we accept; `.cid` is set.
    """
    raise NotImplementedError
