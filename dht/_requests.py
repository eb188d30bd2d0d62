"""Requests to other peers, over streams that are kept for the next one.

A request on a new stream costs the negotiation of its protocol; on a stream that has just served
one it costs nothing, and peers that follow go-libp2p or js-libp2p keep theirs open. So a stream
goes back to a small pool after an answer. Others close it, and we learn that only from the next
request, which is then made again on a new stream: once, and only if the old one brought nothing.

Announcements have no answer, so a ping follows the last one: peers read a stream in order, and its
answer says that they have read them all. A peer that knows no ping ends the stream there instead.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError, Unreachable
from lattica.transport import MessageTooLong, PeerInfo, ip_group

from ._messages import MAX_MESSAGE, Message, MessageError, MessageType, Peer, decode, encode
from ._reach import leads_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lattica.identity import PeerId
    from lattica.transport import Mesh, Multiaddr, Stream

IDLE_STREAMS = 128  # kept in all: each is a few hundred bytes here and a task at the peer
IDLE_STREAMS_PER_PEER = 4
IDLE_SECONDS = 30.0  # go-libp2p resets a stream that was silent for a minute
MAX_AT_ONCE = 128 << 10  # bytes of an answer that no task waits for: half a stream's window
BATCH_BYTES = 64 << 10  # announcements handed to the stream at once


class NoAnswer(Unreachable):
    """The peer ended the stream without answering."""

    code = "dht-no-answer"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the address at the other end of the connection that brought it."""

    message: Message
    address: Multiaddr


