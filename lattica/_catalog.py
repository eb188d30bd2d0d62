"""What a node knows of models: manifests, who vouches for them, and the newest of each name.

Manifests are content: they are found, fetched and served on as any. Statements and names are
signed records that anybody may hand on: they are looked up in the DHT, and kept in the home.
"""

from __future__ import annotations

import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lattica import models
from lattica.cid import CID, Codec
from lattica.content import leaf_size
from lattica.errors import CodecError, IntegrityError, InvalidInput, LatticaError, NotFound
from lattica.models import (
    Lineage,
    ManifestError,
    Name,
    NameRecord,
    SignedManifest,
    Statement,
    Verdict,
    statements_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from lattica.content import ObjectReader, Store, StoredObject
    from lattica.dht import Dht
    from lattica.identity import Identity, PeerId
    from lattica.models import Manifest, NameStore, Rule, TableEntry
    from lattica.transport import PeerInfo

    OpenRoot = Callable[[CID, Sequence[PeerInfo]], AbstractAsyncContextManager[ObjectReader]]

LOOKUP_S = 10.0  # for a record in the DHT: it may not be joined yet, or never
FETCH_S = 30.0  # for one manifest of a lineage
RECORD_TTL_S = 7 * 24 * 3600.0  # the longest that the DHT keeps one; it is put again meanwhile
RETRY_S = (5.0, 15.0, 60.0, 300.0)  # between tries to put a record, while nobody keeps it
MAX_APPROVAL_STEPS = 64  # versions looked back for one that is approved
MAX_MANIFEST = leaf_size(0)  # bytes

logger = logging.getLogger(__name__)


class NotAManifest(InvalidInput):
    """What was named is content, and not a manifest."""

    code = "not-a-manifest"
    hint = "the CID of a manifest starts with `bagaqi`; `lattica publish` makes one"


class NameNotFound(NotFound):
    """No record of a name was found, here or in the DHT."""

    code = "name-not-found"
    hint = "check the name, and that its publisher or a peer that knows it is running"


class NotApproved(LatticaError):
    """No version of the model has the approvals that the rule demands."""

    code = "not-approved"
    exit_code = 6
    hint = "ask the named approvers: `lattica manifest approve REF`"


class Catalog:
    """The models that one node knows, publishes and vouches for."""

    def __init__(
        self,
        identity: Identity,
        store: Store,
        dht: Dht,
        names: NameStore,
        trust: Path,
        open_root: OpenRoot,
    ) -> None:
        self.names = names
        self._identity, self._store, self._dht = identity, store, dht
        self._trust, self._open_root = trust, open_root

    @property
    def peer_id(self) -> PeerId:
        """Who signs what is published here."""
        return self._identity.peer_id

    # whom to believe

    def trusted(self) -> dict[PeerId, str]:
        """*Slow.* Return the keys that the user trusts, with their notes; this node's own too."""
        found = {one.peer: one.note for one in models.read_keys(self._trust)}
        return {self._identity.peer_id: "this node", **found}

    def trust(self, peer: PeerId, note: str = "") -> bool:
        """*Slow.* Trust a key; False where it was trusted."""
        return models.add_key(self._trust, peer, note)

    def distrust(self, peer: PeerId) -> bool:
        """*Slow.* Trust a key no longer; False where it was not trusted."""
        return models.remove_key(self._trust, peer)

    # manifests

    async def manifest(self, cid: CID, known: Sequence[PeerInfo] = ()) -> SignedManifest:
        """Fetch a manifest, check its signature, and keep it, to serve it on.

        Raises:
            NotAManifest: `cid` names something else.
            ManifestError, BadSignature: what it names is none, or was not signed by its signer.
        """
        if cid.codec != Codec.MESSAGEPACK:
            raise NotAManifest(f"{cid} is no manifest", cid=cid)
        raw = CID(Codec.RAW, cid.multihash)
        async with self._open_root(raw, known) as reader:
            if reader.size > MAX_MANIFEST:
                raise ManifestError(f"{cid} has {reader.size} bytes, limit {MAX_MANIFEST}", cid=cid)
            data = await reader.read(0, reader.size)
        signed = SignedManifest.decode(data)
        if self._store.object(raw) is None:
            await self._keep(signed, pinned=False)
        return signed

    async def table(self, manifest: Manifest, known: Sequence[PeerInfo] = ()) -> list[TableEntry]:
        """Fetch the table of a manifest's tensors. Raises ManifestError."""
        if manifest.tensors is None:
            return []
        async with self._open_root(manifest.tensors, known) as reader:
            if reader.size > models.MAX_TABLE:
                raise ManifestError(f"a table of {reader.size} bytes, limit {models.MAX_TABLE}")
            data = await reader.read(0, reader.size)
        return await trio.to_thread.run_sync(models.decode_table, data)

    async def lineage(self, cid: CID, known: Sequence[PeerInfo] = ()) -> Lineage:
        """Walk from a manifest to its roots, across whoever has the manifests; bounded.

        Raises:
            NoProvider, Unreachable, ManifestError, BadSignature: the first of them was not found.
        """
        lineage = Lineage(cid)
        room = trio.CapacityLimiter(8)

        async def look(one: CID) -> None:
            found = None
            async with room:
                try:
                    with trio.move_on_after(FETCH_S):
                        found = await self.manifest(one, known)
                except LatticaError as error:
                    logger.info("the manifest %s was not found: %s", one, error)
            lineage.receive(one, found)

        for one in lineage.wanted():  # the first: without it there is nowhere to go
            lineage.receive(one, await self.manifest(one, known))
        while wanted := lineage.wanted():
            async with trio.open_nursery() as nursery:
                for one in wanted:
                    nursery.start_soon(look, one)
        return lineage

    async def sign(self, manifest: Manifest) -> SignedManifest:
        """Sign a manifest as this node, and keep it."""
        signed = manifest.sign(self._identity)
        await self._keep(signed, pinned=True)
        return signed

    async def keep_table(self, name: str, entries: list[TableEntry]) -> StoredObject:
        """Keep the table of a manifest's tensors."""
        data = models.encode_table(entries)
        add = partial(self._store.add_bytes, data, name=f"{name}.tensors", pinned=True)
        return await trio.to_thread.run_sync(add)

    async def _keep(self, signed: SignedManifest, *, pinned: bool) -> None:
        name = f"{_file_name(signed.manifest)}.manifest"
        add = partial(self._store.add_bytes, signed.encoded, name=name, pinned=pinned)
        stored = await trio.to_thread.run_sync(add)
        if stored.root.multihash != signed.cid.multihash:
            raise IntegrityError(f"the store has {stored.root} for {signed.cid}", cid=signed.cid)

    # statements

    async def state(self, cid: CID, verdict: Verdict) -> Statement:
        """Say something of a manifest, signed by this node; it counts over all it said before."""

        def say() -> Statement:
            said = self.names.statements(cid)
            mine = [one.created for one in said if one.signer == self._identity.peer_id]
            # Also where the clock was ahead, or all is said in one second.
            when = min(max(int(time.time()), *(past + 1 for past in mine), 0), models.MAX_TIME)
            made = Statement.make(self._identity, cid, verdict, when)
            self.names.add(made)
            return made

        return await trio.to_thread.run_sync(say)

    async def statements(
        self, cid: CID, approvers: frozenset[PeerId] | None = None
    ) -> list[Statement]:
        """Return what was said of a manifest, by those in `approvers` or by anybody, oldest first.

        What people said whom the user trusts, or who are asked for, is kept.
        """
        wanted = set(await trio.to_thread.run_sync(self.trusted)) | set(approvers or ())
        found: dict[tuple[PeerId, Verdict], Statement] = {}
        for value in await self._look_up(statements_key(cid)):
            for encoded in value[: len(Verdict)] if isinstance(value, list) else ():
                try:
                    one = Statement.decode(encoded)
                except (CodecError, IntegrityError, TypeError) as error:
                    logger.info("a statement about %s is none: %s", cid, error)
                    continue
                if one.manifest != cid:
                    continue
                if one.signer in wanted:
                    await trio.to_thread.run_sync(self.names.add, one)
                _newest(found, one)
        for one in await trio.to_thread.run_sync(self.names.statements, cid):
            _newest(found, one)
        chosen = [one for one in found.values() if approvers is None or one.signer in approvers]
        return sorted(chosen, key=lambda one: (one.created, one.signer.raw))

    async def approving(self, signed: SignedManifest, rule: Rule) -> frozenset[PeerId]:
        """Return which of the approvers of a rule approve of a version."""
        said = await self.statements(signed.cid, rule.approvers)
        return rule.approving(signed.cid, signed.signer, said)

    async def approved(self, signed: SignedManifest, rule: Rule) -> bool:
        """Say whether enough of the approvers of a rule approve of a version."""
        return len(await self.approving(signed, rule)) >= rule.needed

    # names

    async def newest(self, name: Name) -> NameRecord:
        """Return the newest record of a name: of what was seen before, and what the DHT has now.

        Raises:
            NameNotFound: neither has one.
        """
        for value in await self._look_up(name.dht_key, name.signer):
            try:
                record = NameRecord.decode(value)
            except (CodecError, IntegrityError, TypeError) as error:
                logger.info("a record of %s is none: %s", name, error)
                continue
            if record.name == name:
                await trio.to_thread.run_sync(self.names.offer, record)
        found = await trio.to_thread.run_sync(self.names.newest, name)
        if found is None:
            raise NameNotFound(f"nobody has a record of {name}")
        return found

    async def latest(
        self, name: Name, rule: Rule | None, known: Sequence[PeerInfo] = ()
    ) -> SignedManifest:
        """Return the newest version of a name; with a rule, the newest that is approved.

        Raises:
            NameNotFound: nobody has a record of the name.
            NotApproved: none of the last versions is approved.
        """
        record = await self.newest(name)
        cid: CID | None = record.manifest
        for _ in range(MAX_APPROVAL_STEPS):
            if cid is None:
                break
            signed = await self.manifest(cid, known)
            if Name(signed.signer, signed.manifest.name) != name:
                if cid != record.manifest:
                    break  # the first version was made from another model
                raise ManifestError(f"{cid} is no version of {name}", cid=cid)
            if rule is None or await self.approved(signed, rule):
                return signed
            cid = signed.manifest.parent
        raise NotApproved(f"no version of {name} is approved by {rule}")

    async def announce(self, record: NameRecord) -> None:
        """Have the DHT keep the record of a name: again and again, until somebody does."""
        await self._tell(record.name.dht_key, record.encoded)

    async def announce_statements(self, cid: CID) -> None:
        """Have the DHT keep what this node says of a manifest."""
        mine = [
            one.encoded
            for one in await trio.to_thread.run_sync(self.names.statements, cid)
            if one.signer == self._identity.peer_id
        ]
        await self._tell(statements_key(cid), list(mine))

    async def announce_own(self) -> None:
        """Have the DHT keep the records of all names of this node, as after a restart."""
        for record in await trio.to_thread.run_sync(self.names.own):
            await self.announce(record)

    async def _tell(self, key: str, value: Any) -> None:
        for pause in (*RETRY_S, math.inf):
            try:
                await self._dht.put(key, value, ttl=RECORD_TTL_S)
            except LatticaError as error:
                logger.info("the DHT does not keep %s yet: %s", key, error)
            else:
                return
            await trio.sleep(pause)

    async def _look_up(self, key: str, author: PeerId | None = None) -> list[Any]:
        """Return the values under a key of the DHT; none where it cannot be asked."""
        with trio.move_on_after(LOOKUP_S):
            try:
                found = await self._dht.get(key, author=author)
            except LatticaError as error:
                logger.info("looking for %s: %s", key, error)
            else:
                return [entry.value for entry in found.entries]
        return []


def _newest(found: dict[tuple[PeerId, Verdict], Statement], one: Statement) -> None:
    key = (one.signer, one.verdict)
    if key not in found or found[key].created < one.created:
        found[key] = one


def _file_name(manifest: Manifest) -> str:
    return f"{manifest.name.replace('/', '-')}-v{manifest.version}"
