"""One DHT node without I/O: the real table, lookups, records and answers, driven by a simulation.

A `SimulatedDht` wires what `lattica.dht` wires in its Trio service: `RoutingTable`, `Lookup`,
`Responder`, `ProviderStore`, `ProvideSchedule`, the messages with their real sizes. Only what waits
is replaced: a request is a message and a timer here, a walk a callback (`_dht_walks`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lattica import codec
from lattica.dht._answers import Responder
from lattica.dht._bootstrap import Bootstrap
from lattica.dht._clock import Clock
from lattica.dht._keeper import Keeper
from lattica.dht._keys import position
from lattica.dht._lookup import Lookup
from lattica.dht._messages import MAX_MESSAGE, Message, MessageType, Peer, decode, encode
from lattica.dht._namespaces import Item, Namespaces
from lattica.dht._patience import Patience
from lattica.dht._providers import ProviderStore, ProvideSchedule
from lattica.dht._reading import Reading
from lattica.dht._records import sign_entry
from lattica.dht._table import RoutingTable
from lattica.dht._upkeep import SELF_LOOKUP_SECONDS
from lattica.dht._values import TTL
from lattica.errors import LatticaError
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

from ._dht_upkeep import Upkeep
from ._dht_walks import Telling, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from lattica.identity import Identity

    from ._dht_world import DhtWorld
    from ._simulation import Host, Timer

SCOPE = "/lattica/kad/1.0.0"  # the protocol that simulated nodes sign for
_NOWHERE = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request or its answer on the simulated network. No `message`: the stream was reset."""

    number: int
    is_answer: bool
    message: Message | None


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
        nearest = self.table.seeds(position(key))
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
