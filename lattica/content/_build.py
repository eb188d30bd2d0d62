"""From a file or directory to its identifier: one sequential read, every leaf hashed once.

The file is read into one small buffer that stays in the processor's cache, and each leaf is hashed
from there; both steps release the GIL. Nothing is written and nothing is kept but the index: the
leaf table (40 bytes a leaf) and the index blocks (some 50 more).
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from lattica.cid import CID, Codec, HashFunction
from lattica.errors import InvalidInput, SourceChanged

from ._dag import LARGE_LEAF, BuiltSegment, FileBuilder, LeafTable, Segment, check_segments
from ._holes import Holes, zero_multihash
from ._names import check_new_names
from ._select import NothingSelected, Selection
from ._unixfs import (
    MAX_BLOCK_BYTES,
    MAX_ENTRIES,
    MAX_SIZE,
    Entry,
    Link,
    encode_directory,
    encode_name,
)
from ._walk import TreeTooLarge, check_path, check_tree_depth, check_tree_entries

Segments = Sequence[Segment] | Callable[[Path], Sequence[Segment] | None]
Progress = Callable[[int], None]

_BUFFER_BYTES = 2 * LARGE_LEAF  # any leaf fits, and a refill reads a good part of it
SYMLINK_HINT = (
    "--follow-symlinks (follow_symlinks=True in Python) shares the files that symlinks point to, "
    "--symlinks skip leaves them out; a symlink to a directory, or to nothing, cannot be shared"
)
_EVERYTHING = Selection()
_PROGRESS_BYTES = 32 << 20  # hashed between two calls of `progress`: about 10 ms


class UnreadableSource(InvalidInput):
    """What should be shared is not there, cannot be read, or is no file or directory."""

    code = "unreadable"
    hint = "check the path and its permissions; nothing was shared"


class Kind(enum.IntEnum):
    """What a root CID names."""

    FILE = 0
    DIRECTORY = 1


class Symlinks(enum.Enum):
    """What becomes of symlinks in a directory that is shared."""

    REFUSE = "refuse"  # the directory is not shared
    FOLLOW = "follow"  # those to files are shared as if these were there; others are refused
    SKIP = "skip"  # they are left out

    @classmethod
    def of(cls, text: str) -> Symlinks:
        """Return the one that is called so. Raises InvalidInput."""
        try:
            return cls(text)
        except ValueError:
            known = ", ".join(policy.value for policy in cls)
            raise InvalidInput(f"symlinks {text!r}, expected one of {known}") from None


class Stamp(NamedTuple):
    """What a file looked like when it was hashed; any difference means that it changed."""

    size: int  # bytes
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of what `os.stat` or `os.fstat` told.

        Inode and device may use all 64 bits; the top one is dropped, so that databases can hold
        them.
        """
        return cls(
            status.st_size, status.st_mtime_ns, status.st_ino & MAX_SIZE, status.st_dev & MAX_SIZE
        )


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """One hashed file.

    Attributes:
        path: where it is, absolute.
        relative: where it is inside the object, with "/"; "" when it is the object.
        stamp: how it looked.
        root: its own root.
        leaves: all its leaves.
        segments: how it was cut, and the CID of each cut.
    """

    path: Path
    relative: str
    stamp: Stamp
    root: CID
    leaves: LeafTable
    segments: tuple[BuiltSegment, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A hashed object: what `Store.add` takes.

    Attributes:
        root: its identifier.
        kind: file or directory.
        name: the last part of its path.
        path: where it is, absolute.
        size: content bytes.
        files: the file, or every file of the directory.
        index: every index block by its CID.
    """

    root: CID
    kind: Kind
    name: str
    path: Path
    size: int
    files: tuple[BuiltFile, ...]
    index: dict[CID, bytes]


def build(
    source: Path | str,
    *,
    segments: Segments | None = None,
    hash_function: HashFunction = HashFunction.BLAKE3,
    symlinks: Symlinks = Symlinks.REFUSE,
    selection: Selection = _EVERYTHING,
    progress: Progress | None = None,
) -> Built:
    """Hash `source`, a file or directory. Blocks: call it from a worker thread.

    Args:
        source: what to hash; a symlink here is followed.
        segments: how a file is cut: a list for a file, or a function of the path for either. None
            (or a function that returns None) is one segment.
        hash_function: of every leaf and index block.
        symlinks: what becomes of those inside a directory. Followed ones to directories are refused
            in any case.
        selection: which files of a directory to take.
        progress: called with the number of bytes hashed since the last call, every few
            milliseconds; what it raises ends the build.

    Raises:
        UnreadableSource: not there, not readable, or neither a file nor a directory.
        SegmentsError: the segments do not cut the file.
        UnsafeName: a name in the directory could be misread elsewhere.
        NothingSelected: `selection` takes no file.
        SourceChanged: a file changed while it was read.
        TreeTooLarge: more entries than a directory or an object may have.
    """
    path = Path(os.path.abspath(source))
    encode_name(path.name)
    builder = _Builder(segments, hash_function, symlinks, selection, progress)
    with _unreadable(path):
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    if is_directory and not (segments is None or callable(segments)):
        raise InvalidInput("segments for a directory must be a function of the path")
    link = builder.directory(path, "") if is_directory else builder.file(path, "")
    if link is None:
        raise NothingSelected(f"no file in {path} is selected")
    return Built(
        root=link.cid,
        kind=Kind.DIRECTORY if is_directory else Kind.FILE,
        name=path.name,
        path=path,
        size=link.size,
        files=tuple(builder.files),
        index=builder.index,
    )


async def build_in_thread(
    source: Path | str,
    *,
    segments: Segments | None = None,
    hash_function: HashFunction = HashFunction.BLAKE3,
    symlinks: Symlinks = Symlinks.REFUSE,
    selection: Selection = _EVERYTHING,
    progress: Progress | None = None,
) -> Built:
    """`build` from Trio: in a worker thread, with `progress` called on the loop.

    Cancelled, it ends within a batch of 32 MiB and leaves nothing behind.
    """

    def report(count: int) -> None:
        trio.from_thread.check_cancelled()
        if progress is not None:
            trio.from_thread.run_sync(progress, count)

    def work() -> Built:
        return build(
            source,
            segments=segments,
            hash_function=hash_function,
            symlinks=symlinks,
            selection=selection,
            progress=report,
        )

    return await trio.to_thread.run_sync(work)


class _Builder:
    """One build: collects the files and index blocks of an object."""

    def __init__(
        self,
        segments: Segments | None,
        hash_function: HashFunction,
        symlinks: Symlinks,
        selection: Selection,
        progress: Progress | None,
    ) -> None:
        self._segments = segments
        self._hash_function = hash_function
        self._symlinks, self._selection = symlinks, selection
        self._progress = progress
        self._unreported = 0  # bytes hashed since the last call of `progress`
        self._entries = 0
        self._buffer = bytearray(_BUFFER_BYTES)
        self.files: list[BuiltFile] = []
        self.index: dict[CID, bytes] = {}

    def directory(self, path: Path, relative: str, parent: int | None = None) -> Link | None:
        """Hash everything below `path`. `relative` is its path inside the object.

        None: nothing in it is selected.

        What has a `parent`, an open directory, is opened below it and not through a link: a tree
        may change while it is hashed, and must not lead to files that nobody meant to share.
        """
        check_tree_depth(relative)
        with _unreadable(path):
            descriptor = _open(path, os.O_DIRECTORY, parent)
        try:
            return self._directory(path, relative, descriptor)
        finally:
            os.close(descriptor)

    def _directory(self, path: Path, relative: str, descriptor: int) -> Link | None:
        above = f"{relative}/" if relative else ""
        with _unreadable(path), os.scandir(descriptor) as found:
            taken = [child for child in found if self._is_taken(child, above + child.name)]
        children = sorted(taken, key=lambda child: os.fsencode(child.name))
        if len(children) > MAX_ENTRIES:
            raise TreeTooLarge(f"{path} has {len(children)} entries, limit {MAX_ENTRIES}")
        self._entries += len(children)
        check_tree_entries(self._entries)
        entries, size = [], 0
        # Of a directory that nothing may be taken of, the name counts only once something is.
        check_new_names(str(path), [child.name for child in children if not _is_directory(child)])
        for child in children:
            encode_name(child.name)
            inside = above + child.name
            check_path(inside)
            link = self._child(child, path / child.name, inside, descriptor)
            if link is None:
                continue
            entries.append(Entry(child.name, link.cid, link.total_size))
            size += link.size
        if not entries and self._selection:
            return None
        check_new_names(str(path), [entry.name for entry in entries])
        block = encode_directory(entries)
        if len(block) > MAX_BLOCK_BYTES:
            raise TreeTooLarge(f"the listing of {path} takes {len(block)} bytes")
        cid = CID.of(block, Codec.DAG_PB, self._hash_function)
        self.index[cid] = block
        return Link(cid, size, len(block) + sum(entry.total_size for entry in entries))

    def _is_taken(self, child: os.DirEntry[str], relative: str) -> bool:
        """Whether a child is a part of the object: a directory may be, as far as can be told."""
        if _is_directory(child):
            return True
        if child.is_symlink() and self._symlinks is Symlinks.SKIP:
            return False
        return self._selection.takes(relative)

    def _child(
        self, child: os.DirEntry[str], path: Path, relative: str, parent: int
    ) -> Link | None:
        if child.is_symlink():
            if not (self._symlinks is Symlinks.FOLLOW and path.is_file()):
                raise UnreadableSource(f"{path} is a symlink", hint=SYMLINK_HINT)
            return self.file(path, relative)
        if _is_directory(child):
            return self.directory(path, relative, parent)
        return self.file(path, relative, parent)

    def file(self, path: Path, relative: str, parent: int | None = None) -> Link:
        """Hash one file, as `directory` does one of those. Raises SourceChanged."""
        named = path  # a link's own name says what kind of file it is: that behind it may be a hash
        with _unreadable(path):
            descriptor = _open(path, 0, parent)
            try:
                path = Path(os.path.realpath(path))  # is compared with what is open, in the end
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise UnreadableSource(f"{path} is neither a file nor a directory")
                stamp = Stamp.of(status)
                link, built = self._hash(path, named, relative, descriptor, stamp)
                if not stamp == Stamp.of(os.fstat(descriptor)) == Stamp.of(path.stat()):
                    raise SourceChanged(f"{path} changed while it was read", cid=link.cid)
            finally:
                os.close(descriptor)
        self.files.append(built)
        return link

    def _hash(
        self, path: Path, named: Path, relative: str, descriptor: int, stamp: Stamp
    ) -> tuple[Link, BuiltFile]:
        segments = self._segments(named) if callable(self._segments) else self._segments
        if segments is None:
            segments = [Segment(stamp.size)]
        check_segments(segments, stamp.size)
        reader = _Reader(path, descriptor, stamp.size, self._buffer)
        builder = FileBuilder(segments, self.index.__setitem__, self._hash_function)
        table = LeafTable(CID.of(b"", Codec.RAW, self._hash_function))  # until its root is known
        while (length := builder.next_length()) is not None:
            count = reader.skip(length, builder.equal_leaves)
            if count:
                multihash = zero_multihash(self._hash_function, length)
            else:
                multihash = self._hash_function.multihash(reader.read(length))
            builder.add(multihash, max(1, count))
            table.append(length, multihash, max(1, count))
            self._unreported += length * max(1, count)
            if self._unreported >= _PROGRESS_BYTES:
                self._report()
        self._report()
        link = builder.finish()
        table.root = link.cid
        built = BuiltFile(path, relative, stamp, link.cid, table, tuple(builder.segments))
        return link, built

    def _report(self) -> None:
        if self._progress is not None and self._unreported:
            self._progress(self._unreported)
        self._unreported = 0


class _Reader:
    """Reads a file in order through one buffer, but for its holes.

    What `read` returns holds until the next one.
    """

    def __init__(self, path: Path, descriptor: int, size: int, buffer: bytearray) -> None:
        self._path, self._descriptor, self._size = path, descriptor, size
        self._view = memoryview(buffer)
        self._position = 0  # in the file, after what is buffered
        self._start = self._end = 0  # of what is buffered and not yet read
        self._holes = Holes(descriptor)

    def skip(self, length: int, most: int) -> int:
        """Pass over up to `most` times `length` bytes that are a hole; return how many times."""
        offset = self._position - (self._end - self._start)
        if not self._holes.cover(offset, length):
            return 0
        count = min(most, self._holes.left(offset) // length)
        self._position = offset + count * length
        self._start = self._end = 0
        return count

    def read(self, length: int) -> memoryview:
        """Return the next `length` bytes, at most the buffer. Raises SourceChanged if cut short."""
        if self._end - self._start < length:
            self._fill(length)
        self._start += length
        return self._view[self._start - length : self._start]

    def _fill(self, length: int) -> None:
        kept = self._end - self._start
        self._view[:kept] = self._view[self._start : self._end]
        self._start, self._end = 0, kept
        while self._end < length:
            # Never past the size that was seen first: a growing file is told apart afterwards.
            room = self._view[self._end : self._end + self._size - self._position]
            count = os.preadv(self._descriptor, [room], self._position)
            if count == 0:
                raise SourceChanged(f"{self._path} became shorter while it was read")
            self._position += count
            self._end += count


def _is_directory(child: os.DirEntry[str]) -> bool:
    return child.is_dir(follow_symlinks=False)


def _open(path: Path, flags: int, parent: int | None) -> int:
    """Open `path` for reading; with `parent`, the directory it is in, not through a link."""
    # A pipe in the place of a file must not block us.
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if parent is None:
        return os.open(path, flags)
    try:
        return os.open(path.name, flags | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if path.is_symlink():
            raise UnreadableSource(
                f"{path} became a symlink while it was read", hint=SYMLINK_HINT
            ) from error
        raise


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreadableSource(f"cannot read {path}: {error.strerror}") from error
