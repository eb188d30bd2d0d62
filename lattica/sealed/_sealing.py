"""From files to a sealed file: one sequential read and one sequential write, in bounded memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from lattica.content import (
    SYMLINK_HINT,
    NothingSelected,
    Segment,
    Selection,
    StorageError,
    Symlinks,
    UnreadableSource,
    check_new_names,
    check_path,
    check_tree_depth,
    check_tree_entries,
    encode_name,
)
from lattica.errors import InvalidInput, SourceChanged

from ._format import CHUNK_BYTES, PREFIX_BYTES, Sealer, header_size
from ._table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from lattica.identity import PeerId

_EVERYTHING = Selection()
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def seal(
    source: Path,
    destination: Path,
    recipients: Sequence[PeerId],
    *,
    name: str | None = None,
    symlinks: Symlinks = Symlinks.REFUSE,
    selection: Selection = _EVERYTHING,
    progress: Callable[[int], None] | None = None,
) -> Table:
    """*Slow.* Seal a file or directory into the new file `destination`, for `recipients`.

    `symlinks` and `selection` as for `content.build`. `progress` is called with bytes sealed; what
    it raises ends the sealing. Whatever goes wrong, `destination` is not there afterwards.

    Raises:
        InvalidInput: a recipient cannot be sealed to; `source` is missing, or has symlinks or
            names that cannot be shared.
        SourceChanged: a file changed its size meanwhile.
        StorageError: the disk refuses.
    """
    table, links = _list(source, name or source.name, symlinks, selection)
    source = Path(os.path.realpath(source))  # what it is a link to, as for any other share
    sealer = Sealer(recipients)
    try:
        descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(sealer.header)
                left = table.chunk_count
                for chunk in _chunks(_plaintext(source, table, links)):
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


def _list(
    source: Path, name: str, symlinks: Symlinks, selection: Selection
) -> tuple[Table, set[str]]:
    """Return what is to be sealed, and which of its files are links that are followed."""
    encode_name(name)
    try:
        status = source.stat()
        if stat.S_ISREG(status.st_mode):
            if selection:
                raise InvalidInput(f"{source} is one file", hint="leave the patterns out")
            return Table(name, {"": status.st_size}), set()
        if not stat.S_ISDIR(status.st_mode):
            raise UnreadableSource(f"{source} is no file or directory")
        listing = _Listing(symlinks, selection)
        listing.scan(source, "")
    except OSError as error:
        raise UnreadableSource(f"cannot read {error.filename}: {error.strerror}") from error
    if selection and not listing.sizes:
        raise NothingSelected(f"nothing in {source} is selected", hint="see the patterns again")
    directories = tuple(listing.directories)
    return Table(name, listing.sizes, directories, is_directory=True), listing.links


class _Listing:
    """What is in a directory, as far as it is to be sealed: see `seal`."""

    def __init__(self, symlinks: Symlinks, selection: Selection) -> None:
        self.sizes: dict[str, int] = {}
        self.directories: list[str] = []
        self.links: set[str] = set()
        self._symlinks, self._selection = symlinks, selection

    def scan(self, folder: Path, prefix: str) -> bool:
        """Add what is below `folder`. Returns whether anything is."""
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda child: os.fsencode(child.name))
        above = f"{prefix}/" if prefix else ""
        children = [child for child in found if self._is_taken(child, above + child.name)]
        check_new_names(str(folder), [child.name for child in children])
        before = len(self.sizes) + len(self.directories)
        for child in children:
            encode_name(child.name)
            path = above + child.name
            check_path(path)
            if child.is_dir(follow_symlinks=False):
                check_tree_depth(path)
                self.directories.append(path)
                if not self.scan(folder / child.name, path) and self._selection:
                    self.directories.pop()
            else:
                self._add_file(folder / child.name, child, path)
            check_tree_entries(len(self.sizes) + len(self.directories))
        return len(self.sizes) + len(self.directories) > before

    def _is_taken(self, child: os.DirEntry[str], path: str) -> bool:
        if child.is_dir(follow_symlinks=False):
            return True
        skipped = child.is_symlink() and self._symlinks is Symlinks.SKIP
        return not skipped and self._selection.takes(path)

    def _add_file(self, place: Path, child: os.DirEntry[str], path: str) -> None:
        follow = child.is_symlink() and self._symlinks is Symlinks.FOLLOW
        if not child.is_file(follow_symlinks=follow):
            what = "a symlink" if child.is_symlink() else "no file or directory"
            raise UnreadableSource(f"{place} is {what}", hint=SYMLINK_HINT)
        if follow:
            self.links.add(path)
        self.sizes[path] = child.stat(follow_symlinks=follow).st_size


def _plaintext(source: Path, table: Table, links: Container[str]) -> Iterator[bytes]:
    """Give what is sealed, in pieces of at most a chunk."""
    head = bytes(table)
    for start in range(0, len(head), CHUNK_BYTES):
        yield head[start : start + CHUNK_BYTES]
    for path, size in table.sizes.items():
        with os.fdopen(_open_below(source, path, follow=path in links), "rb", buffering=0) as file:
            left = size
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise SourceChanged(f"{source / path} has become shorter", hint="try again")
                left -= len(piece)
                yield piece
            if file.read(1):
                raise SourceChanged(f"{source / path} has grown", hint="try again")


def _open_below(source: Path, path: str, *, follow: bool) -> int:
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
        flags = _READ_FLAGS & ~os.O_NOFOLLOW if follow else _READ_FLAGS
        return os.open(name, flags, dir_fd=folder)
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