class Requester:
    """Asks peers of one mesh in one protocol."""

    def __init__(self, mesh: Mesh, protocol: str) -> None:
        self._mesh, self._protocol = mesh, protocol
        # The stream put back last is at the end. One deadline per entry, in the same order.
        self._idle: OrderedDict[Stream, float] = OrderedDict()
        self._idle_of: dict[PeerId, list[Stream]] = {}
        self._kept = trio.Event()
        self._encoded: tuple[Message, bytes] | None = None  # the last request: many are sent it

    async def ask(self, peer: PeerInfo, request: Message) -> Reply:
        """Send `request` and return the answer. Cancelled, its stream is reset.

        Raises:
            Unreachable: no connection to the peer, or it was lost, or brought no answer.
            Refused: the peer does not speak the protocol.
            ProtocolError: the answer is none.
        """
        return await self._ask(peer, (), request)

    async def tell(self, peer: PeerInfo, frames: Sequence[bytes]) -> None:
        """Send messages that have no answer; returns when the peer has read them all.

        `frames` are messages with their lengths (`_messages.frame`), so that one encoding serves
        all the peers that are told the same. Cancelled, the peer has read the first few, or none.
        Raises as `ask`.
        """
        with suppress(NoAnswer):  # it ended the stream in order, after what came before the ping
            await self._ask(peer, frames, Message(MessageType.PING))

    async def _ask(self, peer: PeerInfo, before: Sequence[bytes], request: Message) -> Reply:
        kept = self._take(peer.peer)
        if kept is not None:
            try:
                return await self._exchange(kept, before, request)
            except (NoAnswer, trio.BrokenResourceError):
                pass  # closed by the peer while it was idle
        stream = await self._mesh.open_stream(peer.peer, self._protocol, addresses=peer.addresses)
        return await self._exchange(stream, before, request)

    def ask_now(
        self, peer: PeerId, request: Message, done: Callable[[Reply | Exception | None], None]
    ) -> Callable[[], None] | None:
        """Send `request` on a kept stream, and have `done` called with what comes of it.

        No task waits for it: `done` is called where the answer arrives. It gets what `ask` would
        have returned or raised; None where the kept stream brought nothing, so that another may be
        asked. It must not wait.

        Returns:
            What gives the request up: then `done` is not called. None: nothing was sent, because
            no stream is kept, or it would have had to wait.
        """
        stream = self._take(peer)
        if stream is None:
            return None
        try:
            if not stream.send_message_now(self._encode(request)):
                self._put_back(stream)
                return None
        except (LatticaError, trio.BrokenResourceError, trio.ClosedResourceError):
            # Closed by the peer while it was idle, or with its connection.
            stream.reset()
            return None

        def heard() -> None:
            outcome: Reply | Exception | None = None
            try:
                data = stream.take_message(MAX_AT_ONCE)
                if data is None:
                    return
                outcome = self._reply(data, request, stream)
            except (trio.EndOfChannel, trio.BrokenResourceError, MessageTooLong):
                pass
            except Exception as error:  # noqa: BLE001  # for who waits for the answer, whatever it is
                outcome = error
            stream.leave()
            if isinstance(outcome, Reply):
                self._put_back(stream)
            else:
                stream.reset()
            done(outcome)

        def give_up() -> None:
            stream.leave()
            stream.reset()

        stream.attend(heard)
        return give_up

    async def run(self) -> None:
        """Let go of streams that were idle for too long. Runs until cancelled."""
        while True:
            await self._kept.wait()
            while self._idle:
                stream, until = next(iter(self._idle.items()))
                if until <= trio.current_time():
                    self._drop(stream)
                else:
                    await trio.sleep_until(until)
            self._kept = trio.Event()

    def forget(self, peer: PeerId) -> None:
        """Let go of the streams to `peer`."""
        for stream in list(self._idle_of.get(peer, ())):
            self._drop(stream)

    def close(self) -> None:
        """Let go of all streams."""
        for stream in list(self._idle):
            self._drop(stream)

    async def _exchange(self, stream: Stream, before: Sequence[bytes], request: Message) -> Reply:
        try:
            for batch in _batches(before):
                await stream.send_all(batch)
            await stream.send_message(self._encode(request))
            reply = self._reply(await stream.receive_message(MAX_MESSAGE), request, stream)
        except BaseException:
            stream.reset()
            raise
        self._put_back(stream)
        return reply

    def _reply(self, data: bytes | None, request: Message, stream: Stream) -> Reply:
        answer, where = _read(data, request, stream), stream.connection.remote_address
        self._note_names(answer, where)
        return Reply(answer, where)

    def _encode(self, request: Message) -> bytes:
        if self._encoded is None or self._encoded[0] is not request:
            self._encoded = request, encode(request)
        return self._encoded[1]

    def _note_names(self, answer: Message, where: Multiaddr) -> None:
        if ip_group(where) is not None:
            for each in (*answer.closer, *answer.providers):
                self._mesh.book.distrust(each.info.addresses)

    def _take(self, peer: PeerId) -> Stream | None:
        streams = self._idle_of.get(peer)
        if not streams:
            return None
        stream = streams[-1]
        self._remove(stream)
        return stream

    def _put_back(self, stream: Stream) -> None:
        streams = self._idle_of.setdefault(stream.peer, [])
        streams.append(stream)
        self._idle[stream] = trio.current_time() + IDLE_SECONDS
        if len(streams) > IDLE_STREAMS_PER_PEER:
            self._drop(streams[0])
        elif len(self._idle) > IDLE_STREAMS:
            self._drop(next(iter(self._idle)))
        self._kept.set()

    def _drop(self, stream: Stream) -> None:
        self._remove(stream)
        stream.reset()

    def _remove(self, stream: Stream) -> None:
        del self._idle[stream]
        streams = self._idle_of[stream.peer]
        streams.remove(stream)
        if not streams:
            del self._idle_of[stream.peer]


def _read(data: bytes | None, request: Message, stream: Stream) -> Message:
    peer = stream.peer
    if data is None:
        raise NoAnswer(f"{peer} ended the stream", peer=peer)
    answer = decode(data)
    if answer.type is not request.type:
        asked, got = request.type.name, answer.type.name
        raise MessageError(f"{peer} answers {got} to {asked}", peer=peer)
    if not answer.closer and not answer.providers:
        return answer
    where = stream.connection.remote_address
    return replace(
        answer,
        closer=tuple(_believed(each, where) for each in answer.closer),
        providers=tuple(_believed(each, where) for each in answer.providers),
    )


def _believed(named: Peer, where: Multiaddr) -> Peer:
    addresses = named.info.addresses
    useful = tuple(address for address in addresses if leads_there(address, where))
    if len(useful) == len(addresses):
        return named
    return replace(named, info=PeerInfo(named.info.peer, useful))


def _batches(frames: Iterable[bytes]) -> Iterable[bytes]:
    batch = bytearray()
    for each in frames:
        batch += each
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)
