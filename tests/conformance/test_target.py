"""The black-box checks: our own node passes them, and each notices the fault it is there for."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from lattica import _protobuf
from lattica.conform import _run
from lattica.conform._blackbox import CHECKS, check_target, run_check
from lattica.conform._outcome import Outcome, Report, Verdict
from lattica.conform._target import Target
from lattica.content import Store, _messages as exchange, open_exchange
from lattica.dht import _messages as dht, open_dht
from lattica.pubsub import open_pubsub
from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import (
    Connection,
    MemoryNetwork,
    Multiaddr,
    PeerInfo,
    multistream,
    open_mesh,
    yamux,
)
from lattica.transport._serve import Handlers
from lattica.transport.identify import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from lattica.transport.ping import PING_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.transport import Mesh, Stream

BY_ID = {check.id: check for check in CHECKS}
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
KAD, GOSSIP = "/lattica/kad/1.0.0", "/meshsub/1.1.0"


def address_of(mesh: Mesh) -> Multiaddr:
    return mesh.listen_addresses[0].with_peer(mesh.peer_id)


@asynccontextmanager
async def open_whole_node(folder: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(open_mesh(sample_identity(1), listen=[LOOPBACK]))
        await stack.enter_async_context(open_pubsub(mesh))
        await stack.enter_async_context(open_dht(mesh))
        store = await trio.to_thread.run_sync(Store.open, folder)
        stack.callback(store.close)
        await stack.enter_async_context(open_exchange(mesh, store))
        yield mesh


async def test_our_own_node_passes_every_check(tmp_path: Path) -> None:
    async with open_whole_node(tmp_path) as mesh:
        with trio.fail_after(60):
            outcomes = await check_target(address_of(mesh))
        assert [one.line for one in outcomes if one.verdict is not Verdict.PASS] == []
        assert len(outcomes) == len(CHECKS)


async def test_a_node_without_services_passes_what_applies(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=0.001)
    async with open_memory_meshes(1, network=network, security=("/noise",)) as (mesh,):
        outcomes = await check_target(
            address_of(mesh),
            identity=sample_identity(7),
            transports=[network.transport("prober")],
        )
    report = Report(tuple(outcomes))
    assert report.passed
    skipped = {one.id for one in outcomes if one.verdict is Verdict.SKIP}
    assert skipped == {"tls", *(check.id for check in CHECKS if check.speaks)}


async def test_a_node_that_is_not_there_fails_once(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    outcomes = await check_target(
        Multiaddr.parse("/memory/17"), transports=[network.transport("prober")]
    )
    assert [one.verdict for one in outcomes] == [Verdict.FAIL] + [Verdict.SKIP] * (len(CHECKS) - 1)


async def test_another_peer_than_the_address_says_is_noticed(autojump_clock: MockClock) -> None:
    outcome = await probe("noise", expect_peer=False)
    assert outcome.verdict is Verdict.FAIL
    assert "expected" in outcome.detail


async def probe(
    check_id: str,
    install: Callable[[Mesh], None] | None = None,
    *,
    expect_peer: bool = True,
    speaks: tuple[str, ...] = (exchange.PROTOCOL, KAD, GOSSIP),
) -> Outcome:
    """Run one check against a bare mesh on which `install` has put a fault."""
    network = MemoryNetwork(latency=0.001)
    async with open_memory_meshes(1, network=network, security=("/noise", "/tls/1.0.0")) as (mesh,):
        if install is not None:
            install(mesh)
        address = mesh.listen_addresses[0]
        peer = mesh.peer_id if expect_peer else sample_identity(5).peer_id
        target = Target(address.with_peer(peer), sample_identity(7), [network.transport("prober")])
        target.protocols = frozenset(speaks)
        return await run_check(BY_ID[check_id], target)


# Faults. Each is a handler that replaces ours, or a patch of the node's code.


def serving(protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> Callable[[Mesh], None]:
    def install(mesh: Mesh) -> None:
        mesh.unhandle(protocol)
        mesh.handle(protocol, handler)

    return install


def saying(*fields: tuple[int, int | bytes | str | None]) -> Callable[[Stream], Awaitable[None]]:
    async def handler(stream: Stream) -> None:
        await stream.send_message(_protobuf.encode(fields))

    return handler


async def hang(stream: Stream) -> None:
    del stream
    await trio.sleep_forever()


async def leave(stream: Stream) -> None:
    del stream
    await trio.lowlevel.checkpoint()


async def swallow(stream: Stream) -> None:
    while await stream.receive_some():
        pass


async def take_anything(stream: Stream) -> None:
    while await stream.receive_some():
        pass
    await trio.sleep_forever()


async def end_at_once(stream: Stream) -> None:
    await stream.send_eof()
    await trio.sleep_forever()


async def write_back(stream: Stream) -> None:
    await stream.send_all(await stream.receive_some())
    await trio.sleep_forever()


async def echo_backwards(stream: Stream) -> None:
    while True:
        await stream.send_all((await stream.receive_exactly(32))[::-1])


async def echo_once(stream: Stream) -> None:
    await stream.send_all(await stream.receive_exactly(32))


async def echo_and_stay(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await trio.sleep_forever()


def answering(*status: exchange.Status) -> Callable[[Stream], Awaitable[None]]:
    """Answer each request of the exchange with the next status, and nothing else."""

    async def handler(stream: Stream) -> None:
        for number in count():
            message = await stream.receive_message(1 << 20)
            if message is None:
                return
            request = exchange.decode_request(message)
            code = status[min(number, len(status) - 1)]
            await stream.send_all(exchange.encode_end(request.id, code))

    return handler


async def answer_backwards(stream: Stream) -> None:
    requests = [exchange.decode_request(await stream.receive_message(1 << 20) or b"")]
    with trio.move_on_after(1):
        while message := await stream.receive_message(1 << 20):
            requests.append(exchange.decode_request(message))
    for request in reversed(requests):
        await stream.send_all(exchange.encode_end(request.id, exchange.Status.ABSENT))
    await trio.sleep_forever()


def finding(
    *, kind: dht.MessageType = dht.MessageType.FIND_NODE, peers: int = 0, key: bytes | None = None
) -> Callable[[Stream], Awaitable[None]]:
    """Answer FIND_NODE with so many made-up peers."""
    closer = tuple(
        dht.Peer(PeerInfo(sample_identity(100 + number).peer_id, (LOOPBACK,)))
        for number in range(peers)
    )

    async def handler(stream: Stream) -> None:
        while message := await stream.receive_message(1 << 20):
            asked = dht.decode(message)
            answer = dht.Message(kind, key=asked.key if key is None else key, closer=closer)
            await stream.send_message(dht.encode(answer))

    return handler


async def repeat(stream: Stream) -> None:
    while message := await stream.receive_message(1 << 20):
        await stream.send_message(message)


async def name_the_asker(stream: Stream) -> None:
    message = dht.decode(await stream.receive_message(1 << 20) or b"")
    asker = dht.Peer(PeerInfo(stream.peer, (LOOPBACK,)))
    answer = dht.Message(dht.MessageType.FIND_NODE, key=message.key, closer=(asker,))
    await stream.send_message(dht.encode(answer))


KEY = sample_identity(0).public_key.to_protobuf()  # of the first mesh that is opened
OTHER_KEY = sample_identity(5).public_key.to_protobuf()
AGENT = [(5, "family/1"), (6, "mutant/1")]
SPOKEN = [(3, IDENTIFY_PROTOCOL), (3, PING_PROTOCOL)]
OBSERVED = (4, bytes(LOOPBACK))

MUTANTS = {
    "identify: another key": ("identify", IDENTIFY_PROTOCOL, saying((1, OTHER_KEY))),
    "identify: silence": ("identify", IDENTIFY_PROTOCOL, hang),
    "identify: nothing": ("identify", IDENTIFY_PROTOCOL, leave),
    "identify: no agent": (
        "identify",
        IDENTIFY_PROTOCOL,
        saying((1, KEY), *SPOKEN, OBSERVED),
    ),
    "identify: no protocols": (
        "identify",
        IDENTIFY_PROTOCOL,
        saying((1, KEY), *AGENT, OBSERVED),
    ),
    "identify: not observed": ("identify", IDENTIFY_PROTOCOL, saying((1, KEY), *AGENT, *SPOKEN)),
    "identify: believes a push": ("identify-push", PUSH_PROTOCOL, swallow),
    "ping: backwards": ("ping", PING_PROTOCOL, echo_backwards),
    "ping: once": ("ping", PING_PROTOCOL, echo_once),
    "ping: silence": ("ping", PING_PROTOCOL, hang),
    "stream: never ends": ("yamux-half-close", PING_PROTOCOL, echo_and_stay),
    "streams: not served": ("streams", IDENTIFY_PROTOCOL, hang),
    "content: a fault for absent": (
        "content-absent",
        exchange.PROTOCOL,
        answering(exchange.Status.FAILED),
    ),
    "content: sometimes there": (
        "content-absent",
        exchange.PROTOCOL,
        answering(exchange.Status.ABSENT, exchange.Status.OK),
    ),
    "content: backwards": ("content-order", exchange.PROTOCOL, answer_backwards),
    "content: silence": ("content-order", exchange.PROTOCOL, take_anything),
    "content: knows every kind": (
        "content-unknown",
        exchange.PROTOCOL,
        answering(exchange.Status.ABSENT),
    ),
    "content: takes garbage": ("content-garbage", exchange.PROTOCOL, take_anything),
    "content: ends on garbage": ("content-garbage", exchange.PROTOCOL, end_at_once),
    "content: waits for a long one": ("content-long", exchange.PROTOCOL, take_anything),
    "dht: another type": ("dht-find-node", KAD, finding(kind=dht.MessageType.PING)),
    "dht: another key": ("dht-find-node", KAD, finding(key=b"another key")),
    "dht: too many": ("dht-find-node", KAD, finding(peers=21)),
    "dht: names the asker": ("dht-find-node", KAD, name_the_asker),
    "dht: silence": ("dht-find-node", KAD, hang),
    "dht: goodbye": ("dht-find-node", KAD, leave),
    "dht: takes garbage": ("dht-garbage", KAD, take_anything),
    "dht: keeps anything": ("dht-unsigned", KAD, repeat),
    "dht: waits for a long one": ("dht-long", KAD, take_anything),
    "gossip: ends our stream": ("gossip-open", GOSSIP, end_at_once),
    "gossip: writes on our stream": ("gossip-open", GOSSIP, write_back),
    "gossip: takes garbage": ("gossip-garbage", GOSSIP, take_anything),
    "gossip: waits for a long one": ("gossip-long", GOSSIP, take_anything),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_service_with_a_fault_fails_its_check(autojump_clock: MockClock, name: str) -> None:
    check_id, protocol, handler = MUTANTS[name]
    outcome = await probe(check_id, serving(protocol, handler))
    assert outcome.verdict is Verdict.FAIL, outcome.line
    assert outcome.detail


def speaks_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Handlers, "__contains__", lambda *_: True)


def waits_for_long_lines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(multistream, "MAX_LINE", 1 << 30)


def grants_without_end(patch: pytest.MonkeyPatch) -> None:
    receive = yamux.Session._receive_for_stream

    def lenient(
        self: yamux.Session, now: float, kind: int, flags: int, stream: int, value: int
    ) -> None:
        for one in self.streams:
            one.credit_bytes = 1 << 30
        receive(self, now, kind, flags, stream, value)

    patch.setattr(yamux.Session, "_receive_for_stream", lenient)


def ignores_pings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(yamux.Session, "_receive_ping", lambda *_: None)


def reads_any_version(patch: pytest.MonkeyPatch) -> None:
    receive = yamux.Session._receive_header

    def lenient(self: yamux.Session, now: float, version: int, kind: int, *rest: int) -> None:
        del version
        if kind <= 3:
            receive(self, now, 0, kind, *rest)

    patch.setattr(yamux.Session, "_receive_header", lenient)


def resets_everything(patch: pytest.MonkeyPatch) -> None:
    def harsh(self: yamux.Session, stream: object) -> None:
        raise yamux.YamuxError(f"a reset ends it all: {self} {stream}")

    patch.setattr(yamux.Session, "_receive_reset", harsh)


def forgives_unopened_streams(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(yamux.Session, "_check_known", lambda *_: None)


def leaves_without_finishing(patch: pytest.MonkeyPatch) -> None:
    handle = Connection._handle

    def hasty(self: Connection, event: yamux.Event, now: float) -> None:
        if isinstance(event, yamux.GoneAway):
            raise yamux.YamuxError("a goodbye ends it all")
        handle(self, event, now)

    patch.setattr(Connection, "_handle", hasty)


PATCHES = [
    ("unknown-protocol", speaks_everything),
    ("long-line", waits_for_long_lines),
    ("long-stream-line", waits_for_long_lines),
    ("yamux-window", grants_without_end),
    ("yamux-ping", ignores_pings),
    ("yamux-version", reads_any_version),
    ("yamux-type", reads_any_version),
    ("yamux-reset", resets_everything),
    ("yamux-unopened", forgives_unopened_streams),
    ("yamux-go-away", leaves_without_finishing),
]


@pytest.mark.parametrize(
    ("check_id", "fault"), PATCHES, ids=[f"{name}-{fault.__name__}" for name, fault in PATCHES]
)
async def test_links_with_a_fault_fail_their_check(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    check_id: str,
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    fault(monkeypatch)
    outcome = await probe(check_id)
    assert outcome.verdict is Verdict.FAIL, outcome.line


async def test_a_node_that_garbage_takes_down_fails(autojump_clock: MockClock) -> None:
    def install(mesh: Mesh) -> None:
        async def fragile(stream: Stream) -> None:
            await swallow(stream)
            for listener in mesh._listeners:
                listener.close()
            stream.reset()

        serving(PUSH_PROTOCOL, fragile)(mesh)

    outcome = await probe("identify-push", install)
    assert outcome.verdict is Verdict.FAIL
    assert "afterwards the node does not answer" in outcome.detail


async def test_a_check_that_crashes_is_a_failure_of_its_own(autojump_clock: MockClock) -> None:
    outcome = await probe("gossip-open", speaks=("/x/meshsub/1.1.0",))
    assert outcome.verdict is Verdict.FAIL
    assert "StopIteration" in outcome.detail or "RuntimeError" in outcome.detail


def test_the_command_reports_a_node_that_is_not_there() -> None:
    lines: list[str] = []
    assert _run.run("/ip4/127.0.0.1/tcp/1", as_json=True, write=lines.append) == 1
    report = json.loads(lines[0])
    assert (report["conforms"], report["pass"], report["fail"]) == (False, 0, 1)
