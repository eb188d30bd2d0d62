"""Whole nodes on an in-memory network: joining, finding, providing, surviving."""

from __future__ import annotations

import hashlib
import logging
import random
from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht import BootstrapPhase, Dht, InvalidKey, open_dht
from lattica.dht._keys import K
from lattica.dht._providers import PROVIDER_SECONDS, RENEW_FIRST_SECONDS
from lattica.dht._table import RECHECK_SECONDS
from lattica.identity import Identity, PeerId
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.dht.conftest import Node, Swarm


def multihash(text: str) -> bytes:
    return b"\x12\x20" + hashlib.sha256(text.encode()).digest()


async def providers(dht: Dht, key: bytes, count: int = 20) -> list[PeerId]:
    return [info.peer async for info in dht.find_providers(key, count)]


@pytest.mark.parametrize("count", [12, pytest.param(20, marks=pytest.mark.slow)])
async def test_nodes_that_joined_through_one_find_each_other_and_what_is_provided(
    autojump_clock: MockClock, swarm: Swarm, count: int
) -> None:
    nodes = await swarm.start_many(count)
    key = multihash("model")
    assert await nodes[3].dht.provide(key) == count - 1
    for node in (nodes[0], *nodes[4::4]):
        assert await providers(node.dht, key) == [nodes[3].peer]
    for other in nodes[2:6]:
        assert await nodes[1].dht.find_peer(other.peer) == PeerInfo(
            other.peer, tuple(other.mesh.addresses)
        )
    await trio.sleep(5.0)
    assert {node.dht.status().peers for node in nodes} == {count - 1}


