"""Deltas on the way: made when a version is shared, taken when one is got.

A fetch finds in its part file what an earlier run left there, hashes it, and asks for the rest. So
a delta has nothing to do but to write its result into that part file before the fetch begins:
whatever it was, the fetch proves it leaf by leaf, and goes on without it where it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from lattica.cid import CID
from lattica.content import FetchStarted, Kind, ObjectReader, ObjectState, build, part_path
from lattica.errors import InvalidInput, LatticaError
from lattica.models import (
    ANCHOR_EVERY,
    MAX_LINKS,
    CannotDelta,
    Delta,
    DeltaError,
    DeltaLink,
    apply_delta,
    cheapest_chain,
    cut_file,
    make_delta,
    open_tensors,
    read_delta,
)
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    from lattica.cid import HashFunction
    from lattica.content import Fetched, FetchEvent, Store, StoredObject
    from lattica.models import Manifest, ManifestFile, SignedManifest
    from lattica.ticket import Ticket

SUFFIX = ".delta.safetensors"  # of the names under which deltas are kept in the store
_TAG_CHARACTERS = 8  # of a CID, in the names of files between two steps
_NO_SIZE = 1 << 62  # of an object whose ticket does not say: any delta is smaller
_WORTH = 0.9  # of the whole: a delta that is larger is not kept
_STEP = 4  # times the wanted version: the most that one between it and the base may take on disk
_SMALL = 0.01  # of a version: a delta that costs less is taken without looking at the tensors
_CORRECT_BASE = "correct the path of the base"


class FetchToStore(Protocol):
    """Fetches an object for the store to keep: root, name, peers to ask first, who is told."""

    def __call__(
        self,
        root: CID,
        name: str,
        known: Sequence[PeerInfo],
        progress: Callable[[FetchEvent], object],
        /,
    ) -> Awaitable[Fetched]:
        """Fetch. Raises what `Exchange.fetch` does, and what `progress` does."""


OpenRoot = Callable[[CID, Sequence[PeerInfo]], AbstractAsyncContextManager[ObjectReader]]


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One file of what is got: its path in the object ("" when it is that), root, and bytes."""

    path: str
    root: CID
    size: int


@dataclass(slots=True)
class DeltaUse:
    """What deltas did for one fetch.

    Attributes:
        received_bytes: that they took over the network.
        written_bytes: of content that they gave.
        chain: the deltas that were used, in order.
    """

    received_bytes: int = 0
    written_bytes: int = 0
    chain: list[CID] = field(default_factory=list)


