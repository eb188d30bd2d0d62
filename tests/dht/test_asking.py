"""Requests that belong together: who is asked at once, who slowly, and what ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht._asking import CLOSED
from lattica.dht._messages import Message, MessageError, MessageType
from lattica.transport import PeerInfo

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.transport import Stream
    from tests.dht.conftest import Node, Swarm

PING = Message(MessageType.PING)


async def _warm(nodes: list[Node]) -> list[PeerInfo]:
    """Have the first node keep a stream to each of the others."""
    others = [PeerInfo(node.peer, ()) for node in nodes[1:]]
    for other in others:
        assert isinstance(await nodes[0].dht._client.ask(other, PING), Message)
    return others


async def test_answers_on_kept_streams_need_no_task(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    others = await _warm(nodes)
    client = nodes[0].dht._client
    tasks = len(client._tasks.child_tasks)
    with client.asking() as asking:
        for other in others:
            asking.start(other, PING)
        assert len(client._tasks.child_tasks) == tasks
        assert len(asking) == 3
        await asking.wait(3)
        replies = asking.take()
    assert sorted(peer.peer for peer, _ in replies) == sorted(other.peer for other in others)
    assert all(
        not isinstance(reply, str) and reply.message.type is PING.type for _, reply in replies
    )
    assert not asking.take()


async def test_a_kept_stream_that_the_peer_has_closed_is_replaced(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(2)
    (other,) = await _warm(nodes)
    serving = nodes[1].dht._serving
    answer, heard = serving._answer, 0

    def hang_up_first(stream: Stream, data: bytes) -> bytes | None:
        nonlocal heard
        heard += 1
        if heard == 1:
            raise MessageError("not now")
        return answer(stream, data)

    serving._answer = hang_up_first  # type: ignore[method-assign]
    with nodes[0].dht._client.asking() as asking:
        asking.start(other, PING)
        await asking.wait()
        ((_, reply),) = asking.take()
    assert not isinstance(reply, str)
    assert heard == 2


async def test_a_peer_that_is_not_there_is_a_word_and_the_others_answer(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(3)
    others = await _warm(nodes)
    swarm.stop(nodes[2])
    with nodes[0].dht._client.asking() as asking, trio.fail_after(60):
        for other in others:
            asking.start(other, PING)
        await asking.wait(2)
        replies = {peer.peer: reply for peer, reply in asking.take()}
    assert not isinstance(replies[nodes[1].peer], str)
    assert isinstance(replies[nodes[2].peer], str)


@pytest.mark.parametrize("warm", [True, False])
async def test_what_is_given_up_is_not_told(
    autojump_clock: MockClock, swarm: Swarm, warm: bool
) -> None:
    nodes = await swarm.start_many(3)
    others = await _warm(nodes)
    client = nodes[0].dht._client
    if not warm:
        client._requester.close()
    with client.asking() as asking:
        for other in others:
            asking.start(other, PING)
        asking.give_up(others[0].peer)
        assert len(asking) == 1
        await asking.wait(2)
        assert [peer.peer for peer, _ in asking.take()] == [others[1].peer]
        asking.start(others[0], PING)
    await trio.sleep(1.0)
    assert not asking.take(), "the block ends what is under way"
    assert len(asking) == 0


async def test_an_answer_that_is_none_is_a_word(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(2)
    (other,) = await _warm(nodes)

    def babble(stream: Stream, data: bytes) -> bytes | None:
        return b"\xff"

    nodes[1].dht._serving._answer = babble  # type: ignore[method-assign]
    with nodes[0].dht._client.asking() as asking:
        asking.start(other, PING)
        await asking.wait()
        assert [reply for _, reply in asking.take()] == ["dht-message"]


async def test_once_the_dht_has_ended_nobody_is_waited_for(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(2)
    other = PeerInfo(nodes[1].peer, ())
    client = nodes[0].dht._client
    client._requester.close()
    with client.asking() as asking:
        asking.start(other, PING)
        swarm.stop(nodes[0])
        await nodes[0].gone.wait()
        for _ in range(2):
            with trio.fail_after(1.0):
                await asking.wait()
            assert [reply for _, reply in asking.take()] == [CLOSED]
            asking.start(other, PING)
