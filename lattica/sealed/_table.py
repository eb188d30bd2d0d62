"""What a sealed object holds: names, sizes, order. Sealed itself, in front (spec/sealed.md §3)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lattica import codec
from lattica.content import (
    TreeTooLarge,
    UnsafeName,
    check_path,
    check_tree_depth,
    check_tree_entries,
    encode_name,
)
from lattica.errors import CodecError

from ._format import CHUNK_BYTES, SealBroken

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH_BYTES = 4
MAX_TABLE_BYTES = 64 << 20
_MAX_SIZE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One file.

    Attributes:
        path: relative, with "/"; "" when the object is this file.
        size: bytes.
        offset: of its first byte in what is sealed; its bytes are in one piece.
    """

    path: str
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Table:
    """Files in the order of their bytes, and directories.

    Attributes:
        name: what the whole is called.
        sizes: bytes of each file by relative path; for a single file the one path is "".
        directories: relative paths of all directories below the root, parents first.
        is_directory: whether the whole is a directory.
        head_bytes: what the table itself takes, its length included: as it was read, which may be
            more than what is known here.
    """

    name: str
    sizes: dict[str, int]
    directories: tuple[str, ...] = ()
    is_directory: bool = False
    head_bytes: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.head_bytes:
            object.__setattr__(self, "head_bytes", len(bytes(self)))

    def __bytes__(self) -> bytes:
        body = codec.pack(
            {
                "name": self.name,
                "tree": self.is_directory,
                "directories": list(self.directories),
                "files": [[path, size] for path, size in self.sizes.items()],
            }
        )
        return len(body).to_bytes(LENGTH_BYTES, "big") + body

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    def entries(self) -> Iterator[TableEntry]:
        """Give the files, with where they are."""
        offset = self.head_bytes
        for path, size in self.sizes.items():
            yield TableEntry(path, size, offset)
            offset += size

    @property
    def chunk_count(self) -> int:
        """How many chunks the whole takes, itself included."""
        return -(-(self.head_bytes + self.total) // CHUNK_BYTES)

    @classmethod
    def parse(cls, body: bytes) -> Table:
        """Read a table, without its length. Raises SealBroken: its sealer is not to be believed."""
        try:
            value = codec.unpack(body, max_size=MAX_TABLE_BYTES, max_values=500_000)
            match value:
                case {
                    "name": str(name),
                    "tree": bool(tree),
                    "directories": list(directories),
                    "files": list(files),
                }:
                    encode_name(name)
                    table = cls(name, dict(map(_file, files)), _texts(directories), tree)
                    table._check(len(files))
                    return replace(table, head_bytes=LENGTH_BYTES + len(body))
        except (CodecError, UnsafeName, TreeTooLarge) as error:
            raise SealBroken(f"the table of what is sealed is malformed: {error}") from None
        raise SealBroken("the table of what is sealed is of a form that is not known")

    def _check(self, count: int) -> None:
        check_tree_entries(count + len(self.directories))
        if not self.is_directory:
            if list(self.sizes) != [""] or self.directories:
                raise SealBroken("a single file with names below it")
            return
        known = {""}
        for path in self.directories:
            check_tree_depth(path)
            self._check_path(path, known)
            known.add(path)
        for path in self.sizes:
            self._check_path(path, known)
        if len(self.sizes) != count or known & self.sizes.keys():
            raise SealBroken("two things of one name")
        if self.total > _MAX_SIZE:
            raise SealBroken(f"{self.total} bytes of files")

    def _check_path(self, path: str, known: set[str]) -> None:
        check_path(path)
        parent, _, name = path.rpartition("/")
        encode_name(name)
        whole = f"{parent}/{name}" if parent else name  # not of "/name": that would lead out
        if whole != path or parent not in known or path in known:
            raise SealBroken(f"{path!r} is in no directory of this object, or there twice")


def _file(pair: codec.Value) -> tuple[str, int]:
    match pair:
        case [str(path), int(size)] if type(size) is int and 0 <= size <= _MAX_SIZE:
            return path, size
    raise SealBroken("a file without a name or a size")


def _texts(values: list[codec.Value]) -> tuple[str, ...]:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values):
        raise SealBroken("a directory without a name")
    return tuple(texts)