class Deltas:
    """The deltas that one node makes, knows and takes."""

    def __init__(self, store: Store, fetch: FetchToStore, open_root: OpenRoot) -> None:
        """Keep them in `store`; `fetch` and `open_root` reach the objects of others."""
        self._store, self._fetch, self._open_root = store, fetch, open_root

    # sharing

    async def share(self, base: Path | str, stored: StoredObject) -> DeltaLink | None:
        """Make the delta from a file of the user's to what was just shared.

        Raises:
            CannotDelta: one of them is no checkpoint of which each byte belongs to a tensor.
        """
        if stored.kind is not Kind.FILE:
            raise CannotDelta(
                f"{stored.name} is a directory",
                hint="`publish` makes deltas for every checkpoint in a directory",
            )
        function = stored.root.hash_function
        look = partial(build, _absolute(base), segments=cut_file, hash_function=function)
        before = await trio.to_thread.run_sync(look)
        return await self.make(before.path, before.root, stored.path, stored.root, stored.name)

    async def between(
        self, before: Manifest, files: Sequence[ManifestFile]
    ) -> tuple[DeltaLink, ...]:
        """Make the deltas from one version to the files of the next, and keep them in the store.

        Those that led to the version before are told on, newest first, up to a bound.
        """
        theirs = {file.path: file for file in before.files}
        made: list[DeltaLink] = []
        for file in files:
            old = theirs.get(file.path)
            if old is None or old.root == file.root:
                continue
            paths = await trio.to_thread.run_sync(self._paths, old.root, file.root)
            if paths is None:
                continue
            name = file.path.rpartition("/")[2] or before.name.rpartition("/")[2]
            try:
                link = await self.make(paths[0], old.root, paths[1], file.root, name)
            except CannotDelta:  # not a checkpoint
                continue
            made += [link] if link is not None else []
            made += await self._over_anchors(old.root, made)
        return tuple(dict.fromkeys([*made, *before.deltas]))[:MAX_LINKS]

    async def make(
        self, base: Path, base_root: CID, new: Path, new_root: CID, name: str
    ) -> DeltaLink | None:
        """Make the delta between two files and keep it in the store; None where it is no use.

        Raises:
            CannotDelta: they are no checkpoints of which each byte belongs to a tensor.
            QuotaExceeded, StorageError: the store cannot keep it.
        """
        if base_root == new_root:
            return None
        known = [link for link in await self.links_to(new_root) if link.base == base_root]
        known = [link for link in known if link.result == new_root]
        if known:
            return known[0]
        make = partial(self._make, base, base_root, new, new_root, name)
        return await trio.to_thread.run_sync(make)

    def _make(
        self, base: Path, base_root: CID, new: Path, new_root: CID, name: str
    ) -> DeltaLink | None:
        before = self._giving(base_root)
        anchor, depth = base_root, 1
        if before is not None and before.depth < ANCHOR_EVERY:
            anchor, depth = before.anchor, before.depth + 1
        with self._store.scratch() as folder:
            path = folder / f"{name.removesuffix('.safetensors')}{SUFFIX}"
            made = make_delta(
                base,
                new,
                path,
                base_cid=base_root,
                new_cid=new_root,
                anchor=anchor,
                depth=depth,
            )
            if made.size > _WORTH * made.delta.result_size:
                return None
            built = build(path, segments=cut_file, hash_function=new_root.hash_function)
            stored = self._store.add(built, take=True, pinned=True)
        return DeltaLink(base_root, new_root, stored.root, stored.size)

    async def _over_anchors(self, root: CID, made: Sequence[DeltaLink]) -> list[DeltaLink]:
        """Where `root` has become an anchor, make the delta from the anchor before it.

        So a reader far behind follows one delta for each anchor, and not one for each version.
        """

        def look() -> tuple[CID, Path, Path] | None:
            before = self._giving(root)
            if before is None or before.depth < ANCHOR_EVERY or not made:
                return None
            paths = self._paths(before.anchor, root)
            return None if paths is None else (before.anchor, *paths)

        found = await trio.to_thread.run_sync(look)
        if found is None:
            return []
        anchor, base, new = found
        link = await self.make(base, anchor, new, root, new.name)
        return [] if link is None else [link]

    def _giving(self, root: CID) -> Delta | None:
        """Return what the delta of the longest chain says that gives `root`, of those here."""
        found = [made for _, made in self._kept() if made.result == root]
        return max(found, key=lambda made: made.depth, default=None)

    def _paths(self, base: CID, new: CID) -> tuple[Path, Path] | None:
        """Return where two files are, where both are here."""
        one, other = self._store.file_of(base), self._store.file_of(new)
        return (one, other) if one is not None and other is not None else None

    async def links_to(self, root: CID) -> list[DeltaLink]:
        """Return the deltas in the store that give a version, or one of those before it."""
        return await trio.to_thread.run_sync(self._links_to, root)

    def _links_to(self, root: CID) -> list[DeltaLink]:
        into: dict[CID, list[DeltaLink]] = {}
        for stored, made in self._kept():
            link = DeltaLink(made.base, made.result, stored.root, stored.size)
            into.setdefault(made.result, []).append(link)
        found: list[DeltaLink] = []
        wanted, seen = [root], {root}
        while wanted:  # the versions before, each once, the nearest first
            for link in into.get(wanted.pop(0), ()):
                found.append(link)
                if link.base not in seen:
                    seen.add(link.base)
                    wanted.append(link.base)
        return found

    def _kept(self) -> Iterator[tuple[StoredObject, Delta]]:
        """Give the deltas in the store, and what they say of themselves."""
        for stored in self._store.objects():
            if stored.name.endswith(SUFFIX) and stored.state is ObjectState.COMPLETE:
                with suppress(InvalidInput, OSError):  # the name is anybody's to give
                    yield stored, read_delta(self._store.file_of(stored.root) or stored.path)

    # getting

    async def take(
        self,
        root: CID,
        destination: Path,
        files: Sequence[WantedFile],
        links: Sequence[DeltaLink],
        *,
        base: Path | str | None = None,
        known: Sequence[PeerInfo] = (),
        overwrite: bool = False,
        tell: Callable[[str], object] = lambda _news: None,
    ) -> DeltaUse:
        """Write what deltas give into the part file of a fetch that has not begun.

        Whatever fails is left for the fetch. Cancelled, whole files stay for it, and no others.

        Args:
            root: what will be fetched.
            destination: where to.
            files: its files; those that no delta leads to are left alone.
            links: deltas that may be had.
            base: an older version of the user's, or a folder of them.
            known: peers to ask first.
            overwrite: whether the fetch will replace what stands at `destination`.
            tell: called with what went wrong, in words.

        Raises:
            CannotDelta: there is no checkpoint at `base`.
        """
        if base is not None and not await trio.to_thread.run_sync(os.path.exists, _absolute(base)):
            raise CannotDelta(f"no safetensors file at {base}", hint=_CORRECT_BASE)
        use = DeltaUse()
        target = part_path(destination, root)
        if not links or await trio.to_thread.run_sync(_is_taken, destination, target, overwrite):
            return use
        held = await trio.to_thread.run_sync(self._bases, links)
        if base is not None:
            held |= await bases_at(_absolute(base), links)
        if any((one.path, one.root) != ("", root) for one in files):
            files = await self._listed(root, files, known, tell)
        for wanted in files:
            out = target / wanted.path if wanted.path else target
            await self._take(wanted, out, list(links), held, known, use, tell)
        return use

    async def _listed(
        self,
        root: CID,
        files: Sequence[WantedFile],
        known: Sequence[PeerInfo],
        tell: Callable[[str], object],
    ) -> list[WantedFile]:
        """Return those files that the object itself has: a manifest can name any beside them."""
        try:
            async with self._open_root(root, known) as reader:
                there = [WantedFile(one.path, one.root, one.size) for one in await reader.files()]
        except LatticaError as error:
            tell(f"no delta is of use, as {root} cannot be listed: {error}")
            return []
        said = {(one.path, one.root) for one in files}
        return [one for one in there if (one.path, one.root) in said]

    async def _take(
        self,
        wanted: WantedFile,
        out: Path,
        links: list[DeltaLink],
        held: Mapping[CID, Path],
        known: Sequence[PeerInfo],
        use: DeltaUse,
        tell: Callable[[str], object],
    ) -> None:
        """Get one file by the cheapest chain that works and costs less than what is missing.

        What deltas took that were of no use counts, so that many of them cost no more than one.
        """
        limit, looked, before = wanted.size, False, use.received_bytes
        while chain := cheapest_chain(
            wanted.root, held, links, limit - (use.received_bytes - before)
        ):
            tried: list[DeltaLink] = []
            try:
                if not looked and sum(link.size for link in chain) > _SMALL * wanted.size:
                    limit, looked = await self._missing(wanted, known), True
                    continue
                await self._follow(chain, held[chain[0].base], out, wanted.size, known, tried, use)
            except (LatticaError, OSError) as error:
                looked, failed = True, tried[-1] if tried else chain[0]
                links = [link for link in links if link != failed]
                tell(f"the delta {failed.delta} is of no use: {error}")
            else:
                use.written_bytes += wanted.size
                use.chain += [link.delta for link in chain]
                return

    async def _follow(
        self,
        chain: list[DeltaLink],
        base: Path,
        out: Path,
        size: int,
        known: Sequence[PeerInfo],
        tried: list[DeltaLink],
        use: DeltaUse,
    ) -> None:
        """Apply deltas one after the other; what is between base and result does not stay."""
        await trio.to_thread.run_sync(partial(out.parent.mkdir, parents=True, exist_ok=True))
        step = out.with_name(f".{str(chain[-1].result)[-_TAG_CHARACTERS:]}.step")
        try:
            for link in chain:
                tried.append(link)
                name = f"{out.name.partition('.')[0]}{SUFFIX}"
                fetched = await self._fetch(link.delta, name, known, partial(_check_size, link))
                use.received_bytes += fetched.received_bytes
                path = fetched.stored.path
                last = link is chain[-1]
                room = size if last else _STEP * size
                await trio.to_thread.run_sync(_apply, base, path, out if last else step, link, room)
                base = step
        finally:
            with suppress(OSError):
                step.unlink()

    async def _missing(self, wanted: WantedFile, known: Sequence[PeerInfo]) -> int:
        """Return how many bytes of a checkpoint are in tensors that this node has not."""
        size = wanted.size
        async with self._open_root(wanted.root, known) as reader:
            tensors = (await open_tensors(reader)).tensors
        for info in tensors.values():
            if info.cid is not None and self._store.has(info.cid.multihash):
                size -= info.length
        return size

    def _bases(self, links: Sequence[DeltaLink]) -> dict[CID, Path]:
        """Return where the bases of deltas are that this node holds."""
        found: dict[CID, Path] = {}
        for root in {link.base for link in links}:
            if (path := self._store.file_of(root)) is not None:
                found[root] = path
        return found


