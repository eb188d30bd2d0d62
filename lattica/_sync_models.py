"""Models for programs that do not use Trio: the methods of `ModelCalls`, blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lattica._node_thread import NodeThread
from lattica._progress import shown
from lattica._sync_opened import BlockingObject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lattica._opened import OpenObject
    from lattica._publish import Ref
    from lattica._tensor_files import Choice
    from lattica.codec import Value
    from lattica.identity import PeerId
    from lattica.models import DeltaLink, Lineage, Name, Rule, SignedManifest, Verdict
    from lattica.node import AsyncNode
    from lattica.results import ProgressCallback, Published, Stated, TensorsFetched
    from lattica.transport import Multiaddr


class BlockingModelCalls(NodeThread):
    """The part of `Node` that is about models."""

    def publish(
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
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Published:
        """Publish a version of a model; see `AsyncNode.publish`."""
        with shown(progress, f"publish {name}") as callback:
            return self._call(
                lambda node: node.publish(
                    name,
                    source,
                    licence=licence,
                    message=message,
                    parent=parent,
                    base=base,
                    data=data,
                    recipe=recipe,
                    deltas=deltas,
                    meta=meta,
                    progress=callback,
                    timeout=timeout,
                )
            )

    def get_tensors(
        self,
        ref: Ref,
        destination: Path | str,
        *,
        choice: Choice | None = None,
        path: str = "",
        peers: Sequence[Multiaddr | str] = (),
        overwrite: bool = False,
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> TensorsFetched:
        """Fetch chosen tensors into a file of their own; see `AsyncNode.get_tensors`."""
        with shown(progress, "get tensors") as callback:
            return self._call(
                lambda node: node.get_tensors(
                    ref,
                    destination,
                    choice=choice,
                    path=path,
                    peers=peers,
                    overwrite=overwrite,
                    progress=callback,
                    timeout=timeout,
                )
            )

    def manifest(
        self, ref: Ref, *, peers: Sequence[Multiaddr | str] = (), timeout: float | None = None
    ) -> SignedManifest:
        """Fetch a manifest; see `AsyncNode.manifest`."""
        return self._call(lambda node: node.manifest(ref, peers=peers, timeout=timeout))

    def latest(
        self, name: Name | str, *, rule: Rule | None = None, timeout: float | None = None
    ) -> SignedManifest:
        """Return the manifest of the newest version of a name; see `AsyncNode.latest`."""
        return self._call(lambda node: node.latest(name, rule=rule, timeout=timeout))

    def open_latest(
        self,
        name: Name | str,
        *,
        rule: Rule | None = None,
        peers: Sequence[Multiaddr | str] = (),
    ) -> BlockingObject:
        """Open the newest version of a name; see `AsyncNode.open_latest`."""

        async def opening(node: AsyncNode) -> OpenObject:
            return await node.open_latest(name, rule=rule, peers=peers)

        return BlockingObject(self._call(opening), self._call_plain)

    def lineage(
        self, ref: Ref, *, peers: Sequence[Multiaddr | str] = (), timeout: float | None = None
    ) -> Lineage:
        """Walk from a manifest to what it was made from; see `AsyncNode.lineage`."""
        return self._call(lambda node: node.lineage(ref, peers=peers, timeout=timeout))

    def vouch(
        self,
        ref: Ref,
        verdict: Verdict | None = None,
        *,
        peers: Sequence[Multiaddr | str] = (),
        timeout: float | None = None,
    ) -> Stated:
        """Say something of a manifest, signed (to approve, by default); see `AsyncNode.vouch`."""
        said = () if verdict is None else (verdict,)
        return self._call(lambda node: node.vouch(ref, *said, peers=peers, timeout=timeout))

    def statements(self, ref: Ref, *, timeout: float | None = None) -> list[Stated]:
        """Return what people said of a manifest; see `AsyncNode.statements`."""
        return self._call(lambda node: node.statements(ref, timeout=timeout))

    def is_approved(self, signed: SignedManifest, rule: Rule) -> bool:
        """Say whether enough of the approvers of a rule approve of a version."""
        return self._call(lambda node: node.is_approved(signed, rule))

    def approving(self, signed: SignedManifest, rule: Rule) -> frozenset[PeerId]:
        """Return which of the approvers of a rule approve of a version."""
        return self._call(lambda node: node.approving(signed, rule))

    def trusted(self) -> dict[PeerId, str]:
        """Return the keys that the user trusts, with their notes."""
        return self._call(lambda node: node.trusted())

    def trust(self, peer: PeerId, note: str = "") -> bool:
        """Trust a key from now on; False where it was trusted."""
        return self._call(lambda node: node.trust(peer, note))

    def distrust(self, peer: PeerId) -> bool:
        """Trust a key no longer; False where it was not trusted."""
        return self._call(lambda node: node.distrust(peer))
