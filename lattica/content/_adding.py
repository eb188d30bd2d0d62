"""How hashed files become sources and objects of the store's index."""

from __future__ import annotations

import os
import shutil
from itertools import islice
from typing import TYPE_CHECKING

from lattica.errors import SourceChanged

from ._build import Stamp, build
from ._dag import FileBuilder, Segment, SegmentsError
from ._sources import same_file
from ._walk import Walker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from lattica.cid import CID

    from ._build import Built, BuiltFile
    from ._dag import BuiltSegment, Leaf
    from ._index import Index
    from ._rows import FileRow, SourceRow
    from ._values import StoredObject

_LEAF_ROWS = 8192  # in one transaction: another writer waits for some 50 ms


def put_source(index: Index, file: BuiltFile, path: Path, *, owned: bool) -> int:
    """Note a file, at `path`, and its leaves; returns its number.

    Until `join_sources` names it in an object, the next start of the store would drop it again.
    """
    stamp = file.stamp
    if owned:
        stamp = Stamp.of(path.stat())
        sync_directory(path.parent)
    with index.writing() as transaction:
        source = transaction.put_source(path, stamp, owned=owned)
    put_leaves(index, _leaf_rows(source, file))
    return source


def put_leaves(index: Index, rows: Iterable[tuple[int, int, bytes, int, int]]) -> None:
    """Add leaf rows (source, offset, multihash, length, stride) in transactions of bounded size."""
    rows = iter(rows)
    while batch := list(islice(rows, _LEAF_ROWS)):
        with index.writing() as transaction:
            transaction.put_leaves(batch)


def unrepeated(leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """Give leaves without those that equal the one before."""
    before = None
    for leaf in leaves:
        if leaf.multihash != before:
            yield leaf
        before = leaf.multihash


def join_sources(
    index: Index, stored: StoredObject, built: Built, sources: Sequence[int]
) -> list[SourceRow]:
    """Make an object of sources whose leaves are in, in one transaction.

    Returns:
        Sources that this has made useless; their rows are gone.
    """
    with index.writing() as transaction:
        number = transaction.put_object(stored)
        transaction.put_blocks(number, built.index.items())
        for file, source in zip(built.files, sources, strict=True):
            transaction.put_file(number, file.relative, source, file.root, len(file.leaves))
            transaction.put_names(number, file.relative, _named(file.segments))
        for row in index.files(number):  # as they were before this transaction
            if row.source.id not in sources and _is_superseded(row.source):
                transaction.drop_file(number, row.source.id)
        return transaction.take_orphans()


def copy_file(file: BuiltFile, path: Path) -> None:
    """Copy a file to `path`, sync it, and prove that the copy is what was hashed.

    Raises:
        SourceChanged: it is not.
        OSError: the disk refuses.
    """
    shutil.copyfile(file.path, path)
    with path.open("rb") as copy:
        os.fsync(copy.fileno())
    segments = [Segment(part.length, part.stride, "", part.leaf_bytes) for part in file.segments]
    try:
        copied = build(path, segments=segments, hash_function=file.leaves.hash_function)
    except SegmentsError:
        copied = None
    if copied is None or copied.root != file.root:
        raise SourceChanged(f"{file.path} is no longer what was hashed", cid=file.root)


def sync_directory(path: Path) -> None:
    """Put the names of files in a directory on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def label_file(index: Index, number: int, file: FileRow, segments: Sequence[Segment]) -> None:
    """Note names and strides of a file's segments, if it was cut like this."""
    built = _rebuilt(index, file, segments)
    if built is None:
        return
    with index.writing() as transaction:
        transaction.put_names(number, file.path, _named(built))
        for part in built:
            stop = part.offset + part.length
            transaction.put_stride(file.source.id, part.offset, stop, part.stride)


def _rebuilt(index: Index, file: FileRow, segments: Sequence[Segment]) -> list[BuiltSegment] | None:
    """Return the segments of a file from its leaves alone; None if that is not how it was cut."""
    walker = Walker(file.root, size=file.source.stamp.size if file.leaf_count == 1 else None)
    builder = FileBuilder(segments, lambda _cid, _block: None, file.root.hash_function)
    while not walker.done:
        for cid in walker.needed():
            if (block := index.block(cid.multihash)) is None:
                return None
            walker.receive(cid, block)
        for leaf in walker.leaves():
            if leaf.length != builder.next_length():
                return None
            builder.add(leaf.multihash)
    whole = builder.next_length() is None and builder.finish().cid == file.root
    return builder.segments if whole else None


def _named(segments: Iterable[BuiltSegment]) -> list[tuple[int, int, CID, str]]:
    return [(part.offset, part.length, part.root, part.name) for part in segments if part.name]


def _leaf_rows(source: int, file: BuiltFile) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Give the rows of a file's leaves, each with its segment's stride.

    Of equal leaves in a row the first stands for all: a terabyte of zeros is one row.
    """
    cuts = iter(file.segments)
    cut = next(cuts)
    for leaf in unrepeated(file.leaves):
        while leaf.offset >= cut.offset + cut.length > cut.offset:
            cut = next(cuts)
        yield source, leaf.offset, leaf.multihash, leaf.length, cut.stride


def _is_superseded(source: SourceRow) -> bool:
    """Whether a place of a file is of no use now that the file has another."""
    if source.download is not None:
        return False
    try:
        looks = Stamp.of(source.path.stat())
    except OSError:
        return True
    return source.owned or source.changed or not same_file(looks, source.stamp)
