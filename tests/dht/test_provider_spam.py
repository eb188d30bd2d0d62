"""A peer that announces without end, and a node that can announce nothing: memory, and an alarm."""

from __future__ import annotations

import logging
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht._answers import Responder
from lattica.dht._messages import Message, MessageType, Peer
from lattica.dht._providers import (
    ALARM_SECONDS,
    MAX_PROVIDERS_PER_KEY,
    MAX_RECORDS_PER_PEER,
    PROVIDER_SECONDS,
    RENEW_SECONDS,
    RETRY_SECONDS,
    ProviderStore,
    ProvideSchedule,
)
from lattica.dht._table import RoutingTable
from lattica.identity import Identity, PeerId
from lattica.transport import AddressBook, Multiaddr, PeerInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from tests.dht.conftest import Swarm

HERE = Multiaddr.parse("/ip4/198.51.100.1/tcp/4001")
SPAMMER = Identity(bytes(32)).peer_id
WHERE = tuple(Multiaddr.parse(f"/ip4/198.51.100.1/tcp/{4001 + n}") for n in range(2))
MIB = 1 << 20


def multihash(number: int) -> bytes:
    return b"\x12\x20" + number.to_bytes(32, "big")


class Directory:
    """The address book alone, as the mesh has it."""

    def __init__(self) -> None:
        self.book = AddressBook()

    def addresses(self, peer: PeerId) -> Sequence[Multiaddr]:
        return self.book.addresses(peer, hearsay=False)

    def is_connected(self, peer: PeerId) -> bool:
        return False

    def learn(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        self.book.add(peer, addresses, now=0.0, ttl=PROVIDER_SECONDS)


def new_responder() -> tuple[Responder, ProviderStore]:
    store = ProviderStore()
    responder = Responder(
        table=RoutingTable(Identity(bytes([1]) * 32).peer_id),
        store=store,
        schedule=ProvideSchedule(),
        directory=Directory(),
        rng=random.Random(1),
    )
    return responder, store


def test_announcements_of_one_peer_take_little_memory() -> None:
    responder, store = new_responder()
    spammer = Peer(PeerInfo(SPAMMER, WHERE))
    count = MAX_RECORDS_PER_PEER + 2000
    tracemalloc.start()
    try:
        for number in range(count):
            message = Message(MessageType.ADD_PROVIDER, multihash(number), providers=(spammer,))
            responder.answer(message, sender=SPAMMER, address=HERE, now=number / 1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store) == MAX_RECORDS_PER_PEER
    assert most < 32 * MIB
    assert store.providers(multihash(count - 1), now=count / 1000) == [SPAMMER]


@pytest.mark.slow
def test_a_million_announcements_of_one_peer_take_no_more() -> None:
    store = ProviderStore()
    tracemalloc.start()
    try:
        for number in range(1_000_000):
            store.add(multihash(number), SPAMMER, now=number / 1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store) == MAX_RECORDS_PER_PEER
    assert most < 32 * MIB


def test_peers_that_one_network_invents_do_not_push_others_out_of_a_key() -> None:
    responder, store = new_responder()
    rng = random.Random(1)

    def announce(host: str) -> PeerId:
        peer, where = PeerId(b"\x12\x20" + rng.randbytes(32)), Multiaddr.parse(host)
        told = Peer(PeerInfo(peer, (where,)))
        message = Message(MessageType.ADD_PROVIDER, multihash(1), providers=(told,))
        responder.answer(message, sender=peer, address=where, now=0.0)
        return peer

    honest = {announce(f"/ip4/8.8.{number}.8/tcp/4001") for number in range(20)}
    for number in range(2 * MAX_PROVIDERS_PER_KEY):
        announce(f"/ip4/198.51.100.{number % 250 + 1}/tcp/4001")
    honest.add(announce("/ip4/9.9.9.9/tcp/4001"))
    kept = store.providers(multihash(1), now=0.0)
    assert len(kept) == MAX_PROVIDERS_PER_KEY
    assert honest <= set(kept)


@pytest.mark.slow
def test_announcements_of_ever_new_peers_take_a_bounded_memory() -> None:
    store, rng = ProviderStore(), random.Random(1)
    tracemalloc.start()
    try:
        for number in range(150_000):
            store.add(rng.randbytes(34), PeerId(b"\x12\x20" + rng.randbytes(32)), now=number / 1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 96 * MIB


def test_trying_in_vain_makes_a_key_no_less_late() -> None:
    schedule = ProvideSchedule()
    schedule.add(multihash(1), now=0.0)
    now = 0.0
    while now < ALARM_SECONDS:
        schedule.due(now, 10)
        schedule.postpone(multihash(1), now=now)
        now = schedule.next_due()
        assert schedule.lag(now) == now
    assert now >= schedule.alarm_at()
    schedule.due(now, 10)
    schedule.announced(multihash(1), now=now)
    assert schedule.lag(now) == 0.0
    assert schedule.alarm_at() > now + ALARM_SECONDS


def test_the_alarm_comes_hours_before_records_lapse() -> None:
    schedule = ProvideSchedule()
    schedule.add(multihash(1), now=0.0)
    now = 0.0
    while schedule.next_due() - now < RENEW_SECONDS:  # until the network has settled
        now = max(now + RETRY_SECONDS, schedule.next_due())
        schedule.due(now, 10)
        schedule.announced(multihash(1), now=now)
    assert now + PROVIDER_SECONDS - schedule.alarm_at() >= 12 * 3600


async def test_a_node_that_nobody_hears_warns_before_its_records_lapse(
    autojump_clock: MockClock, swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    node = await swarm.start(1)
    other = await swarm.start(2, bootstrap=(node.address,))
    await other.dht.wait_joined()
    await node.dht.wait_joined()
    await node.dht.provide(multihash(1))
    told = trio.current_time()
    swarm.network.crash(other.host)
    swarm.stop(other)
    lapses = told + PROVIDER_SECONDS

    def warnings() -> list[str]:
        found = [record for record in caplog.records if record.levelno == logging.WARNING]
        return [record.getMessage() for record in found if "announced" in record.getMessage()]

    while not warnings():
        assert trio.current_time() < lapses - 12 * 3600, "too late to do anything about it"
        assert not node.dht.status().reprovide_alarm
        await trio.sleep(600)
    status = node.dht.status()
    assert status.reprovide_alarm
    assert status.reprovide_lag >= ALARM_SECONDS
    assert "nobody could be told" in warnings()[0]
    await trio.sleep(2 * ALARM_SECONDS)
    assert len(warnings()) <= 3, "it is no flood"
