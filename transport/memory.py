"""In-memory links: a network inside one process, for whole nodes under a virtual clock.

A `MemoryNetwork` has hosts; `network.transport("alice")` is one host's way in, a transport like
TCP with addresses `/memory/<number>`. Bytes take `latency` to arrive and leave at `bandwidth`;
both are read off Trio's clock, so under `trio.testing.MockClock` an hour of traffic takes no time.
Given a random source, links also split sends and receives at odd places and jitter their latency,
as real ones do; the same seed gives the same faults.

No task runs behind a link. Each direction is a queue of pieces with the time each one arrives; a
receiver sleeps until the first piece is due, a sender until what is under way fits the window.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from lattica.errors import InvalidInput, Unreachable

from .multiaddr import Multiaddr

if TYPE_CHECKING:
    import random

_FIRST_NUMBER = 1 << 32  # numbers we pick; smaller ones are for whoever binds a fixed number
WINDOW_BYTES = 1 << 20  # under way or unread in one direction of a link, as in a TCP window


class MemoryAddressError(InvalidInput):
    """The address cannot be bound: not `/memory/…`, or taken."""

    code = "memory-address"


class NobodyListens(Unreachable):
    """No host listens at that number, or it accepts too slowly."""

    code = "nobody-listens"


class MemoryNetwork:
    """Hosts that reach each other until they are cut apart."""

    def __init__(
        self,
        *,
        latency: float = 0.0,
        bandwidth: float | None = None,
        jitter: float = 0.0,
        rng: random.Random | None = None,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """Make a network.

        Args:
            latency: seconds from one host to another, one way.
            bandwidth: bytes per second of each direction of each link; None is unbounded.
            jitter: seconds at most that are added to the latency; order is kept. Needs `rng`.
            rng: also splits sends and receives at random places.
            window_bytes: bytes under way or unread in one direction of a link; a sender waits.
        """
        self.latency, self.bandwidth, self.jitter = latency, bandwidth, jitter
        self.rng, self.window_bytes = rng, window_bytes
        self._numbers = itertools.count(_FIRST_NUMBER)
        self._hosts = itertools.count(1)
        self._listeners: dict[int, MemoryListener] = {}
        self._links: set[MemoryLink] = set()
        self._cuts: dict[frozenset[str], trio.Event] = {}

    def transport(self, host: str | None = None) -> MemoryTransport:
        """Return a transport for `host`: a new host of its own if not named."""
        return MemoryTransport(self, host if host is not None else f"host-{next(self._hosts)}")

    def cut(self, one: str, other: str) -> None:
        """Let nothing pass between two hosts until `heal`, without a word: what is sent waits."""
        pair = frozenset((one, other))
        self._cuts.setdefault(pair, trio.Event())
        self._wake(pair)

    def heal(self, one: str, other: str) -> None:
        """Undo `cut`: what waited arrives now."""
        pair = frozenset((one, other))
        healed = self._cuts.pop(pair, None)
        if healed is not None:
            healed.set()
            self._wake(pair)

    def crash(self, host: str) -> None:
        """Lose a host: its links break at once, on both ends, and it listens no more."""
        for listener in [entry for entry in self._listeners.values() if entry.host == host]:
            listener.close()
        for link in [entry for entry in self._links if entry.host == host]:
            link._break()

    @property
    def open_links(self) -> int:
        """Link ends that are open: none is left once everybody has closed."""
        return len(self._links)

    def _wake(self, pair: frozenset[str]) -> None:
        for link in self._links:
            if link._pair == pair:
                link._incoming.changed()

    async def _open(self, host: str, number: int) -> MemoryLink:
        listener = self._listeners.get(number)
        if listener is not None:
            while (cut := self._cuts.get(frozenset((host, listener.host)))) is not None:
                await cut.wait()
        await trio.sleep(2 * self.latency)  # a handshake, as TCP's
        listener = self._listeners.get(number)
        if listener is None:
            raise NobodyListens(f"nobody listens at /memory/{number}")
        ours = next(
            (own.number for own in self._listeners.values() if own.host == host),
            None,
        )
        near = _address(next(self._numbers) if ours is None else ours)
        there, back = _Pipe(self), _Pipe(self)
        link = MemoryLink(self, host, listener.host, near, listener.addresses[0], back, there)
        peer = MemoryLink(self, listener.host, host, listener.addresses[0], near, there, back)
        link._peer, peer._peer = peer, link
        try:
            listener._inbox.send_nowait(peer)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            raise NobodyListens(f"/memory/{number} accepts no more links") from None
        self._links |= {link, peer}
        return link


class MemoryTransport:
    """One host's way into a `MemoryNetwork`; see `_links.Transport`."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.network, self.host = network, host

    def can_dial(self, address: Multiaddr) -> bool:
        """Say whether `address` is `/memory/…`, alone or with the peer's name behind it."""
        return _number(address) is not None

    def can_listen(self, address: Multiaddr) -> bool:
        """Say whether `address` is `/memory/…`."""
        return _number(address) is not None and address.peer_id is None

    async def dial(self, address: Multiaddr) -> MemoryLink:
        """Open a link. Waits while the hosts are cut apart. Raises NobodyListens."""
        number = _number(address)
        if number is None:
            raise NobodyListens(f"{address} is not an in-memory address")
        return await self.network._open(self.host, number)

    async def listen(self, address: Multiaddr, *, backlog: int = 512) -> MemoryListener:
        """Bind `/memory/<number>`; number 0 picks a free one. Raises MemoryAddressError."""
        await trio.lowlevel.checkpoint()
        number = _number(address)
        if number is None or not self.can_listen(address):
            raise MemoryAddressError(f"cannot listen on {address}: not /memory/<number>")
        if number == 0:
            number = next(self.network._numbers)
        if number in self.network._listeners:
            raise MemoryAddressError(f"cannot listen on {address}: somebody else does")
        return MemoryListener(self.network, self.host, number, backlog)


