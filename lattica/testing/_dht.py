"""DHT nodes without I/O: the real table, lookups, records and answers, driven by a simulation.

A `SimulatedDht` wires what `lattica.dht` wires in its Trio service: `RoutingTable`, `Lookup`,
`Responder`, `ProviderStore`, `ProvideSchedule`, the messages with their real sizes. Only what waits
is replaced: a request is a message and a timer here, a walk a callback. `DhtWorld` makes such nodes
by the thousand, and can fill their tables as years of company would have.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lattica import codec
from lattica.dht._answers import Responder
from lattica.dht._bootstrap import Bootstrap
from lattica.dht._client import LOOKUP_SECONDS
from lattica.dht._clock import Clock
from lattica.dht._keeper import Keeper, requests_for
from lattica.dht._keys import KEY_BITS, K, key_sharing, position
from lattica.dht._lookup import Lookup
from lattica.dht._lookup_report import Outcome
from lattica.dht._messages import MAX_MESSAGE, Message, MessageType, Peer, decode, encode
from lattica.dht._namespaces import Item, Namespaces
from lattica.dht._patience import Patience
from lattica.dht._placing import ASK_SECONDS
from lattica.dht._providers import ProviderStore, ProvideSchedule
from lattica.dht._reading import Reading
from lattica.dht._records import sign_entry
from lattica.dht._table import RoutingTable
from lattica.dht._upkeep import SELF_LOOKUP_FIRST_SECONDS, SELF_LOOKUP_SECONDS
from lattica.dht._values import TTL
from lattica.errors import LatticaError
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo, ip_group

from ._simulation import EPOCH

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Hashable, Sequence

    from lattica.identity import Identity

    from ._simulation import Actor, Clock as WallClock, Host, Simulation, Timer

SCOPE = "/lattica/kad/1.0.0"  # the protocol that simulated nodes sign for
_KEY_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))  # of the peer ID of an Ed25519 key


def random_peer(rng: random.Random) -> PeerId:
    """Return a peer ID as of an Ed25519 key that nobody has."""
    return PeerId(_KEY_PREFIX + rng.randbytes(32))


def peer_near(key: bytes, bits: int, rng: random.Random) -> PeerId:
    """Return a peer ID that shares at least `bits` leading bits with `key`: what an attacker mines.

    It takes 2**bits tries or so.
    """
    shift = KEY_BITS - bits
    wanted = position(key) >> shift
    while True:
        peer = random_peer(rng)
        if position(peer.raw) >> shift == wanted:
            return peer


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request or its answer on the simulated network. No `message`: the stream was reset."""

    number: int
    is_answer: bool
    message: Message | None


