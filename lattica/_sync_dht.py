"""The DHT for programs that do not use Trio: `node.dht` of a `lattica.Node`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from lattica._deadline import deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from lattica.codec import Value
    from lattica.dht import CrawlResult, DhtStatus, GetResult, PutResult
    from lattica.identity import PeerId
    from lattica.node import AsyncNode
    from lattica.transport import PeerInfo

_T = TypeVar("_T")
DAY_SECONDS = 86_400.0


class _Call(Protocol):
    def __call__(self, function: Callable[[AsyncNode], Awaitable[_T]]) -> _T: ...


class BlockingDht:
    """The methods of `lattica.dht.Dht`, each waiting for what comes of it.

    Those that ask the network take `timeout`, in seconds (DeadlineExceeded).
    """

    def __init__(self, call: _Call) -> None:
        self._call = call

    def put(
        self,
        key: str | bytes,
        value: Value,
        *,
        ttl: float = DAY_SECONDS,
        subkey: str | bytes = b"",
        timeout: float | None = None,
    ) -> PutResult:
        """Put a value under a key, signed by this node; see `Dht.put`."""
        return self._within(
            timeout, f"put {key!r}", lambda node: node.dht.put(key, value, ttl=ttl, subkey=subkey)
        )

    def get(
        self,
        key: str | bytes,
        *,
        subkey: str | bytes | None = None,
        author: PeerId | None = None,
        timeout: float | None = None,
    ) -> GetResult:
        """Return what stands under a key; see `Dht.get`."""
        return self._within(
            timeout, f"get {key!r}", lambda node: node.dht.get(key, subkey=subkey, author=author)
        )

    def get_many(
        self, keys: Iterable[str | bytes], *, timeout: float | None = None
    ) -> dict[str | bytes, GetResult]:
        """Get several keys at once."""
        return self._within(timeout, "get many keys", lambda node: node.dht.get_many(keys))

    def provide(self, multihash: bytes, *, timeout: float | None = None) -> int:
        """Announce that this node has `multihash`; see `Dht.provide`."""
        return self._within(timeout, "provide", lambda node: node.dht.provide(multihash))

    def find_providers(
        self, multihash: bytes, count: int = 20, *, timeout: float | None = None
    ) -> list[PeerInfo]:
        """Return up to `count` peers that provide `multihash`."""

        async def collect(node: AsyncNode) -> list[PeerInfo]:
            return [info async for info in node.dht.find_providers(multihash, count)]

        return self._within(timeout, "find providers", collect)

    def find_peer(self, peer: PeerId, *, timeout: float | None = None) -> PeerInfo | None:
        """Find where `peer` is; see `Dht.find_peer`."""
        return self._within(timeout, f"find {peer}", lambda node: node.dht.find_peer(peer))

    def crawl(self, *, most: int = 10_000, seconds: float = 120.0) -> CrawlResult:
        """Walk the whole DHT; see `Dht.crawl`."""
        return self._call(lambda node: node.dht.crawl(most=most, seconds=seconds))

    def status(self) -> DhtStatus:
        """Return what this node's part of the DHT looks like now."""

        async def look(node: AsyncNode) -> DhtStatus:
            return node.dht.status()

        return self._call(look)

    def _within(
        self, seconds: float | None, what: str, function: Callable[[AsyncNode], Awaitable[_T]]
    ) -> _T:
        async def call(node: AsyncNode) -> _T:
            with deadline(seconds, what):
                return await function(node)

        return self._call(call)
