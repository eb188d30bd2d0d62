"""What a node does with models: publish them, vouch for them, find the newest, and where from."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from lattica._catalog import NotApproved
from lattica._deadline import deadline
from lattica._deltas import ways_to
from lattica._opened import Opening, look_inside
from lattica._publish import cid_of, keep_state, make_manifest, publish_name, version_before
from lattica._read_calls import ReadCalls
from lattica._reference import in_short, is_name, read_reference
from lattica._share_calls import ShareCalls
from lattica._tensor_files import Choice
from lattica.cid import CID, Codec
from lattica.errors import InvalidInput
from lattica.models import Name, Rule, Verdict, check_name
from lattica.results import Published, Stated
from lattica.ticket import Ticket, fitting, is_plain_name
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica._catalog import Catalog
    from lattica._following import Following, Versions
    from lattica._opened import OpenObject
    from lattica._publish import Ref
    from lattica.codec import Value
    from lattica.identity import PeerId
    from lattica.models import DeltaLink, Lineage, SignedManifest
    from lattica.results import ProgressCallback, TensorsFetched
    from lattica.transport import Multiaddr


class ModelCalls(ReadCalls, ShareCalls):
    """The part of `AsyncNode` that is about models."""

    _catalog: Catalog
    _following: Following

    async def publish(
        self,
        name: str,
        source: Mapping[str, Any] | Path | str,
        *,
        licence: str = "",
        message: str = "",
        parent: Ref | None = None,
        base: Sequence[Ref] = (),
        data: Sequence[Ref] = (),
        recipe: Sequence[Ref] = (),
        deltas: Sequence[DeltaLink] = (),
        meta: Mapping[str, Value] | None = None,
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Published:
        """Publish a version of a model: share it, sign its manifest, make it the newest of `name`.

        Others get it by the ticket, or by the name `<id of this node>/<name>`. Who follows that is
        told at once, the DHT in the background.

        Args:
            name: what you call the model: `team/model`.
            source: tensors by name, which are kept in the store; or a path, shared in place.
            licence: an SPDX expression, or text.
            message: what changed, for people.
            parent: the version before; this node's newest of that name where left out.
            base: models that it was made from: versions, tickets or CIDs, of manifests or content.
            data: data sets that it was trained on, as `base`.
            recipe: how it was made, as `base`.
            deltas: ways to it from other versions.
            meta: whatever else: numbers, text, lists and maps.
            progress: called with `Progress` while a path is hashed.
            timeout: seconds for all of it.

        Raises:
            InvalidInput: a name, field or tensor that readers would refuse.
        """
        with deadline(timeout, f"publish {name}"):
            if isinstance(source, (bytes, bytearray)):
                raise InvalidInput("a model is tensors or a path", hint="messages: `broadcast`")
            before = await version_before(
                self._catalog,
                Name(self.mesh.peer_id, check_name(name)),
                None if parent is None else cid_of(parent),
            )
            if hasattr(source, "keys"):
                stored = await keep_state(self.store, name, source)  # type: ignore[arg-type]  # a map
            else:
                share = await self.share(source, progress=progress)
                stored = self._held(share.cid)
            signed, wire_bytes = await make_manifest(
                self._catalog,
                self.exchange,
                stored,
                name=name,
                before=before,
                licence=licence,
                message=message,
                base=base,
                data=data,
                recipe=recipe,
                deltas=deltas,
                between=self._deltas.between,
                meta=meta or {},
            )
            record = await publish_name(self._catalog, self.mesh.identity, signed)
        await self._provide()
        self._nursery.start_soon(self._catalog.announce, record)
        await self._following.tell(record)
        return Published(
            cid=signed.cid,
            ticket=self._manifest_ticket(signed),
            name=name,
            version=signed.manifest.version,
            root=stored.root,
            full_bytes=stored.size,
            wire_bytes=wire_bytes,
        )

    async def get_tensors(
        self,
        ref: Ref,
        destination: Path | str,
        *,
        choice: Choice | None = None,
        path: str = "",
        peers: Sequence[Multiaddr | str] = (),
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> TensorsFetched:
        """Fetch chosen tensors of a checkpoint into a safetensors file of their own.

        Args:
            ref: a ticket, a CID, or a name.
            destination: the file to make.
            choice: which tensors, and which parts of them; all where left out.
            path: which file or folder, when the object is a directory.
            peers: addresses of peers to ask beside those that are found.
            overwrite: replace what stands at `destination`.
            progress: called with `Progress` a few times a second.
            timeout: seconds for all of it.

        Raises:
            NoTensors: it is no checkpoint.
            InvalidInput: a choice that is none; something stands at `destination`.
        """
        with deadline(timeout, f"get tensors of {ref}"):
            async with Opening(self._opened(ref, path, peers), self._keep_open) as model:
                return await model.write(
                    Path(destination), choice or Choice(), overwrite=overwrite, progress=progress
                )

    async def manifest(
        self,
        ref: Ref,
        *,
        peers: Sequence[Multiaddr | str] = (),
        timeout: float | None = None,
    ) -> SignedManifest:
        """Fetch a manifest: by its ticket or CID, or the newest one by its name.

        Raises:
            NotAManifest: `ref` names content.
            BadSignature: its signer did not sign it.
            NoProvider, Unreachable, NameNotFound: it was not found.
        """
        with deadline(timeout, f"manifest {in_short(ref)}"):
            cid, known = await self._manifest_ref(ref, peers)
            return await self._catalog.manifest(cid, known)

    def open_latest(
        self,
        name: Name | str,
        *,
        rule: Rule | None = None,
        peers: Sequence[Multiaddr | str] = (),
    ) -> Opening:
        """Open the newest version of a name; with a rule, the newest that is approved.

        Raises:
            NameNotFound: nobody has a record of the name.
            NotApproved: none of the last versions is approved by the rule.
        """
        wanted = Name.parse(name) if isinstance(name, str) else name
        return Opening(self._opened(_Newest(wanted, rule), "", peers), self._keep_open)

    def follow(self, name: Name | str) -> AbstractAsyncContextManager[Versions]:
        """Hear of new versions as they are published, from peers that follow the name, too.

        `async with node.follow(name) as versions: async for record in versions`: each record has
        the `manifest` of a newer version than was seen before, and `open_latest` knows it.

        Raises:
            InvalidInput: no name, or as many are followed as one node may.
        """
        return self._following.follow(Name.parse(name) if isinstance(name, str) else name)

    async def latest(
        self, name: Name | str, *, rule: Rule | None = None, timeout: float | None = None
    ) -> SignedManifest:
        """Return the manifest of the newest version of a name; see `open_latest`."""
        wanted = Name.parse(name) if isinstance(name, str) else name
        with deadline(timeout, f"the newest of {wanted}"):
            return await self._catalog.latest(wanted, rule, [PeerInfo(wanted.signer, ())])

    async def lineage(
        self,
        ref: Ref,
        *,
        peers: Sequence[Multiaddr | str] = (),
        timeout: float | None = None,
    ) -> Lineage:
        """Walk from a manifest to what it was made from, as far as that is found; bounded."""
        with deadline(timeout, f"lineage {in_short(ref)}"):
            cid, known = await self._manifest_ref(ref, peers)
            return await self._catalog.lineage(cid, known)

    async def vouch(
        self,
        ref: Ref,
        verdict: Verdict = Verdict.APPROVE,
        *,
        peers: Sequence[Multiaddr | str] = (),
        timeout: float | None = None,
    ) -> Stated:
        """Say of a manifest, signed by this node, that it is true, may be used, or must not be.

        The DHT is told in the background.
        """
        signed = await self.manifest(ref, peers=peers, timeout=timeout)
        made = await self._catalog.state(signed.cid, verdict)
        self._nursery.start_soon(self._catalog.announce_statements, signed.cid)
        return Stated(made.manifest, made.verdict.value, made.signer, made.created, True)

    async def statements(self, ref: Ref, *, timeout: float | None = None) -> list[Stated]:
        """Return what people said of a manifest, oldest first."""
        with deadline(timeout, f"statements about {ref}"):
            cid, _ = await self._manifest_ref(ref, ())
            trusted = await self.trusted()
            return [
                Stated(cid, one.verdict.value, one.signer, one.created, one.signer in trusted)
                for one in await self._catalog.statements(cid)
            ]

    async def approving(self, signed: SignedManifest, rule: Rule) -> frozenset[PeerId]:
        """Return which of the approvers of a rule approve of a version."""
        return await self._catalog.approving(signed, rule)

    async def tell_own_names(self) -> None:
        """Wait until the DHT keeps the records of this node's names."""
        await self._catalog.announce_own()

    async def tell_statements(self, cid: CID) -> None:
        """Wait until the DHT keeps what this node says of a manifest."""
        await self._catalog.announce_statements(cid)

    async def is_approved(self, signed: SignedManifest, rule: Rule) -> bool:
        """Say whether enough of the approvers of a rule approve of a version."""
        return await self._catalog.approved(signed, rule)

    async def trusted(self) -> dict[PeerId, str]:
        """Return the keys that the user trusts, with their notes; this node's own is among them."""
        return await trio.to_thread.run_sync(self._catalog.trusted)

    async def trust(self, peer: PeerId, note: str = "") -> bool:
        """Trust a key from now on; False where it was trusted."""
        return await trio.to_thread.run_sync(self._catalog.trust, peer, note)

    async def distrust(self, peer: PeerId) -> bool:
        """Trust a key no longer; False where it was not trusted."""
        return await trio.to_thread.run_sync(self._catalog.distrust, peer)

    # behind

    @asynccontextmanager
    async def _opened(
        self, ref: Any, path: str, peers: Sequence[Multiaddr | str]
    ) -> AsyncIterator[OpenObject]:
        content, signed = await self._content_of(ref, peers)
        _, ticket = read_reference(content)
        cid, known = await self._known(content, peers)
        if ticket is not None and ticket.sealed:
            raise InvalidInput(
                f"{cid} is sealed: it cannot be opened where it is",
                hint="get it and open the file; `read` gives ranges of it",
            )
        async with self._root_reader(cid, known, path) as reader:
            # The name that a manifest gives is its publisher's word; what is in it shows itself.
            name = ticket.name if ticket is not None and signed is None else None
            opened = await look_inside(reader, path or name)
            _, deltas = ways_to(cid, ticket, signed)
            opened.comes_by(deltas, lambda delta: self._root_reader(delta, known))
            if signed is not None:
                opened.belongs_to(signed, self, peers)
            yield opened

    async def _manifest_ref(
        self, ref: Ref, peers: Sequence[Multiaddr | str]
    ) -> tuple[CID, list[PeerInfo]]:
        """Return which manifest `ref` names, and who is known to have it."""
        if isinstance(ref, Published):
            return ref.cid, []
        name = _name_in(ref)
        if name is not None:
            record = await self._catalog.newest(name)
            return record.manifest, [PeerInfo(name.signer, ())]
        return await self._known(ref, peers)

    async def _content_of(
        self, ref: Any, peers: Sequence[Multiaddr | str], rule: Rule | None = None
    ) -> tuple[Ticket | CID | str, SignedManifest | None]:
        """Return what `ref` names as content; where it names a manifest, that, too.

        Raises:
            NotApproved: there is no version that the rule approves of.
            InvalidInput: there is a rule, and `ref` is content, of which nobody says anything.
        """
        if rule is not None and (name := _name_in(ref)) is not None:
            ref = _Newest(name, rule)
        if isinstance(ref, _Newest):
            publisher = PeerInfo(ref.name.signer, ())
            signed = await self._catalog.latest(ref.name, ref.rule, [publisher])
            return self._content_ticket(signed, [publisher]), signed
        if isinstance(ref, Published):
            ref = ref.ticket
        if _name_in(ref) is None and read_reference(ref)[0].codec != Codec.MESSAGEPACK:
            if rule is not None:
                raise InvalidInput(
                    "a rule is for models, and this names content",
                    hint="pass a name, or the ticket that `lattica publish` printed",
                )
            return ref, None
        cid, known = await self._manifest_ref(ref, peers)
        signed = await self._catalog.manifest(cid, known)
        if rule is not None and not await self._catalog.approved(signed, rule):
            raise NotApproved(f"{cid} is not approved by {rule}", cid=cid)
        return self._content_ticket(signed, known), signed

    def _content_ticket(self, signed: SignedManifest, known: Sequence[PeerInfo]) -> Ticket | CID:
        """Return a ticket for the content of a manifest, from whoever had the manifest."""
        if not known:
            return signed.manifest.root
        options: dict[str, Value] = {} if self.swarm is None else {"swarm": self.swarm}
        if is_plain_name(name := _file_name(signed)):
            options["name"] = name
        return fitting(signed.manifest.root, known[0].peer, known[0].addresses, options)

    def _manifest_ticket(self, signed: SignedManifest) -> Ticket:
        options: dict[str, Value] = {"size": signed.manifest.size}
        if self.swarm is not None:
            options["swarm"] = self.swarm
        return fitting(signed.cid, self.mesh.peer_id, self.mesh.addresses, options)


class _Newest:
    """Stands for whatever is the newest of a name when it is opened."""

    def __init__(self, name: Name, rule: Rule | None) -> None:
        self.name, self.rule = name, rule


def _name_in(ref: object) -> Name | None:
    """Return the name that a text is; None where it is a ticket or CID."""
    return Name.parse(ref.strip()) if isinstance(ref, str) and is_name(ref) else None


def _file_name(signed: SignedManifest) -> str:
    """Return what the content of a manifest is called where it is fetched to."""
    name, files = signed.manifest.name.rpartition("/")[2], signed.manifest.files
    is_file = len(files) == 1 and not files[0].path
    return f"{name}.safetensors" if is_file and signed.manifest.tensors else name
