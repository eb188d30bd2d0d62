"""Hashing everything that an object consists of: what a disk does to old files, found out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.cid import Codec
from lattica.errors import IntegrityError

from ._build import Stamp
from ._holes import Holes, zero_multihash
from ._sources import read_exactly, same_file
from ._unixfs import MAX_BLOCK_BYTES, DagError
from ._values import Damage, VerifyReport
from ._walk import MAX_TREE_ENTRIES, Tree, Walker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lattica.cid import CID

    from ._build import Progress
    from ._dag import Leaf
    from ._index import Index
    from ._rows import FileRow
    from ._sources import Sources


def verify(
    index: Index,
    sources: Sources,
    object_id: int,
    root: CID,
    progress: Progress | None,
    most: int,
) -> VerifyReport:
    """Hash the index blocks and leaves of a complete object, in every place where it is.

    A file that is sound in one place is sound. A place that is sound although it looked changed is
    served again; one that is not, is not, and is listed. At most `most` damages are.
    """
    check = _Check(index, sources, progress, most)
    files: dict[str, list[FileRow]] = {}
    for file in index.files(object_id):
        if file.source.download is None:
            files.setdefault(file.path, []).append(file)
    check.directories(root, {rows[0].root for rows in files.values()})
    differing: list[Path] = []
    for rows in files.values():
        damages = [check.place(row) for row in rows]
        if all(damages):
            check.note(min(damages, key=len))
        elif len(differing) < most:
            differing += [
                row.source.path for row, found in zip(rows, damages, strict=True) if found
            ]
    return VerifyReport(
        root, check.checked_bytes, check.damaged_count, tuple(check.damaged), tuple(differing)
    )


@dataclass(slots=True)
class _Check:
    index: Index
    sources: Sources
    progress: Progress | None
    most: int
    checked_bytes: int = 0
    damaged_count: int = 0
    damaged: list[Damage] = field(default_factory=list)
    _buffer: bytearray = field(default_factory=lambda: bytearray(MAX_BLOCK_BYTES))

    def note(self, damages: list[Damage]) -> None:
        """Report damages."""
        self.damaged_count += len(damages)
        self.damaged += damages[: self.most - len(self.damaged)]

    def directories(self, root: CID, files: set[CID]) -> None:
        """Check the directories of the object; the index of each of `files` is checked with it."""
        if root.codec != Codec.DAG_PB:
            return
        tree = Tree(root)
        failed: set[CID] = set()
        while needed := set(tree.needed(MAX_TREE_ENTRIES)) - failed:
            for cid in needed:
                block = self.index.block(cid.multihash)
                try:
                    tree.receive(cid, b"" if block is None else block)
                except (IntegrityError, DagError):
                    failed.add(cid)
        self.note(
            [Damage(cid, "", 0, 0, "index block is missing or damaged") for cid in failed - files]
        )

    def place(self, file: FileRow) -> list[Damage]:
        """Check a file in one place, and note what came out."""
        source = file.source
        try:
            descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.sources.changed.add(source.id)
            reason = f"cannot open {source.path}: {error.strerror}"
            size = source.stamp.size
            return [Damage(file.root, file.path, 0, size, reason, source.path)]
        try:
            before = Stamp.of(os.fstat(descriptor))
            self.sources.forget(source.id)
            damages = list(self._damages(file, descriptor))
            unchanged = same_file(before, source.stamp)
            if not damages and before == Stamp.of(os.fstat(descriptor)):
                if source.changed or not unchanged:
                    with self.index.writing() as transaction:
                        transaction.update_source(source.id, source.path, before)
                    self.sources.forget(source.id)
            elif not unchanged:
                self.sources.changed.add(source.id)
        finally:
            os.close(descriptor)
        return damages

    def _damages(self, file: FileRow, descriptor: int) -> Iterator[Damage]:
        size = file.source.stamp.size if file.root.codec == Codec.RAW else None
        walker = Walker(file.root, size=size)
        holes = Holes(descriptor)
        while not walker.done:
            for cid in walker.needed():
                block = self.index.block(cid.multihash)
                try:
                    walker.receive(cid, b"" if block is None else block)
                except (IntegrityError, DagError):
                    yield Damage(cid, file.path, 0, 0, "index block is missing or damaged")
                    return
            for batch in _batches(self._unhashed(walker.leaves(), holes)):
                yield from self._damaged_leaves(file, descriptor, batch)

    def _unhashed(self, leaves: Iterator[Leaf], holes: Holes) -> Iterator[Leaf]:
        """Give the leaves that have to be read; zeros that are a hole are sound as they are."""
        for leaf in leaves:
            if holes.cover(leaf.offset, leaf.length):
                function = leaf.cid.hash_function
                if leaf.multihash == zero_multihash(function, leaf.length):
                    self.checked_bytes += leaf.length
                    continue
            yield leaf

    def _damaged_leaves(
        self, file: FileRow, descriptor: int, batch: list[Leaf]
    ) -> Iterator[Damage]:
        size = sum(leaf.length for leaf in batch)
        rest = memoryview(self._buffer)[:size]
        reason = "wrong bytes"
        try:
            if not read_exactly(descriptor, batch[0].offset, [rest]):
                reason, rest = "the file is too short", rest[:0]
        except OSError as error:
            reason, rest = f"cannot be read: {error.strerror}", rest[:0]
        if size and not rest and len(batch) > 1:
            for leaf in batch:  # some of them may be sound
                yield from self._damaged_leaves(file, descriptor, [leaf])
            return
        for leaf in batch:
            data, rest = rest[: leaf.length], rest[leaf.length :]
            if len(data) != leaf.length or not leaf.cid.matches(data):
                self.sources.note_damaged(file.source.id, leaf.offset)
                place = file.source.path
                yield Damage(leaf.cid, file.path, leaf.offset, leaf.length, reason, place)
        self.checked_bytes += size
        if self.progress is not None:
            self.progress(size)


def _batches(leaves: Iterator[Leaf]) -> Iterator[list[Leaf]]:
    """Group leaves that follow each other into buffers full."""
    batch: list[Leaf] = []
    size = 0
    for leaf in leaves:
        if batch and size + leaf.length > MAX_BLOCK_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(leaf)
        size += leaf.length
    if batch:
        yield batch
