"""Bitswap with the peers of a mesh: the one file of this package that waits (spec/bitswap.md).

    async with open_bitswap(mesh, shelf) as bitswap: ...

Any peer may open a stream and tell us what it wants, what it has, or give us blocks. What it gets
of us goes out on streams that we open, as the protocol demands. One task answers one peer, a
message at a time, and takes turns with those that answer others: whoever wants much waits as long
as everybody else. What comes in is handed to the `BitswapSession`s that ask this peer.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from lattica._nursery import private_nursery
from lattica.content._values import Absent
from lattica.errors import DeadlineExceeded, LatticaError, LimitExceeded
from lattica.transport import PeerDisconnected, StreamReset

from ._ears import Ears
from ._messages import (
    MAX_MESSAGE,
    PROTOCOLS,
    Entry,
    Message,
    block_for,
    decode,
    encode,
    multihash_of,
    read_cid,
)
from ._wants import Answer, Asked, Ledger, Room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from lattica.content._reading import BlockBatch
    from lattica.identity import PeerId
    from lattica.transport import Mesh, Stream

_INLINE_BYTES = 64 << 10  # what is decoded without a thread
_DECODERS = 2  # threads that read longer messages, of all peers: each takes tens of milliseconds
_LINK_ERRORS = (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError)
_log = logging.getLogger(__name__)


class TooManyBitswapStreams(LimitExceeded):
    """A peer sends on more streams at once than may be."""

    code = "too-many-streams"


@dataclass(frozen=True, slots=True)
class BitswapLimits:
    """The bounds of speaking Bitswap.

    Attributes:
        peers: whose wants are kept; those heard of longest ago give way.
        wants: wants kept of all of them, about 200 bytes each. Of one peer: 1024.
        streams_per_peer: streams on which one peer sends at the same time.
        wantlist_bytes: one message of a peer that we ask for nothing.
        answers: peers that are sent something at the same time.
        answer_bytes: blocks in one message, unless one alone is larger.
        send_seconds: how long a peer may take to accept one message,
        hurried_seconds: and how long while others wait for their turn.
        message_seconds: how long a peer may take to send one, its silence before it included.
        heard, heard_of_one: wants a second that are read, of all peers and of each; what is more
            waits, unread.
    """

    peers: int = 256
    wants: int = 1 << 16
    streams_per_peer: int = 16
    wantlist_bytes: int = 512 << 10
    answers: int = 16
    answer_bytes: int = 1 << 20
    send_seconds: float = 30.0
    hurried_seconds: float = 5.0
    message_seconds: float = 120.0
    heard: float = 8192.0
    heard_of_one: float = 2048.0


class Shelf(Protocol):
    """Where blocks are, as this service sees it: the exchange over the store."""

    async def sizes(self, multihashes: Sequence[bytes]) -> list[int | None]:
        """Return how large each block is; None for one that is not here."""

    async def read(self, hashes: Sequence[bytes], max_bytes: int) -> BlockBatch:
        """Return the first of these blocks, each checked against its hash."""

    async def wait_to_send(self, peer: PeerId, size: int) -> None:
        """Return when so many bytes of blocks may be sent to `peer`."""

    def sent(self, peer: PeerId, size: int) -> None:
        """Count a block that went to `peer`."""

    def wasted(self, peer: PeerId, size: int) -> None:
        """Count bytes that were read for `peer`, which then did not take them."""

    def paid_at(self, peer: PeerId) -> float:
        """Return when something may be read for `peer` again: now, unless much was in vain."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a peer said to those who ask it: blocks, by what they hash to, and what it lacks."""

    blocks: tuple[tuple[bytes, bytes], ...] = ()
    lacking: frozenset[bytes] = frozenset()


