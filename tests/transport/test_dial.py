"""Dialling: which addresses, in which order, under which deadlines; what is said of failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import DeadlineExceeded, Unreachable
from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import (
    ConnectionLimit,
    DialError,
    InvalidAddress,
    Limits,
    MemoryNetwork,
    Multiaddr,
    NegotiationError,
    NotDialable,
    PeerIdMismatch,
    SelfDial,
    TcpTransport,
    open_mesh,
)
from lattica.transport._dial import plan_dial
from lattica.transport.memory import NobodyListens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from lattica.transport import Connection, Listener, Mesh, RawLink
    from lattica.transport.memory import MemoryLink

PEER, OTHER = sample_identity(50).peer_id, sample_identity(51).peer_id


def memory(number: int) -> Multiaddr:
    return Multiaddr((("memory", str(number)),))


def parse(*texts: str) -> list[Multiaddr]:
    return [Multiaddr.parse(text) for text in texts]


# The plan


def plan(
    addresses: list[Multiaddr],
    *,
    ours: frozenset[Multiaddr] = frozenset(),
    worked: Multiaddr | None = None,
    count: int = 99,
) -> tuple[list[str], dict[str, type[Exception]]]:
    found = plan_dial(PEER, addresses, [TcpTransport()], ours=ours, worked=worked, count=count)
    return (
        [str(address) for address, _ in found.steps],
        {str(attempt.address): type(attempt.error) for attempt in found.skipped},
    )


def test_near_addresses_come_before_far_ones_and_what_worked_before_all() -> None:
    mixed = parse(
        "/dns4/far.example/tcp/1",
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/192.168.0.1/tcp/1",
        "/ip6/2001:4860:4860::8888/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
    )
    steps, _ = plan(mixed)
    assert steps == [str(mixed[at]) for at in (4, 2, 1, 3, 0)]
    steps, _ = plan(mixed, worked=mixed[3], count=2)
    assert steps == [str(mixed[3]), str(mixed[4])]


def test_what_cannot_lead_to_the_peer_is_skipped_with_a_reason() -> None:
    own, quic, named = parse(
        "/ip4/127.0.0.1/tcp/9", "/ip4/8.8.8.8/udp/1/quic-v1", f"/ip4/8.8.8.8/tcp/1/p2p/{PEER}"
    )
    stranger = named.without_peer().with_peer(OTHER)
    steps, skipped = plan([own, quic, named, named.without_peer(), stranger], ours=frozenset([own]))
    assert steps == ["/ip4/8.8.8.8/tcp/1"]
    assert skipped == {str(own): SelfDial, str(quic): NotDialable, str(stranger): InvalidAddress}


# The dial


async def mute(link: RawLink) -> None:
    await trio.sleep_forever()


async def talk_http(link: RawLink) -> None:
    await link.send_some(memoryview(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    await trio.sleep_forever()


async def hang_up(link: RawLink) -> None:
    link.close()


async def serve_links(
    listener: Listener, answer: Callable[[RawLink], Awaitable[None]], taken: list[RawLink]
) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            link = await listener.accept()
            taken.append(link)
            nursery.start_soon(answer, link)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(mute, DeadlineExceeded), (talk_http, NegotiationError), (hang_up, Unreachable)],
)
async def test_whoever_is_no_peer_is_a_typed_failure(
    answer: Callable[[RawLink], Awaitable[None]],
    expected: type[Exception],
    autojump_clock: MockClock,
    network: MemoryNetwork,
) -> None:
    listener = await network.transport("odd").listen(memory(1))
    async with open_memory_meshes(1, network=network) as (alice,), trio.open_nursery() as nursery:
        taken: list[RawLink] = []
        nursery.start_soon(serve_links, listener, answer, taken)
        start = trio.current_time()
        for call in (alice.connect(PEER, [memory(1)]), alice.dial(memory(1))):
            with pytest.raises(DialError) as caught:
                await call
            (attempt,) = caught.value.attempts
            assert attempt.address == memory(1)
            assert isinstance(attempt.error, expected)
            assert str(attempt.error) in str(caught.value)
        assert trio.current_time() - start <= 2 * alice.limits.handshake_timeout_s
        for link in taken:
            link.close()
        assert network.open_links == 0
        nursery.cancel_scope.cancel()


async def test_every_address_is_tried_and_a_failure_names_each(network: MemoryNetwork) -> None:
    async with open_memory_meshes(2, network=network, introduce=False) as (alice, bob):
        dead = [memory(number) for number in range(1, 6)]
        with pytest.raises(DialError) as caught:
            await alice.connect(bob.peer_id, [*dead, *parse("/ip4/8.8.8.8/udp/1/quic-v1")])
        errors = {str(attempt.address): attempt.error for attempt in caught.value.attempts}
        assert [type(error) for error in errors.values()] == [NobodyListens] * 5 + [NotDialable]
        assert all(text in str(caught.value) for text in errors)
        assert caught.value.peer == bob.peer_id
        assert isinstance(caught.value, Unreachable)
        connection = await alice.connect(bob.peer_id, [*dead, *bob.addresses])
        assert connection.remote_address == bob.addresses[0]


async def test_without_an_address_the_hint_says_what_to_give(mesh_pair: list[Mesh]) -> None:
    alice, _ = mesh_pair
    with pytest.raises(DialError, match="no address") as caught:
        await alice.connect(PEER)
    assert "bootstrap" in caught.value.hint
    assert caught.value.attempts == ()


async def test_a_silent_address_costs_its_head_start_only(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    await network.transport("mute").listen(memory(1))
    async with open_memory_meshes(2, network=network, introduce=False) as (alice, bob):
        start = trio.current_time()
        await alice.connect(bob.peer_id, [memory(1), *bob.addresses])
        assert trio.current_time() - start == pytest.approx(alice.limits.dial_head_start_s)
        await trio.sleep(1)
        assert network.open_links == 3  # the third is the far end that nobody took
        await alice.disconnect(bob.peer_id)
        start = trio.current_time()
        await alice.connect(bob.peer_id, [memory(1)])  # what worked comes first now
        assert trio.current_time() == start


async def test_each_step_has_its_deadline(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    limits = Limits(connect_timeout_s=3, handshake_timeout_s=4, dial_timeout_s=100)
    await network.transport("mute").listen(memory(1))
    await network.transport("cut").listen(memory(2))
    network.cut("cut", "node-0")
    async with open_memory_meshes(1, network=network, limits=limits) as (alice,):
        for address, seconds, what in ((memory(1), 4, "handshake"), (memory(2), 3, "connection")):
            start = trio.current_time()
            with pytest.raises(DialError, match=f"no {what} within {seconds} s"):
                await alice.connect(PEER, [address])
            assert trio.current_time() - start == pytest.approx(seconds)


async def test_a_dial_has_a_deadline_in_all(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    limits = Limits(dial_timeout_s=2)
    await network.transport("mute").listen(memory(1))
    async with open_memory_meshes(1, network=network, limits=limits) as (alice,):
        start = trio.current_time()
        with pytest.raises(DialError, match="not done within 2 s in all"):
            await alice.connect(PEER, [memory(1)])
        assert trio.current_time() - start == pytest.approx(2)


async def test_addresses_tried_are_bounded(network: MemoryNetwork) -> None:
    limits = Limits(dial_addresses=3)
    async with open_memory_meshes(1, network=network, limits=limits) as (alice,):
        with pytest.raises(DialError) as caught:
            await alice.connect(PEER, [memory(number) for number in range(1, 99)])
        assert len(caught.value.attempts) == 3


async def test_peers_dialled_at_once_are_bounded(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    limits = Limits(dials=2, handshake_timeout_s=1)
    listener = await network.transport("mute").listen(memory(1))
    async with open_memory_meshes(1, network=network, limits=limits) as (alice,):
        start = trio.current_time()

        async def fails(number: int) -> None:
            with pytest.raises(DialError):
                await alice.connect(sample_identity(number).peer_id, [memory(1)])

        async with trio.open_nursery() as nursery:
            for number in range(100, 106):
                nursery.start_soon(fails, number)
            await wait_all_tasks_blocked()
            assert network.open_links == 4
        assert trio.current_time() - start == pytest.approx(3)
    listener.close()


async def test_addresses_tried_at_once_are_bounded_however_many_peers_are_dialled(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    limits = Limits(dial_attempts=5, dial_timeout_s=9, dial_head_start_s=0.01)
    for number in range(1, 5):
        await network.transport(f"mute-{number}").listen(memory(number))
    async with open_memory_meshes(1, network=network, limits=limits) as (alice,):

        async def fails(number: int) -> None:
            with pytest.raises(DialError):
                await alice.connect(
                    sample_identity(number).peer_id, [memory(host) for host in range(1, 5)]
                )

        async with trio.open_nursery() as nursery:
            for number in range(100, 110):
                nursery.start_soon(fails, number)
            await trio.sleep(1)
            assert network.open_links == 2 * 5
            assert len(alice._dialer._dials) == 10


async def test_callers_share_one_dial(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=0.1)
    async with open_memory_meshes(2, network=network) as (alice, bob):
        got: list[Connection] = []

        async def connect() -> None:
            got.append(await alice.connect(bob.peer_id))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connect)
        assert len(got) == 20
        assert len(set(got)) == 1
        await trio.sleep(1)
        assert len(bob.connections()) == 1


async def test_who_joins_a_dial_with_better_addresses_gets_them_tried(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    await network.transport("mute").listen(memory(1))
    async with open_memory_meshes(2, network=network, introduce=False) as (alice, bob):
        async with trio.open_nursery() as nursery:

            async def hopeless() -> None:
                with pytest.raises(DialError):
                    await alice.connect(bob.peer_id, [memory(1)])

            nursery.start_soon(hopeless)
            await wait_all_tasks_blocked()
            connection = await alice.connect(bob.peer_id, bob.addresses)
            assert connection.peer == bob.peer_id


async def test_who_joins_a_dial_that_meets_somebody_else_gets_its_own_addresses_tried(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork(latency=0.1)
    async with open_memory_meshes(3, network=network, introduce=False) as (alice, bob, carol):
        async with trio.open_nursery() as nursery:

            async def misled() -> None:
                with pytest.raises(PeerIdMismatch):
                    await alice.connect(bob.peer_id, carol.addresses)

            nursery.start_soon(misled)
            await trio.sleep(0.01)
            connection = await alice.connect(bob.peer_id, bob.addresses)
            assert connection.peer == bob.peer_id


async def test_one_callers_cancellation_is_not_the_others(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=1)
    async with open_memory_meshes(2, network=network) as (alice, bob):
        got: list[Connection] = []

        async def connect() -> None:
            got.append(await alice.connect(bob.peer_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            with trio.move_on_after(0.5) as scope:
                await alice.connect(bob.peer_id)
            assert scope.cancelled_caught
        assert len(got) == 1


async def test_a_dial_that_nobody_waits_for_ends(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=1)
    async with open_memory_meshes(2, network=network) as (alice, bob):
        with trio.move_on_after(0.5):
            await alice.connect(bob.peer_id)
        assert alice._dialer.pending == 0
        # Whoever comes now is not tied to the dial that is ending.
        assert (await alice.connect(bob.peer_id)).peer == bob.peer_id


@pytest.mark.parametrize("direct", [False, True])
async def test_a_dial_cancelled_at_any_point_leaves_nothing_behind(
    direct: bool, autojump_clock: MockClock
) -> None:
    network = MemoryNetwork(latency=0.1)
    async with open_memory_meshes(2, network=network, introduce=False) as (alice, bob):
        for step in range(45):
            with trio.move_on_after(step * 0.02):
                if direct:
                    await alice.dial(bob.addresses[0])
                else:
                    await alice.connect(bob.peer_id, bob.addresses)
            await trio.sleep(5)
            assert len(alice.connections()) == len(bob.connections())
            assert network.open_links == 2 * len(alice.connections())
            await alice.disconnect(bob.peer_id)
            await trio.sleep(5)
        assert alice._inbound.pending == bob._inbound.pending == alice._dialer.pending == 0
        assert network.open_links == 0


async def test_somebody_else_answering_is_its_own_error(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    with pytest.raises(PeerIdMismatch) as caught:
        await alice.dial(bob.addresses[0].with_peer(PEER))
    assert (caught.value.peer, caught.value.found) == (PEER, bob.peer_id)
    with pytest.raises(PeerIdMismatch):
        await alice.connect(PEER, bob.addresses)
    with pytest.raises(DialError) as mixed:
        await alice.connect(PEER, [*bob.addresses, memory(1)])
    assert [type(attempt.error) for attempt in mixed.value.attempts] == [
        PeerIdMismatch,
        NobodyListens,
    ]
    await wait_all_tasks_blocked()
    assert alice.connections() == bob.connections() == []


async def test_an_address_where_somebody_else_answers_is_forgotten(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    alice.book.add(PEER, [*bob.addresses, memory(1)], now=0, ttl=1e9)
    with pytest.raises(DialError):
        await alice.connect(PEER)
    assert alice.book.addresses(PEER) == [memory(1)]


async def test_an_address_of_a_node_itself_is_not_dialled(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    with pytest.raises(DialError) as caught:
        await alice.connect(PEER, alice.addresses)
    assert isinstance(caught.value.attempts[0].error, SelfDial)
    assert (await alice.connect(bob.peer_id, alice.addresses)).peer == bob.peer_id


async def test_there_is_no_dial_without_room_for_a_connection(network: MemoryNetwork) -> None:
    limits = Limits(connections=2, connections_per_peer=1)
    async with (
        open_memory_meshes(1, network=network, limits=limits) as (alice,),
        open_memory_meshes(3, network=network, seed=1) as (bob, carol, dave),
    ):
        await alice.connect(bob.peer_id, bob.addresses)
        with pytest.raises(ConnectionLimit, match="connections_per_peer"):
            await alice.dial(bob.addresses[0].with_peer(bob.peer_id))
        with pytest.raises(ConnectionLimit, match="connections_per_peer"):
            await alice.dial(bob.addresses[0])
        await alice.connect(carol.peer_id, carol.addresses)
        with pytest.raises(ConnectionLimit, match="`connections`"):
            await alice.connect(dave.peer_id, dave.addresses)
        await wait_all_tasks_blocked()
        assert network.open_links == 4


async def test_room_that_is_taken_meanwhile_fails_the_dial(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=0.1)
    limits = Limits(connections=1)
    async with (
        open_memory_meshes(1, network=network, limits=limits) as (alice,),
        open_memory_meshes(2, network=network, seed=1) as others,
    ):
        outcomes: list[str] = []

        async def connect(other: Mesh) -> None:
            try:
                await alice.connect(other.peer_id, other.addresses)
            except ConnectionLimit:
                outcomes.append("limit")
            else:
                outcomes.append("connected")

        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(connect, other)
        assert sorted(outcomes) == ["connected", "limit"]
        await trio.sleep(1)
        assert network.open_links == 2


class Buggy:
    """A transport whose code fails in a way nobody foresaw."""

    def can_dial(self, address: Multiaddr) -> bool:
        return True

    def can_listen(self, address: Multiaddr) -> bool:
        return False

    async def dial(self, address: Multiaddr) -> MemoryLink:
        raise IndexError("bug")

    async def listen(self, address: Multiaddr) -> Listener:
        raise NotImplementedError


async def test_a_bug_met_while_dialling_is_logged_and_ends_the_attempt_alone(
    network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_mesh(sample_identity(0), transports=[Buggy()]) as mesh:
        with pytest.raises(DialError, match="IndexError: bug"):
            await mesh.connect(PEER, [memory(1)])
        assert "Traceback" in caplog.text
