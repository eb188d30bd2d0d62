"""Whole nodes gossip over in-memory links, under a virtual clock."""

from __future__ import annotations

import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.pubsub import (
    MAX_DATA,
    PROTOCOLS,
    InvalidTopic,
    Message,
    MessageTooLarge,
    Overflow,
    Parameters,
    Pubsub,
    Subscription,
    Verdict,
    open_pubsub,
)
from lattica.pubsub._messages import Rpc, SignedMessage, decode_rpc, encode_rpc
from lattica.testing import open_memory_meshes
from lattica.transport import HandlerTaken, MemoryNetwork, StreamReset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.transport import Mesh, Stream

TOPIC = "news"


@dataclass
class Node:
    mesh: Mesh
    pubsub: Pubsub
    received: list[Message] = field(default_factory=list)

    async def collect(self, subscription: Subscription) -> None:
        async for message in subscription:
            self.received.append(message)


@asynccontextmanager
async def open_nodes(
    count: int, network: MemoryNetwork, parameters: Parameters | None = None
) -> AsyncIterator[list[Node]]:
    async with open_memory_meshes(count, network=network) as meshes, AsyncExitStack() as stack:
        nodes = []
        for number, mesh in enumerate(meshes):
            opening = open_pubsub(mesh, parameters=parameters, rng=random.Random(number))
            nodes.append(Node(mesh, await stack.enter_async_context(opening)))
        yield nodes


@asynccontextmanager
async def open_stranger(network: MemoryNetwork, node: Node) -> AsyncIterator[Mesh]:
    """A mesh without pubsub that has dialled `node`."""
    async with open_memory_meshes(1, network=network, seed=9) as (mesh,):
        await dial(mesh, node.mesh)
        yield mesh


async def dial(one: Mesh, other: Mesh) -> None:
    await one.dial(other.listen_addresses[0].with_peer(other.peer_id))


async def settle(seconds: float = 2.0) -> None:
    """Let `seconds` pass on the virtual clock, and all that follows from it happen."""
    await trio.sleep(seconds)
    await wait_all_tasks_blocked()


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(latency=0.01)


@pytest.fixture
async def pair(network: MemoryNetwork) -> AsyncIterator[list[Node]]:
    async with open_nodes(2, network) as nodes:
        await dial(nodes[0].mesh, nodes[1].mesh)
        yield nodes


