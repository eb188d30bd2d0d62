"""Publishing a version of a model: its content, the table of its tensors, manifest and name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trio

from lattica._opened import NoTensors, look_inside
from lattica._reference import read_reference
from lattica.cid import CID, Codec
from lattica.errors import InvalidInput, LatticaError, NotFound, Unreachable
from lattica.models import (
    MAX_FILES,
    MAX_LINKS,
    DeltaLink,
    Manifest,
    ManifestFile,
    Name,
    NameRecord,
    TableEntry,
    plan_state,
)
from lattica.results import Published

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from lattica._catalog import Catalog
    from lattica.codec import Value
    from lattica.content import Exchange, Store, StoredObject
    from lattica.identity import Identity
    from lattica.models import SignedManifest
    from lattica.ticket import Ticket

    Ref = Published | Ticket | CID | str


def cid_of(ref: Ref) -> CID:
    """Return what a reference names: a published version, a ticket or a CID."""
    return ref.cid if isinstance(ref, Published) else read_reference(ref)[0]


async def keep_state(store: Store, name: str, state: Mapping[str, Any]) -> StoredObject:
    """Write tensors into a safetensors file of the store's own."""

    def write() -> StoredObject:
        plan = plan_state(state)
        return store.add_written(
            lambda file: plan.write(file, state),
            plan.size,
            name=f"{name.rpartition('/')[2]}.safetensors",
            segments=plan.segments(),
            pinned=True,
        )

    return await trio.to_thread.run_sync(write)


async def make_manifest(
    catalog: Catalog,
    exchange: Exchange,
    stored: StoredObject,
    *,
    name: str,
    before: SignedManifest | None,
    licence: str,
    message: str,
    base: Sequence[Ref],
    data: Sequence[Ref],
    recipe: Sequence[Ref],
    deltas: Sequence[DeltaLink],
    between: Callable[[Manifest, Sequence[ManifestFile]], Awaitable[tuple[DeltaLink, ...]]],
    meta: Mapping[str, Value],
) -> tuple[SignedManifest, int]:
    """Sign and keep the manifest of what is in the store, the next version of its name.

    Returns:
        The manifest, and how many bytes of it are in tensors, or files, that its parent has not.

    Raises:
        InvalidInput: a field that readers would refuse.
    """
    files, entries, sizes = await _contents(exchange, stored)
    made = await between(before.manifest, files) if before is not None else ()
    last = await trio.to_thread.run_sync(_last_version, catalog, name, before)
    table = await catalog.keep_table(f"{name.replace('/', '-')}", entries) if entries else None
    manifest = Manifest(
        name=name,
        version=last + 1,
        created=int(time.time()),
        root=stored.root,
        size=stored.size,
        files=files if len(files) <= MAX_FILES else (),
        tensors=table.root if table else None,
        licence=licence,
        message=message,
        parent=before.cid if before else None,
        base=tuple(map(cid_of, base)),
        data=tuple(map(cid_of, data)),
        recipe=tuple(map(cid_of, recipe)),
        deltas=tuple(dict.fromkeys([*deltas, *made]))[:MAX_LINKS],
        meta=dict(meta),
    )
    signed = await catalog.sign(manifest)
    news = await _news(catalog, before, stored, entries, sizes)
    return signed, min(news, _by_deltas(before, files, made))


async def publish_name(catalog: Catalog, identity: Identity, signed: SignedManifest) -> NameRecord:
    """Make a manifest the newest of its name."""

    def record() -> NameRecord:
        name = Name(signed.signer, signed.manifest.name)
        last = catalog.names.newest(name)
        made = NameRecord.make(
            identity,
            name.name,
            max(signed.manifest.version, last.sequence + 1 if last else 0),
            signed.cid,
            int(time.time()),
        )
        return catalog.names.offer(made, own=True)

    return await trio.to_thread.run_sync(record)


async def version_before(catalog: Catalog, name: Name, cid: CID | None) -> SignedManifest | None:
    """Return the version that a new one of `name` follows: `cid`, or the newest that is known.

    Raises:
        InvalidInput: `cid` is no manifest.
    """
    if cid is None:
        last = await trio.to_thread.run_sync(catalog.names.newest, name)
        if last is not None:
            return await catalog.manifest(last.manifest)
        try:  # a key that came to a new home goes on where it was, or nobody would follow
            return await catalog.manifest((await catalog.newest(name)).manifest)
        except (NotFound, Unreachable):
            return None
    if cid.codec != Codec.MESSAGEPACK:
        raise InvalidInput(f"the parent {cid} is no manifest", hint="pass what `publish` returned")
    return await catalog.manifest(cid)


def _last_version(catalog: Catalog, name: str, before: SignedManifest | None) -> int:
    """Return the last version of this node's name. What others count under theirs is no matter."""
    own = Name(catalog.peer_id, name)
    record = catalog.names.newest(own)
    told = record.sequence if record is not None else 0
    if before is None or Name(before.signer, before.manifest.name) != own:
        return told
    return max(told, before.manifest.version)


async def _contents(
    exchange: Exchange, stored: StoredObject
) -> tuple[tuple[ManifestFile, ...], list[TableEntry], dict[str, int]]:
    """Return the files and tensors of an object that is here, and the bytes of each tensor."""
    async with exchange.open(stored.root) as reader:
        files = tuple(ManifestFile(one.path, one.size, one.root) for one in await reader.files())
        opened = await look_inside(reader, None if reader.is_directory else stored.name)
    try:
        tensors = opened.tensors.values()
    except NoTensors:
        return files, [], {}
    known = [one for one in tensors if one.cid is not None]
    entries = [
        TableEntry(one.name, one.dtype, one.shape, one.file, one.cid) for one in known if one.cid
    ]
    return files, entries, {one.name: one.length for one in known}


async def _news(
    catalog: Catalog,
    before: SignedManifest | None,
    stored: StoredObject,
    entries: list[TableEntry],
    sizes: dict[str, int],
) -> int:
    """Return the bytes of tensors that the version before has not; all, where that is not known."""
    if before is None or before.manifest.root == stored.root:
        return 0 if before else stored.size
    try:
        theirs = {one.cid for one in await catalog.table(before.manifest)}
    except LatticaError:
        return stored.size
    if not theirs or not entries:
        return stored.size
    return stored.size - sum(sizes[one.name] for one in entries if one.cid in theirs)


def _by_deltas(
    before: SignedManifest | None, files: Sequence[ManifestFile], made: Sequence[DeltaLink]
) -> int:
    """Return what a reader of the version before takes who follows the deltas from it."""
    theirs = {file.root for file in before.manifest.files} if before is not None else set()
    cost = 0
    for file in files:
        ways = [one.size for one in made if one.result == file.root and one.base in theirs]
        cost += 0 if file.root in theirs else min(ways, default=file.size)
    return cost
