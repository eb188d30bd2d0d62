"""Serving over whole meshes: what a provider answers to requests of every kind, and its bounds."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import wait_all_tasks_blocked

from lattica.cid import CID
from lattica.codec._canonical import pack
from lattica.content import Compress, ExchangeLimits, bitswap, build, open_exchange
from lattica.content._messages import (
    ALL_LEAVES,
    MAX_UNANSWERED,
    PROTOCOL,
    Answer,
    AnswerDecoder,
    AnswerKind,
    BlocksRequest,
    CancelRequest,
    HaveRequest,
    LeavesRequest,
    Request,
    Status,
    UnknownRequest,
    encode_request,
    unpack_bitmap,
)
from lattica.content._replies import news
from lattica.content._serve import Conversation
from lattica.transport import StreamReset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from lattica.transport import Stream

LEAF = 256 << 10


class Asker:
    """The raw other side: sends requests, returns answers as they come."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._decoder = AnswerDecoder(lambda head: memoryview(bytearray(head.length)))
        self._answers: list[Answer] = []

    async def ask(self, *requests: Request) -> None:
        for request in requests:
            await self.stream.send_message(encode_request(request))

    async def answer(self) -> Answer:
        while not self._answers:
            piece = await self.stream.receive_view()
            assert piece, "the provider ended the stream"
            self._answers += self._decoder.receive(piece)
        return self._answers.pop(0)

    async def until_end(self, request: int) -> tuple[list[Answer], Status]:
        answers = []
        while (answer := await self.answer()).head.kind != AnswerKind.END:
            assert answer.head.request == request
            answers.append(answer)
        assert answer.head.request == request
        return answers, answer.status


@asynccontextmanager
async def asking(swarm: Any, **limits: Any) -> AsyncIterator[tuple[Any, Asker]]:
    async with swarm.peers(2, limits=ExchangeLimits(**limits)) as (seed, other):
        stream = await other.mesh.open_stream(seed.mesh.peer_id, PROTOCOL)
        async with stream:
            yield seed, Asker(stream)
            stream.reset()


def hashes_of(path: Any) -> list[bytes]:
    return [leaf.multihash for file in build(path).files for leaf in file.leaves]