async def test_the_swarm_lives_on_without_the_node_it_met_through(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    first, *others = await swarm.start_many(8)
    swarm.network.crash(first.host)
    swarm.stop(first)
    key = multihash("model")
    assert await others[0].dht.provide(key) >= 6
    assert await providers(others[-1].dht, key) == [others[0].peer]
    late = await swarm.start(99, bootstrap=(first.address, others[3].address))
    await late.dht.wait_joined()
    assert await providers(late.dht, key) == [others[0].peer]
    down, up = late.dht.status().bootstrap
    assert down.phase is BootstrapPhase.FAILED
    assert down.error is not None
    assert "nobody listens" in down.error
    assert up.phase is BootstrapPhase.CONNECTED


async def test_nodes_that_start_at_once_with_the_same_two_bootstraps_become_one_network(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    here, there = "/memory/1", "/memory/2"
    bootstrap = tuple(
        Multiaddr.parse(where).with_peer(swarm.identity(number).peer_id)
        for number, where in ((1, here), (2, there))
    )
    async with trio.open_nursery() as starting:
        for number in range(1, 9):
            where = {1: here, 2: there}.get(number, "/memory/0")
            starting.start_soon(_start, swarm, number, where, bootstrap)
    await trio.sleep(10.0)
    assert {node.dht.status().peers for node in swarm.nodes} == {7}
    phases = {status.phase for node in swarm.nodes for status in node.dht.status().bootstrap}
    assert phases == {BootstrapPhase.CONNECTED, BootstrapPhase.OURSELVES}


async def _start(swarm: Swarm, number: int, where: str, bootstrap: tuple[Multiaddr, ...]) -> None:
    await swarm.start(number, listen=where, bootstrap=bootstrap)


async def test_a_node_starts_without_its_bootstrap_and_joins_when_that_is_there(
    autojump_clock: MockClock, swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    address = Multiaddr.parse("/memory/7").with_peer(swarm.identity(1).peer_id)
    node = await swarm.start(2, bootstrap=(address,))
    assert await node.dht.closest_peers(b"key") == []
    assert await providers(node.dht, multihash("x")) == []
    (status,) = node.dht.status().bootstrap
    assert status.error is not None
    assert not node.dht.status().joined
    await trio.sleep(60)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, "its user is told, once"
    assert str(address) in warnings[0].getMessage()
    await swarm.start(1, listen="/memory/7")
    with trio.fail_after(60):
        await node.dht.wait_joined()
    assert node.dht.status().bootstrap[0].error is None


async def test_what_nobody_could_be_told_is_announced_when_somebody_is_met(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    lonely = await swarm.start(1)
    key = multihash("model")
    assert await lonely.dht.provide(key) == 0
    other = await swarm.start(2, bootstrap=(lonely.address,))
    await other.dht.wait_joined()
    await trio.sleep(1.0)
    assert other.dht.status().records == 1


async def test_a_whole_model_is_announced_together(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(8)
    keys = [multihash(f"tensor {number}") for number in range(301)]
    before = nodes[1].mesh.peer_id
    assert await nodes[1].dht.provide_many(keys) == 7
    assert [node.dht.status().records for node in nodes if node is not nodes[1]] == [301] * 7
    assert await providers(nodes[7].dht, keys[250]) == [before]
    nodes[1].dht.stop_providing(keys[250])
    assert not nodes[1].dht.is_providing(keys[250])
    assert nodes[1].dht.status().provided == 300


@pytest.mark.parametrize(
    ("node_count", "key_count"), [(26, 20), pytest.param(48, 100, marks=pytest.mark.slow)]
)
async def test_in_a_larger_network_each_key_is_told_to_the_peers_nearest_to_it(
    autojump_clock: MockClock, swarm: Swarm, node_count: int, key_count: int
) -> None:
    nodes = await swarm.start_many(node_count)
    keys = [multihash(f"tensor {number}") for number in range(key_count)]
    assert await nodes[1].dht.provide_many(keys) == K
    now, right = trio.current_time(), 0
    for key in keys:
        keepers = {node.peer for node in nodes if node.dht._store.providers(key, now=now)}
        assert len(keepers) == K
        right += len(keepers & set(_nearest(nodes, nodes[1], key)[:K]))
    assert right / (K * len(keys)) > 0.97
    assert await providers(nodes[20].dht, keys[7]) == [nodes[1].peer]


async def test_keys_are_announced_again_so_that_newcomers_know_them(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(3)
    nodes[1].dht.keep_providing([multihash("a"), multihash("b")])
    await trio.sleep(1.0)
    assert nodes[0].dht.status().records == 2
    newcomer = await swarm.start(9, bootstrap=(nodes[0].address,))
    await trio.sleep(RENEW_FIRST_SECONDS + 1.0)
    assert newcomer.dht.status().records == 2
    assert nodes[1].dht.status().reprovide_lag == 0.0


async def test_a_cancelled_announcement_goes_on_in_the_background(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    with trio.CancelScope() as scope:
        scope.cancel()
        await nodes[1].dht.provide(multihash("model"))
    assert nodes[1].dht.is_providing(multihash("model"))
    await trio.sleep(60.0)
    assert [node.dht.status().records for node in nodes] == [1, 0, 1, 1]


async def test_an_announcement_that_is_cancelled_before_anybody_is_met_goes_on(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    address = Multiaddr.parse("/memory/7").with_peer(swarm.identity(1).peer_id)
    swarm.network.cut("here", "there")
    await swarm.start(1, listen="/memory/7", host="there")
    node = await swarm.start(2, bootstrap=(address,), host="here")
    with trio.move_on_after(1.0):
        await node.dht.provide(multihash("model"))
    swarm.network.heal("here", "there")
    await trio.sleep(60.0)
    assert swarm.nodes[0].dht.status().records == 1


async def test_two_swarms_on_one_network_share_no_peer_and_no_record(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    red = await swarm.start(1, protocol="/red/kad/1.0.0")
    blue = await swarm.start(2, protocol="/blue/kad/1.0.0", bootstrap=(red.address,))
    red_too = await swarm.start(3, protocol="/red/kad/1.0.0", bootstrap=(red.address,))
    await red_too.dht.wait_joined()
    await red_too.dht.provide(multihash("secret"))
    await trio.sleep(5.0)
    assert blue.dht.status().peers == 0
    assert await providers(blue.dht, multihash("secret")) == []
    assert blue.dht.status().bootstrap[0].error == "it does not serve /blue/kad/1.0.0"
    assert [contact.peer for contact in red.dht.peers()] == [red_too.peer]


async def test_a_client_asks_and_provides_but_stands_in_nobodys_table(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    client = await swarm.start(9, server=False, bootstrap=(nodes[0].address,))
    await client.dht.wait_joined()
    key = multihash("model")
    assert await client.dht.provide(key) == 4
    assert await providers(nodes[2].dht, key) == [client.peer]
    await trio.sleep(30.0)
    assert all(client.peer not in [contact.peer for contact in node.dht.peers()] for node in nodes)
    found = await nodes[3].dht.find_peer(client.peer)
    assert found == PeerInfo(client.peer, tuple(client.mesh.addresses))


async def test_a_node_that_comes_back_elsewhere_is_found_there(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(5)
    mover = nodes[2]
    old = mover.mesh.addresses
    swarm.network.crash(mover.host)
    swarm.stop(mover)
    await trio.sleep(1.0)
    again = await swarm.start(3, bootstrap=(nodes[0].address,))
    assert again.peer == mover.peer
    assert again.mesh.addresses != old
    with trio.fail_after(30.0):
        await again.dht.wait_joined()
        await trio.sleep(1.0)
        found = await nodes[4].dht.find_peer(again.peer)
    assert found is not None
    assert again.mesh.addresses[0] in found.addresses


async def test_a_peer_that_falls_silent_costs_a_moment_and_leaves_the_table(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(6)
    silent = nodes[5]
    for node in nodes:
        if node is not silent:
            swarm.network.cut(node.host, silent.host)
    started = trio.current_time()
    found = await nodes[1].dht.closest_peers(silent.peer.raw)
    assert len(found) == 4
    assert trio.current_time() - started < 5.0
    await trio.sleep(900.0)
    assert silent.peer not in [contact.peer for contact in nodes[1].dht.peers()]


async def test_a_node_whose_own_network_fails_keeps_its_contacts(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(5)
    node = nodes[4]
    for other in nodes[:4]:
        swarm.network.cut(node.host, other.host)
    await trio.sleep(1800.0)
    assert node.dht.status().peers > 0
    for other in nodes[:4]:
        swarm.network.heal(node.host, other.host)
    await trio.sleep(300.0)
    assert len(await node.dht.closest_peers(b"key")) == 4


async def test_a_node_that_was_cut_off_for_hours_finds_back_and_announces_what_it_has(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    one, other = await swarm.start(1), await swarm.start(2)
    await other.mesh.connect(one.peer, one.mesh.addresses)  # as a local search would
    await other.dht.wait_joined()
    await other.dht.provide(multihash("model"))
    await trio.sleep(3 * 3600.0)
    swarm.network.cut(one.host, other.host)
    await trio.sleep(3 * 3600.0)
    assert other.mesh.connections() == []
    assert other.dht.status().peers == 1
    one.dht._store.expire(trio.current_time() + PROVIDER_SECONDS)  # it was longer for the others
    swarm.network.heal(one.host, other.host)
    await trio.sleep(RECHECK_SECONDS + 10.0)
    assert other.mesh.connected(one.peer) is not None
    assert one.dht.status().records == 1


async def test_whoever_leaves_the_loop_ends_the_search(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(10)
    key = multihash("model")
    for node in nodes[1:4]:
        await node.dht.provide(key)
    search = nodes[9].dht.find_providers(key)
    async for info in search:
        assert info.peer in {node.peer for node in nodes[1:4]}
        break
    findings = search._findings
    del search
    await trio.sleep(1.0)
    assert findings.report is not None
    assert findings.report.asked < 9


async def test_a_search_says_what_it_did(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(4)
    search = nodes[1].dht.find_providers(multihash("nobody has this"))
    assert search.report is None
    assert [info async for info in search] == []
    assert str(search.report) == "asked 3 peers, 3 answered"


async def test_a_search_ends_with_the_node(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(4)
    for node in (nodes[0], nodes[2], nodes[3]):
        swarm.network.cut(node.host, nodes[1].host)
    search = nodes[1].dht.find_providers(multihash("model"))

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def stop() -> None:
            await trio.sleep(0.5)
            swarm.stop(nodes[1])

        assert [info async for info in search] == []


async def test_a_node_that_has_ended_says_so(autojump_clock: MockClock, swarm: Swarm) -> None:
    mesh = (await swarm.start(1)).mesh
    async with open_dht(mesh, protocol="/another/kad") as dht:
        search = dht.find_providers(multihash("model"))
    for call in (
        lambda: anext(search),
        lambda: dht.closest_peers(b"key"),
        lambda: dht.find_peer(mesh.peer_id),
        lambda: dht.provide(multihash("model")),
    ):
        with pytest.raises(trio.ClosedResourceError, match="the DHT is closed"):
            await call()


async def test_enough_is_enough(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(9)
    key = multihash("model")
    for node in nodes[1:]:
        await node.dht.provide(key)
    assert len(await providers(nodes[0].dht, key, count=3)) == 3
    everybody = await providers(nodes[0].dht, key)
    assert sorted(everybody) == sorted(node.peer for node in nodes[1:])


async def test_nobody_is_found_who_is_not_there(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(4)
    assert await nodes[1].dht.find_peer(Identity(bytes(31) + b"\xff").peer_id) is None
    ours = await nodes[1].dht.find_peer(nodes[1].peer)
    assert ours == PeerInfo(nodes[1].peer, tuple(nodes[1].mesh.addresses))


async def test_what_is_said_of_an_unreachable_peer_is_told(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    gone = Identity(bytes(31) + b"\xff").peer_id
    address = Multiaddr.parse("/memory/12345")
    nodes[0].mesh.book.add(gone, [address], now=trio.current_time(), ttl=600.0)
    assert await nodes[3].dht.find_peer(gone) == PeerInfo(gone, (address,))


async def test_the_closest_peers_are_the_closest_of_all(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(6)
    rng = random.Random(3)
    for _ in range(5):
        key = rng.randbytes(34)
        found = await nodes[1].dht.closest_peers(key, 3)
        assert [info.peer for info in found] == _nearest(nodes, nodes[1], key)[:3]


def _nearest(nodes: list[Node], but: Node, key: bytes) -> list[PeerId]:
    def place(data: bytes) -> int:
        return int.from_bytes(hashlib.sha256(data).digest(), "big")

    others = [node.peer for node in nodes if node is not but]
    return sorted(others, key=lambda peer: place(peer.raw) ^ place(key))


async def test_keys_out_of_bounds_are_refused_before_anything_is_sent(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    node = await swarm.start(1)
    with pytest.raises(InvalidKey):
        await node.dht.provide(b"")
    with pytest.raises(InvalidKey):
        node.dht.keep_providing([multihash("fine"), bytes(257)])
    with pytest.raises(InvalidKey):
        node.dht.find_providers(bytes(257))
    with pytest.raises(InvalidKey):
        await node.dht.closest_peers(b"")
    assert node.dht.status().provided == 0


async def test_a_lookup_takes_only_so_long(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.dht._client.LOOKUP_SECONDS", 0.5)
    nodes = await swarm.start_many(4)
    for node in nodes[2:]:
        swarm.network.cut(nodes[1].host, node.host)
    with trio.fail_after(0.6):
        found = await nodes[1].dht.closest_peers(b"key")
    assert [info.peer for info in found] == [nodes[0].peer]