def _apply(base: Path, delta: Path, out: Path, link: DeltaLink, room: int) -> None:
    """Apply a delta that gives what its link says, and no more bytes than there is `room` for."""
    made = read_delta(delta)
    if made.result != link.result:
        raise InvalidInput(f"it gives {made.result}, expected {link.result}")
    if made.result_size > room:  # a few bytes can say any number of zeros
        raise DeltaError(f"it gives {made.result_size} bytes, expected {room} at most")
    apply_delta(base, delta, out)


def ways_to(
    root: CID, ticket: Ticket | None, signed: SignedManifest | None
) -> tuple[list[WantedFile], list[DeltaLink]]:
    """Return the files of an object, and the deltas that its ticket and its manifest name."""
    links = list(ticket.deltas) if ticket is not None else []
    if signed is not None:
        files = [WantedFile(one.path, one.root, one.size) for one in signed.manifest.files]
        return files, [*links, *signed.manifest.deltas]
    return [WantedFile("", root, (ticket and ticket.size) or _NO_SIZE)], links


def _absolute(path: Path | str) -> Path:
    return Path(path).expanduser().absolute()


def _is_taken(destination: Path, target: Path, overwrite: bool) -> bool:
    """Whether a fetch finds something to begin with: the object, or what an earlier one left."""
    return os.path.lexists(target) or (os.path.lexists(destination) and not overwrite)


def _check_size(link: DeltaLink, event: FetchEvent) -> None:
    """End the fetch of a delta that is larger than was said: it might cost more than it saves."""
    if isinstance(event, FetchStarted) and event.size != link.size:
        raise DeltaError(f"{link.delta} has {event.size} bytes, expected {link.size}")


async def bases_at(path: Path, links: Sequence[DeltaLink]) -> dict[CID, Path]:
    """Hash a file, or all checkpoints in a directory, that the user says are an older version.

    Raises:
        CannotDelta: there is none.
    """

    def look() -> dict[CID, Path]:
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        if not files or not files[0].exists():
            raise CannotDelta(f"no safetensors file at {path}", hint=_CORRECT_BASE)
        functions: set[HashFunction] = set()
        for link in links:
            with suppress(InvalidInput):  # a hash that is not computed here: it cannot be told
                functions.add(link.base.hash_function)
        return {
            build(file, segments=cut_file, hash_function=function).root: file
            for file in files
            for function in functions
        }

    return await trio.to_thread.run_sync(look)
