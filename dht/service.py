"""One node of the DHT: what programs ask of it, and what other peers do (spec/dht.md).

The rules live in pure modules: `_table` whom we know, `_lookup` whom to ask, `_providers` who has
what, `_answers` what we tell others, `_bootstrap` when to try again, `_mode` whether we serve,
`_contacts` who is remembered, `_messages` the wire. Values are the matter of `_records` (entries
and their signatures), `_namespaces` (which are valid), `_record_store` and `_keeper` (what we keep
for others), `_reading` (what answers say together) and `_clock` (what time it is).

The modules that wait are `_requests` and `_client` (asking peers), `_serving` (answering them),
`_role` (serving or not), `_announcer` (telling others what we have), `_upkeep` (keeping company),
`_search` (handing out what was found), `_values`, `_placing` and `_renewal` (putting, getting,
putting again), `_persist` (what outlives us) and this one, where they meet. All tasks run in one
nursery, which ends with the block of `open_dht`.
"""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from lattica._nursery import private_nursery
from lattica.errors import InvalidInput
from lattica.transport import PeerInfo

from ._announcer import Announcer
from ._answers import Responder
from ._client import Client
from ._clock import Clock
from ._contacts import ContactFile
from ._crawl import MAX_PEERS as MAX_CRAWLED
from ._crawler import crawl
from ._keeper import Keeper
from ._keys import InvalidKey, K
from ._messages import MAX_KEY, Message, MessageType
from ._namespaces import Namespaces, Rules
from ._persist import Persistence
from ._placing import Placer
from ._providers import ProviderStore, ProvideSchedule, check_multihash
from ._renewal import Renewal
from ._role import Role
from ._search import Findings, ProviderSearch, search_providers
from ._serving import MeshDirectory, Serving
from ._status import DhtStatus
from ._table import Contact, RoutingTable
from ._upkeep import Upkeep
from ._values import TTL, Values

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from lattica.codec import Value
    from lattica.identity import PeerId
    from lattica.transport import Mesh, Multiaddr

    from ._results import CrawlResult, GetResult, PutResult

DEFAULT_PROTOCOL = "/lattica/kad/1.0.0"


