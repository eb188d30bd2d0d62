"""What a node does to share: hash a path in place, serve it, tell who may want it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._cutting import cutting
from lattica._deadline import deadline
from lattica._finding import Finding
from lattica._origins import check_public
from lattica._reference import source_of
from lattica._report import reporter
from lattica._sealed import recipients_of, share_sealed
from lattica.cid import HashFunction
from lattica.content import Selection, Symlinks, build_in_thread
from lattica.errors import InvalidInput
from lattica.results import Phase, Share
from lattica.ticket import Ticket, fitting, is_plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lattica._deltas import Deltas
    from lattica._home import Home
    from lattica._swarm import Swarms
    from lattica.codec import Value
    from lattica.content import StoredObject
    from lattica.identity import PeerId
    from lattica.models import DeltaLink
    from lattica.results import ProgressCallback


class ShareCalls(Finding):
    """The part of `AsyncNode` that shares."""

    _home: Home
    _deltas: Deltas
    _swarms: Swarms

    async def share(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        hash_function: HashFunction = HashFunction.BLAKE3,
        follow_symlinks: bool = False,
        symlinks: str = "refuse",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origin: str | None = None,
        chunk: str | None = None,
        base: Path | str | None = None,
        encrypt_to: Sequence[PeerId | str] = (),
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Share:
        """Share a file or directory in place: hash it, serve it, tell the DHT.

        Nothing is copied. When a file changes, the node stops serving what no longer matches.

        Args:
            path: what to share.
            name: what others call it.
            hash_function: of every leaf and index block.
            follow_symlinks: the same as `symlinks="follow"`.
            symlinks: of a directory: `refuse` them, `follow` those to files and share these in
                their place, as Hugging Face's cache has them, or `skip` them.
            include: patterns for paths in a directory, as `*.json`; only matching files are shared.
            exclude: matching files are not.
            origin: where else it lies, an http or https address; the ticket names it to those who
                allow that (see `get`).
            chunk: how files that are no checkpoints are cut: `cdc`, at places that their content
                chooses, so that versions of a file share what is equal in them wherever it moves;
                or a size of leaves like `1M`.
            base: an older version of a safetensors file. The delta from it is made and shared as
                well, and named in the ticket: who holds that version gets this one by it.
            encrypt_to: peer IDs of those who may read it: what is shared then is a sealed copy, in
                the store, that others store and serve without reading it. `name` is sealed, too.
            progress: called with `Progress` a few times a second.
            timeout: seconds for the hashing.

        Raises:
            InvalidInput: there is nothing at `path` to share, or the key of this node, or a name
                that could be misread elsewhere.
            SourceChanged: it changed while it was hashed.
        """
        more: dict[str, Value] = {} if origin is None else {"origin": check_public(origin)}
        policy = Symlinks.FOLLOW if follow_symlinks else Symlinks.of(symlinks)
        selection = Selection(tuple(include), tuple(exclude))
        if encrypt_to:
            if origin is not None or chunk is not None or base is not None:
                raise InvalidInput(
                    "an encrypted copy has no origin, no delta, and leaves of its own size",
                    hint="leave --origin, --base and --chunk out",
                )
            return await share_sealed(
                self,
                path,
                recipients_of(encrypt_to),
                name=name,
                hash_function=hash_function,
                symlinks=policy,
                selection=selection,
                progress=progress,
                limit_s=timeout,
            )
        with deadline(timeout, f"share {path}"):
            started = trio.current_time()
            path, total = await trio.to_thread.run_sync(
                partial(
                    source_of,
                    path,
                    self._home.key,
                    follow_symlinks=policy is Symlinks.FOLLOW,
                    takes=selection.takes,
                )
            )
            built = await build_in_thread(
                path,
                segments=await trio.to_thread.run_sync(cutting, chunk),
                hash_function=hash_function,
                symlinks=policy,
                selection=selection,
                progress=reporter(progress, Phase.HASH, total),
            )
            stored = await trio.to_thread.run_sync(partial(self.store.add, built, name=name))
            if base is not None:
                await self._deltas.share(base, stored)
            deltas = await self._deltas.links_to(stored.root)
            seconds = trio.current_time() - started
        await self._provide()
        await self._swarms.announce(stored)
        return Share(
            cid=stored.root,
            ticket=self.ticket(stored, more, deltas),
            name=stored.name,
            path=stored.path,
            kind=stored.kind,
            size=stored.size,
            segments=sum(len(file.segments) for file in built.files),
            seconds=seconds,
        )

    def ticket(
        self,
        stored: StoredObject,
        more: Mapping[str, Value] | None = None,
        deltas: Sequence[DeltaLink] = (),
    ) -> Ticket:
        """Return the ticket by which others get an object from this node.

        `more`: further options of it, as `origin`. `deltas` that lead to it are named as far as
        there is room.
        """
        options: dict[str, Value] = {"size": stored.size, **(more or {})}
        if self.swarm is not None:
            options["swarm"] = self.swarm
        if is_plain_name(stored.name):
            options["name"] = stored.name
        return fitting(stored.root, self.mesh.peer_id, self.mesh.addresses, options, deltas)