class DhtWorld:
    """A simulation whose hosts are DHT nodes.

    Attributes:
        simulation: time, network, faults. A host's name is its peer ID.
        wire: encode and decode each message on its way. Without, sizes are computed alone.
    """

    def __init__(self, simulation: Simulation, *, wire: bool = True) -> None:
        self.simulation, self.wire = simulation, wire
        self._addresses: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._groups: dict[PeerId, bytes | None] = {}
        self._sizes: dict[PeerId, int] = {}  # of a peer in a message, with its addresses

    def add(
        self,
        *,
        bootstrap: Sequence[PeerId] = (),
        peer: PeerId | None = None,
        network: str | None = None,
        kind: Callable[..., Actor] | None = None,
        start: bool = True,
        clock: WallClock | None = None,
        **options: Any,
    ) -> PeerId:
        """Add a node, and return its peer ID.

        Args:
            bootstrap: whom it joins through. Without any it waits to be found.
            peer: who it is.
            network: the first three numbers of its address, `"50.60.70"`; its own if not given.
            kind: what makes it, instead of `SimulatedDht`; is handed the same.
            start: False: it is down until `Simulation.restart`.
            clock: how wrong its clock is; right if not given.
            options: for whatever makes it.
        """
        rng = self.simulation.rng
        peer = peer if peer is not None else random_peer(rng)
        if network is None:
            network = f"{rng.randint(20, 99)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}"
        address = Multiaddr.parse(f"/ip4/{network}.{rng.randint(1, 250)}/tcp/4001")
        self._addresses[peer], self._groups[peer] = (address,), ip_group(address)
        self._sizes[peer] = len(encode(_about(peer, (address,)))) - _EMPTY_BYTES
        build = partial(kind or SimulatedDht, world=self, bootstrap=tuple(bootstrap), **options)
        self.simulation.add(peer, build, start=start, clock=clock)
        return peer

    def node(self, peer: PeerId) -> SimulatedDht:
        """Return the running node of `peer`."""
        actor = self.simulation.hosts[peer].actor
        if not isinstance(actor, SimulatedDht):
            raise TypeError(f"{peer} is no running DHT node")
        return actor

    def nodes(self) -> list[SimulatedDht]:
        """Return all running nodes, in the order added."""
        running = (host.actor for host in self.simulation.running())
        return [actor for actor in running if isinstance(actor, SimulatedDht)]

    def addresses(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Return where `peer` is."""
        return self._addresses.get(peer, ())

    def group(self, peer: PeerId) -> bytes | None:
        """Return the network that `peer` is in; see `transport.ip_group`."""
        return self._groups[peer]

    def nearest(self, key: bytes, count: int = K) -> list[PeerId]:
        """Return the running nodes nearest to `key`: what a perfect lookup finds."""
        target = position(key)
        peers = (node.peer for node in self.nodes())
        return sorted(peers, key=lambda peer: position(peer.raw) ^ target)[:count]

    def warm(self) -> None:
        """Fill the tables of all running nodes as if each had met everybody, in some order."""
        rng, now = self.simulation.rng, self.simulation.now
        nodes = self.nodes()
        places = sorted((position(node.peer.raw), node.peer) for node in nodes)
        positions = [place for place, _ in places]
        for node in nodes:
            own = node.table.position
            for bits in range(KEY_BITS):
                # The region of bucket `bits`: the same leading bits as ours, but for the last.
                shift = KEY_BITS - bits - 1
                least = ((own >> shift) ^ 1) << shift
                first = bisect.bisect_left(positions, least)
                last = bisect.bisect_left(positions, least + (1 << shift))
                for _, peer in _some(places, first, last, rng):
                    node.meet(peer)
                own_first = bisect.bisect_left(positions, (own >> shift) << shift)
                own_last = bisect.bisect_left(positions, ((own >> shift) + 1) << shift)
                if own_last - own_first <= 1:
                    break  # we are alone on our side: all deeper buckets are empty
            node.table.looked_up_everywhere(now=now)

    def size_of(self, message: Message) -> int:
        """Return how many bytes `message` takes on a stream."""
        if self.wire or message.record is not None or message.room or message.refusal:
            return _framed(len(encode(message)))
        size = _EMPTY_BYTES + (_CLOCK_BYTES if message.clock else 0)
        if message.key:
            size += len(message.key) + (2 if len(message.key) < 128 else 3)
        for peers in (message.closer, message.providers):
            for peer in peers:
                known = self._sizes.get(peer.info.peer)
                if known is None or peer.info.addresses != self._addresses[peer.info.peer]:
                    known = len(encode(Message(MessageType.PING, closer=(peer,)))) - _EMPTY_BYTES
                size += known
        return _framed(size)


class SimulatedDht:
    """One node of the DHT.

    Attributes:
        peer: who it is.
        table: its contacts.
        store: provider records that others left here.
        keeper: values that others left here.
        clock: what it takes the date to be.
        schedule: what it provides.
        joined_at: when a first lookup of itself ended; None before.
    """

    def __init__(
        self, host: Host, *, world: DhtWorld, bootstrap: Sequence[PeerId] = (), upkeep: bool = True
    ) -> None:
        """Make the node that runs on `host`.

        Args:
            host: time, chance, the way to others.
            world: where peers are.
            bootstrap: whom to join through.
            upkeep: look after the table, and announce what it provides again in time.
        """
        if not isinstance(host.name, PeerId):
            raise TypeError("a DHT node's host is named by its peer ID")
        self.host, self.world, self.peer = host, world, host.name
        self.table = RoutingTable(self.peer)
        self.store, self.schedule = ProviderStore(), ProvideSchedule()
        self.clock = Clock(lambda: host.wall_time)
        self.keeper = Keeper(Namespaces({}, scope=SCOPE))
        self.joined_at: float | None = None
        self._directory = _Directory(world)
        self._responder = Responder(
            table=self.table,
            store=self.store,
            schedule=self.schedule,
            directory=self._directory,
            rng=host.rng,
            keeper=self.keeper,
        )
        self._patience = Patience()
        self._number = 0
        self._waiting: dict[int, tuple[Callable[[Message | str], None], float]] = {}
        self._probing: dict[PeerId, None] = {}
        self._upkeep = Upkeep(self) if upkeep else None
        self._bootstraps = [peer for peer in bootstrap if peer != self.peer]
        host.after(0.0, self._join)

    def live(self) -> None:
        """Begin to look after the table and to announce what is provided, as if up for long."""
        self._upkeep = Upkeep(self, interval=SELF_LOOKUP_SECONDS)
        self._upkeep.met()

    # What programs ask.

    def find_node(self, key: bytes, done: Callable[[Lookup], None]) -> None:
        """Look for the peers nearest to `key`; `done` is handed the finished lookup."""
        Walk(self, self.new_lookup(key), Message(MessageType.FIND_NODE, key), done)

    def find_providers(
        self, key: bytes, done: Callable[[Lookup, list[PeerId]], None], *, count: int = 20
    ) -> None:
        """Look for peers that provide `key`; `done` is handed the lookup and whom it found."""
        lookup = self.new_lookup(key, wanted=count)
        found: list[PeerId] = []

        def take(news: Sequence[PeerInfo]) -> None:
            found.extend(info.peer for info in news)

        def finish(lookup: Lookup) -> None:
            take(lookup.rest())
            done(lookup, found)

        recorded = self.store.providers(key, now=self.host.now)
        take(lookup.found(PeerInfo(peer, ()) for peer in recorded))
        Walk(self, lookup, Message(MessageType.GET_PROVIDERS, key), finish, found=take)

    def provide(self, key: bytes, done: Callable[[Lookup], None]) -> None:
        """Tell the peers nearest to `key` that we provide it; `done` when they were told."""

        def announce(lookup: Lookup) -> None:
            ours = Peer(PeerInfo(self.peer, self.world.addresses(self.peer)))
            for info in lookup.closest():
                self.tell(info.peer, Message(MessageType.ADD_PROVIDER, key, providers=(ours,)))
            done(lookup)

        self.find_node(key, announce)

    def sign(
        self,
        author: Identity,
        key: bytes,
        value: codec.Value,
        *,
        ttl: float = TTL,
        subkey: bytes = b"",
        sequence: int | None = None,
    ) -> Item:
        """Return a value to put, dated by the clock of this node.

        Args:
            author: who signs it; need not be this node.
            key: where it goes.
            value: what goes there.
            ttl: seconds that it lives.
            subkey: its place beside others of the author.
            sequence: greater than that of the value it replaces; the date if not given.
        """
        now = self.clock.now()
        created_ms = int(now * 1000)
        entry = sign_entry(
            author,
            scope=SCOPE,
            key=key,
            value=codec.pack(value),
            sequence=sequence if sequence is not None else created_ms,
            created_ms=created_ms,
            expires_ms=created_ms + int(ttl * 1000),
            subkey=subkey,
        )
        return self.keeper.namespaces.read(key, entry.encoded, now=now)

    def put(self, key: bytes, item: Item, done: Callable[[Lookup, int], None]) -> None:
        """Have the peers nearest to `key` keep a value; `done` is handed how many took it."""

        def tell(lookup: Lookup) -> None:
            peers = [info.peer for info in lookup.closest()]
            Telling(self, peers, key, [item], lambda took: done(lookup, took))

        self.find_node(key, tell)

    def get(self, key: bytes, done: Callable[[Lookup, Reading], None]) -> None:
        """Look for the values of `key`, and bring those who lack some what they should have."""
        reading = Reading(self.keeper, key)
        reading.take(self.peer, self.keeper.store.items(key, now=self.clock.now()))
        lookup = self.new_lookup(key, until_certain=True)

        def hear(peer: PeerId, answer: Message) -> None:
            value = answer.record.value if answer.record is not None else None
            reading.hear(peer, value, now=self.clock.now())

        def finish(lookup: Lookup) -> None:
            for info in lookup.closest():
                if missing := reading.missing_at(info.peer):
                    Telling(self, [info.peer], key, missing, lambda _: None)
            done(lookup, reading)

        request = Message(MessageType.GET_VALUE, key, room=MAX_MESSAGE)
        Walk(self, lookup, request, finish, heard=hear, enough=lookup.is_certain)

    def new_lookup(
        self, key: bytes, *, wanted: int | None = None, until_certain: bool = False
    ) -> Lookup:
        """Return a lookup for `key` that starts from our contacts."""
        nearest = self.table.closest(position(key), K, failing=True)
        return Lookup(
            key,
            local=self.peer,
            seeds=[PeerInfo(peer, self.world.addresses(peer)) for peer in nearest],
            now=self.host.now,
            patience=self._patience,
            wanted=wanted,
            until_certain=until_certain,
        )

    # Asking others.

    def ask(
        self, peer: PeerId, request: Message, then: Callable[[Message | str], None]
    ) -> Callable[[], None]:
        """Send a request. `then` is handed the answer, or why there is none.

        Returns:
            What cancels it: nothing is handed over then.
        """
        self._number += 1
        number = self._number
        self._waiting[number] = (then, self.clock.wall())
        self._send(peer, Envelope(number, False, request))

        def cancel() -> None:
            self._waiting.pop(number, None)

        return cancel

    def tell(self, peer: PeerId, message: Message) -> None:
        """Send a message that has no answer."""
        self._send(peer, Envelope(0, False, message))

    def consider(self, peer: PeerId) -> None:
        """Ask `peer` whether it is there."""
        if peer in self._probing:
            return
        self._probing[peer] = None

        def settle(answer: Message | str) -> None:
            timer.cancel()
            self._probing.pop(peer, None)
            if isinstance(answer, str):
                self.note_failure(peer)
            else:
                self.meet(peer)

        def give_up() -> None:
            cancel()
            settle("timed out")

        cancel = self.ask(peer, Message(MessageType.FIND_NODE, self.peer.raw), settle)
        timer = self.host.after(self._patience.hard, give_up)

    def meet(self, peer: PeerId) -> None:
        """Note that `peer` has answered us."""
        to_check = self.table.add(peer, now=self.host.now, group=self.world.group(peer))
        if to_check is not None:
            self.consider(to_check)
        if self._upkeep is not None:
            self._upkeep.met()

    def note_failure(self, peer: PeerId) -> None:
        """Note that `peer` has not answered us."""
        self.table.failed(peer, now=self.host.now)

    # What others ask.

    def receive(self, sender: Hashable, message: Any) -> None:
        """Take a request, or an answer."""
        envelope: Envelope = message
        if not isinstance(sender, PeerId):
            raise TypeError("only DHT nodes talk to DHT nodes")
        if envelope.is_answer:
            waiting = self._waiting.pop(envelope.number, None)
            if waiting is not None:
                self._take_answer(sender, envelope.message, *waiting)
            return
        if envelope.message is None:
            raise ValueError("a request without a message")
        answer = self.answer(envelope.message, sender)
        if envelope.number:
            self._send(sender, Envelope(envelope.number, True, answer))
        if self.table.wants(sender, self.world.group(sender)):
            self.consider(sender)  # as after the identify of a connection that a peer has opened

    def _take_answer(
        self,
        sender: PeerId,
        answer: Message | None,
        then: Callable[[Message | str], None],
        asked: float,
    ) -> None:
        if answer is None:
            then("lost")
            return
        if answer.clock:
            theirs, answered = answer.clock / 1000, self.clock.wall()
            group = self.world.group(sender)
            self.clock.observe(sender, theirs, asked=asked, answered=answered, group=group)
        then(answer)

    def answer(self, request: Message, sender: PeerId) -> Message | None:
        """Return what to answer; None resets the stream, or is no answer where none is due."""
        try:
            answer = self._responder.answer(
                request,
                sender=sender,
                address=self.world.addresses(sender)[0],
                now=self.host.now,
                wall=self.clock.now(),
            )
        except LatticaError:
            return None
        if answer is None:
            return None
        return replace(answer, clock=int(self.clock.wall() * 1000))

    def _send(self, to: PeerId, envelope: Envelope) -> None:
        message = envelope.message
        size = 0
        if message is not None:
            size = self.world.size_of(message)
            if self.world.wire:
                envelope = Envelope(envelope.number, envelope.is_answer, decode(encode(message)))
        self.host.send(to, envelope, size=size)

    def _join(self) -> None:
        for peer in self._bootstraps:
            where = self.world.addresses(peer) or (_NOWHERE,)
            self._try_bootstrap(peer, Bootstrap(where[0]))

    def _try_bootstrap(self, peer: PeerId, state: Bootstrap) -> None:
        """Stay in touch with one: what `_upkeep._stay_in_touch` does on a connection."""
        state.trying()
        timer: Timer

        def settle(answer: Message | str) -> None:
            timer.cancel()
            now = self.host.now
            if isinstance(answer, str):
                lonely = not len(self.table)
                again_at = state.lost(answer, now=now, lonely=lonely, rng=self.host.rng)
                self.host.at(again_at, partial(self._try_bootstrap, peer, state))
            else:
                state.connected(peer, now=now)
                self.meet(peer)

        def give_up() -> None:
            cancel()
            settle("timed out")

        cancel = self.ask(peer, Message(MessageType.FIND_NODE, self.peer.raw), settle)
        timer = self.host.after(self._patience.hard, give_up)


class Walk:
    """A lookup on its way: sends what it wants sent, tells it what came; then calls `done`."""

    def __init__(
        self,
        node: SimulatedDht,
        lookup: Lookup,
        request: Message,
        done: Callable[[Lookup], None],
        *,
        found: Callable[[Sequence[PeerInfo]], None] = lambda _: None,
        heard: Callable[[PeerId, Message], None] = lambda _peer, _answer: None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin to ask; what the callbacks mean stands at `lattica.dht._client.Client.walk`."""
        self._node, self._lookup, self._request = node, lookup, request
        self._done, self._found, self._heard, self._enough = done, found, heard, enough
        self._ends_at = node.host.now + LOOKUP_SECONDS
        self._under_way: dict[PeerId, Callable[[], None]] = {}
        self._timer: Timer | None = None
        self._wakes_at = float("inf")
        self._is_over = False
        self._step()

    def _step(self) -> None:
        node, lookup = self._node, self._lookup
        for info in lookup.next_requests(node.host.now):
            then = partial(self._answered, info.peer)
            self._under_way[info.peer] = node.ask(info.peer, self._request, then)
        if lookup.finished:
            self._finish()
            return
        wakes_at = min(lookup.next_timeout(), self._ends_at)
        if wakes_at < self._wakes_at:
            if self._timer is not None:
                self._timer.cancel()
            self._wakes_at = wakes_at
            self._timer = node.host.at(wakes_at, self._wake)

    def _answered(self, peer: PeerId, answer: Message | str) -> None:
        now = self._node.host.now
        self._under_way.pop(peer, None)
        if isinstance(answer, str):
            self._node.note_failure(peer)
            self._lookup.fail(peer, answer, now=now)
        else:
            self._node.meet(peer)
            closer = [each.info for each in answer.closer]
            providers = [each.info for each in answer.providers]
            lookup, group = self._lookup, self._node.world.group(peer)
            self._found(lookup.receive(peer, closer, providers, now=now, group=group))
            if lookup.path_of(peer) is not None:
                self._heard(peer, answer)
            if self._enough():
                lookup.stop(now)
        self._step()

    def _wake(self) -> None:
        now = self._node.host.now
        self._wakes_at, self._timer = float("inf"), None
        for late in self._lookup.handle_timeout(now):
            self._node.note_failure(late)
            self._under_way.pop(late)()
        if now >= self._ends_at:
            self._lookup.stop(now, Outcome.OUT_OF_TIME)
        self._step()

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        for cancel in self._under_way.values():
            cancel()
        node = self._node
        if self._lookup.report().complete:
            node.table.looked_up(self._lookup.target, now=node.host.now)
        self._done(self._lookup)


class Telling:
    """Puts on their way: values told to some peers; then calls `done` with how many took them."""

    def __init__(
        self,
        node: SimulatedDht,
        peers: Sequence[PeerId],
        key: bytes,
        items: Sequence[Item],
        done: Callable[[int], None],
    ) -> None:
        self._waiting, self._took, self._done = len(peers), 0, done
        requests = requests_for(node.keeper.namespaces, key, items)
        for peer in peers:
            _Told(node, peer, requests, self._settle)
        if not peers:
            done(0)

    def _settle(self, took: bool) -> None:
        self._waiting -= 1
        self._took += took
        if not self._waiting:
            self._done(self._took)


class _Told:
    """Requests to one peer, one after the other, until one is not taken."""

    def __init__(
        self,
        node: SimulatedDht,
        peer: PeerId,
        requests: Sequence[Message],
        done: Callable[[bool], None],
    ) -> None:
        self._node, self._peer, self._requests, self._done = node, peer, list(requests), done
        self._next()

    def _next(self) -> None:
        request = self._requests.pop(0)
        self._cancel = self._node.ask(self._peer, request, self._answered)
        self._timer = self._node.host.after(ASK_SECONDS, self._give_up)

    def _answered(self, answer: Message | str) -> None:
        self._timer.cancel()
        if isinstance(answer, str):
            self._node.note_failure(self._peer)
            self._done(False)
            return
        self._node.meet(self._peer)
        if answer.refusal or (answer.record is None and not answer.brief):
            self._done(False)
        elif self._requests:
            self._next()
        else:
            self._done(True)

    def _give_up(self) -> None:
        self._cancel()
        self._answered("timed out")


class Upkeep:
    """What a node does to stay in the network: `lattica.dht._upkeep` without its tasks."""

    def __init__(self, node: SimulatedDht, *, interval: float = SELF_LOOKUP_FIRST_SECONDS) -> None:
        self._node = node
        self._running = False
        self._first_interval = self._interval = interval
        self._rests_until = 0.0

    def met(self) -> None:
        """Begin, now that there is somebody to ask."""
        if not self._running:
            self._running, self._interval = True, self._first_interval
            self._node.host.after(0.0, self._refresh)
            self._node.host.after(0.0, self._announce)

    def _refresh(self) -> None:
        if not len(self._node.table):
            self._running = False
            return
        self._node.find_node(self._node.peer.raw, self._looked_for_ourselves)

    def _looked_for_ourselves(self, lookup: Lookup) -> None:
        node = self._node
        if lookup.report().complete and not lookup.covered_bits():
            node.table.looked_up_everywhere(now=node.host.now)
        self._refresh_buckets(node.table.due_refreshes(node.host.now))

    def _refresh_buckets(self, buckets: list[int]) -> None:
        node = self._node
        if buckets:
            key = key_sharing(node.table.position, buckets[0], node.host.rng)
            node.find_node(key, lambda _: self._refresh_buckets(buckets[1:]))
            return
        if node.joined_at is None:
            node.joined_at = node.host.now
        pause = self._interval * node.host.rng.uniform(0.8, 1.2)
        self._interval = min(2 * self._interval, SELF_LOOKUP_SECONDS)
        self._rests_until = node.host.now + pause
        self._ask_silent()

    def _announce(self) -> None:
        """Announce what is due, one key at a time, as long as there is anybody."""
        node = self._node
        due = node.schedule.due(node.host.now, 1) if len(node.table) else []
        if due:
            node.provide(due[0], partial(self._announced, due[0]))
        elif self._running and len(node.schedule):
            node.host.at(max(node.schedule.next_due(), node.host.now + 1.0), self._announce)

    def _announced(self, key: bytes, lookup: Lookup) -> None:
        node = self._node
        if lookup.closest():
            node.schedule.announced(key, now=node.host.now)
        else:
            node.schedule.postpone(key, now=node.host.now)
        self._announce()

    def _ask_silent(self) -> None:
        node = self._node
        now = node.host.now
        if now >= self._rests_until or not len(node.table):
            self._refresh()
            return
        for peer in node.table.due_checks(now):
            node.consider(peer)
        again_at = min(self._rests_until, max(node.table.next_check(), now + 1.0))
        node.host.at(again_at, self._ask_silent)


class _Directory:
    """Where peers are; see `lattica.dht._answers.Directory`."""

    def __init__(self, world: DhtWorld) -> None:
        self._world = world

    def addresses(self, peer: PeerId) -> Sequence[Multiaddr]:
        """Return where `peer` is."""
        return self._world.addresses(peer)

    def is_connected(self, peer: PeerId) -> bool:
        """Say no: there are no connections here."""
        return False

    def learn(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Do nothing: the world knows."""


def _about(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> Message:
    return Message(MessageType.PING, closer=(Peer(PeerInfo(peer, addresses)),))


def _framed(size: int) -> int:
    return size + (1 if size < 128 else 2)  # answers stay below 16 KiB


_NOWHERE = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
_EMPTY_BYTES = len(encode(Message(MessageType.PING)))
_CLOCK_BYTES = len(encode(Message(MessageType.PING, clock=int(EPOCH * 1000)))) - _EMPTY_BYTES


def _some(
    places: list[tuple[int, PeerId]], first: int, last: int, rng: random.Random
) -> list[tuple[int, PeerId]]:
    """Return up to K of `places[first:last]`, picked at random."""
    if last - first <= K:
        return places[first:last]
    return [places[index] for index in rng.sample(range(first, last), K)]