class Bitswap:
    """Blocks to and from peers that speak Bitswap. Made by `open_bitswap`."""

    def __init__(
        self, mesh: Mesh, shelf: Shelf, limits: BitswapLimits, nursery: trio.Nursery
    ) -> None:
        self._mesh, self._shelf, self._limits, self._nursery = mesh, shelf, limits, nursery
        self._room = Room(limits.wants)
        self._ledgers: OrderedDict[PeerId, Ledger] = OrderedDict()
        self._answering: set[PeerId] = set()
        self._turns = trio.Semaphore(limits.answers)  # in the order of asking
        self._last_turn = trio.Semaphore(1)  # for those that did not take what they were sent
        self._slow: OrderedDict[PeerId, None] = OrderedDict()
        self._decoders = trio.CapacityLimiter(_DECODERS)
        self._ears = Ears(limits.heard, limits.heard_of_one)
        self._sending: dict[trio.CancelScope, float] = {}  # answers, and since when
        self._streams: Counter[PeerId] = Counter()
        self._asked: dict[PeerId, Asked] = {}
        self._sessions: dict[PeerId, list[trio.MemorySendChannel[Heard]]] = {}
        self._spoken: dict[PeerId, str] = {}  # of those that are asked
        self._looking = False

    # --- what peers say

    async def serve(self, stream: Stream) -> None:
        """Hear one stream to its end. Registered with the mesh."""
        peer = stream.peer
        if self._streams[peer] >= self._limits.streams_per_peer:
            limit = self._limits.streams_per_peer
            raise TooManyBitswapStreams(f"more than {limit} Bitswap streams", peer=peer)
        self._ears.check(peer)  # before any of a message is received
        self._streams[peer] += 1
        try:
            while (data := await self._next_message(stream)) is not None:
                await self._hear(peer, stream.protocol, data)
        finally:
            self._streams[peer] -= 1
            self._streams += Counter()  # drops peers without streams

    async def _next_message(self, stream: Stream) -> bytes | None:
        # Blocks come only from those that we ask.
        asked = stream.peer in self._sessions
        limit = MAX_MESSAGE if asked else self._limits.wantlist_bytes
        with _deadline(self._limits.message_seconds, stream.peer, "no message"):
            return await stream.receive_message(limit)

    async def _hear(self, peer: PeerId, protocol: str, data: bytes) -> None:
        if peer in self._sessions:  # blocks that we want wait for nobody
            message, heard = await self._open(data)
            if message.entries or message.full:
                async with self._ears.turn(peer):
                    self._ears.heard(peer, len(message.entries), 0)
                    await self._note_wants(peer, protocol, message)
        else:
            async with self._ears.turn(peer):
                message, heard = await self._open(data)
                self._ears.heard(peer, len(message.entries), len(data))
                if message.entries or message.full:
                    await self._note_wants(peer, protocol, message)
        if heard.blocks or heard.lacking:
            for session in list(self._sessions.get(peer, ())):
                # It may have ended, or just been told that the connection has.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await session.send(heard)

    async def _open(self, data: bytes) -> tuple[Message, Heard]:
        if len(data) > _INLINE_BYTES:
            return await trio.to_thread.run_sync(_open, data, limiter=self._decoders)
        return _open(data)

    async def _note_wants(self, peer: PeerId, protocol: str, message: Message) -> None:
        wanted = [entry.cid for entry in message.entries if not entry.cancel]
        sizes = await self._sizes(wanted)
        ledger = self._ledger(peer)
        ledger.protocol = protocol
        ledger.receive(message.entries, sizes, full=message.full)
        self._start_answering(peer, ledger)

    async def _sizes(self, cids: Sequence[bytes]) -> dict[bytes, int | None]:
        sizes = await self._shelf.sizes([read_cid(cid).multihash for cid in cids]) if cids else []
        return dict(zip(cids, sizes, strict=True))

    def _ledger(self, peer: PeerId) -> Ledger:
        ledger = self._ledgers.get(peer)
        if ledger is None:
            ledger = self._ledgers[peer] = Ledger(self._room)
            if len(self._ledgers) > self._limits.peers:
                self._drop(next(iter(self._ledgers)))
        self._ledgers.move_to_end(peer)
        return ledger

    def _drop(self, peer: PeerId) -> None:
        ledger = self._ledgers.pop(peer, None)
        if ledger is not None:
            ledger.close()

    # --- what peers get

    def look_again(self) -> None:
        """Answer what peers have waited for, if it is here now: content was gained."""
        if not self._looking and any(ledger.waiting for ledger in self._ledgers.values()):
            self._looking = True
            self._nursery.start_soon(self._look)

    async def _look(self) -> None:
        self._looking = False
        for peer, ledger in list(self._ledgers.items()):
            if waiting := ledger.waiting:
                ledger.look_again(await self._sizes(waiting))
                self._start_answering(peer, ledger)

    def _start_answering(self, peer: PeerId, ledger: Ledger) -> None:
        if ledger.has_answer and peer not in self._answering:
            self._answering.add(peer)
            self._nursery.start_soon(self._answer, peer)

    async def _answer(self, peer: PeerId) -> None:
        try:
            while (ledger := self._ledgers.get(peer)) is not None and ledger.has_answer:
                await trio.sleep_until(self._shelf.paid_at(peer))
                if self._turns.value == 0:
                    self._hurry()
                async with self._last_turn if peer in self._slow else self._turns:
                    answer = ledger.next_answer(self._limits.answer_bytes)
                    if answer is not None:
                        await self._send_answer(peer, ledger, answer)
        except _LINK_ERRORS as error:
            _log.debug("%s is told no more over Bitswap: %s", peer, error)
            self._drop(peer)
        except Exception:  # noqa: BLE001  # logged; it may not end the node
            _log.exception("answering %s over Bitswap failed unexpectedly", peer)
            self._drop(peer)
        finally:
            self._answering.discard(peer)

    async def _send_answer(self, peer: PeerId, ledger: Ledger, answer: Answer) -> None:
        message, sizes = await self._read(ledger, answer)
        if not (message.blocks or message.presences):
            return  # nothing could be read; what is to be said of it comes with the next answer
        await self._shelf.wait_to_send(peer, sum(sizes))
        try:
            await self._send_in_turn(peer, ledger.protocol, message)
        except _LINK_ERRORS as error:
            self._shelf.wasted(peer, sum(sizes))
            if isinstance(error, DeadlineExceeded):
                self._note_slow(peer)
            raise
        self._slow.pop(peer, None)
        for size in sizes:
            self._shelf.sent(peer, size)

    def _note_slow(self, peer: PeerId) -> None:
        self._slow[peer] = None
        if len(self._slow) > self._limits.peers:
            self._slow.popitem(last=False)

    async def _send_in_turn(self, peer: PeerId, protocol: str, message: Message) -> None:
        """Send an answer. A peer that is slow to take it loses its turn when others wait."""
        scope = trio.CancelScope()
        self._sending[scope] = trio.current_time()
        try:
            with scope:
                if self._turns.statistics().tasks_waiting:
                    self._hurry()
                await self._send(peer, protocol, message)
        finally:
            del self._sending[scope]
        if scope.cancelled_caught:
            raise DeadlineExceeded("a message was taken too slowly while others waited", peer=peer)

    def _hurry(self) -> None:
        for scope, since in self._sending.items():
            scope.deadline = min(scope.deadline, since + self._limits.hurried_seconds)

    async def _read(self, ledger: Ledger, answer: Answer) -> tuple[Message, list[int]]:
        blocks, wants = [], list(answer.wants)
        while wants:
            hashes = [read_cid(entry.cid).multihash for entry in wants]
            with await self._shelf.read(hashes, self._limits.answer_bytes) as batch:
                for entry, block in zip(wants, batch.blocks, strict=False):
                    if isinstance(block, Absent):
                        ledger.lacks(entry)
                    else:
                        blocks.append(block_for(entry.cid, block))
                del wants[: len(batch)]
        pending = answer.pending_bytes
        message = Message(blocks=tuple(blocks), presences=answer.presences, pending_bytes=pending)
        return message, [len(block.data) for block in blocks]

    async def _send(self, peer: PeerId, protocol: str, message: Message) -> None:
        with _deadline(self._limits.send_seconds, peer, "a message was not taken"):
            stream = await self._mesh.open_stream(peer, protocol)
            async with stream:
                await stream.send_message(encode(message, protocol))
                await stream.send_eof()

    # --- what we want of peers (see `BitswapSession`)

    @contextmanager
    def asking(self, peer: PeerId) -> Iterator[trio.MemoryReceiveChannel[Heard]]:
        """Receive what `peer` gives and says, while the block runs.

        What was wanted of it is remembered for as long as it is connected: it may come late.
        """
        # One message waits beside the one that is being taken; then the stream it came on waits.
        sender, receiver = trio.open_memory_channel[Heard](0)
        sessions = self._sessions.setdefault(peer, [])
        sessions.append(sender)
        self._asked.setdefault(peer, Asked())
        try:
            yield receiver
        finally:
            receiver.close()
            sessions.remove(sender)
            if not sessions and self._sessions.get(peer) is sessions:
                del self._sessions[peer]
                self._spoken.pop(peer, None)
                if self._mesh.connected(peer) is None:
                    self._asked.pop(peer, None)

    async def agree(self, peer: PeerId) -> None:
        """Find out which Bitswap a connected peer speaks. Raises ProtocolNotSupported."""
        with _deadline(self._limits.send_seconds, peer, "no protocol was agreed"):
            stream = await self._mesh.open_stream(peer, *PROTOCOLS)
            async with stream:
                self._spoken[peer] = stream.protocol
                await stream.send_eof()

    async def tell(self, peer: PeerId, entries: Sequence[Entry]) -> None:
        """Send lines of our wantlist. Raises LatticaError when the peer is lost."""
        try:
            await self._send(peer, self._spoken[peer], Message(entries=tuple(entries)))
        except StreamReset:
            pass  # some implementations drop a stream as soon as they have read it
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamReset(str(error), peer=peer) from error

    def want(self, peer: PeerId, entries: Iterable[Entry]) -> list[Entry]:
        """Note wants; returns those that have to be told."""
        return self._asked[peer].want(entries)

    def unwant(self, peer: PeerId, cids: Iterable[bytes]) -> list[Entry]:
        """Undo wants; returns the cancellations that have to be told."""
        return self._asked[peer].release(cids, arrived=False)

    def was_wanted(self, peer: PeerId, multihash: bytes) -> bool:
        """Whether `peer` may think that we want this block: it was told so not long ago."""
        return self._asked[peer].was_wanted(multihash)

    def got(self, peer: PeerId, cid: bytes) -> None:
        """Note that a wanted block has come."""
        self._asked[peer].release([cid], arrived=True)

    def release(self, peer: PeerId, cids: Iterable[bytes]) -> None:
        """Undo wants without waiting; the peer is told in the background."""
        entries = self.unwant(peer, cids)
        if entries and self._mesh.connected(peer) is not None:
            self._nursery.start_soon(self._tell_quietly, peer, self._spoken[peer], entries)

    async def _tell_quietly(self, peer: PeerId, protocol: str, entries: list[Entry]) -> None:
        try:
            await self._send(peer, protocol, Message(entries=tuple(entries)))
        except _LINK_ERRORS as error:
            _log.debug("%s was not told that we want less: %s", peer, error)

    # --- who goes

    async def watch(self) -> None:
        """Forget peers that are gone, and tell those who ask them."""
        async with self._mesh.events() as events:
            async for event in events:
                if isinstance(event, PeerDisconnected):
                    self._drop(event.peer)
                    if event.peer not in self._sessions:
                        self._asked.pop(event.peer, None)
                    for session in self._sessions.get(event.peer, ()):
                        session.close()


