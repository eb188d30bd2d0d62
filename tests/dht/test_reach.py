"""Which addresses are told and believed: those by which both ends mean the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht._messages import MAX_MESSAGE, Message, Peer, decode, encode
from lattica.dht._reach import leads_there
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo, Stream

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.dht.conftest import Swarm

PUBLIC = Multiaddr.parse("/ip4/8.8.8.8/tcp/4001")
NAMED = Multiaddr.parse("/dns4/example.org/tcp/4001")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.7/tcp/22")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/6379")
ANYWHERE = Multiaddr.parse("/ip6/::/tcp/4001")
MEMORY = Multiaddr.parse("/memory/7")
RELAYED = Multiaddr.parse("/p2p-circuit")
ALL = [PUBLIC, NAMED, PRIVATE, LOOPBACK, ANYWHERE, MEMORY]
KEY = b"\x12\x20" + bytes(32)


@pytest.mark.parametrize(
    ("remote", "useful"),
    [
        (PUBLIC, [PUBLIC, NAMED]),
        (RELAYED, [PUBLIC, NAMED]),
        (PRIVATE, [PUBLIC, NAMED, PRIVATE]),
        (LOOPBACK, [PUBLIC, NAMED, PRIVATE, LOOPBACK, MEMORY]),
        (ANYWHERE, [PUBLIC, NAMED, PRIVATE, LOOPBACK, MEMORY]),
    ],
)
def test_an_address_counts_where_both_ends_mean_the_same_by_it(
    remote: Multiaddr, useful: list[Multiaddr]
) -> None:
    assert [address for address in ALL if leads_there(address, remote)] == useful


async def test_a_stranger_on_the_internet_cannot_send_us_to_our_own_machine_and_network(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    decoy = PeerId(b"\x12\x20" + bytes(31) + b"\x01")

    async def name_inner_services(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            request = decode(data)
            named = (Peer(PeerInfo(decoy, (LOOPBACK, PRIVATE, PUBLIC))),)
            answer = Message(request.type, request.key, closer=named, providers=named)
            await stream.send_message(encode(answer))

    node, stranger = await swarm.start(1), await swarm.start(2, protocol="/another/kad")
    stranger.mesh.handle(node.dht.protocol, name_inner_services)
    connection = await node.mesh.connect(stranger.peer, stranger.mesh.addresses)
    connection.remote_address = PUBLIC  # as if it had come from there
    await node.dht.wait_joined()
    found = [info async for info in node.dht.find_providers(KEY)]
    assert found == [PeerInfo(decoy, (PUBLIC,))]
    assert node.mesh.book.addresses(decoy) == [PUBLIC]
    await trio.sleep(1.0)
    assert await node.dht.find_peer(decoy) == PeerInfo(decoy, (PUBLIC,))