async def test_requests_are_answered_in_order_while_more_come(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        path = seed.file("model.bin", 9 * LEAF + 5)
        hashes, data = hashes_of(seed.share(path).path), path.read_bytes()
        await asker.ask(
            BlocksRequest(1, tuple(hashes[:7])),
            BlocksRequest(2, (hashes[9],)),
            BlocksRequest(3, (hashes[7], hashes[3])),
        )
        first, status = await asker.until_end(1)
        assert status is Status.OK
        assert [answer.head.number for answer in first] == list(range(7))
        assert b"".join(answer.payload for answer in first) == data[: 7 * LEAF]
        second, _ = await asker.until_end(2)
        assert bytes(second[0].payload) == data[-5:]
        third, _ = await asker.until_end(3)
        assert [bytes(answer.payload[:3]) for answer in third] == [
            data[7 * LEAF :][:3],
            data[3 * LEAF :][:3],
        ]
        assert seed.exchange.stats.total.sent_leaves == 10
        assert [peer.sent_leaves for peer in seed.exchange.stats.peers.values()] == [10]


async def test_leaves_are_found_by_root_and_number(swarm: Any, autojump_clock: MockClock) -> None:
    async with asking(swarm) as (seed, asker):
        path = seed.file("model.bin", 5 * LEAF + 5)
        root = seed.share(path).root
        await asker.ask(LeavesRequest(1, root, 2, 3), LeavesRequest(2, root, 4, 9))
        answers, status = await asker.until_end(1)
        assert status is Status.OK
        assert [answer.head.number for answer in answers] == [2, 3, 4]
        assert b"".join(a.payload for a in answers) == path.read_bytes()[2 * LEAF : 5 * LEAF]
        answers, status = await asker.until_end(2)  # more than there are
        assert status is Status.ABSENT
        assert [answer.head.number for answer in answers] == [4, 5]


async def test_leaves_of_what_is_no_file_here_are_absent(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        seed.file("tree/a", 3)
        directory = seed.share(seed.folder / "tree").root
        leaf = seed.share(seed.file("small", 3, seed=1)).root
        await asker.ask(LeavesRequest(1, directory, 0, 1), LeavesRequest(2, CID.of(b"x"), 0, 1))
        assert await asker.until_end(1) == ([], Status.ABSENT)
        answers, status = await asker.until_end(2)
        assert [answer.status for answer in answers] == [Status.ABSENT]
        await asker.ask(LeavesRequest(3, leaf, 0, 1), LeavesRequest(4, leaf, 7, 1))
        answers, status = await asker.until_end(3)
        assert (len(answers[0].payload), status) == (3, Status.OK)
        assert await asker.until_end(4) == ([], Status.ABSENT)


async def test_blocks_that_are_absent_or_too_large_are_said_so_between_the_others(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        shared = seed.share(seed.file("model.bin", 2 * LEAF + 5))
        hashes = hashes_of(shared.path)
        nobody = CID.of(b"nobody has this").multihash
        request = (hashes[0], nobody, hashes[1], shared.root.multihash, hashes[2])
        await asker.ask(BlocksRequest(1, request), BlocksRequest(2, request, limit=1000))
        answers, status = await asker.until_end(1)
        assert status is Status.OK
        ok, absent, large = Status.OK, Status.ABSENT, Status.TOO_LARGE
        assert [answer.status for answer in answers] == [ok, absent, ok, ok, ok]
        assert shared.root.matches(answers[3].payload)
        answers, _ = await asker.until_end(2)
        assert [answer.status for answer in answers] == [large, absent, large, ok, ok]


async def test_a_leaf_whose_file_changed_is_refused_and_never_sent(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        path = seed.file("model.bin", 3 * LEAF)
        hashes = hashes_of(seed.share(path).path)
        with path.open("r+b") as file:
            file.seek(LEAF + 7)
            file.write(b"!")
        await asker.ask(BlocksRequest(1, tuple(hashes)))
        answers, status = await asker.until_end(1)
        assert status is Status.OK
        assert {answer.status for answer in answers} == {Status.SOURCE_CHANGED}
        assert not any(len(answer.payload) for answer in answers)


async def test_a_request_of_a_later_version_is_answered_and_the_stream_goes_on(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        root = seed.share(seed.file("small", 3)).root
        await asker.stream.send_message(pack([99, 7, {"what": "ever"}]))
        await asker.ask(BlocksRequest(8, (root.multihash,)))
        assert await asker.until_end(7) == ([], Status.UNKNOWN)
        answers, _ = await asker.until_end(8)
        assert len(answers[0].payload) == 3


async def test_a_cancelled_request_ends_early_and_the_next_is_served(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm, batch_bytes=LEAF) as (seed, asker):
        path = seed.file("model.bin", 100 * LEAF)
        hashes = hashes_of(seed.share(path).path)
        await asker.ask(BlocksRequest(1, tuple(hashes)))
        await asker.answer()
        await wait_all_tasks_blocked()
        await asker.ask(CancelRequest(1), CancelRequest(12345), BlocksRequest(2, (hashes[99],)))
        answers, status = await asker.until_end(1)
        assert status is Status.CANCELLED
        assert len(answers) < 90
        answers, status = await asker.until_end(2)
        assert (len(answers), status) == (1, Status.OK)


async def test_a_peer_that_half_closes_gets_its_answers_and_an_end(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 8 * LEAF)).path)
        await asker.ask(BlocksRequest(1, tuple(hashes)))
        await asker.stream.send_eof()
        answers, _ = await asker.until_end(1)
        assert len(answers) == 8
        assert await asker.stream.receive_some() == b""


@pytest.mark.parametrize(
    "data",
    [b"\x03abc", b"\xff\xff\xff\xff\x0f" + b"x" * 100, b"\x80" * 12, b"\x04\x94\x01\x01\x80"],
)
async def test_garbage_resets_the_stream_and_harms_nobody_else(
    swarm: Any, data: bytes, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        root = seed.share(seed.file("small", 3)).root
        await asker.stream.send_all(data)
        with pytest.raises(StreamReset):
            await asker.answer()
        again = Asker(await asker.stream.connection.open_stream(PROTOCOL))
        await again.ask(BlocksRequest(1, (root.multihash,)))
        answers, _ = await again.until_end(1)
        assert len(answers[0].payload) == 3


async def test_more_unanswered_requests_than_allowed_reset_the_stream(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path)
        for number in range(MAX_UNANSWERED):
            await asker.ask(BlocksRequest(number, tuple(hashes)))
        await wait_all_tasks_blocked()
        await asker.ask(CancelRequest(0))  # is heard still
        await wait_all_tasks_blocked()
        await asker.ask(*(BlocksRequest(100 + number, (hashes[0],)) for number in range(3)))
        with pytest.raises(StreamReset):
            while True:
                await asker.answer()


async def test_an_id_in_use_resets_the_stream(swarm: Any, autojump_clock: MockClock) -> None:
    async with asking(swarm) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path)
        await asker.ask(BlocksRequest(1, tuple(hashes)), BlocksRequest(1, tuple(hashes)))
        with pytest.raises(StreamReset):
            await asker.until_end(1)


async def test_a_peer_may_have_so_many_streams_and_no_more(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm, streams_per_peer=2) as (seed, asker):
        root = seed.share(seed.file("small", 3)).root
        await asker.ask(HaveRequest(1, root))
        await asker.until_end(1)
        connection = asker.stream.connection
        second = Asker(await connection.open_stream(PROTOCOL))
        await second.ask(HaveRequest(1, root))
        await second.until_end(1)
        third = Asker(await connection.open_stream(PROTOCOL))
        with pytest.raises(StreamReset):
            await third.ask(HaveRequest(1, root))
            await third.until_end(1)
        second.stream.reset()
        await wait_all_tasks_blocked()
        fourth = Asker(await connection.open_stream(PROTOCOL))
        await fourth.ask(HaveRequest(1, root))
        await fourth.until_end(1)


async def test_who_does_not_take_what_it_asked_for_is_left(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm, send_seconds=20.0) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path)
        await asker.ask(BlocksRequest(1, tuple(hashes)))
        await trio.sleep(25)
        with pytest.raises(StreamReset):
            await asker.until_end(1)


async def test_a_provider_at_its_bound_says_that_it_is_busy(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm, busy_streams=1) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path)
        await asker.ask(BlocksRequest(1, tuple(hashes)))
        await wait_all_tasks_blocked()
        other = Asker(await asker.stream.connection.open_stream(PROTOCOL))
        await other.ask(BlocksRequest(1, (hashes[0],)))
        assert await other.until_end(1) == ([], Status.BUSY)
        await asker.until_end(1)
        await wait_all_tasks_blocked()
        await other.ask(BlocksRequest(2, (hashes[0],)))
        _, status = await other.until_end(2)
        assert status is Status.OK


async def test_who_asks_for_more_than_all_may_is_put_off_and_heard_again_later(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm, queued_hashes=150) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path)
        await asker.ask(*(BlocksRequest(number, tuple(hashes)) for number in range(3)))
        _, first = await asker.until_end(0)
        others = [(await asker.until_end(number))[1] for number in (1, 2)]
        assert (first, *others) == (Status.OK, Status.BUSY, Status.BUSY)
        await asker.ask(BlocksRequest(3, tuple(hashes)))
        assert (await asker.until_end(3))[1] is Status.OK
        await asker.ask(BlocksRequest(4, tuple(hashes)))
        await wait_all_tasks_blocked()
        assert seed.exchange._library.queued_hashes == 100
        asker.stream.reset()
        await wait_all_tasks_blocked()
        assert seed.exchange._library.queued_hashes == 0


