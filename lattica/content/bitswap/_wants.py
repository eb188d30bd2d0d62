"""Who wants what of whom: a peer's wants of us, and ours of a peer. Pure (spec/bitswap.md §3, §4).

A peer changes its wantlist message by message. What is here is answered and forgotten; what is not
waits, because it may come, and gives way first when there are too many wants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._messages import Entry, Presence, WantType, read_cid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_WANTS = 1024  # of one peer: as many as other implementations keep, too
_MAX_RECENT = 8192  # blocks that were wanted of one peer last: what comes late is no surprise


class Room:
    """How many wants of all peers together may be kept."""

    def __init__(self, wants: int) -> None:
        self.left = wants


@dataclass(frozen=True, slots=True)
class Answer:
    """The next message to a peer.

    Attributes:
        wants: blocks to send, in this order.
        presences: what to say of others.
        pending_bytes: of blocks that are to be sent after these.
    """

    wants: tuple[Entry, ...]
    presences: tuple[Presence, ...]
    pending_bytes: int


class Ledger:
    """What one peer wants of us and has not got.

    Attributes:
        protocol: what the peer spoke last; it is answered in the same.
    """

    def __init__(self, room: Room, *, limit: int = MAX_WANTS) -> None:
        """Keep at most `limit` wants, and as many answers of other kinds; take them from `room`."""
        self.protocol = ""
        self._room, self._limit = room, limit
        self._ready: dict[bytes, tuple[Entry, int]] = {}  # with the size of the block
        self._waiting: dict[bytes, Entry] = {}  # for something that is not here, the oldest first
        self._presences: dict[bytes, bool] = {}

    @property
    def has_answer(self) -> bool:
        """Whether there is something to send."""
        return bool(self._ready or self._presences)

    @property
    def waiting(self) -> list[bytes]:
        """The CIDs that are wanted and not here."""
        return list(self._waiting)

    @property
    def pending_bytes(self) -> int:
        """How much is to be sent."""
        return sum(size for _, size in self._ready.values())

    def __len__(self) -> int:
        return len(self._ready) + len(self._waiting)

    def receive(
        self, entries: Iterable[Entry], sizes: Mapping[bytes, int | None], *, full: bool = False
    ) -> None:
        """Take a message's wantlist.

        Args:
            entries: its lines.
            sizes: by CID, how large the block is; None or missing: it is not here.
            full: what is not listed is wanted no more.
        """
        if full:
            self.close()
        for entry in entries:
            self._forget(entry.cid)
            if not entry.cancel:
                self._add(entry, sizes.get(entry.cid))

    def look_again(self, sizes: Mapping[bytes, int | None]) -> None:
        """Answer what has waited for blocks that are here now."""
        for cid in self.waiting:
            size = sizes.get(cid)
            if size is not None:
                entry = self._waiting[cid]
                self._forget(cid)
                self._add(entry, size)

    def next_answer(self, max_bytes: int) -> Answer | None:
        """Return what to send next: blocks of `max_bytes` in all, at least one if one is due.

        They count as sent; say `lacks` of those that could not be read.
        """
        if not self.has_answer:
            return None
        chosen: list[Entry] = []
        for entry, size in sorted(self._ready.values(), key=lambda want: -want[0].priority):
            if chosen and size > max_bytes:
                break
            chosen.append(entry)
            max_bytes -= size
        for entry in chosen:
            self._forget(entry.cid, presence=False)
        presences = tuple(Presence(cid, have) for cid, have in self._presences.items())
        self._presences = {}
        return Answer(tuple(chosen), presences, self.pending_bytes)

    def lacks(self, entry: Entry) -> None:
        """Note that a block which seemed to be here could not be read."""
        self._add(entry, None)

    def close(self) -> None:
        """Forget all wants, and give back their room."""
        self._room.left += len(self)
        self._ready, self._waiting, self._presences = {}, {}, {}

    def _add(self, entry: Entry, size: int | None) -> None:
        if size is not None and entry.want is WantType.HAVE:
            self._say(entry.cid, have=True)
        elif size is not None and self._make_room():
            self._ready[entry.cid] = entry, size
        else:
            # Also of what is here, when there are too many wants: who hears it can ask another.
            if entry.send_dont_have:
                self._say(entry.cid, have=False)
            if size is None and len(self) < self._limit and self._room.left > 0:
                self._waiting[entry.cid] = entry
                self._room.left -= 1

    def _make_room(self) -> bool:
        if len(self) >= self._limit or self._room.left <= 0:
            if not self._waiting:
                return False
            self._forget(next(iter(self._waiting)), presence=False)
        self._room.left -= 1
        return True

    def _say(self, cid: bytes, *, have: bool) -> None:
        if len(self._presences) < self._limit:
            self._presences[cid] = have

    def _forget(self, cid: bytes, *, presence: bool = True) -> None:
        if self._ready.pop(cid, None) or self._waiting.pop(cid, None):
            self._room.left += 1
        if presence:
            self._presences.pop(cid, None)


class Asked:
    """What we want of one peer, for all fetches that ask it. A want is told once, and undone once.

    Blocks are counted by multihash: that is what the bytes of an answer say of themselves.
    """

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._recent: dict[bytes, None] = {}  # multihashes, the oldest first

    def was_wanted(self, multihash: bytes) -> bool:
        """Whether a block with this hash has been wanted lately, or still is."""
        return multihash in self._recent

    def want(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return which of these the peer has to be told; all are wanted once more."""
        told = []
        for entry in entries:
            self._counts[entry.cid] += 1
            self._remember(read_cid(entry.cid).multihash)
            if self._counts[entry.cid] == 1 or entry.want is WantType.HAVE:
                told.append(entry)
        return told

    def release(self, cids: Iterable[bytes], *, arrived: bool) -> list[Entry]:
        """Want these once less; return the cancellations to send: none for what has come."""
        told = []
        for cid in cids:
            self._counts[cid] -= 1
            if self._counts[cid] <= 0:
                del self._counts[cid]
                if not arrived:
                    told.append(Entry(cid, cancel=True))
        return told

    def __len__(self) -> int:
        return len(self._counts)

    def _remember(self, multihash: bytes) -> None:
        self._recent.pop(multihash, None)
        self._recent[multihash] = None
        if len(self._recent) > _MAX_RECENT:
            del self._recent[next(iter(self._recent))]
