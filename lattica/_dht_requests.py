"""What `lattica dht` asks of a node: one entry for each of its commands."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from lattica._deadline import deadline
from lattica._sync_dht import DAY_SECONDS
from lattica.cid import CID
from lattica.errors import InvalidInput, NotFound
from lattica.identity import PeerId

if TYPE_CHECKING:
    from lattica._params import Method, Params
    from lattica.codec import Value
    from lattica.node import AsyncNode
    from lattica.results import Json, ProgressCallback

MAX_CRAWL_PEERS = 10_000


class NoProviderFound(NotFound):
    """Nobody who was asked knows a provider."""

    code = "no-provider"
    hint = "check the CID, and that a node which shares it is up and connected"


async def _put(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    with deadline(params.get("timeout", float), "put"):
        placed = await node.dht.put(
            params.need("key", str),
            _value(params),
            ttl=params.get("ttl", float, DAY_SECONDS),
            subkey=params.get("subkey", str, ""),
        )
    return placed.to_json()


async def _get(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    author = params.get("author", str)
    with deadline(params.get("timeout", float), "get"):
        found = await node.dht.get(
            params.need("key", str),
            subkey=params.get("subkey", str),
            author=None if author is None else PeerId.parse(author),
        )
    _ = found.newest  # raises where there is nothing
    return found.to_json()


async def _provide(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    cid = CID.parse(params.need("cid", str))
    with deadline(params.get("timeout", float), f"provide {cid}", cid):
        told = await node.dht.provide(cid.multihash)
    return {"cid": str(cid), "told": told}


async def _providers(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    cid = CID.parse(params.need("cid", str))
    count = params.get("count", int, 20)
    if not 1 <= count <= 1000:
        raise InvalidInput(f"{count} providers, expected 1 to 1000")
    search = node.dht.find_providers(cid.multihash, count)
    with deadline(params.get("timeout", float), f"providers of {cid}", cid):
        found = [info async for info in search]
    rows: list[Json] = [
        {"peer": str(info.peer), "addresses": [str(address) for address in info.addresses]}
        for info in found
    ]
    ours = node.dht.is_providing(cid.multihash)
    if not rows and not ours:
        raise NoProviderFound(f"no provider of {cid}: {search.report}", cid=cid)
    return {"cid": str(cid), "providers": rows, "this_node": ours}


async def _crawl(node: AsyncNode, params: Params, _progress: ProgressCallback) -> Json:
    most = params.get("most", int, MAX_CRAWL_PEERS)
    if not 1 <= most <= MAX_CRAWL_PEERS:
        raise InvalidInput(f"{most} peers, expected 1 to {MAX_CRAWL_PEERS}")
    seconds = params.get("timeout", float, 120.0)
    return (await node.dht.crawl(most=most, seconds=seconds)).to_json()


async def _status(node: AsyncNode, _params: Params, _progress: ProgressCallback) -> Json:
    return node.dht.status().to_json()


def _value(params: Params) -> Value:
    """A value is what JSON has, or bytes as `base64`."""
    encoded = params.get("base64", str)
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput("parameter 'base64' is not base64") from None
    if "value" not in params.values:
        raise InvalidInput("parameter 'value' is missing")
    value: Any = params.values["value"]
    return value  # type: ignore[no-any-return]  # it came as JSON; `put` says what is none of ours


DHT_METHODS: dict[str, Method] = {
    "dht_put": _put,
    "dht_get": _get,
    "dht_provide": _provide,
    "dht_providers": _providers,
    "dht_crawl": _crawl,
    "dht_status": _status,
}