def test_a_waiting_request_keeps_nothing_that_we_do_not_know() -> None:
    library = SimpleNamespace(compress=Compress.OFF, limits=ExchangeLimits(), uploads=None)
    conversation = Conversation(cast("Any", None), cast("Any", library))
    request = UnknownRequest(1, 9, {"later": [[], [], []]})  # each takes sixty times its size
    assert conversation._thinned(request) == UnknownRequest(1, 9)


async def test_a_closed_exchange_serves_nobody_and_leaves_the_store_alone(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, other):
        hashes = hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path)
        for protocol in (PROTOCOL, *bitswap.PROTOCOLS):
            seed.mesh.unhandle(protocol)
        async with open_exchange(seed.mesh, seed.store):
            stream = await other.mesh.open_stream(seed.mesh.peer_id, PROTOCOL)
            asker = Asker(stream)
            await asker.ask(BlocksRequest(1, tuple(hashes)))
            await asker.answer()
        with pytest.raises(StreamReset):
            await asker.until_end(1)
        stream.reset()


async def test_what_is_held_is_told_by_root(swarm: Any, autojump_clock: MockClock) -> None:
    async with asking(swarm) as (seed, asker):
        seed.file("tree/a", 3 * LEAF)
        seed.file("tree/b/c", 3)
        for shared in (seed.share(seed.folder / "tree"), seed.share(seed.file("small", 3, seed=2))):
            await asker.ask(HaveRequest(1, shared.root, push=True))
            (answer,), status = await asker.until_end(1)
            assert (answer.head.flags, status) == (ALL_LEAVES, Status.OK)
        file = build(seed.folder / "tree" / "a").root
        await asker.ask(HaveRequest(2, file))
        (answer,), status = await asker.until_end(2)
        assert answer.head.flags & ALL_LEAVES or unpack_bitmap(answer.payload, 3) == b"\1\1\1"
        await asker.ask(HaveRequest(3, CID.of(b"unknown")))
        assert await asker.until_end(3) == ([], Status.ABSENT)


