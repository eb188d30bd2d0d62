"""What a node does with what it holds: list it, keep it, let it go, check it, mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lattica._deadline import deadline
from lattica._finding import Finding
from lattica._reads import usage_of
from lattica._reference import read_reference
from lattica._report import FetchReporter, reporter
from lattica._stat import find_holders, stat_of
from lattica.results import (
    Collected,
    Damaged,
    ObjectStat,
    Phase,
    SharedObject,
    StoreUsage,
    Verification,
)
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.cid import CID
    from lattica.results import ProgressCallback
    from lattica.ticket import Ticket


class StoreCalls(Finding):
    """The part of `AsyncNode` that looks after its store."""

    def objects(self) -> list[SharedObject]:
        """Return what this node holds, oldest first."""
        return [
            SharedObject(
                cid=stored.root,
                name=stored.name,
                path=stored.path,
                kind=stored.kind,
                size=stored.size,
                state=stored.state,
                added=stored.added,
                pinned=stored.pinned,
            )
            for stored in self.store.objects()
        ]

    async def pin(self, ref: Ticket | CID | str) -> None:
        """Keep an object when the store needs room.

        Raises:
            ObjectNotHere: this node does not hold it.
        """
        cid, _ = read_reference(ref)
        self._held(cid)
        await trio.to_thread.run_sync(self.store.pin, cid, True)

    async def unpin(self, ref: Ticket | CID | str) -> None:
        """Let an object go when the store needs room. Raises ObjectNotHere."""
        cid, _ = read_reference(ref)
        self._held(cid)
        await trio.to_thread.run_sync(self.store.pin, cid, False)

    async def usage(self) -> StoreUsage:
        """Say what the store uses of the disk."""
        return usage_of(await trio.to_thread.run_sync(self.store.usage))

    async def stat(
        self, ref: Ticket | CID | str, *, ask_peers: bool = False, timeout: float | None = None
    ) -> ObjectStat:
        """Say all that is known of an object that is here, its index and its state included.

        Args:
            ref: a ticket or a CID.
            ask_peers: ask who is connected, and who the DHT names, what they hold of it now.
            timeout: seconds for all of it.

        Raises:
            ObjectNotHere: this node does not hold it.
        """
        cid, ticket = read_reference(ref)
        with deadline(timeout, f"stat {cid}", cid):
            await trio.to_thread.run_sync(self.store.look)
            stored = self._held(cid)
            holders = None
            if ask_peers:
                known = [PeerInfo(ticket.peer, ticket.addresses)] if ticket else []
                holders = await find_holders(self.mesh, self.dht, cid, known)
            return await stat_of(self.store, stored, holders)

    async def collect_garbage(self) -> Collected:
        """Forget objects whose files are gone, and delete what no object needs."""
        freed, gone = await trio.to_thread.run_sync(self.store.collect)
        for cid in gone:
            self.dht.stop_providing(cid.multihash)
        return Collected(freed, tuple(gone))

    async def verify(
        self,
        ref: Ticket | CID | str,
        *,
        repair: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Verification:
        """Hash an object on disk again.

        Args:
            ref: a ticket or a CID.
            repair: write what is damaged anew, in place, from peers: files become again what they
                were when they were shared.
            peers: with `repair`, addresses of peers to ask beside those that are found.
            progress: called with `Progress` a few times a second.
            timeout: seconds for all of it.

        Raises:
            ObjectNotHere: this node does not hold it.
            NoProvider, Unreachable, IntegrityError: with `repair`, as `get`.
        """
        cid, ticket = read_reference(ref)
        stored = self._held(cid)
        with deadline(timeout, f"verify {cid}", cid):
            count = reporter(progress, Phase.VERIFY, stored.size)

            def checked(size: int) -> None:
                trio.from_thread.check_cancelled()
                trio.from_thread.run_sync(count, size)

            repaired = 0
            if repair:
                known = [PeerInfo(ticket.peer, ticket.addresses)] if ticket else []
                known += [await self._peer_at(peer) for peer in peers]
                with self._explained():
                    async with self._lookup(cid, FetchReporter(None)) as more:
                        report, repaired = await self.exchange.repair(
                            cid, providers=known, more=more, progress=checked
                        )
            else:
                report = await trio.to_thread.run_sync(self.store.verify, cid, checked)
        if report.damaged_count:
            self.dht.stop_providing(cid.multihash)
        damaged = tuple(
            Damaged(item.cid, item.path, item.offset, item.length, item.reason)
            for item in report.damaged
        )
        if repaired:
            await self._provide()
        return Verification(
            cid, report.checked_bytes, report.damaged_count, damaged, repaired, report.differing
        )
