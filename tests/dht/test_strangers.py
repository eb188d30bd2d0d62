"""Peers that break the protocol, overdo it, or go their own way within it."""

from __future__ import annotations

import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from lattica import _varint
from lattica.dht._candidates import HEARSAY
from lattica.dht._client import LOOKUPS
from lattica.dht._keys import position, shared_bits
from lattica.dht._lookup import Lookup
from lattica.dht._messages import (
    MAX_MESSAGE,
    Message,
    MessageType,
    Peer,
    decode,
    encode,
    frame,
)
from lattica.dht._requests import IDLE_SECONDS, IDLE_STREAMS_PER_PEER
from lattica.dht._serving import SEND_SECONDS, SERVED_IDLE_SECONDS, SERVED_STREAMS_PER_PEER
from lattica.identity import PeerId
from lattica.transport import (
    Mesh,
    Multiaddr,
    PeerInfo,
    RawLink,
    Stream,
    StreamReset,
    open_mesh,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from tests.dht.conftest import Node, Swarm

PROTOCOL = "/lattica/kad/1.0.0"
KEY = b"\x12\x20" + bytes(32)


@asynccontextmanager
async def open_stranger(swarm: Swarm, number: int = 100) -> AsyncIterator[Mesh]:
    """A mesh without a DHT of ours, on the same network."""
    async with open_mesh(
        swarm.identity(number),
        listen=[Multiaddr.parse("/memory/0")],
        transports=[swarm.network.transport()],
    ) as mesh:
        yield mesh


async def open_stream(mesh: Mesh, node: Node) -> Stream:
    return await mesh.open_stream(node.peer, PROTOCOL, addresses=node.mesh.addresses)


async def ask(stream: Stream, message: Message) -> Message:
    await stream.send_message(encode(message))
    data = await stream.receive_message(MAX_MESSAGE)
    assert data is not None
    return decode(data)


def announcement(key: bytes, mesh: Mesh) -> bytes:
    provider = Peer(PeerInfo(mesh.peer_id, tuple(mesh.addresses)))
    return frame(encode(Message(MessageType.ADD_PROVIDER, key, providers=(provider,))))


@pytest.mark.parametrize(
    "wire",
    [
        frame(b"\xff" * 20),
        frame(encode(Message(MessageType.FIND_NODE))),
        frame(encode(Message(MessageType.ADD_PROVIDER, bytes(257)))),
        _varint.encode(MAX_MESSAGE + 1),
        _varint.encode(1 << 62),
        b"\xff" * 20,
    ],
    ids=["garbage", "no-key", "long-key", "long", "huge", "no-length"],
)
async def test_a_request_that_is_none_ends_its_stream_and_nothing_else(
    autojump_clock: MockClock, swarm: Swarm, wire: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = await swarm.start(1)
    async with open_stranger(swarm) as stranger:
        good = await open_stream(stranger, node)
        bad = await open_stream(stranger, node)
        await bad.send_all(wire)
        with pytest.raises(StreamReset):
            await bad.receive_some()
        assert (await ask(good, Message(MessageType.PING))).type is MessageType.PING
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_one_stream_serves_many_requests(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(3)
    async with open_stranger(swarm) as stranger:
        stream = await open_stream(stranger, nodes[0])
        named = {node.peer for node in nodes[1:]}
        for kind in (MessageType.FIND_NODE, MessageType.GET_VALUE, MessageType.GET_PROVIDERS):
            answer = await ask(stream, Message(kind, KEY))
            assert (answer.type, answer.key, answer.record) == (kind, KEY, None)
            assert {peer.info.peer for peer in answer.closer} == named
            assert all(peer.info.addresses for peer in answer.closer)
        await stream.send_all(announcement(KEY, stranger))
        assert (await ask(stream, Message(MessageType.PING))).type is MessageType.PING
        await stream.send_eof()
        assert await stream.receive_some() == b""
    assert nodes[0].dht.status().records == 1


async def test_a_silent_stream_is_closed(autojump_clock: MockClock, swarm: Swarm) -> None:
    node = await swarm.start(1)
    async with open_stranger(swarm) as stranger:
        stream = await open_stream(stranger, node)
        await ask(stream, Message(MessageType.PING))
        with trio.fail_after(SERVED_IDLE_SECONDS + 1.0):
            assert await stream.receive_some() == b""


async def test_a_peer_has_only_so_many_streams(autojump_clock: MockClock, swarm: Swarm) -> None:
    node = await swarm.start(1)
    async with open_stranger(swarm) as stranger, open_stranger(swarm, 101) as other:
        streams = [await open_stream(stranger, node) for _ in range(SERVED_STREAMS_PER_PEER)]
        for stream in streams:
            await ask(stream, Message(MessageType.PING))
        one_more = await open_stream(stranger, node)
        with pytest.raises(StreamReset):
            await ask(one_more, Message(MessageType.PING))
        await ask(await open_stream(other, node), Message(MessageType.PING))
        streams[0].reset()
        await trio.sleep(1.0)
        await ask(await open_stream(stranger, node), Message(MessageType.PING))
    await trio.sleep(1.0)
    assert not node.dht._serving.streams


async def test_a_flood_of_provider_records_stays_within_the_quota_of_its_sender(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(3)
    nodes[0].dht._store._per_peer = 100
    await nodes[1].dht.provide(KEY)
    rng = random.Random(1)
    async with open_stranger(swarm) as stranger:
        stream = await open_stream(stranger, nodes[0])
        for _ in range(20):
            spam = (announcement(rng.randbytes(34), stranger) for _ in range(50))
            await stream.send_all(b"".join(spam))
        await ask(stream, Message(MessageType.PING))
    assert nodes[0].dht.status().records == 101
    assert [info.peer async for info in nodes[2].dht.find_providers(KEY)] == [nodes[1].peer]


async def test_nobody_can_announce_for_somebody_else(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(2)
    async with open_stranger(swarm) as stranger:
        stream = await open_stream(stranger, nodes[0])
        victim = Peer(PeerInfo(nodes[1].peer, (Multiaddr.parse("/memory/666"),)))
        await stream.send_message(
            encode(Message(MessageType.ADD_PROVIDER, KEY, providers=(victim,)))
        )
        await ask(stream, Message(MessageType.PING))
    assert nodes[0].dht.status().records == 0
    assert Multiaddr.parse("/memory/666") not in nodes[0].mesh.book.addresses(nodes[1].peer)


async def test_a_peer_that_does_not_read_its_answers_is_given_up(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(2)
    async with open_stranger(swarm) as stranger:
        stream = await open_stream(stranger, nodes[0])
        question = frame(encode(Message(MessageType.FIND_NODE, KEY)))
        with trio.fail_after(SEND_SECONDS + 1.0), pytest.raises(StreamReset):
            while True:  # no answer is ever read, so they fill the window, and the node waits
                await stream.send_all(question * 1000)
        assert stranger.peer_id not in nodes[0].dht._serving.streams


# Peers that answer in their own way.


@asynccontextmanager
async def open_answerer(
    swarm: Swarm, handler: Callable[[Stream], Awaitable[None]], number: int = 100
) -> AsyncIterator[Mesh]:
    async with open_stranger(swarm, number) as mesh:
        mesh.handle(PROTOCOL, handler)
        yield mesh


async def answer_once(stream: Stream) -> None:
    """As implementations do that take a new stream for each request."""
    data = await stream.receive_message(MAX_MESSAGE)
    assert data is not None
    request = decode(data)
    await stream.send_message(encode(Message(request.type, request.key)))


async def test_peers_that_close_after_each_answer_are_asked_on_new_streams(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    node = await swarm.start(1)
    async with open_answerer(swarm, answer_once) as peer:
        await peer.connect(node.peer, node.mesh.addresses)
        await node.dht.wait_joined()
        for _ in range(5):
            search = node.dht.find_providers(KEY)
            assert [info async for info in search] == []
            assert str(search.report) == "asked 1 peers, 1 answered"


async def test_streams_are_used_again_and_let_go_when_idle(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    served = []

    async def serve(stream: Stream) -> None:
        served.append(stream)
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            await stream.send_message(encode(Message(decode(data).type)))

    node = await swarm.start(1)
    async with open_answerer(swarm, serve) as peer:
        await peer.connect(node.peer, node.mesh.addresses)
        await node.dht.wait_joined()
        for _ in range(5):
            await node.dht.closest_peers(KEY)
        assert len(served) == 1
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(node.dht.closest_peers, bytes([number, 1]))
        requester = node.dht._client._requester
        assert len(requester._idle) == IDLE_STREAMS_PER_PEER
        # The next look at ourselves is minutes away by now, so nothing else is asked meanwhile.
        await trio.sleep(600.0)
        before = len(served)
        await trio.sleep(IDLE_SECONDS + 1.0)
        assert len(served) == before
        assert not requester._idle
        assert not requester._idle_of


async def answer_something_else(stream: Stream) -> None:
    await stream.receive_message(MAX_MESSAGE)
    await stream.send_message(encode(Message(MessageType.PING)))


async def answer_garbage(stream: Stream) -> None:
    await stream.receive_message(MAX_MESSAGE)
    await stream.send_message(b"\xff" * 99)


async def answer_at_length(stream: Stream) -> None:
    await stream.receive_message(MAX_MESSAGE)
    await stream.send_all(_varint.encode(1 << 40) + bytes(1000))


async def answer_nothing(stream: Stream) -> None:
    await stream.receive_message(MAX_MESSAGE)


async def answer_never(stream: Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "handler",
    [answer_something_else, answer_garbage, answer_at_length, answer_nothing, answer_never],
)
async def test_a_peer_that_does_not_answer_properly_is_no_contact(
    autojump_clock: MockClock, swarm: Swarm, handler: Callable[[Stream], Awaitable[None]]
) -> None:
    nodes = await swarm.start_many(2)
    async with open_answerer(swarm, handler) as peer:
        for node in nodes:
            await peer.connect(node.peer, node.mesh.addresses)
        await trio.sleep(30.0)
        assert [contact.peer for contact in nodes[0].dht.peers()] == [nodes[1].peer]


async def test_a_contact_that_stops_answering_properly_is_dropped(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    proper = True

    async def serve(stream: Stream) -> None:
        await (answer_once if proper else answer_garbage)(stream)

    nodes = await swarm.start_many(2)
    async with open_answerer(swarm, serve) as peer:
        await peer.connect(nodes[0].peer, nodes[0].mesh.addresses)
        await trio.sleep(5.0)
        assert len(nodes[0].dht.peers()) == 2
        proper = False
        search = nodes[0].dht.find_providers(KEY)
        assert [info async for info in search] == []
        assert search.report is not None
        assert search.report.failures == {"dht-message": 1}
        await trio.sleep(1800.0)
        assert [contact.peer for contact in nodes[0].dht.peers()] == [nodes[1].peer]


async def test_a_peer_that_stops_serving_the_protocol_leaves_the_table(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    node = await swarm.start(1)
    async with open_answerer(swarm, answer_once) as peer:
        await peer.connect(node.peer, node.mesh.addresses)
        await node.dht.wait_joined()
        peer.unhandle(PROTOCOL)
        await trio.sleep(5.0)
        assert node.dht.peers() == []


async def test_a_peer_that_will_not_be_told_does_not_count(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    async def serve(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            message = decode(data)
            if message.type is MessageType.ADD_PROVIDER:
                stream.reset()
                return
            await stream.send_message(encode(Message(message.type)))

    nodes = await swarm.start_many(2)
    async with open_answerer(swarm, serve) as peer:
        await peer.connect(nodes[1].peer, nodes[1].mesh.addresses)
        await trio.sleep(5.0)
        assert len(nodes[1].dht.peers()) == 2
        assert await nodes[1].dht.provide(KEY) == 1


async def test_a_peer_that_turns_out_to_speak_another_protocol_is_forgotten(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(2)
    async with open_stranger(swarm) as stranger:
        client = nodes[1].dht._client
        client.table.add(stranger.peer_id, now=trio.current_time())
        nodes[1].mesh.book.add(
            stranger.peer_id, stranger.addresses, now=trio.current_time(), ttl=600.0
        )
        search = nodes[1].dht.find_providers(KEY)
        assert [info async for info in search] == []
        assert search.report is not None
        assert search.report.failures == {"other-protocol": 1}
        assert stranger.peer_id not in [contact.peer for contact in nodes[1].dht.peers()]


async def test_invented_peers_and_providers_do_not_hide_the_real_ones(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    rng = random.Random(1)

    async def lie(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            request = decode(data)
            invented = tuple(
                Peer(
                    PeerInfo(
                        PeerId(b"\x12\x20" + rng.randbytes(32)),
                        (Multiaddr.parse(f"/memory/{rng.randrange(1, 1 << 20)}"),),
                    )
                )
                for _ in range(30)
            )
            await stream.send_message(
                encode(Message(request.type, request.key, closer=invented, providers=invented))
            )

    nodes = await swarm.start_many(5)
    await nodes[1].dht.provide(KEY)
    async with open_answerer(swarm, lie) as liar:
        for node in nodes:
            await liar.connect(node.peer, node.mesh.addresses)
        await trio.sleep(5.0)
        assert liar.peer_id in [contact.peer for contact in nodes[4].dht.peers()]
        search = nodes[4].dht.find_providers(KEY)
        found = [info.peer async for info in search]
        assert nodes[1].peer in found
        assert len(found) == 20
        assert len(await nodes[3].dht.closest_peers(KEY)) == 5
        assert {contact.peer for contact in nodes[4].dht.peers()} == {
            liar.peer_id,
            *(node.peer for node in nodes[:4]),
        }


async def test_one_hostile_answer_makes_a_node_dial_a_handful_of_addresses(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    """However many peers it names: each would be a knock at somebody's door."""
    rng, knocks = random.Random(1), list[Multiaddr]()
    named = tuple(
        Peer(PeerInfo(PeerId(b"\x12\x20" + rng.randbytes(32)), (Multiaddr.parse(f"/memory/{n}"),)))
        for n in range(1, 31)
    )

    async def lie(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            request = decode(data)
            await stream.send_message(encode(Message(request.type, request.key, closer=named)))

    nodes = await swarm.start_many(4)
    async with open_answerer(swarm, lie) as liar:
        await liar.connect(nodes[1].peer, nodes[1].mesh.addresses)
        await trio.sleep(30.0)
        transport = nodes[1].mesh._transports[0]
        dial = transport.dial

        async def note(address: Multiaddr) -> RawLink:
            knocks.append(address)
            return await dial(address)

        transport.dial = note  # type: ignore[method-assign]
        assert len(await nodes[1].dht.closest_peers(KEY)) == 4
    assert 0 < len(knocks) <= HEARSAY


async def test_a_liar_cannot_put_wrong_addresses_in_the_place_of_right_ones(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    victim, *others = await swarm.start_many(3)

    async def lie(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            request = decode(data)
            wrong = tuple(Multiaddr.parse(f"/memory/{9_000 + number}") for number in range(16))
            named = (Peer(PeerInfo(victim.peer, wrong)),)
            answer = Message(request.type, request.key, closer=named, providers=named)
            await stream.send_message(encode(answer))

    await trio.sleep(3000.0)  # what the victim said of itself lapses before the lies do
    async with open_answerer(swarm, lie) as liar:
        for node in others:
            await liar.connect(node.peer, node.mesh.addresses)
        await trio.sleep(5.0)
        for node in others:
            assert [info.peer async for info in node.dht.find_providers(KEY)] == [victim.peer]
            assert node.mesh.book.addresses(victim.peer)[:1] == victim.mesh.addresses
        async with open_stranger(swarm, 101) as asker:
            stream = await open_stream(asker, others[0])
            answer = await ask(stream, Message(MessageType.FIND_NODE, victim.peer.raw))
    told = next(each.info for each in answer.closer if each.info.peer == victim.peer)
    assert told.addresses == tuple(victim.mesh.addresses)


async def test_a_crowd_of_strangers_does_not_make_a_node_forget_where_its_contacts_are(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    node, now = nodes[1], trio.current_time()
    for other in (nodes[0], *nodes[2:]):
        await node.mesh.disconnect(other.peer)
    for number in range(node.mesh.limits.book_peers):
        stranger = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
        node.mesh.book.add(stranger, [Multiaddr.parse("/memory/9000")], now=now, ttl=3600.0)
    assert len(await node.dht.closest_peers(KEY)) == 3


async def test_announcements_wait_until_a_slow_peer_has_read_them(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    read = []

    async def serve(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            message = decode(data)
            if message.type is MessageType.ADD_PROVIDER:
                await trio.sleep(0.1)
                read.append(message.key)
            else:
                await stream.send_message(encode(Message(message.type)))

    node = await swarm.start(1)
    async with open_answerer(swarm, serve) as peer:
        await peer.connect(node.peer, node.mesh.addresses)
        await node.dht.wait_joined()
        keys = [bytes([number]) * 34 for number in range(30)]
        assert await node.dht.provide_many(keys) == 1
        assert sorted(read) == keys


@pytest.mark.parametrize("after", [0.0, 0.005, 0.015, 0.03, 0.05])
async def test_cancelling_leaves_nothing_behind(
    autojump_clock: MockClock, swarm: Swarm, after: float
) -> None:
    nodes = await swarm.start_many(4)
    await trio.sleep(120.0)
    for call in (
        lambda: nodes[1].dht.closest_peers(b"key"),
        lambda: nodes[1].dht.find_peer(PeerId(KEY)),
        lambda: nodes[1].dht.provide(KEY),
    ):
        with trio.move_on_after(after):
            await call()
        await trio.sleep(1.0)
        assert nodes[1].dht._client._lookups.value == 16
        assert nodes[1].dht._announcer._tells.value == 16
        assert len(await nodes[1].dht.closest_peers(b"key")) == 3
    await trio.sleep(20.0)  # what was cancelled before anybody was told is announced by now
    assert [node.dht.status().records for node in nodes] == [1, 0, 1, 1]


async def test_a_lookup_survives_that_the_process_stood_still(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = await swarm.start_many(3)
    ask_whom = Lookup.next_requests

    def stand_still(lookup: Lookup, now: float) -> list[PeerInfo]:
        requests = ask_whom(lookup, now)
        if requests:
            autojump_clock.jump(30.0)  # longer than any request may take
        return requests

    with monkeypatch.context() as patch:
        patch.setattr(Lookup, "next_requests", stand_still)
        for number in range(4):  # who runs first is chance; in more, a contact might be dropped
            await nodes[1].dht.closest_peers(bytes([number, 1]))
    assert len(await nodes[1].dht.closest_peers(KEY)) == 2


# Bounds of what a node does itself.


def strangers_in_one_bucket(swarm: Swarm, node: Node, count: int) -> list[int]:
    """Numbers of identities whose positions differ from the node's in the first bit."""
    ours = position(node.peer.raw)
    numbers = (
        number
        for number in range(200, 400)
        if shared_bits(position(swarm.identity(number).peer_id.raw), ours) == 0
    )
    return list(islice(numbers, count))


async def test_connections_that_only_lookups_wanted_are_let_go(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.dht._client.VISITS", 1)
    node = await swarm.start(1)
    node.dht._table._bucket_size = 1
    client = node.dht._client
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(open_answerer(swarm, answer_once, number))
            for number in strangers_in_one_bucket(swarm, node, 5)
        ]
        busy = peers[2]
        busy.handle("/chat/1", answer_never)
        for peer in peers:
            where = PeerInfo(peer.peer_id, tuple(peer.addresses))
            assert isinstance(await client.ask(where, Message(MessageType.PING)), Message)
            if peer is busy:
                await node.mesh.open_stream(peer.peer_id, "/chat/1")
        await trio.sleep(1.0)
        connected = [peer for peer in peers if node.mesh.connected(peer.peer_id)]
        # The contact, the one that is in use for something else, and the latest visit.
        assert connected == [peers[0], busy, peers[4]]
        assert [contact.peer for contact in node.dht.peers()] == [peers[0].peer_id]


async def test_connections_to_peers_that_answered_nothing_are_let_go(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.dht._client.VISITS", 1)
    node = await swarm.start(1)
    client = node.dht._client
    async with AsyncExitStack() as stack:
        for number, handler in enumerate((answer_never, answer_garbage, answer_nothing) * 2):
            peer = await stack.enter_async_context(open_answerer(swarm, handler, 100 + number))
            where = PeerInfo(peer.peer_id, tuple(peer.addresses))
            with trio.move_on_after(1.0):
                assert isinstance(await client.ask(where, Message(MessageType.PING)), str)
            await trio.sleep(10.0)  # it is asked once more, because it says that it serves the DHT
        assert len(node.mesh.connections()) == 1


async def test_a_node_that_has_no_room_for_connections_keeps_its_contacts(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(5)
    node = nodes[1]
    async with open_stranger(swarm) as stranger:
        await stranger.connect(node.peer, node.mesh.addresses)
        node.mesh._table._limits = replace(node.mesh.limits, connections=1)
        for other in (nodes[0], *nodes[2:]):
            await node.mesh.disconnect(other.peer)
        for number in range(10):
            assert await node.dht.closest_peers(bytes([number, 1])) == []
            await trio.sleep(200.0)
        assert [contact.failures for contact in node.dht.peers()] == [0] * 4


async def test_only_so_many_streams_are_kept(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.dht._requests.IDLE_STREAMS", 3)
    nodes = await swarm.start_many(7)
    assert len(await nodes[1].dht.closest_peers(KEY)) == 6
    requester = nodes[1].dht._client._requester
    assert len(requester._idle) == 3
    assert sum(map(len, requester._idle_of.values())) == 3


async def test_only_so_many_peers_wait_to_be_asked(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.dht._client.PROBES", 5)
    node = await swarm.start(1)
    client = node.dht._client
    for number in range(100):
        client.consider(PeerId(b"\x12\x20" + number.to_bytes(32, "big")))
    assert len(client._probing) == 5
    await trio.sleep(60.0)
    assert not client._probing


async def test_only_so_many_lookups_run_at_once(autojump_clock: MockClock, swarm: Swarm) -> None:
    node = await swarm.start(1)
    serving = most = 0

    async def serve(stream: Stream) -> None:
        nonlocal serving, most
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            serving += 1
            most = max(most, serving)
            await trio.sleep(0.1)
            serving -= 1
            await stream.send_message(encode(Message(decode(data).type)))

    async with open_answerer(swarm, serve) as peer:
        await peer.connect(node.peer, node.mesh.addresses)
        await node.dht.wait_joined()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(node.dht.closest_peers, bytes([number, 1]))
    assert LOOKUPS - 1 <= most <= LOOKUPS


async def test_a_search_does_not_wait_behind_announcements(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    """However many regions there are to announce in, and however slow the peers there are."""

    async def serve(stream: Stream) -> None:
        while (data := await stream.receive_message(MAX_MESSAGE)) is not None:
            request = decode(data)
            if request.type is MessageType.FIND_NODE:
                await trio.sleep(1.5)
            await stream.send_message(encode(Message(request.type, request.key)))

    node = await swarm.start(1)
    async with open_answerer(swarm, serve) as peer:
        await peer.connect(node.peer, node.mesh.addresses)
        await node.dht.wait_joined()
        async with trio.open_nursery() as nursery:
            for number in range(100):  # each with a lookup of its own
                nursery.start_soon(node.dht.provide, bytes([number]) * 34)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(1.0):
                assert [info async for info in node.dht.find_providers(KEY)] == []
            nursery.cancel_scope.cancel()