class MemoryListener:
    """Links that others open to one number; see `_links.Listener`."""

    def __init__(self, network: MemoryNetwork, host: str, number: int, backlog: int) -> None:
        self._network, self.host, self.number = network, host, number
        self.addresses = [_address(number)]
        self._inbox, self._outbox = trio.open_memory_channel[MemoryLink](backlog)
        network._listeners[number] = self

    async def accept(self) -> MemoryLink:
        """Return the next inbound link. Raises trio.ClosedResourceError once closed."""
        return await self._outbox.receive()

    def close(self) -> None:
        """Stop listening, at once; links that nobody accepted are closed."""
        if self._network._listeners.get(self.number) is self:
            del self._network._listeners[self.number]
            while True:
                try:
                    self._outbox.receive_nowait().close()
                except trio.WouldBlock:
                    break
        self._outbox.close()
        self._inbox.close()


class MemoryLink:
    """One end of a link; see `_links.RawLink` for what its methods promise."""

    def __init__(
        self,
        network: MemoryNetwork,
        host: str,
        remote_host: str,
        local_address: Multiaddr,
        remote_address: Multiaddr,
        incoming: _Pipe,
        outgoing: _Pipe,
    ) -> None:
        self._network, self.host = network, host
        self._pair = frozenset((host, remote_host))
        self.local_address, self.remote_address = local_address, remote_address
        self._incoming, self._outgoing = incoming, outgoing
        self._peer: MemoryLink | None = None
        self._closed = self._broken = False

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and write them to the front of `buffer`; 0 is the end."""
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            due_at = math.inf if self._pair in self._network._cuts else self._incoming.due_at
            if due_at <= trio.current_time():
                return self._incoming.take(buffer)
            with trio.move_on_at(due_at):
                await self._incoming.readable.park()

    async def send_some(self, data: memoryview) -> int:
        """Send at least one byte of `data`, return how many. Cancelled: none was sent."""
        await trio.lowlevel.checkpoint()
        while not (sent := self.send_now(data)):
            await self._outgoing.writable.park()
        return sent

    def send_now(self, data: memoryview) -> int:
        """Send what of `data` goes without waiting, return how many bytes."""
        self._check()
        if self._peer is None or self._peer._closed:
            raise trio.BrokenResourceError("the other end of the link was closed")
        room = self._outgoing.room()
        return self._outgoing.put(data[:room], trio.current_time()) if room > 0 else 0

    def close(self) -> None:
        """Close both directions, at once: the peer reads what was sent, then the end."""
        if self._closed:
            return
        self._closed = True
        self._network._links.discard(self)
        if not self._broken:
            self._outgoing.end(trio.current_time())
        self._outgoing.changed()
        self._incoming.drop()

    def _break(self) -> None:
        for link in (self, self._peer):
            if link is not None and not link._broken:
                link._broken = True
                link._network._links.discard(link)
                link._incoming.drop()
                link._outgoing.drop()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this end of the link was closed")
        if self._broken:
            raise trio.BrokenResourceError(f"the link to {self.remote_address} broke")


@dataclass(slots=True)
class _Piece:
    """Bytes under way, and when they arrive. Empty: the end of this direction."""

    data: bytes
    arrives_at: float
    taken: int = 0


@dataclass(slots=True)
class _Pipe:
    """One direction of a link."""

    network: MemoryNetwork
    pieces: deque[_Piece] = field(default_factory=deque)
    held_bytes: int = 0
    sent_until: float = 0.0  # when the last piece has left, at the network's bandwidth
    readable: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    writable: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def room(self) -> int:
        return self.network.window_bytes - self.held_bytes

    def put(self, data: memoryview, now: float) -> int:
        rng = self.network.rng
        if rng is not None and len(data) > 1 and rng.random() < 0.5:
            data = data[: rng.randint(1, len(data))]
        self.held_bytes += len(data)
        self._append(bytes(data), now)
        return len(data)

    def end(self, now: float) -> None:
        self._append(b"", now)

    def _append(self, data: bytes, now: float) -> None:
        network = self.network
        leaves_at = max(now, self.sent_until)
        if network.bandwidth is not None:
            leaves_at += len(data) / network.bandwidth
        self.sent_until = leaves_at
        arrives_at = leaves_at + network.latency
        if network.rng is not None:
            arrives_at += network.rng.uniform(0, network.jitter)
        if self.pieces:
            arrives_at = max(arrives_at, self.pieces[-1].arrives_at)
        self.pieces.append(_Piece(data, arrives_at))
        self.changed()

    @property
    def due_at(self) -> float:
        """When there is something to take; infinite when nothing is under way."""
        return self.pieces[0].arrives_at if self.pieces else math.inf

    def take(self, buffer: memoryview) -> int:
        """Move the pieces that are due into `buffer`; 0 at the end, which stays in place."""
        now, filled, rng = trio.current_time(), 0, self.network.rng
        while self.pieces and filled < len(buffer):
            piece = self.pieces[0]
            if piece.arrives_at > now or not piece.data:
                break
            part = memoryview(piece.data)[piece.taken :][: len(buffer) - filled]
            if rng is not None and len(part) > 1 and rng.random() < 0.5:
                part = part[: rng.randint(1, len(part))]
            buffer[filled : filled + len(part)] = part
            filled += len(part)
            piece.taken += len(part)
            if piece.taken == len(piece.data):
                self.pieces.popleft()
            elif rng is not None:
                break
        self.held_bytes -= filled
        if filled:
            self.writable.unpark_all()
        return filled

    def drop(self) -> None:
        """Forget what is under way: nobody will read it."""
        self.pieces.clear()
        self.held_bytes = 0
        self.changed()

    def changed(self) -> None:
        self.readable.unpark_all()
        self.writable.unpark_all()


def _number(address: Multiaddr) -> int | None:
    parts = address.parts
    if parts[0][0] != "memory" or [name for name, _ in parts[1:]] not in ([], ["p2p"]):
        return None
    return int(parts[0][1])


def _address(number: int) -> Multiaddr:
    return Multiaddr((("memory", str(number)),))