class Dht:
    """A node of the DHT. Made by `open_dht`; lives as long as its block.

    Each method that asks the network returns what could be found. That nobody answered is an
    empty result; the `report` of a search, and `status`, say why. Once the block of `open_dht` has
    been left, they raise trio.ClosedResourceError.
    """

    def __init__(
        self,
        mesh: Mesh,
        nursery: trio.Nursery,
        *,
        protocol: str,
        server: bool | None,
        bootstrap: Iterable[Multiaddr],
        contacts: Path | None,
        namespaces: Mapping[str, Rules],
        wall_clock: Callable[[], float],
        database: Path | None,
        rng: random.Random,
    ) -> None:
        self.protocol = protocol
        self._mesh, self._nursery, self._rng = mesh, nursery, rng
        self._table = RoutingTable(mesh.peer_id)
        self._store, self._schedule = ProviderStore(), ProvideSchedule()
        self._clock = Clock(wall_clock)
        self._keeper = Keeper(Namespaces(namespaces, scope=protocol))
        self._responder = Responder(
            table=self._table,
            store=self._store,
            schedule=self._schedule,
            directory=MeshDirectory(mesh),
            rng=rng,
            keeper=self._keeper,
        )
        self._serving = Serving(self._responder, self._clock)
        self._role = Role(mesh, protocol, fixed=server, serve=self._serving.serve)
        self._client = Client(
            mesh,
            self._table,
            protocol=protocol,
            clock=self._clock,
            tasks=nursery,
            on_met=self._on_met,
        )
        self._announcer = Announcer(mesh, self._client, self._schedule)
        self._closed = False
        self._upkeep = Upkeep(
            mesh,
            self._client,
            protocol=protocol,
            bootstrap=bootstrap,
            contacts=ContactFile(contacts, protocol=protocol, now=wall_clock()),
            clock=self._clock,
            rng=rng,
        )
        placer = Placer(
            mesh.peer_id, self._client, self._keeper, self._clock, server=lambda: self.server
        )
        self._renewal = Renewal(self._client, self._keeper, self._clock, placer, rng=rng)
        self._values = Values(
            mesh,
            self._client,
            self._keeper,
            self._clock,
            placer,
            self._renewal,
            server=lambda: self.server,
            first_contact=self._upkeep.first_contact,
            nursery=nursery,
        )
        self._persistence = None
        if database is not None:
            self._persistence = Persistence(
                database,
                held=self._keeper.store,
                own=self._renewal.own,
                providers=self._store,
                book=mesh.book,
                clock=self._clock,
            )

    @property
    def server(self) -> bool:
        """Whether we answer others, and so stand in their tables."""
        return self._role.is_server

    # What programs ask.

    async def wait_joined(self) -> None:
        """Wait until a lookup of ourselves has found our place among the others.

        With nobody to ask that may never be: put a deadline around it.
        """
        await self._upkeep.joined.wait()

    async def find_peer(self, peer: PeerId) -> PeerInfo | None:
        """Find where `peer` is. None: nobody we could ask knows.

        A peer that answers there is connected afterwards. Where none of its addresses works, what
        others say of them is returned all the same: some other way may lead to it.
        """
        self._check_open()
        if peer == self._mesh.peer_id:
            return PeerInfo(peer, tuple(self._mesh.addresses))
        connection = self._mesh.connected(peer)
        if connection is None:
            await self._upkeep.first_contact()
            lookup = self._client.new_lookup(peer.raw)
            await self._client.walk(
                lookup,
                Message(MessageType.FIND_NODE, peer.raw),
                enough=lambda: self._mesh.connected(peer) is not None,
            )
            connection = self._mesh.connected(peer)
            if connection is None:
                hearsay = lookup.addresses_of(peer)
                return PeerInfo(peer, hearsay) if hearsay else None
        # The address of a connection that the peer made is not one where it can be reached.
        known = () if connection.inbound else (connection.remote_address,)
        return self._client.info_of(peer, known)

    async def closest_peers(self, key: bytes, count: int = K) -> list[PeerInfo]:
        """Return the living peers nearest to `key`, nearest first; ourselves not included.

        Raises:
            InvalidKey: no key, or more than 1 024 bytes.
        """
        if not 1 <= len(key) <= MAX_KEY:
            raise InvalidKey(f"a key of {len(key)} bytes, expected 1 to {MAX_KEY}")
        self._check_open()
        await self._upkeep.first_contact()
        nearest = (await self._client.find_node(key)).closest()
        return [self._client.info_of(info.peer, info.addresses) for info in nearest[:count]]

    def find_providers(self, multihash: bytes, count: int = 20) -> ProviderSearch:
        """Search for peers that provide `multihash`: `async for info in dht.find_providers(…)`.

        Each comes once, as soon as it is known, up to `count`; never ourselves. Records that others
        left with us are joined with what the network says. Whoever leaves the loop ends the search.

        Raises:
            InvalidKey: no multihash.
        """
        check_multihash(multihash)

        def start(findings: Findings) -> None:
            self._check_open()
            search = partial(
                search_providers,
                self._client,
                multihash,
                recorded=self._store.providers(multihash, now=trio.current_time()),
                count=count,
                first_contact=self._upkeep.first_contact,
                findings=findings,
            )
            self._nursery.start_soon(search)

        return ProviderSearch(start)

    async def provide(self, multihash: bytes) -> int:
        """Announce that we have `multihash`, now and from now on; returns how many were told.

        0 is no failure: it is announced again as soon as there is anybody. Cancelled, it is
        provided all the same, in the background.

        Raises:
            InvalidKey: no multihash.
        """
        return await self.provide_many([multihash])

    async def provide_many(self, multihashes: Iterable[bytes]) -> int:
        """Announce many together, as `provide`; returns how many peers were told of each, at least.

        Keys near to each other share their lookup, so this is far cheaper than one by one.
        """
        self._check_open()
        return await self._announcer.provide(multihashes, first_contact=self._upkeep.first_contact)

    def keep_providing(self, multihashes: Iterable[bytes]) -> None:
        """Announce these from now on, in the background. Raises InvalidKey."""
        self._announcer.keep(multihashes)
        self._announcer.wake()

    def stop_providing(self, multihash: bytes) -> None:
        """Announce `multihash` no more. What others recorded lapses within two days."""
        self._schedule.remove(multihash)

    def is_providing(self, multihash: bytes) -> bool:
        """Say whether `multihash` is announced."""
        return multihash in self._schedule

    async def put(
        self,
        key: str | bytes,
        value: Value,
        *,
        ttl: float = TTL,
        subkey: str | bytes = b"",
    ) -> PutResult:
        """Put a value under a key, signed by this node, beside what other nodes have there.

        It takes the place of what this node has put under the same key and subkey. The nearest
        peers keep it; this node puts it again, to those that have become the nearest, until its
        time is over. It returns when more than half of them have it, as many as a reader asks; the
        rest are told in the background. Cancelled, it may have reached some of them.

        Args:
            key: `/lattica/…`; text is its UTF-8.
            value: None, bool, int, float, str, bytes, or lists and maps of them: 12 KiB encoded.
            ttl: seconds that it lives, at most a week.
            subkey: which of this node's values under the key it is; text is its UTF-8.

        Raises:
            ValueTooLarge: the value, or the subkey, is larger than peers keep.
            InvalidValue: it has no encoding, or is not what its namespace demands.
            UnknownNamespace: no rules say which values are valid there.
            NotStored: no peer keeps it; the message counts why.
            ClockSkew: the clock of this node is more than ten minutes off.
        """
        self._check_open()
        return await self._values.put(_bytes(key), value, ttl=ttl, subkey=_bytes(subkey))

    async def get(
        self,
        key: str | bytes,
        *,
        subkey: str | bytes | None = None,
        author: PeerId | None = None,
    ) -> GetResult:
        """Return what stands under a key: the newest valid value of each subkey and author.

        That nothing stands there is an empty result, whose `value` raises ValueNotFound. Peers
        that should hold something newer are told it afterwards, in the background.

        Args:
            key: as in `put`.
            subkey: return the values of this subkey only.
            author: return the values of this author only.

        Raises:
            UnknownNamespace: no rules say which values are valid there.
            ClockSkew: the clock of this node is more than ten minutes off.
        """
        self._check_open()
        sought = None if subkey is None else _bytes(subkey)
        return await self._values.get(_bytes(key), subkey=sought, author=author)

    async def get_many(self, keys: Iterable[str | bytes]) -> dict[str | bytes, GetResult]:
        """Get several keys at once; see `get`. The result has them in the order given."""
        found: dict[str | bytes, GetResult | None] = dict.fromkeys(keys)
        names = [_bytes(key) for key in found]
        for name in names:
            self._keeper.namespaces.rules(name)

        async def get_one(key: str | bytes) -> None:
            found[key] = await self.get(key)

        async with private_nursery() as nursery:
            for key in found:
                nursery.start_soon(get_one, key)
        return {key: result for key, result in found.items() if result is not None}

    async def crawl(self, *, most: int = MAX_CRAWLED, seconds: float = 120.0) -> CrawlResult:
        """Walk the whole DHT, and return who is in it and who of them answers.

        Args:
            most: peers to find at most.
            seconds: how long to walk at most; what was found by then is returned.
        """
        self._check_open()
        await self._upkeep.first_contact()
        return await crawl(
            self._mesh,
            self._client,
            protocol=self.protocol,
            most=most,
            seconds=seconds,
            rng=self._rng,
        )

    def peers(self) -> list[Contact]:
        """Return the contacts in the routing table, the furthest bucket first."""
        return list(self._table)

    def status(self) -> DhtStatus:
        """Return what this node looks like now."""
        now = trio.current_time()
        self._store.expire(now)
        self._keeper.store.expire(self._clock.now())
        return DhtStatus(
            protocol=self.protocol,
            server=self.server,
            server_why=self._role.why,
            peers=len(self._table),
            bucket_sizes=self._table.bucket_sizes(),
            joined=self._upkeep.joined.is_set(),
            records=len(self._store),
            values=len(self._keeper.store),
            provided=len(self._schedule),
            reprovide_lag=self._schedule.lag(now),
            reprovide_alarm=now >= self._schedule.alarm_at(),
            own_values=len(self._renewal.own),
            clock_skew=self._clock.skew,
            bootstrap=self._upkeep.bootstrap_statuses(now),
        )

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the DHT is closed")

    def _on_met(self) -> None:
        self._schedule.hasten(now=trio.current_time())
        self._announcer.wake()
        self._renewal.hasten()