async def test_a_message_reaches_the_other_node_and_not_its_author(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with one.pubsub.subscribe(TOPIC) as mine, two.pubsub.subscribe(TOPIC) as theirs:
        await settle()
        assert one.pubsub.subscribers(TOPIC) == one.pubsub.mesh_peers(TOPIC) == [two.mesh.peer_id]
        assert await one.pubsub.publish(TOPIC, b"hello") == 1
        message = await theirs.receive()
        assert (message.topic, message.data) == (TOPIC, b"hello")
        assert message.author == message.received_from == one.mesh.peer_id
        await settle()
        assert not mine._queue


async def test_thirty_nodes_share_a_topic(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    rng = random.Random(1)
    async with open_nodes(30, network) as nodes, AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in nodes:
            subscription = await stack.enter_async_context(node.pubsub.subscribe(TOPIC))
            nursery.start_soon(node.collect, subscription)
        for position, node in enumerate(nodes):
            for other in rng.sample(nodes[:position], min(position, 3)):
                await dial(node.mesh, other.mesh)
        await settle(5)
        for number in range(30):
            await nodes[number].pubsub.publish(TOPIC, b"%d" % number)
            await trio.sleep(0.1)
        await settle(5)
        expected = {b"%d" % number for number in range(30)}
        for number, node in enumerate(nodes):
            datas = [message.data for message in node.received]
            assert set(datas) == expected - {b"%d" % number}
            assert len(datas) == 29
        nursery.cancel_scope.cancel()


async def test_a_node_that_joins_later_hears_what_follows(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_nodes(3, network) as (one, two, three):
        async with two.pubsub.subscribe(TOPIC), three.pubsub.subscribe(TOPIC) as subscription:
            await dial(one.mesh, two.mesh)
            await settle()
            await dial(three.mesh, two.mesh)
            await settle()
            assert await one.pubsub.publish(TOPIC, b"hello") == 1
            message = await subscription.receive()
            assert message.author == one.mesh.peer_id
            assert message.received_from == two.mesh.peer_id


async def test_a_message_published_just_before_somebody_subscribes_reaches_them(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with one.pubsub.subscribe(TOPIC):
        await settle()
        assert await one.pubsub.publish(TOPIC, b"early") == 0
        async with two.pubsub.subscribe(TOPIC) as subscription:
            with trio.fail_after(1):
                assert (await subscription.receive()).data == b"early"


async def test_leaving_the_last_subscription_leaves_the_topic(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with one.pubsub.subscribe(TOPIC):
        async with two.pubsub.subscribe(TOPIC), two.pubsub.subscribe(TOPIC):
            await settle()
        await settle()
        assert one.pubsub.subscribers(TOPIC) == []
        assert await one.pubsub.publish(TOPIC, b"x") == 0


async def test_two_subscriptions_to_one_topic_both_get_each_message(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(TOPIC) as first, two.pubsub.subscribe(TOPIC) as second:
        await settle()
        await one.pubsub.publish(TOPIC, b"x")
        assert (await first.receive()) is (await second.receive())


async def test_a_subscriber_that_sleeps_loses_the_oldest_and_knows_how_many(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(TOPIC, queue_messages=3) as subscription:
        await settle()
        for number in range(10):
            await one.pubsub.publish(TOPIC, b"%d" % number)
        await settle()
        assert subscription.dropped == 7
        assert [(await subscription.receive()).data for _ in range(3)] == [b"7", b"8", b"9"]


async def test_a_subscriber_that_sleeps_holds_a_bounded_number_of_bytes(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(TOPIC, queue_bytes=250_000) as subscription:
        await settle()
        for _ in range(5):
            await one.pubsub.publish(TOPIC, bytes(100_000))
        await settle()
        assert subscription.dropped == 3
        await one.pubsub.publish(TOPIC, bytes(900_000))
        await settle()
        assert len((await subscription.receive()).data) == 900_000


async def test_a_subscriber_that_waits_loses_nothing(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(
        TOPIC, queue_messages=2, overflow=Overflow.WAIT
    ) as subscription:
        await settle()
        for number in range(20):
            await one.pubsub.publish(TOPIC, b"%d" % number)
        await settle()
        assert len(subscription._queue) == 2
        received = [(await subscription.receive()).data for _ in range(20)]
        assert received == [b"%d" % number for number in range(20)]
        assert subscription.dropped == 0


async def test_leaving_a_subscription_that_waits_lets_the_peer_go_on(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe("other") as other:
        async with two.pubsub.subscribe(TOPIC, queue_messages=1, overflow=Overflow.WAIT):
            await settle()
            for _ in range(5):
                await one.pubsub.publish(TOPIC, b"x")
            await one.pubsub.publish("other", b"y")
            await settle()
            assert not other._queue
        assert (await other.receive()).data == b"y"


async def test_a_payload_too_large_for_gossip_is_refused_with_the_way_around(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(TOPIC) as subscription:
        await settle()
        with pytest.raises(MessageTooLarge, match=str(MAX_DATA)) as caught:
            await one.pubsub.publish(TOPIC, bytes(MAX_DATA + 1))
        assert "CID" in caught.value.hint
        await one.pubsub.publish(TOPIC, bytes(MAX_DATA))
        assert len((await subscription.receive()).data) == MAX_DATA


async def test_a_topic_that_is_none_is_refused(autojump_clock: MockClock, pair: list[Node]) -> None:
    with pytest.raises(InvalidTopic):
        async with pair[0].pubsub.subscribe(""):
            pass
    with pytest.raises(InvalidTopic):
        await pair[0].pubsub.publish("", b"x")


async def test_a_validator_keeps_messages_from_the_application_and_from_others(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_nodes(3, network) as (one, two, three):
        await dial(one.mesh, two.mesh)
        await dial(two.mesh, three.mesh)
        async with two.pubsub.subscribe(TOPIC) as near, three.pubsub.subscribe(TOPIC) as far:
            await settle()
            two.pubsub.set_validator(
                TOPIC,
                lambda message: (
                    Verdict.ACCEPT if message.data.startswith(b"good") else Verdict.IGNORE
                ),
            )
            await one.pubsub.publish(TOPIC, b"bad")
            await one.pubsub.publish(TOPIC, b"good")
            assert (await near.receive()).data == (await far.receive()).data == b"good"


async def test_a_validator_that_fails_is_logged_and_the_message_ignored(
    autojump_clock: MockClock, pair: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = pair

    def broken(message: Message) -> Verdict:
        raise KeyError(message.topic)

    async with two.pubsub.subscribe(TOPIC) as subscription:
        await settle()
        two.pubsub.set_validator(TOPIC, broken)
        with caplog.at_level(logging.ERROR):
            await one.pubsub.publish(TOPIC, b"lost")
            await settle()
        assert "KeyError" in caplog.text
        two.pubsub.set_validator(TOPIC, None)
        await one.pubsub.publish(TOPIC, b"heard")
        assert (await subscription.receive()).data == b"heard"


async def test_a_peer_that_disconnects_and_comes_back_misses_nothing_recent(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with one.pubsub.subscribe(TOPIC), two.pubsub.subscribe(TOPIC) as subscription:
        await settle()
        await one.mesh.disconnect(two.mesh.peer_id)
        await settle()
        assert await one.pubsub.publish(TOPIC, b"alone") == 0
        await dial(two.mesh, one.mesh)
        await settle()
        assert await one.pubsub.publish(TOPIC, b"together") == 1
        received = [(await subscription.receive()).data for _ in range(2)]
        assert received == [b"alone", b"together"]


async def test_a_link_that_breaks_while_messages_flow_ends_only_that_session(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_nodes(3, network) as (one, two, three):
        await dial(one.mesh, two.mesh)
        await dial(one.mesh, three.mesh)
        async with two.pubsub.subscribe(TOPIC), three.pubsub.subscribe(TOPIC) as subscription:
            await settle()
            for number in range(6):  # 5 MB are under way when the link breaks
                assert await one.pubsub.publish(TOPIC, bytes([number]) * 900_000) == 2
            network.crash("node-1")
            await settle()
            assert await one.pubsub.publish(TOPIC, b"on") == 1
            received = [(await subscription.receive()).data for _ in range(7)]
            assert received[-1] == b"on"


async def test_pubsub_that_closes_on_one_side_is_noticed_and_may_open_again(
    autojump_clock: MockClock, pair: list[Node], network: MemoryNetwork
) -> None:
    one, _ = pair
    async with open_stranger(network, one) as mesh, one.pubsub.subscribe(TOPIC):
        for _ in range(2):
            async with open_pubsub(mesh) as pubsub, pubsub.subscribe(TOPIC) as subscription:
                await settle(5)
                assert await one.pubsub.publish(TOPIC, b"x") == 1
                assert (await subscription.receive()).data == b"x"
            await settle(5)
            assert await one.pubsub.publish(TOPIC, b"y") == 0
            await settle(5)  # until nobody is told of it any more


async def test_one_mesh_has_one_pubsub(autojump_clock: MockClock, pair: list[Node]) -> None:
    with pytest.raises(HandlerTaken):
        async with open_pubsub(pair[0].mesh):
            pass
    # The one that was there first goes on.
    async with pair[1].pubsub.subscribe(TOPIC):
        await settle()
        assert await pair[0].pubsub.publish(TOPIC, b"x") == 1


async def test_subscriptions_end_with_the_pubsub(
    autojump_clock: MockClock, pair: list[Node], network: MemoryNetwork
) -> None:
    one, _ = pair
    async with open_stranger(network, one) as mesh, AsyncExitStack() as stack:
        pubsub = await stack.enter_async_context(open_pubsub(mesh))
        async with pubsub.subscribe(TOPIC) as subscription:
            await stack.aclose()
            assert [message async for message in subscription] == []
            with pytest.raises(trio.ClosedResourceError):
                await pubsub.publish(TOPIC, b"x")
        assert not mesh.protocols & PROTOCOLS.keys()


async def test_a_cancelled_receive_loses_no_message(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(TOPIC) as subscription:
        await settle()
        with trio.move_on_after(1):
            await subscription.receive()
        await one.pubsub.publish(TOPIC, b"x")
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await subscription.receive()
        assert (await subscription.receive()).data == b"x"


async def test_a_cancelled_publish_publishes_nothing(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, _ = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.pubsub.publish(TOPIC, b"x")
    assert one.pubsub.statistics.published == 0


# Hand-made peers.


async def test_the_first_rpc_on_a_stream_says_what_we_subscribed_to(
    autojump_clock: MockClock, pair: list[Node], network: MemoryNetwork
) -> None:
    one, _ = pair
    async with open_stranger(network, one) as mesh, one.pubsub.subscribe(TOPIC):
        inbox, outbox = trio.open_memory_channel[Rpc](10)

        async def serve(stream: Stream) -> None:
            while (wire := await stream.receive_message(1 << 20)) is not None:
                await inbox.send(decode_rpc(wire))

        mesh.handle("/meshsub/1.1.0", serve)
        with trio.fail_after(5):
            hello = await outbox.receive()
        assert hello == Rpc(subscriptions=((TOPIC, True),))


async def test_a_stream_that_brings_garbage_is_reset_and_the_node_lives_on(
    autojump_clock: MockClock, pair: list[Node], network: MemoryNetwork
) -> None:
    one, two = pair
    async with open_stranger(network, one) as mesh, one.pubsub.subscribe(TOPIC) as subscription:
        for garbage in (b"\xff\xff\xff", bytes(100), b"\x0a\x7f"):
            stream = await mesh.open_stream(one.mesh.peer_id, "/meshsub/1.1.0")
            await stream.send_message(garbage)
            with pytest.raises(StreamReset):
                await stream.receive_some(1)
        await settle()
        assert await two.pubsub.publish(TOPIC, b"fine") == 1
        assert (await subscription.receive()).data == b"fine"


async def test_a_length_beyond_the_limit_resets_the_stream_before_it_is_buffered(
    autojump_clock: MockClock, pair: list[Node], network: MemoryNetwork
) -> None:
    one, _ = pair
    async with open_stranger(network, one) as mesh:
        stream = await mesh.open_stream(one.mesh.peer_id, "/meshsub/1.1.0")
        await stream.send_all(b"\x81\x80\x40" + bytes(1000))  # 1 MiB + 1
        with pytest.raises(StreamReset):
            await stream.receive_some(1)


async def test_the_newest_stream_of_a_peer_replaces_the_one_before(
    autojump_clock: MockClock, pair: list[Node], network: MemoryNetwork
) -> None:
    one, _ = pair
    async with open_stranger(network, one) as mesh, one.pubsub.subscribe(TOPIC) as subscription:
        first = await mesh.open_stream(one.mesh.peer_id, "/meshsub/1.1.0")
        await first.send_message(encode_rpc(Rpc()))
        await settle()
        second = await mesh.open_stream(one.mesh.peer_id, "/meshsub/1.0.0")
        message = SignedMessage.sign(mesh.identity, topic=TOPIC, data=b"x", seqno=1)
        await second.send_message(encode_rpc(Rpc(publish=(message.encode(),))))
        with pytest.raises(StreamReset):
            await first.receive_some(1)
        assert (await subscription.receive()).data == b"x"


async def test_a_peer_that_does_not_read_delays_nobody(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    parameters = Parameters(queue_messages=8)
    async with (
        open_nodes(2, network, parameters) as (one, two),
        open_stranger(network, one) as mesh,
    ):
        await dial(one.mesh, two.mesh)

        async def ignore(stream: Stream) -> None:
            del stream
            await trio.sleep_forever()

        mesh.handle("/meshsub/1.1.0", ignore)
        stream = await mesh.open_stream(one.mesh.peer_id, "/meshsub/1.1.0")
        await stream.send_message(encode_rpc(Rpc(subscriptions=((TOPIC, True),))))
        async with two.pubsub.subscribe(TOPIC, queue_bytes=1 << 30) as subscription:
            await settle()
            started = trio.current_time()
            for number in range(40):
                assert await one.pubsub.publish(TOPIC, bytes([number]) * 900_000) == 2
                assert (await subscription.receive()).data[0] == number
            assert trio.current_time() - started < 40
            assert one.pubsub.statistics.queue_drops > 0


async def test_a_peer_that_reads_nothing_gets_another_stream_later(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_nodes(1, network) as (one,), open_stranger(network, one) as mesh:
        opened: list[float] = []

        async def ignore(stream: Stream) -> None:
            opened.append(trio.current_time())
            await trio.sleep_forever()

        mesh.handle("/meshsub/1.1.0", ignore)
        stream = await mesh.open_stream(one.mesh.peer_id, "/meshsub/1.1.0")
        await stream.send_message(encode_rpc(Rpc(subscriptions=((TOPIC, True),))))
        await settle()
        await one.pubsub.publish(TOPIC, bytes(MAX_DATA))
        await trio.sleep(65)
        assert len(opened) == 2
        assert 60 <= opened[1] - opened[0] < 65


async def test_a_burst_waits_for_room_and_loses_nothing(
    autojump_clock: MockClock, pair: list[Node]
) -> None:
    one, two = pair
    async with two.pubsub.subscribe(TOPIC, queue_messages=10_000, queue_bytes=1 << 30) as theirs:
        await settle()
        for number in range(3000):
            await one.pubsub.publish(TOPIC, b"%d" % number)
        await settle()
        assert one.pubsub.statistics.queue_drops == 0
        assert len(theirs._queue) == 3000
