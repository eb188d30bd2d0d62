"""Many nodes in one loop under a made clock: a discrete-event simulator. Pure.

A node is an `Actor`: a state machine that is handed a `Host`, its whole view of the world: what
time it is, chance, a way to send, timers, a disk. It must look at nothing else, and wait for
nothing. The simulation moves the messages, as the network conditions have it: each takes a time
drawn from a distribution, may be lost, stopped by a partition, or meet a host that has crashed.

    simulation = Simulation(seed=7, latency=Planet(), loss=0.01)
    for name in names:
        simulation.add(name, MyNode)           # calls MyNode(host); again after each restart
    simulation.play(churn(names, simulation.rng, seconds=3600, up_seconds=900, down_seconds=60))
    simulation.run(3600)

What happens depends on the seed alone. `digest` is a hash over everything that happened, so two
runs that agree in it were the same run; it needs nodes that draw chance from `Host.rng` alone and
never iterate over a set (Python orders those differently in each process).

Messages are any objects; one that is not bytes is handed over as it is, and its size is given by
whoever sends it. There are no connections: what is sent to a dead host is lost without a word, the
worst that a real one does to its peers.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ._faults import apply
from ._latency import Planet

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from ._faults import Fault
    from ._latency import Latency, Place

EPOCH = 1_700_000_000.0  # what an exact clock shows at the beginning, in seconds since 1970
MAX_LATE_SECONDS = 60.0  # a stream gives up where nothing passes for so long
_EVENT = struct.Struct("!BdIIQ")  # kind, when, sender, receiver, size
_DELIVERED, _LOST, _FAULT, _NOTE = range(4)


class Actor(Protocol):
    """A node under simulation."""

    def receive(self, sender: Hashable, message: Any) -> None:
        """Take a message of another host."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How wrong the clock on a host's wall is.

    Attributes:
        offset: seconds by which it is ahead.
        rate: seconds that it counts in a second.
    """

    offset: float = 0.0
    rate: float = 1.0


class Timer:
    """An action that a host has planned. A crash takes all timers with it."""

    __slots__ = ("_action", "_host", "_life")

    def __init__(self, host: Host, action: Callable[[], None]) -> None:
        self._host, self._life = host, host.life
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Let it not happen."""
        self._action = None

    def _fire(self) -> None:
        action, self._action = self._action, None
        if action is not None and self._life == self._host.life and self._host.actor is not None:
            action()


class Host:
    """What an actor knows of the world, and where it runs.

    Attributes:
        name: what others send to.
        rng: chance of its own.
        disk: survives crashes. Keep values in it, not parts of the actor: those would survive too.
        actor: who runs here; None while crashed.
        life: how often it was started.
        place: where it is, for the latency.
        clock: how wrong the clock on its wall is.
        uplink: bytes a second that it can send; None is unbounded.
    """

    __slots__ = (
        "_build",
        "_simulation",
        "actor",
        "clock",
        "disk",
        "life",
        "name",
        "number",
        "place",
        "received_bytes",
        "received_messages",
        "rng",
        "sent_bytes",
        "sent_messages",
        "uplink",
        "uplink_free_at",
    )

    def __init__(
        self,
        simulation: Simulation,
        number: int,
        name: Hashable,
        build: Callable[[Host], Actor],
        *,
        clock: Clock,
        uplink: float | None,
    ) -> None:
        self._simulation, self._build = simulation, build
        self.number, self.name = number, name
        self.rng = random.Random(simulation.rng.getrandbits(64))
        self.place: Place = (self.rng.random(), self.rng.random())
        self.disk: dict[str, Any] = {}
        self.actor: Actor | None = None
        self.life = 0
        self.clock, self.uplink, self.uplink_free_at = clock, uplink, 0.0
        self.sent_messages = self.sent_bytes = 0
        self.received_messages = self.received_bytes = 0

    @property
    def now(self) -> float:
        """Seconds since the beginning, exact: for deadlines. It never jumps."""
        return self._simulation.now

    @property
    def wall_time(self) -> float:
        """Seconds since 1970 as this host believes: for dates that others read."""
        return EPOCH + self.clock.offset + self.clock.rate * self._simulation.now

    @property
    def running(self) -> bool:
        """Whether it has not crashed."""
        return self.actor is not None

    def send(self, to: Hashable, message: Any, *, size: int | None = None) -> None:
        """Send a message. `size` in bytes counts as traffic; of bytes it is their length."""
        self._simulation._send(self, to, message, len(message) if size is None else size)

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Have `action` called at `when`, by `now`; at once if that has passed."""
        timer = Timer(self, action)
        self._simulation.at(when, timer._fire)
        return timer

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Have `action` called so much later."""
        return self.at(self._simulation.now + seconds, action)

    def note(self, text: str) -> None:
        """Put a line into the trace: it counts for the digest."""
        self._simulation._note(self, text)

    def _start(self) -> None:
        self.life += 1
        self.actor = self._build(self)


