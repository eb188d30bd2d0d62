"""How much the store may keep, and what goes when it is too much: the least used, never the pinned.

What counts is the store's own: copies, and objects that were fetched into it. A file that a user
shared, or had fetched to a place of their own, belongs to the user: it is neither counted nor ever
deleted. Of a download the whole size counts from the moment it is known, so that two at once cannot
both be promised the same room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._values import Kept, QuotaExceeded, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lattica.cid import CID

    from ._index import Index
    from ._rows import OwnedRow
    from ._sources import Sources


_INDEX_SHARE = 512  # of content, the most that the rows of its leaves take, and their log


class Room:
    """The bound of one store. Its owner calls it under the lock that serialises upkeep.

    Attributes:
        quota: most bytes; None: no bound.
    """

    def __init__(
        self,
        index: Index,
        sources: Sources,
        quota: int | None,
        evict: Callable[[OwnedRow], None],
    ) -> None:
        """Keep a store to `quota`; `evict` lets go of what the store keeps for an object."""
        self.quota = quota
        self._index, self._sources, self._evict = index, sources, evict
        self._reserved: dict[int, int] = {}  # bytes, by download

    def usage(self) -> Usage:
        """Say what is kept."""
        self.note_used()
        kept: dict[CID, Kept] = {}
        for row in self._index.owned():
            size = self._size(row) + (kept[row.root].size if row.root in kept else 0)
            kept[row.root] = Kept(row.root, size, row.pinned, row.used)
        return Usage(self.quota, self._index.file_bytes(), tuple(kept.values()))

    def note_used(self) -> None:
        """Write down what was read since the last time."""
        if used := self._sources.take_used():
            with self._index.writing() as transaction:
                transaction.note_used(used.items())

    def reserve(self, download: int, size: int, active: Collection[int]) -> None:
        """Make room for all of a download. Raises QuotaExceeded."""
        before = self._reserved.pop(download, 0)
        try:
            self.make(size, active, without=download)
        except QuotaExceeded:
            self._reserved[download] = before
            raise
        self._reserved[download] = size

    def release(self, download: int) -> None:
        """Forget a reservation: what was written counts by itself."""
        self._reserved.pop(download, None)

    def shrink(self, active: Collection[int]) -> None:
        """Let go of the least used until the store is within its bound, as far as that goes."""
        for row in self._going(0, active, None)[0]:
            self._evict(row)

    def make(self, size: int, active: Collection[int], *, without: int | None = None) -> None:
        """Let go of the least used until `size` more bytes fit.

        Args:
            size: in bytes.
            active: downloads that are running: they stay.
            without: a download that `size` is all of.

        Raises:
            QuotaExceeded: it would not be enough; nothing was let go.
        """
        going, lacking = self._going(size + size // _INDEX_SHARE, active, without)
        if lacking > 0:
            raise QuotaExceeded(
                f"{size} more bytes do not fit the store's {self.quota}: {lacking} too many,"
                " whatever is let go"
            )
        for row in going:
            self._evict(row)

    def _going(
        self, size: int, active: Collection[int], without: int | None
    ) -> tuple[list[OwnedRow], int]:
        """Return what has to go for `size` more bytes, and how many bytes that leaves too many."""
        if self.quota is None:
            return [], 0
        self.note_used()
        rows = [
            row for row in self._index.owned() if row.download is None or row.download != without
        ]
        sizes = [self._size(row) for row in rows]
        unseen = sum(  # downloads that have reserved and not begun to write
            reserved
            for download, reserved in self._reserved.items()
            if download not in {row.download for row in rows}
        )
        excess = size + sum(sizes) + unseen + self._index.file_bytes() - self.quota
        running = {row.object for row in rows if row.download in active}
        going: list[OwnedRow] = []
        freed = 0
        for row, kept in zip(rows, sizes, strict=True):
            if freed >= excess:
                break
            if not row.pinned and row.object not in running:
                going.append(row)
                freed += kept
        return going, excess - freed

    def _size(self, row: OwnedRow) -> int:
        if row.download is None:
            return row.size
        return max(row.size, self._reserved.get(row.download, 0))
