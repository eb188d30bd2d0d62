"""What commands may ask of a node about models: one entry each, as in `_requests`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from lattica._deadline import deadline
from lattica._tensor_files import Choice
from lattica.errors import InvalidInput
from lattica.identity import PeerId
from lattica.models import Rule, Verdict, parse_layers, parse_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lattica._params import Method, Params
    from lattica.models import SignedManifest, TensorInfo
    from lattica.node import AsyncNode
    from lattica.results import Json, ProgressCallback

TELL_S = 15.0  # for the DHT to hear of something, before the command ends without that


def choice_of(params: Mapping[str, Any]) -> Choice:
    """Return what is chosen, from parameters whose types were checked. Raises InvalidInput."""
    layers, rank = params.get("layers"), params.get("rank")
    return Choice(
        layers=None if layers is None else parse_layers(layers),
        include=tuple(params.get("include") or ()),
        exclude=tuple(params.get("exclude") or ()),
        rank=None if rank is None else parse_rank(rank),
        tensors=tuple(params.get("tensors") or ()),
    )


def _choice(params: Params) -> Choice:
    texts = {name: params.texts(name) for name in ("include", "exclude", "tensors")}
    return choice_of({name: params.get(name, str) for name in ("layers", "rank")} | texts)


def tensor_rows(tensors: Mapping[str, TensorInfo]) -> list[Json]:
    """Return tensors as commands print them."""
    return [
        {
            "name": one.name,
            "dtype": one.dtype,
            "shape": list(one.shape),
            "file": one.file,
            "offset": one.offset,
            "length": one.length,
            "cid": None if one.cid is None else str(one.cid),
        }
        for one in tensors.values()
    ]


async def _tensors(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    ref, inside, peers = params.need("ref", str), params.get("path", str), params.texts("peers")
    with deadline(params.get("timeout", float), f"the tensors of {ref}"):
        async with node.open(ref, inside or "", peers=peers) as m:
            return {"cid": str(m.root), "tensors": tensor_rows(m.tensors)}


async def _get_tensors(node: AsyncNode, params: Params, progress: ProgressCallback) -> Json:
    fetched = await node.get_tensors(
        params.need("ref", str),
        params.path("destination"),
        choice=_choice(params),
        path=params.get("path", str, ""),
        peers=params.texts("peers"),
        overwrite=params.get("overwrite", bool, False),
        progress=progress,
        timeout=params.get("timeout", float),
    )
    return fetched.to_json()


async def _publish(node: AsyncNode, params: Params, progress: ProgressCallback) -> Json:
    published = await node.publish(
        params.need("name", str),
        params.path("path"),
        licence=params.get("licence", str, ""),
        message=params.get("message", str, ""),
        parent=params.get("parent", str),
        base=params.texts("base"),
        data=params.texts("data"),
        recipe=params.texts("recipe"),
        progress=progress,
        timeout=params.get("timeout", float),
    )
    with trio.move_on_after(TELL_S):
        await node.tell_own_names()
    return published.to_json()


async def _manifest(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    signed = await node.manifest(
        params.need("ref", str), peers=params.texts("peers"), timeout=params.get("timeout", float)
    )
    said = await node.statements(str(signed.cid))
    trusted = await _trusted(node, params)
    shown = manifest_json(signed)
    shown["trusted"] = signed.signer in trusted
    shown["note"] = trusted.get(signed.signer, "")
    shown["statements"] = [one.to_json() | {"trusted": one.signer in trusted} for one in said]
    if (text := params.get("rule", str)) is not None:
        rule = Rule.parse(text, trusted)
        found = await node.approving(signed, rule)
        shown["rule"] = str(rule)
        shown["approved_by"] = sorted(str(peer) for peer in found)
        shown["approved"] = len(found) >= rule.needed
    held = node.store.object(signed.manifest.root)
    shown["here"] = held is not None
    return shown


async def rule_in(node: AsyncNode, params: Params) -> Rule | None:
    """Return the rule that a command names, over the keys that it or the user trusts."""
    text = params.get("rule", str)
    return None if text is None else Rule.parse(text, await _trusted(node, params))


async def _trusted(node: AsyncNode, params: Params) -> dict[PeerId, str]:
    only = params.get("only", bool)  # those that the command names, and nobody else
    notes = await node.trusted()
    named = dict.fromkeys(_peer_ids(params.texts("trust")), "")
    return {peer: notes.get(peer, "") for peer in ({} if only else notes) | named}


def manifest_json(signed: SignedManifest) -> dict[str, Any]:
    """Return a manifest as commands print it."""
    found = signed.manifest
    return {
        "cid": str(signed.cid),
        "signer": str(signed.signer),
        "name": found.name,
        "version": found.version,
        "created": found.created,
        "root": str(found.root),
        "size": found.size,
        "files": [{"path": f.path, "size": f.size, "cid": str(f.root)} for f in found.files],
        "tensors": None if found.tensors is None else str(found.tensors),
        "licence": found.licence,
        "message": found.message,
        "links": [{"kind": how, "cid": str(cid)} for how, cid in found.links()],
        "deltas": [
            {"base": str(d.base), "result": str(d.result), "delta": str(d.delta), "size": d.size}
            for d in found.deltas
        ],
        "meta": _json(found.meta),
    }


async def _vouch(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    verdict = params.get("verdict", str, "approve")
    try:
        meant = Verdict(verdict)
    except ValueError:
        raise InvalidInput(f"verdict {verdict!r}, expected sign, approve or revoke") from None
    ref, timeout = params.need("ref", str), params.get("timeout", float)
    stated = await node.vouch(ref, meant, peers=params.texts("peers"), timeout=timeout)
    with trio.move_on_after(TELL_S) as scope:
        await node.tell_statements(stated.manifest)
    return stated.to_json() | {"told": not scope.cancelled_caught}


async def _lineage(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    ref, timeout = params.need("ref", str), params.get("timeout", float)
    found = await node.lineage(ref, peers=params.texts("peers"), timeout=timeout)
    trusted = await node.trusted()
    lines: list[Json] = []
    for depth, how, one, again in found.lines():
        line: dict[str, Json] = {
            "depth": depth,
            "kind": how,
            "cid": str(one.cid),
            "state": one.state,
            "again": again,
        }
        if one.signed is not None:
            line |= {
                "name": one.signed.manifest.name,
                "version": one.signed.manifest.version,
                "licence": one.signed.manifest.licence,
                "signer": str(one.signed.signer),
                "trusted": one.signed.signer in trusted,
            }
        lines.append(line)
    return {"cid": str(found.first), "complete": found.complete, "lines": lines, "dot": found.dot()}


def _peer_ids(texts: list[str]) -> list[PeerId]:
    return [PeerId.parse(text) for text in texts]


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


MODEL_METHODS: dict[str, Method] = {
    "tensors": _tensors,
    "get_tensors": _get_tensors,
    "publish": _publish,
    "manifest": _manifest,
    "vouch": _vouch,
    "lineage": _lineage,
}
