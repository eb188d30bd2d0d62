"""The pure parts of a mesh: who is connected, where we are, who is told of what."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import pytest

from lattica.identity import PeerId
from lattica.transport import ConnectionLimit, Limits, Multiaddr
from lattica.transport._connections import ConnectionTable
from lattica.transport._interfaces import expand, machine_addresses
from lattica.transport._observed import ObservedAddresses


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


HERE = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


@dataclass(eq=False)
class Open:
    """As much of a connection as the table looks at."""

    peer: PeerId
    inbound: bool = False
    opened_at: float = 0.0
    stream_count: int = 0
    closing: bool = False
    remote_address: Multiaddr = HERE


ALICE, BOB = peer(1), peer(2)


def test_the_table_is_empty_again_when_all_have_gone() -> None:
    table = ConnectionTable[Open](ALICE, Limits())
    first, second = Open(BOB), Open(BOB)
    assert table.add(first)
    assert not table.add(second)
    assert len(table) == len(table.all()) == len(table.to(BOB)) == 2
    assert not table.remove(first)
    assert table.remove(second)
    assert (len(table), table.all(), table.to(BOB), table.best(BOB)) == (0, [], [], None)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_both_ends_prefer_what_the_smaller_peer_dialled_first(order: tuple[int, ...]) -> None:
    dialled_by_alice, later, dialled_by_bob = (True, 5.0), (True, 7.0), (False, 1.0)
    for own, other in ((ALICE, BOB), (BOB, ALICE)):
        table = ConnectionTable[Open](own, Limits())
        entries = [
            Open(other, inbound=(own == ALICE) is not by_alice, opened_at=at)
            for by_alice, at in (dialled_by_alice, later, dialled_by_bob)
        ]
        for position in order:
            table.add(entries[position])
        assert table.to(other) == entries
        assert table.best(other) is entries[0]


def test_connections_are_bounded_in_all_and_per_peer() -> None:
    table = ConnectionTable[Open](ALICE, Limits(connections=3, connections_per_peer=2))
    table.add(Open(BOB))
    table.add(Open(BOB))
    with pytest.raises(ConnectionLimit, match="connections_per_peer") as caught:
        table.add(Open(BOB))
    assert caught.value.peer == BOB
    table.check_room()
    table.add(Open(peer(3)))
    with pytest.raises(ConnectionLimit, match="`connections`"):
        table.check_room()
    with pytest.raises(ConnectionLimit):
        table.add(Open(peer(4)))


def test_connections_that_others_open_are_bounded_per_address_unless_relayed() -> None:
    table = ConnectionTable[Open](ALICE, Limits(connections_per_ip=2))
    there, relayed = addresses("/ip4/192.0.2.2/tcp/1", f"{HERE}/p2p-circuit")
    entries = [Open(peer(number), inbound=True) for number in range(10, 12)]
    for entry in entries:
        table.add(entry)
    with pytest.raises(ConnectionLimit, match="connections_per_ip"):
        table.check_source(HERE)
    with pytest.raises(ConnectionLimit, match="connections_per_ip"):
        table.add(Open(peer(12), inbound=True))
    table.add(Open(peer(13), inbound=True, remote_address=there))
    table.add(Open(peer(14), inbound=True, remote_address=relayed))
    table.add(Open(peer(15)))  # we dialled it
    for entry in entries:
        table.remove(entry)
    table.check_source(HERE)
    assert table._from == {"192.0.2.2": 1}


def test_when_it_is_crowded_the_oldest_idle_connection_gives_way() -> None:
    table = ConnectionTable[Open](ALICE, Limits(crowded_at=4, idle_after_s=10))
    busy, ending = Open(peer(2), stream_count=1), Open(peer(3), closing=True)
    idle, older = Open(peer(4), opened_at=5), Open(peer(5), opened_at=2)
    for connection in (busy, ending, idle, older):
        table.add(connection)
    assert table.idle(100) is None
    table.add(Open(peer(6), opened_at=7))
    assert table.idle(11) is None
    assert table.idle(12) is older
    table.remove(older)
    assert table.idle(100) is None


def addresses(*texts: str) -> list[Multiaddr]:
    return [Multiaddr.parse(text) for text in texts]


def test_all_interfaces_become_their_addresses_the_farthest_first() -> None:
    machine = [
        ipaddress.ip_address(text)
        for text in ("127.0.0.1", "192.168.0.2", "8.8.8.8", "::1", "2001:4860:4860::8888")
    ]
    bound = addresses("/ip4/0.0.0.0/tcp/7", "/ip6/::/tcp/8", "/ip4/127.0.0.1/tcp/9")
    assert expand(bound, lambda: machine) == addresses(
        "/ip4/8.8.8.8/tcp/7",
        "/ip6/2001:4860:4860::8888/tcp/8",
        "/ip4/192.168.0.2/tcp/7",
        "/ip4/127.0.0.1/tcp/7",
        "/ip6/::1/tcp/8",
        "/ip4/127.0.0.1/tcp/9",
    )


def test_this_machine_has_addresses_that_can_be_dialled_without_a_zone() -> None:
    found = machine_addresses()
    assert ipaddress.ip_address("127.0.0.1") in found
    assert not any(ip.version == 6 and ip.is_link_local for ip in found)


def test_observed_addresses_count_by_peers_and_are_bounded() -> None:
    observed = ObservedAddresses(2)
    one, two, three = addresses("/ip4/8.8.8.1/tcp/1", "/ip4/8.8.8.2/tcp/1", "/ip4/8.8.8.3/tcp/1")
    for witness in (ALICE, BOB, BOB):
        observed.add(two, witness, inbound=False)
    observed.add(one, peer(11), inbound=False)
    assert list(observed.counts().items()) == [(two, 2), (one, 1)]
    observed.add(three, peer(12), inbound=False)
    assert set(observed.counts()) == {one, three}
    for number in range(100):
        observed.add(three, peer(number), inbound=False)
    assert observed.counts()[three] == 32


def test_a_peer_that_sees_us_elsewhere_each_time_counts_once() -> None:
    observed = ObservedAddresses(4)
    (true,) = addresses("/ip4/8.8.8.1/tcp/1")
    observed.add(true, ALICE, inbound=False)
    for port in range(1, 100):
        (latest,) = addresses(f"/ip4/9.9.9.9/tcp/{port}")
        observed.add(latest, BOB, inbound=False)
    assert observed.counts() == {true: 1, latest: 1}


def test_where_three_networks_have_reached_us_is_announced() -> None:
    observed = ObservedAddresses(8)
    (outside, bound) = addresses("/ip4/9.9.9.9/tcp/4001", "/ip4/192.168.1.7/tcp/5000")
    for number in range(9):  # keys cost nothing: these are all one network
        (there,) = addresses(f"/ip4/1.2.3.{number}/tcp/1")
        observed.add(outside, peer(number), where=there, inbound=True)
    assert observed.confirmed([bound]) == []
    for number, where in enumerate(addresses("/ip4/8.8.8.8/tcp/1", "/ip4/7.7.7.7/tcp/1"), 20):
        observed.add(outside, peer(number), where=where, inbound=True)
    assert observed.confirmed([]) == [outside]


def test_our_public_address_is_announced_with_the_ports_that_we_listen_on() -> None:
    observed = ObservedAddresses(8)
    bound = addresses(
        "/ip4/0.0.0.0/tcp/4001", "/ip4/127.0.0.1/tcp/4002", "/ip6/::/tcp/4003", "/memory/7"
    )
    for number in range(3):
        seen, where = addresses(f"/ip4/9.9.9.9/tcp/{5000 + number}", f"/ip4/8.8.{number}.8/tcp/1")
        observed.add(seen, peer(number), where=where, inbound=False)
    assert observed.confirmed(bound) == addresses("/ip4/9.9.9.9/tcp/4001")
    for number in range(3):  # as many say something else: there is no telling who lies
        seen, where = addresses(f"/ip4/6.6.6.6/tcp/{5000 + number}", f"/ip4/7.7.{number}.8/tcp/1")
        observed.add(seen, peer(10 + number), where=where, inbound=False)
    assert observed.confirmed(bound) == []


def test_what_peers_in_private_networks_see_is_no_public_address() -> None:
    observed = ObservedAddresses(8)
    for number in range(5):
        seen, where = addresses("/ip4/9.9.9.9/tcp/4001", f"/ip4/192.168.{number}.8/tcp/1")
        observed.add(seen, peer(number), where=where, inbound=True)
    assert observed.public_ips() == {}
    assert observed.confirmed([]) == []


def test_only_so_many_observed_addresses_are_announced() -> None:
    observed = ObservedAddresses(64)
    bound = addresses(*(f"/ip4/192.168.1.{number}/tcp/4001" for number in range(1, 20)))
    bound += addresses(*(f"/ip4/192.168.1.7/tcp/{port}" for port in range(5000, 5020)))
    for number in range(3):
        seen, where = addresses("/ip4/9.9.9.9/tcp/4001", f"/ip4/8.8.{number}.8/tcp/1")
        observed.add(seen, peer(number), where=where, inbound=False)
    assert len(observed.confirmed(bound)) == 4
