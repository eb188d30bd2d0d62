"""Who else fetches it: what a provider knows of its fetchers, and tells them of each other. Pure.

Peers that only know the provider whose ticket they have would never meet, and each would take
everything from it. So a fetcher may say where it can be reached and ask who else is there (PEERS,
spec/exchange.md §2.8). Only who asks is told of, for as long as it fetches and a little longer. An
address is told and believed only where it means the same to both ends, as in the DHT.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.codec import Value, pack, unpack
from lattica.dht import leads_there
from lattica.errors import CodecError, InvalidInput
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

from ._messages import MAX_CONTROL, AnswerHead, AnswerKind, MessageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lattica.cid import CID

MAX_TOLD = 32  # fetchers in one answer
MAX_TOLD_ADDRESSES = 8  # of each of them
_MAX_ROOTS = 256  # objects whose fetchers are remembered: the latest asked for
_MAX_FETCHERS = 64  # of each of these: the latest to ask
_STAYS_SECONDS = 60.0  # told of for so long after it stopped asking: it may serve now
_MAX_ITEMS = 4096  # values in one answer


@dataclass(slots=True)
class _Fetcher:
    addresses: tuple[Multiaddr, ...]
    streams: int = 0
    until: float = math.inf


class Fetchers:
    """Who asked for which object lately, and wants to be known by others who do."""

    def __init__(self) -> None:
        self._roots: OrderedDict[CID, OrderedDict[PeerId, _Fetcher]] = OrderedDict()

    def join(
        self, root: CID, peer: PeerId, addresses: Iterable[Multiaddr], remote: Multiaddr
    ) -> None:
        """Note that `peer`, which is at `remote`, fetches `root`, on one stream more."""
        fetchers = self._roots.setdefault(root, OrderedDict())
        self._roots.move_to_end(root)
        if len(self._roots) > _MAX_ROOTS:
            self._roots.popitem(last=False)
        fetcher = fetchers.setdefault(peer, _Fetcher(()))
        fetchers.move_to_end(peer)
        if len(fetchers) > _MAX_FETCHERS:
            fetchers.popitem(last=False)
        useful = (address for address in addresses if leads_there(address, remote))
        fetcher.addresses = tuple(useful)[:MAX_TOLD_ADDRESSES]
        fetcher.streams, fetcher.until = fetcher.streams + 1, math.inf

    def leave(self, root: CID, peer: PeerId, now: float) -> None:
        """Note that a stream of `peer` for `root` has ended."""
        fetcher = self._roots.get(root, OrderedDict()).get(peer)
        if fetcher is not None:
            fetcher.streams -= 1
            if fetcher.streams <= 0:
                fetcher.until = now + _STAYS_SECONDS

    def others(self, root: CID, peer: PeerId, remote: Multiaddr, now: float) -> list[PeerInfo]:
        """Return who else fetches `root`, the latest first, as `peer`, at `remote`, may be told."""
        fetchers = self._roots.get(root, OrderedDict())
        for gone in [name for name, fetcher in fetchers.items() if fetcher.until <= now]:
            del fetchers[gone]
        found = []
        for name, fetcher in reversed(fetchers.items()):
            told = tuple(each for each in fetcher.addresses if leads_there(each, remote))
            if name != peer and told:
                found.append(PeerInfo(name, told))
        return found[:MAX_TOLD]


def encode_peers(request: int, peers: Iterable[PeerInfo]) -> bytes:
    """Return the PEERS answer; those that do not fit are left out."""
    entries: list[Value] = []
    payload = pack(entries)
    for info in peers:
        entries.append([info.peer.raw, [bytes(address) for address in info.addresses]])
        longer = pack(entries)
        if len(longer) > MAX_CONTROL:
            break
        payload = longer
    return bytes(AnswerHead(AnswerKind.PEERS, 0, 0, 0, request, 0, len(payload))) + payload


def decode_peers(payload: bytes | memoryview, remote: Multiaddr) -> list[PeerInfo]:
    """Read a PEERS answer, as far as it means the same here as at `remote`, who sent it.

    What is not a peer or not an address, and more than may be told, is skipped. Raises MessageError
    where the payload is not a list of pairs.
    """
    try:
        entries = unpack(payload, max_size=MAX_CONTROL, max_values=_MAX_ITEMS)
    except CodecError as error:
        raise MessageError(f"not a PEERS payload: {error}") from None
    if not isinstance(entries, list):
        raise MessageError(f"a PEERS payload is {type(entries).__name__}, expected list")
    found = []
    for entry in entries[:MAX_TOLD]:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], list):
            raise MessageError("an entry of a PEERS payload is not a peer and its addresses")
        addresses = read_addresses(entry[1][:MAX_TOLD_ADDRESSES])
        useful = tuple(address for address in addresses if leads_there(address, remote))
        peer = _peer(entry[0])
        if peer is not None and useful:
            found.append(PeerInfo(peer, useful))
    return found


def read_addresses(values: Iterable[Value]) -> list[Multiaddr]:
    """Return those of `values` that are addresses, without the peer they name."""
    found = []
    for value in values:
        try:
            if isinstance(value, bytes):
                found.append(Multiaddr.from_bytes(value).without_peer())
        except (CodecError, InvalidInput):
            continue
    return found


def _peer(value: Value) -> PeerId | None:
    try:
        return PeerId.from_bytes(value) if isinstance(value, bytes) else None
    except CodecError:
        return None
