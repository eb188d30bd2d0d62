"""Answering other peers: the streams that they open, and what the mesh knows of where peers are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from lattica.errors import LimitExceeded
from lattica.transport import ip_group

from ._messages import MAX_MESSAGE, decode, encode
from ._providers import PROVIDER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.identity import PeerId
    from lattica.transport import Mesh, Multiaddr, Stream

    from ._answers import Responder
    from ._clock import Clock

SERVED_STREAMS_PER_PEER = 16
IDLE_STEP_SECONDS = 1.0
SERVED_IDLE_SECONDS = 60.0  # an inbound stream that is silent for so long is closed
SEND_SECONDS = 10.0  # how long a peer may take to read an answer


class TooManyStreams(LimitExceeded):
    """A peer has more DHT streams open to us than it may."""

    code = "dht-streams"


class Serving:
    """Answers requests, as long as their streams last.

    Attributes:
        streams: how many each peer has open.
    """

    def __init__(self, responder: Responder, clock: Clock) -> None:
        self._responder, self._clock = responder, clock
        self.streams: Counter[PeerId] = Counter()

    async def serve(self, stream: Stream) -> None:
        """Answer the requests on one inbound stream until the peer ends it or falls silent."""
        peer = stream.peer
        if self.streams[peer] >= SERVED_STREAMS_PER_PEER:
            raise TooManyStreams(f"limit {SERVED_STREAMS_PER_PEER} DHT streams", peer=peer)
        self.streams[peer] += 1
        try:
            await self._serve_all(stream)
        finally:
            self.streams[peer] -= 1
            if not self.streams[peer]:
                del self.streams[peer]

    async def _serve_all(self, stream: Stream) -> None:
        # One scope for all: to make one costs as much as to read a request. Nor is its deadline
        # moved with each, but when it is a little off.
        unsent: list[bytes] = []

        def answer_at_once(data: bytes) -> bool:
            now = trio.current_time()
            if scope.deadline < now + SERVED_IDLE_SECONDS - IDLE_STEP_SECONDS:
                scope.deadline = now + SERVED_IDLE_SECONDS
            answer = self._answer(stream, data)
            if answer is None or stream.send_message_now(answer):
                return True
            unsent.append(answer)
            return False

        is_sending = False
        with trio.CancelScope() as scope:
            while True:
                scope.deadline = trio.current_time() + SERVED_IDLE_SECONDS
                data = await stream.receive_message(MAX_MESSAGE, prompt=answer_at_once)
                if data is None:
                    return
                answer = unsent.pop() if unsent else self._answer(stream, data)
                if answer is not None:
                    scope.deadline = trio.current_time() + SEND_SECONDS
                    is_sending = True
                    await stream.send_message(answer)
                    is_sending = False
        if is_sending:
            stream.reset()

    def _answer(self, stream: Stream, data: bytes) -> bytes | None:
        answer = self._responder.answer(
            decode(data),
            sender=stream.peer,
            address=stream.connection.remote_address,
            now=trio.current_time(),
            wall=self._clock.now(),
        )
        if answer is None:
            return None
        return encode(answer, clock=int(self._clock.wall() * 1000))


class MeshDirectory:
    """Where peers are, as the mesh and its address book know it; see `_answers.Directory`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def addresses(self, peer: PeerId) -> Sequence[Multiaddr]:
        """Return the known addresses of `peer`, our own included."""
        if peer == self._mesh.peer_id:
            return self._mesh.addresses
        return self._mesh.book.addresses(peer, hearsay=False)

    def is_connected(self, peer: PeerId) -> bool:
        """Say whether there is a connection to `peer` now."""
        return self._mesh.connected(peer) is not None

    def learn(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Remember addresses for as long as the provider record that brought them."""
        connection = self._mesh.connected(peer)
        if connection is None or ip_group(connection.remote_address) is not None:
            self._mesh.book.distrust(addresses)
        self._mesh.book.add(peer, addresses, now=trio.current_time(), ttl=PROVIDER_SECONDS)