class Simulation:
    """A world of hosts. See the module for how to use it.

    Attributes:
        now: seconds since the beginning.
        rng: chance of the scenario; the network and each host have their own.
        hosts: by name, in the order added.
        lost_messages: how many never arrived.
        events: how many things have happened.
    """

    def __init__(
        self,
        seed: int,
        *,
        latency: Latency | None = None,
        loss: float = 0.0,
        resend: float | None = None,
        ordered: bool = False,
        on_trace: Callable[[str], None] | None = None,
    ) -> None:
        """Make an empty world.

        Args:
            seed: of all chance.
            latency: how long messages take; the planet's if not given.
            loss: part of the messages that never arrive.
            resend: seconds after which a lost message is sent again, and twice as long each further
                time: what TCP makes of loss. None: it is lost.
            ordered: between two hosts nothing overtakes, as on a stream.
            on_trace: called with a line for each event, to look at; slow.
        """
        self.seed, self.now = seed, 0.0
        self.rng = random.Random(f"lattica simulation {seed}")
        self._network_rng = random.Random(self.rng.getrandbits(64))
        self.latency: Latency = latency if latency is not None else Planet()
        self.loss, self.slowdown, self.resend, self.ordered = loss, 1.0, resend, ordered
        self.hosts: dict[Hashable, Host] = {}
        self.lost_messages = self.events = 0
        self._on_trace = on_trace
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._groups: dict[Hashable, int] | None = None
        self._last_arrival: dict[tuple[int, int], float] = {}
        self._hash = hashlib.blake2b(digest_size=16)

    # Who there is.

    def add(
        self,
        name: Hashable,
        build: Callable[[Host], Actor],
        *,
        clock: Clock | None = None,
        uplink: float | None = None,
        start: bool = True,
    ) -> Host:
        """Add a host. `build` makes its actor, now and after each restart.

        Args:
            name: what others send to; unique.
            build: is handed the host; whatever is left on its `disk` is there again.
            clock: how wrong its clock is.
            uplink: bytes a second that it can send.
            start: False: it stays down until `restart`.
        """
        if name in self.hosts:
            raise ValueError(f"there is a host {name!r} already")
        host = Host(self, len(self.hosts), name, build, clock=clock or Clock(), uplink=uplink)
        self.hosts[name] = host
        if start:
            host._start()
        return host

    def running(self) -> Iterator[Host]:
        """Yield the hosts that have not crashed, in the order added."""
        return (host for host in self.hosts.values() if host.actor is not None)

    # What goes wrong; see `_faults`.

    def partition(self, groups: Sequence[Sequence[Hashable]]) -> None:
        """Let only hosts of one group reach each other; those in no group are one more."""
        self._groups = {name: number for number, group in enumerate(groups, 1) for name in group}
        self._record(_FAULT, size=len(self._groups))

    def heal(self) -> None:
        """Let everybody reach everybody."""
        self._groups = None
        self._record(_FAULT)

    def crash(self, host: Hashable) -> None:
        """Stop a host between two events. What was sent to it is lost, what it has sent arrives."""
        crashed = self.hosts[host]
        crashed.actor = None
        self._record(_FAULT, crashed.number)

    def restart(self, host: Hashable) -> None:
        """Start a host again that has crashed."""
        restarted = self.hosts[host]
        if restarted.actor is None:
            self._record(_FAULT, restarted.number)
            restarted._start()

    def degrade(self, *, loss: float, slowdown: float) -> None:
        """Make the network lossy and slow."""
        self.loss, self.slowdown = loss, slowdown
        self._record(_FAULT)

    def play(self, faults: Iterable[Fault]) -> None:
        """Plan faults. Their times count from now."""
        for fault in faults:
            self.at(self.now + fault.at, apply, fault, self)

    # Time.

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action` called at `when`; at once if that has passed. Whoever has crashed."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action, arguments))

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Let so much time pass, or less: `until` is asked after each event.

        Returns:
            Whether `until` came true; False without one.
        """
        ends_at = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= ends_at:
            self.now, _, action, arguments = heapq.heappop(queue)
            self.events += 1
            action(*arguments)
            if until is not None and until():
                return True
        self.now = ends_at
        return False

    @property
    def digest(self) -> str:
        """A hash over all that has happened, in hexadecimal."""
        return self._hash.hexdigest()

    # The network.

    def reaches(self, one: Hashable, other: Hashable) -> bool:
        """Say whether no partition stands between two hosts."""
        groups = self._groups
        return groups is None or groups.get(one, 0) == groups.get(other, 0)

    def _send(self, sender: Host, to: Hashable, message: Any, size: int) -> None:
        sender.sent_messages += 1
        sender.sent_bytes += size
        receiver = self.hosts.get(to)
        rng = self._network_rng
        late, wait = 0.0, self.resend
        while self.loss and rng.random() < self.loss and late < MAX_LATE_SECONDS:
            late = late + wait if wait is not None else math.inf
            wait = wait and 2 * wait
        if receiver is None or late >= MAX_LATE_SECONDS:
            self._lose(sender, receiver, size)
            return
        if self._groups is not None and not self.reaches(sender.name, to):
            self._lose(sender, receiver, size)
            return
        when = self.now + late
        if sender.uplink is not None:
            when = sender.uplink_free_at = max(when, sender.uplink_free_at) + size / sender.uplink
        when += self.latency(sender.place, receiver.place, rng) * self.slowdown
        if self.ordered:
            link = (sender.number, receiver.number)
            when = self._last_arrival[link] = max(when, self._last_arrival.get(link, 0.0))
        heapq.heappush(
            self._queue,
            (when, next(self._order), self._deliver, (sender, receiver, message, size)),
        )

    def _deliver(self, sender: Host, receiver: Host, message: Any, size: int) -> None:
        actor = receiver.actor
        if actor is None:
            self._lose(sender, receiver, size)
            return
        receiver.received_messages += 1
        receiver.received_bytes += size
        self._record(_DELIVERED, sender.number, receiver.number, size)
        if type(message) is bytes:
            self._hash.update(message)
        actor.receive(sender.name, message)

    def _lose(self, sender: Host, receiver: Host | None, size: int) -> None:
        self.lost_messages += 1
        self._record(_LOST, sender.number, receiver.number if receiver else 0, size)

    # The trace.

    def _note(self, host: Host, text: str) -> None:
        self._record(_NOTE, host.number, size=len(text))
        self._hash.update(text.encode())
        if self._on_trace is not None:
            self._on_trace(f"{self.now:12.6f} {host.name}: {text}")

    def _record(self, kind: int, sender: int = 0, receiver: int = 0, size: int = 0) -> None:
        self._hash.update(_EVENT.pack(kind, self.now, sender, receiver, size))
        if self._on_trace is not None and kind != _NOTE:
            what = ("delivered", "lost", "fault")[kind]
            self._on_trace(f"{self.now:12.6f} {what} {sender} to {receiver}, {size} bytes")
