"""Who answered, and where, across restarts: so that a node finds back without any bootstrap node.

A small file beside the key: canonical msgpack, replaced as a whole, never changed in place. It is a
convenience and no truth: whoever is remembered has to answer again before it is a contact. So a
file that is damaged, too large or of another swarm is ignored, with a word in the log, and written
anew. What could not be written is tried again with the next change.

Format: `{"contacts": [[peer, [address, …], seen], …], "protocol": …, "version": 1}`, peers and
addresses in binary, `seen` in whole seconds since 1970, the one seen last first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica import codec
from lattica.errors import CodecError
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_log = logging.getLogger(__name__)

MAX_CONTACTS = 256
MAX_ADDRESSES = 4  # of each
MAX_FILE = 256 << 10  # bytes; 256 peers with four addresses take some 40 KiB
KEPT_SECONDS = 30 * 86_400.0  # a peer that was not heard from for so long has moved, or ended
VERSION = 1


@dataclass(frozen=True, slots=True)
class Remembered:
    """A peer that was a contact.

    Attributes:
        info: who, and where: the address that worked first.
        seen: when it last answered, in seconds since 1970.
    """

    info: PeerInfo
    seen: float


class ContactFile:
    """The contacts of one node in one DHT, remembered. Without a path, until it ends."""

    def __init__(self, path: Path | None, *, protocol: str, now: float) -> None:
        """Read `path`, if it is there; `now` is in seconds since 1970."""
        self._path, self._protocol = path, protocol
        self._known: dict[PeerId, Remembered] = {}
        self._written: bytes | None = None
        if path is not None:
            for each in _load(path, protocol):
                seen = min(each.seen, now)  # a clock that was ahead makes nobody immortal
                if seen > now - KEPT_SECONDS:
                    self._known[each.info.peer] = Remembered(each.info, seen)

    def __len__(self) -> int:
        return len(self._known)

    def latest(self) -> list[PeerInfo]:
        """Return who is remembered, the one that answered last first."""
        return [each.info for each in self._latest()]

    def note(self, contacts: Iterable[Remembered], *, now: float) -> None:
        """Remember these as well; of more than fit, those that were silent for longest go."""
        for each in contacts:
            if each.info.addresses:
                addresses = each.info.addresses[:MAX_ADDRESSES]
                self._known[each.info.peer] = Remembered(
                    PeerInfo(each.info.peer, addresses), each.seen
                )
        kept = [each for each in self._latest() if each.seen > now - KEPT_SECONDS]
        self._known = {each.info.peer: each for each in kept[:MAX_CONTACTS]}

    def save(self) -> None:
        """Write what changed. A failure is logged, and costs nothing but the memory."""
        if self._path is None:
            return
        data = _encode(self._latest(), self._protocol)
        if data == self._written:
            return
        try:
            _replace(self._path, data)
        except OSError as error:
            _log.warning("contacts are not kept across restarts: %s: %s", self._path, error)
        else:
            self._written = data

    def _latest(self) -> list[Remembered]:
        return sorted(self._known.values(), key=lambda each: each.seen, reverse=True)


def _load(path: Path, protocol: str) -> list[Remembered]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        return decode(data, protocol)
    except FileNotFoundError:
        return []
    except (OSError, CodecError) as error:
        _log.warning("the remembered contacts in %s are ignored: %s", path, error)
        return []


def decode(data: bytes, protocol: str) -> list[Remembered]:
    """Read a file of contacts; one of another DHT is as good as empty. Raises CodecError."""
    value = codec.unpack(data, max_size=MAX_FILE, max_values=MAX_CONTACTS * (4 + MAX_ADDRESSES) + 8)
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise CodecError(f"not a file of contacts, version {VERSION}")
    entries = value.get("contacts")
    if not isinstance(entries, list):
        raise CodecError("no list of contacts")
    if value.get("protocol") != protocol:
        return []
    return [_decode_entry(entry) for entry in entries]


def _decode_entry(entry: codec.Value) -> Remembered:
    match entry:
        case [bytes(raw), [*addresses], int(seen)]:
            where = []
            for address in addresses:
                if not isinstance(address, bytes):
                    raise CodecError("an address that is no bytes")
                where.append(Multiaddr.from_bytes(address))
            return Remembered(PeerInfo(PeerId.from_bytes(raw), tuple(where)), float(seen))
    raise CodecError("an entry that is no contact")


def _encode(contacts: Iterable[Remembered], protocol: str) -> bytes:
    entries: list[codec.Value] = [
        [each.info.peer.raw, [bytes(address) for address in each.info.addresses], int(each.seen)]
        for each in contacts
    ]
    return codec.pack({"version": VERSION, "protocol": protocol, "contacts": entries})


def _replace(path: Path, data: bytes) -> None:
    # Mode 0600, as mkstemp makes it: whom a node knows is nobody's business.
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
