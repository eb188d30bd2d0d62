"""What a few bytes of a stranger may cost us: blocks read, hashed and packed that nobody takes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.cid import CID
from lattica.content import Store, _library, build
from lattica.content._messages import (
    PROTOCOL,
    BlocksRequest,
    CancelRequest,
    HaveRequest,
    LeavesRequest,
    PeersRequest,
    Status,
    UnknownRequest,
)
from lattica.content._sources import Sources
from lattica.content._values import Absent
from lattica.content.bitswap import PROTOCOLS, BitswapLimits, Message, encode
from lattica.transport import StreamReset

from .test_bitswap import FakeShelf, server_and_clients, want
from .test_exchange import LEAF, asking, hashes_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from lattica.content._messages import Request
    from lattica.transport import Stream


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read from a shared file was for."""
    log: list[int] = []
    read = Sources.read

    def counted(self: Sources, source: int, offset: int, into: list[memoryview]) -> bool:
        log.append(sum(map(len, into)))
        return read(self, source, offset, into)

    monkeypatch.setattr(Sources, "read", counted)
    return log


async def test_blocks_over_the_limit_of_who_asks_are_not_read(
    swarm: Any, reads: list[int], autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        hashes = hashes_of(seed.share(seed.file("model.bin", 4 * LEAF)).path)
        reads.clear()
        await asker.ask(BlocksRequest(1, tuple(hashes) * 250, limit=0))
        answers, status = await asker.until_end(1)
        assert (len(answers), status) == (1000, Status.OK)
        assert {answer.status for answer in answers} == {Status.TOO_LARGE}
        assert not reads


def test_an_index_block_over_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    with Store.open(tmp_path / "store") as store:
        root = store.add(build(path)).root
        size = store.size_of(root.multihash)
        assert size is not None

        def refuse(*_: object) -> bytes:
            raise AssertionError("it was read")

        with store.read_blocks([root.multihash], limit=size) as batch:
            assert root.matches(batch.blocks[0])  # type: ignore[arg-type]  # else it is absent
        monkeypatch.setattr(store._index, "block", refuse)
        with store.read_blocks([root.multihash], limit=size - 1) as batch:
            assert batch.blocks == [Absent.TOO_LARGE]
        assert store.size_of(root.multihash) == size


async def test_who_has_much_read_and_cancels_it_is_put_off(
    swarm: Any, reads: list[int], autojump_clock: MockClock
) -> None:
    async with asking(swarm, batch_bytes=LEAF, wasted_per_peer=10 * LEAF) as (seed, asker):
        hashes = tuple(hashes_of(seed.share(seed.file("model.bin", 64 * LEAF)).path))
        reads.clear()
        began, statuses = trio.current_time(), []
        for number in range(1, 101):
            await asker.ask(BlocksRequest(number, hashes))
            await wait_all_tasks_blocked()  # read, and waiting for its turn to be sent
            await asker.ask(CancelRequest(number))
            statuses.append((await asker.until_end(number))[1])
        assert Status.CANCELLED in statuses
        in_vain = sum(reads) - seed.exchange.stats.total.sent_bytes
        seconds = trio.current_time() - began
        assert in_vain < 10 * LEAF * (seconds + 1)
        assert seconds > 0.2  # it had to wait
        await trio.sleep(10)
        await asker.ask(BlocksRequest(200, hashes[:3]))
        answers, status = await asker.until_end(200)
        assert (len(answers), status) == (3, Status.OK)


async def test_who_hangs_up_on_what_was_read_for_it_is_put_off(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm, batch_bytes=LEAF, wasted_per_peer=10 * LEAF) as (seed, asker):
        hashes = tuple(hashes_of(seed.share(seed.file("model.bin", 256 * LEAF)).path))
        await asker.ask(BlocksRequest(1, hashes))
        await wait_all_tasks_blocked()
        library = seed.exchange._library
        (other,) = library._streams
        assert library.paid_at(other) <= trio.current_time()
        asker.stream.reset()
        await wait_all_tasks_blocked()
        assert library.paid_at(other) > trio.current_time()


async def test_blocks_that_were_not_taken_over_bitswap_are_counted_and_made_up_for(
    autojump_clock: object,
) -> None:
    block = bytes(1_000_000)
    shelf = FakeShelf([block])
    async with server_and_clients(shelf) as (server, _, (client,)):

        async def hang_up(stream: Stream) -> None:
            stream.reset()

        for protocol in PROTOCOLS:
            client.mesh.unhandle(protocol)
            client.mesh.handle(protocol, hang_up)
        await client.say(server, Message(entries=(want(block),)))
        await wait_all_tasks_blocked()
        assert shelf.waste == [(client.mesh.peer_id, len(block))]
        shelf.ready_at = trio.current_time() + 60
        await client.say(server, Message(entries=(want(block),)))
        await trio.sleep(59)
        assert len(shelf.waste) == 1
        await trio.sleep(2)
        assert len(shelf.waste) == 2


async def test_peers_that_take_nothing_share_one_turn_and_leave_the_others_to_the_rest(
    autojump_clock: object,
) -> None:
    blocks = [bytes([number]) * 1_000_000 for number in range(8)]
    limits = BitswapLimits(answers=2, send_seconds=10)
    async with server_and_clients(FakeShelf(blocks), 5, limits) as (server, _, clients):
        *slow, good = clients

        async def never_read(stream: Stream) -> None:
            await trio.sleep_forever()

        for client in slow:
            for protocol in PROTOCOLS:
                client.mesh.unhandle(protocol)
                client.mesh.handle(protocol, never_read)

        async def insist(client: Any) -> None:
            for _ in range(200):
                with suppress(StreamReset):
                    await client.say(server, Message(entries=(want(blocks[0]),)))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for client in slow:
                nursery.start_soon(insist, client)
            await trio.sleep(60)  # each of them has had its chance
            for block in blocks:
                await good.say(server, Message(entries=(want(block),)))
            await trio.sleep(1)
            assert len(good.blocks) == len(blocks)
            nursery.cancel_scope.cancel()


async def test_who_has_the_leaves_of_many_large_files_looked_up_is_put_off(
    swarm: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(_library, "_MAX_TABLES", 1)
    looked_up: list[CID] = []
    look_up = _library._leaf_table

    def counted(store: Store, root: CID) -> object:
        looked_up.append(root)
        return look_up(store, root)

    monkeypatch.setattr(_library, "_leaf_table", counted)
    async with asking(swarm, wasted_per_peer=100 << 10) as (seed, asker):
        roots = [seed.share(seed.file(f"model-{one}", 40 * LEAF, seed=one)).root for one in (1, 2)]
        began, statuses = trio.current_time(), []
        for number in range(1, 21):
            await asker.ask(LeavesRequest(number, roots[number % 2], 0, 1))
            statuses.append((await asker.until_end(number))[1])
        assert statuses[0] is Status.OK
        assert Status.BUSY in statuses
        assert len(looked_up) < 20
        assert trio.current_time() - began > 1  # it had to wait for those


def wants_of_nothing(number: int, count: int) -> Message:
    return Message(entries=tuple(want(b"%d %d" % (number, one), have=True) for one in range(count)))


class Busy(FakeShelf):
    """Takes a second to look wants up."""

    looking = most = wants = 0

    async def sizes(self, multihashes: Sequence[bytes]) -> list[int | None]:
        self.looking += 1
        self.most = max(self.most, self.looking)
        self.wants += len(multihashes)
        await trio.sleep(1)
        self.looking -= 1
        return [None] * len(multihashes)


async def test_a_flood_of_wants_is_read_at_a_bounded_rate_and_others_are_heard(
    autojump_clock: object,
) -> None:
    shelf = Busy([b"block"])
    limits = BitswapLimits(heard=1000, heard_of_one=20)
    async with server_and_clients(shelf, 2, limits) as (server, _, (flooder, other)):

        async def flood(number: int) -> None:
            message = wants_of_nothing(number, 100)
            for _ in range(200):
                with suppress(StreamReset):
                    await flooder.say(server, message)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(flood, number)
            await trio.sleep(30)
            assert 400 <= shelf.wants <= 30 * 20 + 100
            assert shelf.most == 1  # of one peer, one message at a time
            await other.say(server, Message(entries=(want(b"nothing", tell=True),)))
            await trio.sleep(3)
            assert other.got
            nursery.cancel_scope.cancel()


async def test_messages_that_wait_to_be_read_are_bounded(autojump_clock: object) -> None:
    shelf = Busy()
    limits = BitswapLimits(heard_of_one=1)
    async with server_and_clients(shelf, 1, limits) as (server, service, (client,)):
        lost = 0

        async def say() -> None:
            nonlocal lost
            try:
                async with await client.mesh.open_stream(server.peer_id, PROTOCOLS[0]) as stream:
                    await stream.send_message(encode(wants_of_nothing(0, 1000)))
                    await stream.receive_some()
            except StreamReset:
                lost += 1

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(say)
            await trio.sleep(20)
            assert lost == 8
            assert service._ears._waiting.total() == 3  # the first was read
            nursery.cancel_scope.cancel()
        await trio.sleep(5000)
        assert not service._ears._waiting
        assert not service._ears._locks


async def test_blocks_that_we_want_wait_for_no_flood(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, fetcher):
        seed.mesh.unhandle(PROTOCOL)
        shared = seed.share(seed.file("model.bin", 20 * LEAF))
        ears = fetcher.exchange._bitswap._ears
        ears.heard(seed.mesh.peer_id, 1 << 40, 0)  # is owed for ever
        with trio.fail_after(60):
            await fetcher.fetch(shared.root, seed)


async def test_wants_are_looked_up_beside_those_who_read(
    swarm: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, _):
        library = seed.exchange._library
        limiters = []
        run = trio.to_thread.run_sync

        async def watched(work: Any, *args: Any, **options: Any) -> Any:
            limiters.append(options.get("limiter"))
            return await run(work, *args, **options)

        monkeypatch.setattr(trio.to_thread, "run_sync", watched)
        await library.sizes([bytes(34)])
        (await library.read([bytes(34)], 1)).release()
        assert limiters[0] is not limiters[1]


NOBODY_HAS = tuple(CID.of(b"%d" % number).multihash for number in range(1000))


async def test_who_asks_for_what_is_not_here_again_and_again_is_put_off(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with asking(swarm) as (seed, asker):
        shared = seed.share(seed.file("model.bin", LEAF))
        began, statuses = trio.current_time(), []
        for number in range(1, 21):
            await asker.ask(BlocksRequest(number, NOBODY_HAS))
            statuses.append((await asker.until_end(number))[1])
        assert statuses[0] is Status.OK
        assert statuses.count(Status.BUSY) >= 9
        assert trio.current_time() - began > 2  # it is told so after a while
        await trio.sleep(1)
        await asker.ask(BlocksRequest(50, tuple(hashes_of(shared.path))))
        answers, status = await asker.until_end(50)
        assert (len(answers), status) == (1, Status.OK)


@pytest.mark.parametrize("kind", ["have", "peers", "unknown", "cancel"])
async def test_requests_that_bring_no_content_are_answered_so_many_a_second(
    swarm: Any, autojump_clock: MockClock, kind: str
) -> None:
    async with asking(swarm, wasted_per_peer=10 << 20) as (seed, asker):
        root = seed.share(seed.file("model.bin", 10)).root
        began = trio.current_time()
        for number in range(1, 201):
            if kind == "cancel":
                await asker.ask(*[CancelRequest(9999)] * 16, HaveRequest(number, root))
            else:
                made: dict[str, Request] = {
                    "have": HaveRequest(number, root),
                    "peers": PeersRequest(number, CID.of(b"%d" % number)),
                    "unknown": UnknownRequest(number, 99),
                }
                await asker.ask(made[kind])
            await asker.until_end(number)
        seconds = trio.current_time() - began
        assert seconds > (4 if kind == "cancel" else 2)
        assert seconds < 8  # and nobody is put off for good


async def test_one_peer_cannot_take_all_the_room_for_what_is_asked(
    swarm: Any, autojump_clock: MockClock
) -> None:
    limits = {"queued_hashes": 1000, "queued_hashes_of_one": 150, "batch_bytes": LEAF}
    async with asking(swarm, **limits) as (seed, asker):
        hashes = tuple(hashes_of(seed.share(seed.file("model.bin", 100 * LEAF)).path))
        library = seed.exchange._library
        await asker.ask(*(BlocksRequest(number, hashes) for number in range(9)))
        await wait_all_tasks_blocked()
        assert library.queued_hashes == library.queued_by.total() == 100
        statuses = [(await asker.until_end(number))[1] for number in range(9)]
        assert statuses == [Status.OK] + 8 * [Status.BUSY]
        await wait_all_tasks_blocked()
        assert not library.queued_by
