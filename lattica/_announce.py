"""Announcements of shares to a swarm, by gossip (spec/announcements.md). Pure.

An announcement says that its author serves an object. It is signed, as all gossip is, and it is the
author's word: name and size are for people, and whoever fetches verifies against the CID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica import codec
from lattica.cid import CID
from lattica.errors import CodecError, InvalidInput
from lattica.results import Announcement
from lattica.ticket import is_plain_name

if TYPE_CHECKING:
    from lattica.identity import PeerId

VERSION = 1
MAX_MESSAGE = 1024  # bytes
MAX_SWARM = 64  # characters
MAX_HEARD = 4096  # announcements remembered; the oldest make room
MAX_HEARD_PER_PEER = 256  # so that one peer cannot push out what all others said


class AnnouncementError(CodecError):
    """A gossip message is not an announcement of a share."""

    code = "announcement"


def topic(swarm: str) -> str:
    """Return the gossip topic of a swarm's announcements. Raises InvalidInput."""
    if not 0 < len(swarm) <= MAX_SWARM or not swarm.isprintable() or "/" in swarm:
        raise InvalidInput(f"{swarm!r} is not the name of a swarm: 1 to {MAX_SWARM} characters")
    return f"/lattica/shares/1.0.0/{swarm}"


def encode(cid: CID, name: str, size: int) -> bytes:
    """Return the announcement of an object; a name that others would refuse is left out."""
    return codec.pack([VERSION, bytes(cid), name if is_plain_name(name) else "", size])


def decode(data: bytes, author: PeerId) -> Announcement:
    """Read an announcement. Raises AnnouncementError."""
    try:
        return _read(codec.unpack(data, max_size=MAX_MESSAGE), author)
    except CodecError as error:
        raise AnnouncementError(f"not an announcement: {error}") from None


def _read(value: codec.Value, author: PeerId) -> Announcement:
    if not isinstance(value, list) or len(value) < 4:
        raise CodecError("it is an array of version, CID, name and size")
    version, cid, name, size = value[:4]
    if type(version) is not int or version != VERSION:
        raise CodecError(f"version {version!r}, expected {VERSION}")
    if not isinstance(cid, bytes):
        raise CodecError("its CID is not bytes")
    if not isinstance(name, str) or (name and not is_plain_name(name)):
        raise CodecError("its name is not a plain file name")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise CodecError("its size is not a number of bytes")
    return Announcement(CID.from_bytes(cid), name, size, author)


class Heard:
    """What peers announced, newest last, bounded in all and per peer."""

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, dict[CID, Announcement]] = {}
        self._order: dict[tuple[PeerId, CID], None] = {}

    def add(self, announcement: Announcement) -> None:
        """Remember it, in place of what the same peer said of the same object before."""
        peer, cid = announcement.peer, announcement.cid
        self._forget(peer, cid)
        theirs = self._by_peer.setdefault(peer, {})
        if len(theirs) >= MAX_HEARD_PER_PEER:
            self._forget(peer, next(iter(theirs)))
        if len(self._order) >= MAX_HEARD:
            self._forget(*next(iter(self._order)))
        self._by_peer.setdefault(peer, {})[cid] = announcement
        self._order[peer, cid] = None

    def all(self) -> list[Announcement]:
        """Return all of them, newest last."""
        return [self._by_peer[peer][cid] for peer, cid in self._order]

    def name_of(self, cid: CID) -> str | None:
        """Return what the latest announcement of an object calls it, if any does."""
        said = (item.name for item in reversed(self.all()) if item.cid == cid and item.name)
        return next(said, None)

    def _forget(self, peer: PeerId, cid: CID) -> None:
        if self._order.pop((peer, cid), ...) is None:
            theirs = self._by_peer[peer]
            del theirs[cid]
            if not theirs:
                del self._by_peer[peer]
