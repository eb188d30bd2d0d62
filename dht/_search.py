"""Searching for providers: the lookup, and what it has found, handed out as it comes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from lattica.transport import PeerInfo

from ._messages import Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from lattica.identity import PeerId

    from ._client import Client
    from ._lookup_report import LookupReport


async def search_providers(
    client: Client,
    multihash: bytes,
    *,
    recorded: Sequence[PeerId],
    count: int,
    first_contact: Callable[[], Awaitable[None]],
    findings: Findings,
) -> None:
    """Search for up to `count` providers of `multihash`, and put them into `findings`.

    Args:
        client: asks.
        multihash: what they should have.
        recorded: peers that said so to this node itself.
        count: how many to look for.
        first_contact: waits until there is somebody to ask.
        findings: where they go. A search that nobody reads any more ends.
    """
    lookup = client.new_lookup(multihash, wanted=count)

    def hand_out(news: Sequence[PeerInfo]) -> None:
        findings.put(client.info_of(info.peer, info.addresses) for info in news)

    try:
        hand_out(lookup.found(PeerInfo(peer, ()) for peer in recorded))
        await first_contact()
        lookup.seed(client.seeds(multihash))
        await client.walk(
            lookup,
            Message(MessageType.GET_PROVIDERS, multihash),
            found=hand_out,
            enough=lambda: findings.abandoned,
        )
        hand_out(lookup.rest())
    finally:
        findings.finish(lookup.report())


class Findings:
    """What a search has found and nobody has taken yet. The search puts in, the iterator takes."""

    def __init__(self) -> None:
        self._found: deque[PeerInfo] = deque()  # bounded by what the lookup collects
        self._readers = trio.lowlevel.ParkingLot()
        self.abandoned = False
        self.finished = False
        self.report: LookupReport | None = None

    def put(self, news: Iterable[PeerInfo]) -> None:
        """Hand out more."""
        self._found.extend(news)
        self._readers.unpark_all()

    def finish(self, report: LookupReport) -> None:
        """Say that nothing more comes."""
        self.finished, self.report = True, report
        self._readers.unpark_all()

    async def take(self) -> PeerInfo | None:
        """Return the next one, None at the end. Cancelled, nothing was taken."""
        await trio.lowlevel.checkpoint()
        while not self._found:
            if self.finished:
                return None
            await self._readers.park()
        return self._found.popleft()


class ProviderSearch:
    """An asynchronous iterator over the providers of a key, each once, as soon as it is known.

    The search begins with the first step and runs beside the loop. Leaving the loop early ends it:
    the iterator is dropped, and the search asks nobody else.

    Attributes:
        report: whom the search asked and what came of it; None before it has ended.
    """

    def __init__(self, start: Callable[[Findings], None]) -> None:
        """Make the iterator of a search that `start` starts. Use `Dht.find_providers`."""
        self._findings = Findings()
        self._start: Callable[[Findings], None] | None = start

    @property
    def report(self) -> LookupReport | None:
        """See the class."""
        return self._findings.report

    def __aiter__(self) -> ProviderSearch:
        return self

    async def __anext__(self) -> PeerInfo:
        if self._start is not None:
            self._start(self._findings)
            self._start = None
        found = await self._findings.take()
        if found is None:
            raise StopAsyncIteration
        return found

    def __del__(self) -> None:
        # Only a note: this may run in any thread, wherever the garbage collector is.
        self._findings.abandoned = True
