"""From files to a sealed file: one sequential read and one sequential write, in bounded memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from lattica.content import (
    Segment,
    StorageError,
    UnreadableSource,
    check_new_names,
    check_path,
    check_tree_depth,
    check_tree_entries,
    encode_name,
)
from lattica.errors import SourceChanged

from ._format import CHUNK_BYTES, PREFIX_BYTES, Sealer, header_size
from ._table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lattica.identity import PeerId

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def seal(
    source: Path,
    destination: Path,
    recipients: Sequence[PeerId],
    *,
    name: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Table:
    """*Slow.* Seal a file or directory into the new file `destination`, for `recipients`.

    `progress` is called with bytes sealed; what it raises ends the sealing. Whatever goes wrong,
    `destination` is not there afterwards.

    Raises:
        InvalidInput: a recipient cannot be sealed to; `source` is missing, or has symlinks or
            names that cannot be shared.
        SourceChanged: a file changed its size meanwhile.
        StorageError: the disk refuses.
    """
    table = _list(source, name or source.name)
    source = Path(os.path.realpath(source))  # what it is a link to, as for any other share
    sealer = Sealer(recipients)
    try:
        descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(sealer.header)
                left = table.chunk_count
                for chunk in _chunks(_plaintext(source, table)):
                    left -= 1
                    file.write(sealer.seal(chunk, last=left == 0))
                    if progress is not None:
                        progress(len(chunk))
                os.fsync(file.fileno())
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"cannot seal {source}: {error.strerror}") from error
    return table


def sealed_segments(path: Path) -> list[Segment]:
    """Return the cut of a sealed file: each leaf is then one chunk, or a whole number of them.

    For `lattica.content.build`. Raises SealBroken.
    """
    with path.open("rb") as file:
        size = header_size(file.read(PREFIX_BYTES))
        return [Segment(size), Segment(os.fstat(file.fileno()).st_size - size)]


def _list(source: Path, name: str) -> Table:
    encode_name(name)
    try:
        status = source.stat()
        if stat.S_ISREG(status.st_mode):
            return Table(name, {"": status.st_size})
        sizes: dict[str, int] = {}
        directories: list[str] = []
        if not stat.S_ISDIR(status.st_mode):
            raise UnreadableSource(f"{source} is no file or directory")
        _scan(source, "", sizes, directories)
    except OSError as error:
        raise UnreadableSource(f"cannot read {error.filename}: {error.strerror}") from error
    return Table(name, sizes, tuple(directories), is_directory=True)


def _scan(folder: Path, prefix: str, sizes: dict[str, int], directories: list[str]) -> None:
    with os.scandir(folder) as entries:
        children = sorted(entries, key=lambda child: os.fsencode(child.name))
    check_new_names(str(folder), [child.name for child in children])
    for child in children:
        encode_name(child.name)
        path = f"{prefix}/{child.name}" if prefix else child.name
        check_path(path)
        if child.is_dir(follow_symlinks=False):
            check_tree_depth(path)
            directories.append(path)
            _scan(folder / child.name, path, sizes, directories)
        elif child.is_file(follow_symlinks=False):
            sizes[path] = child.stat(follow_symlinks=False).st_size
        else:
            raise UnreadableSource(
                f"{folder / child.name} is no file or directory", hint="leave symlinks out"
            )
        check_tree_entries(len(sizes) + len(directories))


def _plaintext(source: Path, table: Table) -> Iterator[bytes]:
    """Give what is sealed, in pieces of at most a chunk."""
    head = bytes(table)
    for start in range(0, len(head), CHUNK_BYTES):
        yield head[start : start + CHUNK_BYTES]
    for path, size in table.sizes.items():
        with os.fdopen(_open_below(source, path), "rb", buffering=0) as file:
            left = size
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise SourceChanged(f"{source / path} has become shorter", hint="try again")
                left -= len(piece)
                yield piece
            if file.read(1):
                raise SourceChanged(f"{source / path} has grown", hint="try again")


def _open_below(source: Path, path: str) -> int:
    """Open the file at `path` in `source`; a directory that has become a link is not followed."""
    if not path:
        return os.open(source, _READ_FLAGS)
    *above, name = path.split("/")
    folder = os.open(source, _FOLDER_FLAGS)
    try:
        for part in above:
            inner = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, _READ_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join pieces to chunks; the last is filled up with zeros."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer) + bytes(CHUNK_BYTES - len(buffer))
