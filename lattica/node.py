"""The node: everything below, wired. `async with lattica.open_node() as node`.

A node owns a home (key, store), listens, joins the DHT through its bootstrap peers, serves what it
shares, and offers the control socket by which commands use it. The methods hold no protocol; they
name the parts that do, in the order in which the data flows:

    share   models cuts the file > content hashes it > the store keeps the index > the DHT is told
    get     ticket or CID > peers from the ticket and the DHT > exchange fetches > the DHT is told

Share, get, verify and ping take `timeout` in seconds (DeadlineExceeded). All may be cancelled: a
share then is not shared, and a get leaves a part file that the next get of the same object resumes.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica import _requests, config
from lattica._catalog import Catalog
from lattica._control_server import open_control
from lattica._cutting import cutting
from lattica._deadline import deadline
from lattica._deltas import Deltas, DeltaUse, ways_to
from lattica._finding import ObjectNotHere as ObjectNotHere
from lattica._following import Following
from lattica._home import open_home
from lattica._listen import default_addresses, remember
from lattica._mdns import open_mdns
from lattica._models import ModelCalls
from lattica._nursery import private_nursery
from lattica._origins import check_public, open_origins
from lattica._private import is_found_locally, open_keys, open_psk, private_dht, under_psk
from lattica._providing import Providing
from lattica._read_calls import TooManyOpen as TooManyOpen
from lattica._reference import destination_of, is_name, read_reference, source_of
from lattica._report import FetchReporter, reporter
from lattica._sealed import get_sealed, recipients_of, share_sealed
from lattica._store_calls import StoreCalls
from lattica._swarm import Swarms
from lattica.cid import CID, HashFunction
from lattica.content import (
    Compress,
    ExchangeLimits,
    ObjectState,
    Selection,
    Store,
    Symlinks,
    build_in_thread,
    open_exchange,
)
from lattica.dht import open_dht
from lattica.errors import InvalidInput
from lattica.identity import Identity, PeerId
from lattica.models import NameStore, cut_file
from lattica.pubsub import open_pubsub
from lattica.results import Fetched, Peer, Phase, Pong, Share, Source, Status
from lattica.ticket import Ticket, fitting, is_plain_name
from lattica.transport import Multiaddr, PeerInfo, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from lattica import content
    from lattica._control_server import ControlServer
    from lattica._home import Home
    from lattica.codec import Value
    from lattica.content import Exchange, FetchEvent, Origin, StoredObject
    from lattica.dht import Dht, Rules
    from lattica.models import DeltaLink, Rule
    from lattica.private_swarm import SwarmKeyFile
    from lattica.pubsub import Pubsub, Subscription
    from lattica.results import Announcement, ProgressCallback
    from lattica.transport import Connection, Mesh, Transport

logger = logging.getLogger(__name__)

VERSION = version("lattica-mesh")
_EVERYTHING = Selection()
_DELTA_PATIENCE_S = 5.0  # without anyone who has a delta; then another way is taken


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


class AsyncNode(ModelCalls, StoreCalls):
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
        return Status(self.id, tuple(self.addresses), self.home, VERSION, connections, uptime)

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

    # content

    async def share(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        hash_function: HashFunction = HashFunction.BLAKE3,
        follow_symlinks: bool = False,
        symlinks: str = "refuse",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origin: str | None = None,
        chunk: str | None = None,
        base: Path | str | None = None,
        encrypt_to: Sequence[PeerId | str] = (),
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Share:
        """Share a file or directory in place: hash it, serve it, tell the DHT.

        Nothing is copied. When a file changes, the node stops serving what no longer matches.

        Args:
            path: what to share.
            name: what others call it.
            hash_function: of every leaf and index block.
            follow_symlinks: the same as `symlinks="follow"`.
            symlinks: of a directory: `refuse` them, `follow` those to files and share these in
                their place, as Hugging Face's cache has them, or `skip` them.
            include: patterns for paths in a directory, as `*.json`; only matching files are shared.
            exclude: matching files are not.
            origin: where else it lies, an http or https address; the ticket names it to those who
                allow that (see `get`).
            chunk: how files that are no checkpoints are cut: `cdc`, at places that their content
                chooses, so that versions of a file share what is equal in them wherever it moves;
                or a size of leaves like `1M`.
            base: an older version of a safetensors file. The delta from it is made and shared as
                well, and named in the ticket: who holds that version gets this one by it.
            encrypt_to: peer IDs of those who may read it: what is shared then is a sealed copy, in
                the store, that others store and serve without reading it. `name` is sealed, too.
            progress: called with `Progress` a few times a second.
            timeout: seconds for the hashing.

        Raises:
            InvalidInput: there is nothing at `path` to share, or the key of this node, or a name
                that could be misread elsewhere.
            SourceChanged: it changed while it was hashed.
        """
        more: dict[str, Value] = {} if origin is None else {"origin": check_public(origin)}
        if encrypt_to:
            others = (follow_symlinks, symlinks != "refuse", include, exclude, origin, chunk, base)
            if any(others):
                raise InvalidInput("what is sealed is sealed whole", hint="leave other options out")
            return await share_sealed(
                self, path, recipients_of(encrypt_to), name, hash_function, progress, timeout
            )
        policy = Symlinks.FOLLOW if follow_symlinks else Symlinks.of(symlinks)
        selection = Selection(tuple(include), tuple(exclude))
        with deadline(timeout, f"share {path}"):
            started = trio.current_time()
            path, total = await trio.to_thread.run_sync(
                partial(
                    source_of,
                    path,
                    self._home.key,
                    follow_symlinks=policy is Symlinks.FOLLOW,
                    takes=selection.takes,
                )
            )
            built = await build_in_thread(
                path,
                segments=await trio.to_thread.run_sync(cutting, chunk),
                hash_function=hash_function,
                symlinks=policy,
                selection=selection,
                progress=reporter(progress, Phase.HASH, total),
            )
            stored = await trio.to_thread.run_sync(partial(self.store.add, built, name=name))
            if base is not None:
                await self._deltas.share(base, stored)
            deltas = await self._deltas.links_to(stored.root)
            seconds = trio.current_time() - started
        await self._provide()
        await self._swarms.announce(stored)
        return Share(
            cid=stored.root,
            ticket=self.ticket(stored, more, deltas),
            name=stored.name,
            path=stored.path,
            kind=stored.kind,
            size=stored.size,
            segments=sum(len(file.segments) for file in built.files),
            seconds=seconds,
        )

    def ticket(
        self,
        stored: StoredObject,
        more: Mapping[str, Value] | None = None,
        deltas: Sequence[DeltaLink] = (),
    ) -> Ticket:
        """Return the ticket by which others get an object from this node.

        `more`: further options of it, as `origin`. `deltas` that lead to it are named as far as
        there is room.
        """
        options: dict[str, Value] = {"size": stored.size, **(more or {})}
        if self.swarm is not None:
            options["swarm"] = self.swarm
        if is_plain_name(stored.name):
            options["name"] = stored.name
        return fitting(stored.root, self.id, self.mesh.addresses, options, deltas)

    async def get(
        self,
        ref: Ticket | CID | str,
        destination: Path | str | None = None,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origins: Sequence[str] = (),
        use_origin: bool = False,
        base: Path | str | None = None,
        rule: Rule | None = None,
        overwrite: bool = False,
        unseal: bool | None = None,
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object, verified leaf by leaf, into `destination`; from then on, serve it.

        Cancelled or failed, a part file stays beside `destination`; the same call resumes it.

        Args:
            ref: a ticket or a CID.
            destination: the file or directory to make; an existing directory gets it inside.
                Default: the current directory, under the name that the ticket or an announcement
                gives, else its CID.
            peers: addresses of peers to ask beside those that are found.
            include: patterns for paths in a directory, as `*.json`; only matching files are
                fetched. What arrives is an object of its own, see `Fetched.part_of`.
            exclude: matching files are not fetched.
            origins: where it lies besides, to be read while no peer serves it: paths (files,
                directories, or repositories in Hugging Face's cache) and http or https addresses.
            use_origin: read the origin that the ticket names, too. Who wrote the ticket then makes
                this node ask a server of their choice, one on the local network perhaps.
            base: an older version, or a folder of them, beside those that this node holds: where
                the ticket names a delta from one, and that costs least, only the delta travels.
            rule: take only what it says enough people approve of: of a name the newest version that
                they do, of a manifest that or nothing.
            overwrite: replace what stands at `destination`.
            unseal: open what was sealed for this node while it comes, and keep no sealed copy;
                False takes it as it is, for others. Default: what the ticket says.
            progress: called with `Progress` a few times a second.
            timeout: seconds for all of it.

        Raises:
            NoProvider: nobody was found who has it.
            Unreachable: those found could not be reached, or were lost.
            IntegrityError: only peers that sent wrong bytes are left to ask.
            InvalidInput: `ref` is neither, or something else stands at `destination`.
            NotARecipient: it is sealed to others, and was to be opened; none of it was fetched.
            NotApproved: too few approve of it.
        """
        ticket = None if is_name(ref) else read_reference(ref)[1]
        if unseal or (unseal is None and ticket is not None and ticket.sealed):
            if include or exclude:
                raise InvalidInput("what is sealed is opened whole", hint="leave the patterns out")
            return await get_sealed(self, ref, destination, peers, overwrite, progress, timeout)
        return await self._obtain(
            ref,
            partial(destination_of, destination),
            peers=peers,
            overwrite=overwrite,
            progress=progress,
            timeout=timeout,
            selection=Selection(tuple(include), tuple(exclude)),
            origins=origins,
            use_origin=use_origin or self._use_origin,
            base=base,
            rule=rule,
        )

    async def cache(
        self,
        ref: Ticket | CID | str,
        *,
        pin: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object for the store to keep and serve, as long as its quota allows.

        What is here already stays where it is; what of it is damaged is mended.

        Args:
            ref: a ticket or a CID.
            pin: keep it when others need the room.
            peers: as `get`.
            progress: as `get`.
            timeout: as `get`.

        Raises:
            QuotaExceeded: what is pinned, or being fetched, leaves too little room.
            Else as `get`.
        """
        return await self._obtain(
            ref, None, peers=peers, pin=pin, progress=progress, timeout=timeout
        )

    async def _obtain(
        self,
        ref: Ticket | CID | str,
        place: Callable[[str], Path] | None,
        *,
        peers: Sequence[Multiaddr | str],
        progress: ProgressCallback | None,
        timeout: float | None,
        overwrite: bool = False,
        pin: bool = False,
        selection: Selection = _EVERYTHING,
        origins: Sequence[str] = (),
        use_origin: bool = False,
        base: Path | str | None = None,
        rule: Rule | None = None,
    ) -> Fetched:
        """Fetch to where `place` says an object of some name goes, or into the store."""
        report = FetchReporter(progress)
        with deadline(timeout, f"get {ref}", last_news=lambda: report.last_news):
            started = trio.current_time()
            ref, signed = await self._content_of(ref, peers, rule)
            cid, known = await self._known(ref, peers)
            _, ticket = read_reference(ref)
            name = ticket.name if ticket else None
            name = name or self._swarms.heard.name_of(cid) or str(cid)
            path = None if place is None else await trio.to_thread.run_sync(place, name)
            told = (ticket.origin,) if use_origin and ticket and ticket.origin else ()
            use = DeltaUse()
            if path is not None and not selection:
                files, links = ways_to(cid, ticket, signed)
                use = await self._deltas.take(
                    cid,
                    path,
                    files,
                    links,
                    base=base,
                    known=known,
                    overwrite=overwrite,
                    tell=report.tell,
                )
            async with open_origins([*origins, *told]) as opened:
                fetched = await self._fetch(
                    cid, path, name, known, report, overwrite, pin, selection, opened
                )
            seconds = trio.current_time() - started
        await self._provide()
        return Fetched(
            cid=fetched.stored.root,
            origin_bytes=fetched.origin_bytes,
            part_of=None if fetched.stored.root == cid else cid,
            path=fetched.stored.path,
            name=fetched.stored.name,
            kind=fetched.stored.kind,
            size=fetched.stored.size,
            received_bytes=fetched.received_bytes + use.received_bytes,
            seconds=seconds,
            sources=tuple(Source(peer, count) for peer, count in fetched.sources.items()),
            bad_leaves=len(fetched.bad_leaves),
            wire_bytes=fetched.wire_bytes + use.received_bytes,
            deltas=tuple(use.chain),
        )

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

    async def _fetch(
        self,
        cid: CID,
        path: Path | None,
        name: str,
        known: list[PeerInfo],
        report: FetchReporter,
        overwrite: bool,
        pin: bool,
        selection: Selection,
        origins: Sequence[Origin],
    ) -> content.Fetched:
        with self._explained():
            async with self._lookup(cid, report) as found:
                if path is None:
                    return await self.exchange.fetch_to_store(
                        cid, providers=known, more=found, name=name, pinned=pin, progress=report
                    )
                report.looking()
                return await self.exchange.fetch(
                    cid,
                    path,
                    providers=known,
                    more=found,
                    overwrite=overwrite,
                    name=path.name,
                    segments=cut_file,
                    selection=selection,
                    origins=origins,
                    progress=report,
                )
        raise AssertionError  # nothing in there swallows an error

    async def _fetch_delta(
        self,
        root: CID,
        name: str,
        known: Sequence[PeerInfo],
        progress: Callable[[FetchEvent], object],
    ) -> content.Fetched:
        async with self._lookup(root, FetchReporter(None)) as found:
            return await self.exchange.fetch_to_store(
                root,
                providers=known,
                more=found,
                name=name,
                patience=_DELTA_PATIENCE_S,
                progress=progress,
            )
        raise AssertionError  # nothing in there swallows an error


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
