"""What a node does to get: find who has an object, fetch it or the difference, and keep it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._deadline import deadline
from lattica._deltas import DeltaUse, ways_to
from lattica._model_calls import ModelCalls
from lattica._origins import open_origins
from lattica._reference import destination_of, in_short, is_name, read_reference
from lattica._report import FetchReporter
from lattica._sealed import get_sealed
from lattica.content import Selection
from lattica.errors import InvalidInput
from lattica.models import cut_file
from lattica.results import Fetched, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lattica import content
    from lattica.cid import CID
    from lattica.content import FetchEvent, Origin
    from lattica.models import Rule
    from lattica.results import ProgressCallback
    from lattica.ticket import Ticket
    from lattica.transport import Multiaddr, PeerInfo

_EVERYTHING = Selection()
_DELTA_PATIENCE_S = 5.0  # without anyone who has a delta; then another way is taken


class GetCalls(ModelCalls):
    """The part of `AsyncNode` that gets."""

    _use_origin: bool

    async def get(
        self,
        ref: Ticket | CID | str,
        destination: Path | str | None = None,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origins: Sequence[str] = (),
        use_origin: bool = False,
        base: Path | str | None = None,
        rule: Rule | None = None,
        overwrite: bool = False,
        unseal: bool | None = None,
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object, verified leaf by leaf, into `destination`; from then on, serve it.

        Cancelled or failed, a part file stays beside `destination`; the same call resumes it.

        Args:
            ref: a ticket or a CID.
            destination: the file or directory to make; an existing directory gets it inside.
                A directory that is the object already stays as it is.
                Default: the current directory, under the name that the ticket or an announcement
                gives, else its CID.
            peers: addresses of peers to ask beside those that are found.
            include: patterns for paths in a directory, as `*.json`; only matching files are
                fetched. What arrives is an object of its own, see `Fetched.part_of`.
            exclude: matching files are not fetched.
            origins: where it lies besides, to be read while no peer serves it: paths (files,
                directories, or repositories in Hugging Face's cache) and http or https addresses.
            use_origin: read the origin that the ticket names, too. Who wrote the ticket then makes
                this node ask a server of their choice, one on the local network perhaps.
            base: an older version, or a folder of them, beside those that this node holds: where
                the ticket names a delta from one, and that costs least, only the delta travels.
            rule: take only what it says enough people approve of: of a name the newest version that
                they do, of a manifest that or nothing.
            overwrite: replace what stands at `destination`.
            unseal: open what was sealed for this node while it comes, and keep no sealed copy;
                False takes it as it is, for others. Default: what the ticket says.
            progress: called with `Progress` a few times a second.
            timeout: seconds for all of it.

        Raises:
            NoProvider: nobody was found who has it.
            Unreachable: those found could not be reached, or were lost.
            IntegrityError: only peers that sent wrong bytes are left to ask.
            InvalidInput: `ref` is neither, or something else stands at `destination`.
            NotARecipient: it is sealed to others, and was to be opened; none of it was fetched.
            NotApproved: too few approve of it.
        """
        ticket = None if is_name(ref) else read_reference(ref)[1]
        if unseal or (unseal is None and ticket is not None and ticket.sealed):
            if include or exclude:
                raise InvalidInput("what is sealed is opened whole", hint="leave the patterns out")
            return await get_sealed(self, ref, destination, peers, overwrite, progress, timeout)
        return await self._obtain(
            ref,
            partial(destination_of, destination),
            peers=peers,
            overwrite=overwrite,
            progress=progress,
            timeout=timeout,
            selection=Selection(tuple(include), tuple(exclude)),
            origins=origins,
            use_origin=use_origin or self._use_origin,
            base=base,
            rule=rule,
        )

    async def cache(
        self,
        ref: Ticket | CID | str,
        *,
        pin: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object for the store to keep and serve, as long as its quota allows.

        What is here already stays where it is; what of it is damaged is mended.

        Args:
            ref: a ticket or a CID.
            pin: keep it when others need the room.
            peers: as `get`.
            progress: as `get`.
            timeout: as `get`.

        Raises:
            QuotaExceeded: what is pinned, or being fetched, leaves too little room.
            Else as `get`.
        """
        return await self._obtain(
            ref, None, peers=peers, pin=pin, progress=progress, timeout=timeout
        )

    async def _obtain(
        self,
        ref: Ticket | CID | str,
        place: Callable[[str, Path | None], Path] | None,
        *,
        peers: Sequence[Multiaddr | str],
        progress: ProgressCallback | None,
        timeout: float | None,
        overwrite: bool = False,
        pin: bool = False,
        selection: Selection = _EVERYTHING,
        origins: Sequence[str] = (),
        use_origin: bool = False,
        base: Path | str | None = None,
        rule: Rule | None = None,
    ) -> Fetched:
        """Fetch to where `place` says an object of some name goes, or into the store.

        `place` is told where the object is already, too.
        """
        report = FetchReporter(progress)
        with deadline(timeout, f"get {in_short(ref)}", last_news=lambda: report.last_news):
            started = trio.current_time()
            ref, signed = await self._content_of(ref, peers, rule)
            cid, known = await self._known(ref, peers)
            _, ticket = read_reference(ref)
            name = ticket.name if ticket else None
            name = name or self._swarms.heard.name_of(cid) or str(cid)
            stored = self.store.object(cid)
            stands = stored.path if stored else None
            path = None if place is None else await trio.to_thread.run_sync(place, name, stands)
            told = (ticket.origin,) if use_origin and ticket and ticket.origin else ()
            use = DeltaUse()
            if path is not None and not selection:
                files, links = ways_to(cid, ticket, signed)
                use = await self._deltas.take(
                    cid,
                    path,
                    files,
                    links,
                    base=base,
                    known=known,
                    overwrite=overwrite,
                    tell=report.tell,
                )
            async with open_origins([*origins, *told]) as opened:
                fetched = await self._fetch(
                    cid, path, name, known, report, overwrite, pin, selection, opened
                )
            seconds = trio.current_time() - started
        await self._provide()
        return Fetched(
            cid=fetched.stored.root,
            origin_bytes=fetched.origin_bytes,
            part_of=None if fetched.stored.root == cid else cid,
            path=fetched.stored.path,
            name=fetched.stored.name,
            kind=fetched.stored.kind,
            size=fetched.stored.size,
            received_bytes=fetched.received_bytes + use.received_bytes,
            seconds=seconds,
            sources=tuple(Source(peer, count) for peer, count in fetched.sources.items()),
            bad_leaves=len(fetched.bad_leaves),
            wire_bytes=fetched.wire_bytes + use.received_bytes,
            deltas=tuple(use.chain),
        )

    # behind

    async def _fetch(
        self,
        cid: CID,
        path: Path | None,
        name: str,
        known: list[PeerInfo],
        report: FetchReporter,
        overwrite: bool,
        pin: bool,
        selection: Selection,
        origins: Sequence[Origin],
    ) -> content.Fetched:
        with self._explained():
            async with self._lookup(cid, report) as found:
                if path is None:
                    return await self.exchange.fetch_to_store(
                        cid, providers=known, more=found, name=name, pinned=pin, progress=report
                    )
                report.looking()
                return await self.exchange.fetch(
                    cid,
                    path,
                    providers=known,
                    more=found,
                    overwrite=overwrite,
                    name=path.name,
                    segments=cut_file,
                    selection=selection,
                    origins=origins,
                    progress=report,
                )

    async def _fetch_delta(
        self,
        root: CID,
        name: str,
        known: Sequence[PeerInfo],
        progress: Callable[[FetchEvent], object],
    ) -> content.Fetched:
        async with self._lookup(root, FetchReporter(None)) as found:
            return await self.exchange.fetch_to_store(
                root,
                providers=known,
                more=found,
                name=name,
                patience=_DELTA_PATIENCE_S,
                progress=progress,
            )
