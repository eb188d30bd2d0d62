"""What commands may ask of a node, over the control socket or of their own: one entry each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lattica._control import UnknownMethod
from lattica._dht_requests import DHT_METHODS
from lattica._model_requests import MODEL_METHODS, rule_in
from lattica._params import Params
from lattica.cid import HashFunction
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from lattica._control import Request
    from lattica._params import Method
    from lattica.node import AsyncNode
    from lattica.results import Json, ProgressCallback


MAX_PINGS = 1000
_HASHES = {"blake3": HashFunction.BLAKE3, "sha2-256": HashFunction.SHA2_256}


async def handle(node: AsyncNode, request: Request, progress: ProgressCallback) -> Json:
    """Carry out one request. Raises UnknownMethod, InvalidInput, and what the node raises."""
    method = METHODS.get(request.method)
    if method is None:
        raise UnknownMethod(f"the node cannot {request.method!r}")
    return await method(node, Params(request.params), progress)


async def _status(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    return node.status().to_json()


async def _share(node: AsyncNode, params: Params, progress: ProgressCallback) -> Json:
    hash_name = params.get("hash", str, "blake3")
    if hash_name not in _HASHES:
        raise InvalidInput(f"hash function {hash_name!r}, expected one of {', '.join(_HASHES)}")
    share = await node.share(
        params.path("path"),
        name=params.get("name", str),
        hash_function=_HASHES[hash_name],
        follow_symlinks=params.get("follow_symlinks", bool, False),
        symlinks=params.get("symlinks", str) or "refuse",
        origin=params.get("origin", str),
        include=params.texts("include"),
        base=params.path("base") if params.get("base", str) else None,
        exclude=params.texts("exclude"),
        chunk=params.get("chunk", str),
        encrypt_to=params.texts("encrypt_to"),
        progress=progress,
        timeout=params.get("timeout", float),
    )
    return share.to_json()


async def _get(node: AsyncNode, params: Params, progress: ProgressCallback) -> Json:
    fetched = await node.get(
        params.need("ref", str),
        params.path("destination"),
        peers=params.texts("peers"),
        include=params.texts("include"),
        base=params.path("base") if params.get("base", str) else None,
        exclude=params.texts("exclude"),
        origins=params.texts("origins"),
        use_origin=params.get("use_origin", bool, False),
        rule=await rule_in(node, params),
        overwrite=params.get("overwrite", bool, False),
        unseal=params.get("unseal", bool),
        progress=progress,
        timeout=params.get("timeout", float),
    )
    return fetched.to_json()


async def _cache(node: AsyncNode, params: Params, progress: ProgressCallback) -> Json:
    fetched = await node.cache(
        params.need("ref", str),
        pin=params.get("pin", bool, False),
        peers=params.texts("peers"),
        progress=progress,
        timeout=params.get("timeout", float),
    )
    return fetched.to_json()


async def _pin(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    await node.pin(params.need("ref", str))
    return {"ref": params.need("ref", str), "pinned": True}


async def _unpin(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    await node.unpin(params.need("ref", str))
    return {"ref": params.need("ref", str), "pinned": False}


async def _usage(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    return (await node.usage()).to_json()


async def _stat(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    found = await node.stat(
        params.need("ref", str),
        ask_peers=params.get("ask_peers", bool, False),
        timeout=params.get("timeout", float),
    )
    return found.to_json()


async def _collect(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    return (await node.collect_garbage()).to_json()


async def _preview(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    found = await node.preview(
        params.need("ref", str),
        peers=params.texts("peers"),
        include=params.texts("include"),
        exclude=params.texts("exclude"),
        timeout=params.get("timeout", float),
    )
    return found.to_json()


async def _read(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    read = await node.read_to(
        params.need("ref", str),
        params.need("offset", int),
        params.get("length", int),
        params.path("destination"),
        path=params.get("path", str, ""),
        peers=params.texts("peers"),
        overwrite=params.get("overwrite", bool, False),
        unseal=params.get("unseal", bool),
        timeout=params.get("timeout", float),
    )
    return read.to_json()


async def _peers(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    return [peer.to_json() for peer in node.peers()]


async def _ping(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    count = params.get("count", int, 3)
    if not 1 <= count <= MAX_PINGS:
        raise InvalidInput(f"{count} pings, expected 1 to {MAX_PINGS}")
    timeout = params.get("timeout", float)
    pong = await node.ping(params.need("peer", str), count=count, timeout=timeout)
    return pong.to_json()


async def _ls(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    # A store of thousands takes its time, which the connections must not wait for.
    def listing() -> Json:
        node.store.look()  # a file may have been moved, or written to, since it was read last
        return [item.to_json() for item in node.objects()]

    return await trio.to_thread.run_sync(listing)


async def _swarm(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    return [announcement.to_json() for announcement in node.announcements()]


async def _verify(node: AsyncNode, params: Params, progress: ProgressCallback) -> Json:
    found = await node.verify(
        params.need("ref", str),
        repair=params.get("repair", bool, False),
        peers=params.texts("peers"),
        progress=progress,
        timeout=params.get("timeout", float),
    )
    return found.to_json()


METHODS: dict[str, Method] = {
    **DHT_METHODS,
    **MODEL_METHODS,
    "status": _status,
    "share": _share,
    "get": _get,
    "cache": _cache,
    "pin": _pin,
    "unpin": _unpin,
    "usage": _usage,
    "stat": _stat,
    "collect": _collect,
    "preview": _preview,
    "read": _read,
    "peers": _peers,
    "ping": _ping,
    "ls": _ls,
    "swarm": _swarm,
    "verify": _verify,
}