async def test_leaves_gained_are_pushed_until_all_are_there(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 2e6
    async with swarm.peers(3) as (seed, receiver, other), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        nursery.start_soon(receiver.fetch, shared.root, seed)
        await trio.sleep(2)
        async with await other.mesh.open_stream(receiver.mesh.peer_id, PROTOCOL) as stream:
            asker = Asker(stream)
            await asker.ask(HaveRequest(1, shared.root, push=True))
            (first,), status = await asker.until_end(1)
            assert status is Status.OK
            held = unpack_bitmap(first.payload, 40)
            assert 0 < sum(held) < 40
            pushes = 0
            while not (answer := await asker.answer()).head.flags & ALL_LEAVES:
                flags = unpack_bitmap(answer.payload, 8 * len(answer.payload))
                assert answer.head.number % 8 == 0
                start = answer.head.number
                merged = bytearray(held.ljust(start + len(flags), b"\0"))
                for leaf, flag in enumerate(flags, start):
                    merged[leaf] |= flag
                assert sum(merged) > sum(held)
                held, pushes = bytes(merged), pushes + 1
            assert 5 < pushes < 40
            assert answer.head.request == 1
            await asker.ask(HaveRequest(1, shared.root))  # the id is free again
            await asker.until_end(1)
            stream.reset()


async def test_news_is_pushed_for_so_many_roots_and_no_more(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 2e6
    limits = ExchangeLimits(pushes_per_stream=1)
    async with (
        swarm.peers(3, limits=limits) as (seed, receiver, other),
        trio.open_nursery() as nursery,
    ):
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        nursery.start_soon(receiver.fetch, shared.root, seed)
        await trio.sleep(2)
        async with await other.mesh.open_stream(receiver.mesh.peer_id, PROTOCOL) as stream:
            asker = Asker(stream)
            for number in (1, 2):
                await asker.ask(HaveRequest(number, shared.root, push=True))
            ended = {1: False, 2: False}
            while not all(ended.values()):
                answer = await asker.answer()
                ended[answer.head.request] |= answer.head.kind == AnswerKind.END
            assert {(await asker.answer()).head.request for _ in range(4)} == {1}
            stream.reset()


async def test_pushing_stops_when_it_is_cancelled(swarm: Any, autojump_clock: MockClock) -> None:
    swarm.network.bandwidth = 2e6
    async with swarm.peers(3) as (seed, receiver, other), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 40 * LEAF))
        nursery.start_soon(receiver.fetch, shared.root, seed)
        await trio.sleep(2)
        async with await other.mesh.open_stream(receiver.mesh.peer_id, PROTOCOL) as stream:
            asker = Asker(stream)
            await asker.ask(HaveRequest(1, shared.root, push=True))
            await asker.until_end(1)
            await asker.answer()
            await asker.ask(CancelRequest(1))
            await trio.sleep(1)
            await asker.ask(HaveRequest(1, shared.root))
            while (await asker.answer()).head.kind != AnswerKind.END:
                pass
            with trio.move_on_after(3) as silence:
                await asker.answer()
            assert silence.cancelled_caught
            await stream.send_eof()
            assert await stream.receive_some() == b""


@given(st.binary(max_size=9000), st.sets(st.integers(0, 8999)))
def test_news_tell_every_leaf_that_was_gained_and_skip_what_lies_between(
    data: bytes, gained: set[int]
) -> None:
    before = bytes(byte & 1 for byte in data)
    now = bytearray(before)
    for leaf in gained:
        if leaf < len(now):
            now[leaf] = 1
    told = bytearray(before)
    decoder = AnswerDecoder(lambda _: memoryview(b""))
    for answer in decoder.receive(news(7, before, bytes(now))):
        assert answer.head.request == 7
        flags = unpack_bitmap(answer.payload, 8 * len(answer.payload))
        for leaf, flag in enumerate(flags, answer.head.number):
            if flag:
                told[leaf] = 1
    assert told == now


def test_news_of_two_far_leaves_are_short() -> None:
    now = bytearray(4_000_000)
    before = bytes(now)
    now[5] = now[3_999_999] = 1
    assert len(news(1, before, bytes(now))) < 50
