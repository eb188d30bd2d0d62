"""How a node finds out what a reference names, and who may have that."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica._private import check_ticket
from lattica._reads import Lookup
from lattica._reference import read_reference
from lattica._report import FetchReporter
from lattica.content import NoProvider, Store
from lattica.errors import LatticaError, NotFound
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from lattica._providing import Providing
    from lattica.cid import CID
    from lattica.content import Exchange, ObjectReader, StoredObject
    from lattica.dht import Dht
    from lattica.ticket import Ticket
    from lattica.transport import Mesh

logger = logging.getLogger(__name__)

# Between lookups of providers; then the last again. Whoever shares it now is found within seconds.
_LOOKUP_PAUSES_S = (0.5, 1.0, *(2.0,) * 30, 4.0, 8.0)


class ObjectNotHere(NotFound):
    """This node does not hold the object."""

    code = "not-here"
    hint = (
        "`lattica ls` lists what this node holds; `lattica dht providers CID` who else has it, "
        "`lattica get REF --dry-run` what is in it"
    )


class Finding:
    """The part of `AsyncNode` that the others build on.

    Attributes:
        mesh: connections and streams.
        dht: who has what.
        store: what this node holds.
        exchange: the transfer of content.
        swarm: the fingerprint of the private swarm that this node is in; None in public.
    """

    mesh: Mesh
    dht: Dht
    store: Store
    exchange: Exchange
    swarm: str | None
    _nursery: trio.Nursery
    _providing: Providing

    def _held(self, cid: CID) -> StoredObject:
        stored = self.store.object(cid)
        if stored is None:
            raise ObjectNotHere(f"this node does not hold {cid}", cid=cid)
        return stored

    async def _peer_at(self, address: Multiaddr | str) -> PeerInfo:
        parsed = Multiaddr.parse(str(address))
        if parsed.peer_id is not None:
            return PeerInfo(parsed.peer_id, (parsed.without_peer(),))
        return PeerInfo((await self.mesh.dial(parsed)).peer, (parsed,))

    async def _known(
        self, ref: Ticket | CID | str, peers: Sequence[Multiaddr | str]
    ) -> tuple[CID, list[PeerInfo]]:
        """Return what `ref` names, and who is known to have it."""
        cid, ticket = read_reference(ref)
        check_ticket(ticket, self.swarm)
        known = [PeerInfo(ticket.peer, ticket.addresses)] if ticket else []
        return cid, known + [await self._peer_at(peer) for peer in peers]

    @asynccontextmanager
    async def _root_reader(
        self, cid: CID, known: Sequence[PeerInfo], path: str = ""
    ) -> AsyncIterator[ObjectReader]:
        with self._explained():
            async with (
                self._lookup(cid, FetchReporter(None)) as more,
                self.exchange.open(cid, path=path, providers=known, more=more) as reader,
            ):
                yield reader

    @asynccontextmanager
    async def _lookup(self, cid: CID, report: FetchReporter) -> AsyncIterator[Lookup]:
        """Give the peers that may hold an object; nobody is looked for until they are asked for."""
        async with private_nursery() as nursery:
            yield Lookup(nursery, lambda sender: self._look_for_providers(cid, sender, report))
            nursery.cancel_scope.cancel()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of a fetch that found nobody why that may be."""
        try:
            yield
        except NoProvider as error:
            if not self.mesh.connections():
                error.hint = self._why_alone()
            raise

    def _why_alone(self) -> str:
        tried = ", ".join(str(status.address) for status in self.dht.status().bootstrap)
        if not tried:
            return "this node knows nobody: name a peer with --bootstrap or --from"
        return f"no bootstrap peer was reached ({tried}): check that it runs, and its address"

    async def _look_for_providers(
        self, cid: CID, sender: trio.MemorySendChannel[PeerInfo | None], report: FetchReporter
    ) -> None:
        """Ask the DHT again and again: it may not be joined yet, and providers come and go.

        After each time that found all there are, None is sent: whoever waits for more may stop.
        """
        pauses = iter(_LOOKUP_PAUSES_S)
        while True:
            report.looking()
            try:
                async for info in self.dht.find_providers(cid.multihash):
                    if info.peer != self.mesh.peer_id:
                        await sender.send(info)
                status = self.dht.status()
                if status.joined or not (status.peers or status.bootstrap):
                    await sender.send(None)
            except LatticaError as error:
                logger.info("looking for providers of %s: %s", cid, error)
            await trio.sleep(next(pauses, _LOOKUP_PAUSES_S[-1]))

    async def _provide(self) -> None:
        """Have the DHT told of all that is held whole; what it knows already it keeps."""
        self.exchange.note_gains()
        await self._providing.tell()