@contextmanager
def _deadline(seconds: float, peer: PeerId, what: str) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineExceeded(f"{what} within {seconds:g} s", peer=peer)


def _open(data: bytes) -> tuple[Message, Heard]:
    """*Slow.* Read a message, and hash its blocks. Raises CodecError."""
    message = decode(data)
    blocks = [(multihash_of(block), block.data) for block in message.blocks]
    lacking = (read_cid(said.cid).multihash for said in message.presences if not said.have)
    known = tuple((multihash, block) for multihash, block in blocks if multihash is not None)
    return message, Heard(known, frozenset(lacking))


@asynccontextmanager
async def open_bitswap(
    mesh: Mesh, shelf: Shelf, *, limits: BitswapLimits | None = None
) -> AsyncIterator[Bitswap]:
    """Speak Bitswap with the peers of `mesh`, and give what is on `shelf`, until the block ends."""
    async with private_nursery() as nursery:
        bitswap = Bitswap(mesh, shelf, limits or BitswapLimits(), nursery)
        nursery.start_soon(bitswap.watch)
        for protocol in PROTOCOLS:
            mesh.handle(protocol, bitswap.serve)
        try:
            yield bitswap
        finally:
            for protocol in PROTOCOLS:
                mesh.unhandle(protocol)
            nursery.cancel_scope.cancel()
