"""The node: everything below, wired. `async with lattica.open_node() as node`.

A node owns a home (key, store), listens, joins the DHT through its bootstrap peers, serves what it
shares, and offers the control socket by which commands use it. Its methods hold no protocol; they
name the parts that do, in the order in which the data flows:

    share   models cuts the file > content hashes it > the store keeps the index > the DHT is told
    get     ticket or CID > peers from the ticket and the DHT > exchange fetches > the DHT is told

They stand in one file for each thing that a node does: `_share_calls`, `_get_calls`, `_read_calls`,
`_store_calls` and `_model_calls`; what is here opens the node, and says who it is.

Share, get, verify and ping take `timeout` in seconds (DeadlineExceeded). All may be cancelled: a
share then is not shared, and a get leaves a part file that the next get of the same object resumes.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import trio

from lattica import _requests, config
from lattica._catalog import Catalog
from lattica._control_server import open_control
from lattica._deadline import deadline
from lattica._deltas import Deltas
from lattica._finding import ObjectNotHere as ObjectNotHere
from lattica._following import Following
from lattica._get_calls import GetCalls
from lattica._home import open_home
from lattica._listen import default_addresses, remember
from lattica._mdns import open_mdns
from lattica._nursery import private_nursery
from lattica._private import is_found_locally, open_keys, open_psk, private_dht, under_psk
from lattica._providing import Providing
from lattica._read_calls import TooManyOpen as TooManyOpen
from lattica._store_calls import StoreCalls
from lattica._swarm import Swarms
from lattica._version import __version__
from lattica.content import (
    Compress,
    ExchangeLimits,
    ObjectState,
    Store,
    open_exchange,
)
from lattica.dht import open_dht
from lattica.identity import Identity, PeerId
from lattica.models import NameStore
from lattica.pubsub import open_pubsub
from lattica.results import Peer, Pong, Status
from lattica.transport import Multiaddr, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica._control_server import ControlServer
    from lattica._home import Home
    from lattica.content import Exchange, StoredObject
    from lattica.dht import Dht, Rules
    from lattica.private_swarm import SwarmKeyFile
    from lattica.pubsub import Pubsub, Subscription
    from lattica.results import Announcement
    from lattica.transport import Connection, Mesh, Transport


class NodeOptions(TypedDict, total=False):
    """The keyword arguments of `open_node`, for those who hand them on."""

    listen: Sequence[Multiaddr | str] | None
    announce: Sequence[Multiaddr | str] | None
    bootstrap: Sequence[Multiaddr | str] | None
    mdns: bool | None
    compress: str | None
    use_origin: bool | None
    quota: str | int | None
    max_up: str | float | None
    max_down: str | float | None
    transports: Sequence[Transport] | None
    dht_server: bool | None
    dht_protocol: str | None
    dht_namespaces: Mapping[str, Rules] | None
    swarm_key: Path | str | None


@asynccontextmanager
async def open_node(
    home: Path | str | None = None,
    *,
    listen: Sequence[Multiaddr | str] | None = None,
    announce: Sequence[Multiaddr | str] | None = None,
    bootstrap: Sequence[Multiaddr | str] | None = None,
    mdns: bool | None = None,
    compress: str | None = None,
    use_origin: bool | None = None,
    quota: str | int | None = None,
    max_up: str | float | None = None,
    max_down: str | float | None = None,
    transports: Sequence[Transport] | None = None,
    dht_server: bool | None = None,
    dht_protocol: str | None = None,
    dht_namespaces: Mapping[str, Rules] | None = None,
    swarm_key: Path | str | None = None,
) -> AsyncIterator[AsyncNode]:
    """Run a node until the block ends.

    What is None comes from the environment (`LATTICA_LISTEN`, …), else from `lattica.toml` in the
    home, else from the defaults: `lattica.config` says which settings there are.

    Args:
        home: the folder with the key and the store; made on first use. One node at a time.
        listen: addresses to listen on. Default: every interface, the port of last time.
        announce: addresses to tell others, instead of those found.
        bootstrap: addresses, with `/p2p/…`, of peers to join the network through.
        mdns: find peers on the local network.
        compress: leaves on the wire: `on`, `off`, or `auto`, where the link is slow enough.
        use_origin: read the origins that tickets name, see `AsyncNode.get`.
        quota: most bytes that the store keeps of its own, a number or a text like `50G`.
        max_up: content sent in a second, in all: bytes, or `5M`; "" is no limit. It counts leaves
            and index blocks as they travel; not DHT, gossip, calls, encryption.
        max_down: content asked for in a second, in all, before compression.
        transports: what links are made of; TCP by default, memory in tests.
        dht_server: answer the DHT's questions; False for a visit of a few seconds. None: unless it
            turns out that others cannot reach this node.
        dht_protocol: which DHT: nodes share peers and records with those of the same protocol ID.
        dht_namespaces: rules for values of yours in the DHT, see `lattica.dht.open_dht`.
        swarm_key: the key file of a private swarm: only its members are talked to. One of libp2p's
            own form lets go and js nodes with the same key take part. Default: `swarm.key` in the
            home, if it is there. On the local network such a node keeps quiet
            unless `mdns` is asked for.

    Raises:
        HomeInUse: another node runs on this home.
        SwarmKeyError: the swarm's key file is missing, damaged, or open to others.
        InvalidInput: a setting, an address or the key file is wrong, or a port is taken.
    """
    given: dict[str, config.Value | None] = {
        "home": None if home is None else str(home),
        "listen": _texts(listen),
        "announce": _texts(announce),
        "bootstrap": _texts(bootstrap),
        "mdns": mdns,
        "compress": compress,
        "use_origin": use_origin,
        "quota": None if quota is None else str(quota),
        "dht_protocol": dht_protocol,
        "swarm_key": None if swarm_key is None else str(swarm_key),
        "max_up": _rate_text(max_up),
        "max_down": _rate_text(max_down),
    }
    settings = config.load(os.environ, given, user_home=Path.home())
    bootstrap_peers = _addresses(settings.texts("bootstrap"))
    with open_home(settings.home) as owned:
        identity = await trio.to_thread.run_sync(Identity.load_or_create, owned.key)
        keys = await trio.to_thread.run_sync(open_keys, settings, owned)
        psk = await trio.to_thread.run_sync(open_psk, settings, owned)
        await trio.to_thread.run_sync(partial(shutil.rmtree, owned.sealing, ignore_errors=True))
        listening = _addresses(settings.texts("listen")) or default_addresses(owned)
        bound = config.parse_quota(settings.text("quota"))
        open_store = partial(Store.open, owned.store, quota=bound)
        with (
            await trio.to_thread.run_sync(open_store) as store,
            closing(NameStore(owned.names)) as names,
        ):
            async with (
                open_mesh(
                    identity,
                    listen=listening,
                    announce=_addresses(settings.texts("announce")),
                    transports=under_psk(transports, psk),
                    swarm=keys,
                ) as mesh,
                open_dht(
                    mesh,
                    protocol=private_dht(settings, keys),
                    server=dht_server,
                    bootstrap=bootstrap_peers,
                    contacts=owned.contacts,
                    namespaces=dht_namespaces,
                    database=owned.records if keys is None else owned.private_records,
                ) as dht,
                open_pubsub(mesh) as pubsub,
                open_exchange(
                    mesh,
                    store,
                    limits=_exchange_limits(settings),
                    compress=Compress(settings.text("compress")),
                ) as exchange,
                private_nursery() as nursery,
            ):
                remember(owned, mesh.listen_addresses)
                node = AsyncNode(owned, mesh, dht, pubsub, store, exchange, nursery, names, keys)
                node._use_origin = settings.flag("use_origin")
                await node._provide()
                async with AsyncExitStack() as more:
                    if dht_server:
                        nursery.start_soon(node._catalog.announce_own)
                    if is_found_locally(settings, private=keys is not None or psk is not None):
                        await more.enter_async_context(open_mdns(mesh))
                    handler = partial(_requests.handle, node)
                    node._control = await more.enter_async_context(
                        open_control(owned.control, handler)
                    )
                    yield node
                nursery.cancel_scope.cancel()


class AsyncNode(GetCalls, StoreCalls):
    """A running node. Made by `open_node`; lives as long as its block.

    Attributes:
        mesh: connections and streams.
        dht: who has what.
        pubsub: messages to everyone.
        store: what this node holds.
        exchange: the transfer of content.
        swarm: the fingerprint of the private swarm that this node is in; None in public.
    """

    def __init__(
        self,
        home: Home,
        mesh: Mesh,
        dht: Dht,
        pubsub: Pubsub,
        store: Store,
        exchange: Exchange,
        nursery: trio.Nursery,
        names: NameStore,
        keys: SwarmKeyFile | None = None,
    ) -> None:
        self.mesh, self.dht, self.pubsub = mesh, dht, pubsub
        self.store, self.exchange = store, exchange
        self.swarm = None if keys is None else keys.ring.fingerprint
        self._home = home
        self._swarms = Swarms(mesh.peer_id, pubsub, self._complete_objects, nursery)
        self._deltas = Deltas(store, self._fetch_delta, self._root_reader)
        self._nursery = nursery
        self._following = Following(pubsub, names)
        self._catalog = Catalog(mesh.identity, store, dht, names, home.trust, self._root_reader)
        self._providing = Providing(dht, store, exchange)
        self._use_origin = False
        self._started = trio.current_time()
        self._control: ControlServer

    # who and where

    @property
    def id(self) -> PeerId:
        """The name of this node."""
        return self.mesh.peer_id

    @property
    def home(self) -> Path:
        """The folder that this node owns."""
        return self._home.path

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where others reach this node, each ending in `/p2p/<id>`, best first."""
        return [address.with_peer(self.id) for address in self.mesh.addresses]

    def status(self) -> Status:
        """Say who this node is and how it does."""
        uptime = trio.current_time() - self._started
        connections = len(self.mesh.connections())
        return Status(self.id, tuple(self.addresses), self.home, __version__, connections, uptime)

    def peers(self) -> list[Peer]:
        """Return the connections, the oldest first."""
        now = trio.current_time()
        connections = sorted(self.mesh.connections(), key=lambda link: link.opened_at)
        return [
            Peer(
                peer=link.peer,
                address=link.remote_address,
                inbound=link.inbound,
                security=link.security,
                agent=self.mesh.book.agent(link.peer) or "",
                rtt_ms=None if link.rtt is None else link.rtt * 1000,
                connected_s=now - link.opened_at,
            )
            for link in connections
        ]

    async def ping(
        self, peer: PeerId | Multiaddr | str, *, count: int = 3, timeout: float | None = None
    ) -> Pong:
        """Measure `count` round trips to a peer, found by its ID or at an address.

        Raises:
            Unreachable: it cannot be connected to, or is not known.
        """
        with deadline(timeout, f"ping {peer}"):
            connection = await self._connect(peer)
            trips = [await self.mesh.ping(connection.peer) * 1000 for _ in range(count)]
            return Pong(connection.peer, connection.remote_address, tuple(trips))

    async def serve_forever(self) -> None:
        """Do nothing, while the node serves, until cancelled."""
        await trio.sleep_forever()

    async def wait_unused(self) -> None:
        """Wait until no command uses this node over its control socket."""
        await self._control.wait_idle()

    # messages

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a topic: `async with node.subscribe(t) as s: async for message in s`."""
        return self.pubsub.subscribe(topic)

    async def broadcast(self, topic: str, data: bytes) -> int:
        """Send a signed message to all who subscribe to `topic`; returns how many it goes to first.

        Raises:
            MessageTooLarge: share the data and publish its CID instead.
        """
        return await self.pubsub.publish(topic, data)

    async def join_swarm(self, name: str) -> None:
        """Announce what is shared to a swarm, and hear its announcements. Raises InvalidInput."""
        await self._swarms.join(name)

    def announcements(self) -> list[Announcement]:
        """Return what peers of the joined swarms announced, newest last."""
        return self._swarms.heard.all()

    # behind

    def _complete_objects(self) -> list[StoredObject]:
        """*Slow.* Return what is here whole, and as it was."""
        self.store.look()
        return [item for item in self.store.objects() if item.state is ObjectState.COMPLETE]

    async def _connect(self, peer: PeerId | Multiaddr | str) -> Connection:
        if isinstance(peer, Multiaddr) or (isinstance(peer, str) and peer.startswith("/")):
            address = Multiaddr.parse(str(peer))
            if address.peer_id is None:
                return await self.mesh.dial(address)
            return await self.mesh.connect(address.peer_id, [address.without_peer()])
        wanted = PeerId.parse(peer) if isinstance(peer, str) else peer
        connection = self.mesh.connected(wanted)
        if connection is not None:
            return connection
        info = await self.dht.find_peer(wanted)
        return await self.mesh.connect(wanted, info.addresses if info else ())


def _texts(addresses: Sequence[Multiaddr | str] | None) -> tuple[str, ...] | None:
    return None if addresses is None else tuple(str(address) for address in addresses)


def _exchange_limits(settings: config.Config) -> ExchangeLimits:
    return ExchangeLimits(
        max_up=settings.rate("max_up"),
        max_down=settings.rate("max_down"),
        max_up_per_peer=settings.rate("max_up_per_peer"),
        max_down_per_peer=settings.rate("max_down_per_peer"),
    )


def _rate_text(rate: str | float | None) -> str | None:
    return rate if rate is None or isinstance(rate, str) else f"{rate:.0f}"


def _addresses(texts: Iterable[str]) -> list[Multiaddr]:
    return [Multiaddr.parse(text) for text in texts]