@asynccontextmanager
async def open_dht(
    mesh: Mesh,
    *,
    protocol: str = DEFAULT_PROTOCOL,
    server: bool | None = None,
    bootstrap: Iterable[Multiaddr] = (),
    contacts: Path | None = None,
    namespaces: Mapping[str, Rules] | None = None,
    wall_clock: Callable[[], float] = time.time,
    database: Path | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Dht]:
    """Take part in the DHT on `mesh` until the block ends.

    It starts at once, whether or not anybody can be reached; `Dht.wait_joined` waits for company.

    Args:
        mesh: connections and streams.
        protocol: the whole protocol ID. Peers with another one are in another DHT.
        server: answer others and stand in their tables, or only ask. None: as others can reach
            this node or not, see `_mode`; that may change while it runs.
        bootstrap: addresses of nodes to meet the first others through. Each may end in `/p2p/…`.
        contacts: a file in which to remember them across restarts; made when there are any.
        namespaces: rules for values by the first part of their keys, beside those of `/lattica/`;
            `SignedEntries(check)` for values of yours. Under any other key nothing is kept.
        wall_clock: seconds since 1970; values expire by it.
        database: the file in which records outlive this process. None: they do not.
        rng: chance; give a seeded one to replay a run.

    Raises:
        InvalidInput: a bootstrap address to which no transport of the mesh leads.
    """
    if rng is None:
        rng = random.Random()
    bootstrap = tuple(bootstrap)
    for address in bootstrap:
        if not mesh.can_dial(address):  # it would be tried again and again, and in vain
            raise InvalidInput(
                f"bootstrap: no transport of this node leads to {address}",
                hint="give a peer as /ip4/…/tcp/PORT/p2p/…, as `lattica bootstrap` prints it",
            )
    async with mesh.events() as events, private_nursery() as nursery:
        dht = Dht(
            mesh,
            nursery,
            protocol=protocol,
            server=server,
            bootstrap=bootstrap,
            contacts=contacts,
            namespaces=namespaces or {},
            wall_clock=wall_clock,
            database=database,
            rng=rng,
        )
        if dht._persistence is not None:
            await dht._persistence.load()
            dht._renewal.resume()
            await nursery.start(dht._persistence.run)
        dht._role.take_up()
        mesh.book.protect(dht._table.__contains__)  # a contact is worth nothing without addresses
        try:
            nursery.start_soon(dht._upkeep.run, events)
            nursery.start_soon(dht._client.run)
            nursery.start_soon(dht._announcer.run)
            nursery.start_soon(dht._announcer.watch)
            nursery.start_soon(dht._role.run)
            nursery.start_soon(dht._renewal.run)
            yield dht
        finally:
            dht._role.lay_down()
            mesh.book.unprotect(dht._table.__contains__)
            dht._closed = True
            dht._upkeep.save()
            dht._client.close()
            nursery.cancel_scope.cancel()


def _bytes(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else name
