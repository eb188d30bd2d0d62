"""Bitswap between whole peers: out of the store, into it, and what strangers may do with it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.cid import CID, Codec, HashFunction
from lattica.content import (
    ExchangeLimits,
    NoProvider,
    ProvidersBanned,
    ProvidersLost,
    Store,
    bitswap,
    build,
)
from lattica.content._messages import PROTOCOL
from lattica.content._values import Absent
from lattica.content.bitswap import (
    PROTOCOLS,
    BitswapLimits,
    Entry,
    Message,
    Presence,
    WantType,
    decode,
    encode,
    open_bitswap,
)
from lattica.content.bitswap._messages import block_for
from lattica.errors import IntegrityError
from lattica.testing import open_memory_meshes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from lattica.content._reading import BlockBatch
    from lattica.identity import PeerId
    from lattica.transport import Mesh, Stream

    from .conftest import Peer, Swarm

NEWEST = PROTOCOLS[0]


def speak_bitswap_alone(peer: Peer) -> None:
    """Make `peer` a stranger to our own protocol, as IPFS nodes are."""
    peer.mesh.unhandle(PROTOCOL)


class Client:
    """A peer of ours made by hand: sends messages, and keeps those that come."""

    def __init__(self, mesh: Mesh, answer: Callable[[Message], Sequence[Message]] | None = None):
        self.mesh, self.got = mesh, list[Message]()
        self._answer = answer
        for protocol in PROTOCOLS:
            mesh.handle(protocol, self._hear)

    async def say(self, to: Mesh, *messages: Message, protocol: str = NEWEST) -> None:
        async with await self.mesh.open_stream(to.peer_id, protocol) as stream:
            for message in messages:
                await stream.send_message(encode(message, protocol))
            await stream.send_eof()

    async def _hear(self, stream: Stream) -> None:
        while (data := await stream.receive_message(bitswap.MAX_MESSAGE)) is not None:
            message = decode(data)
            self.got.append(message)
            if self._answer is not None:
                for reply in self._answer(message):
                    async with await self.mesh.open_stream(stream.peer, NEWEST) as back:
                        await back.send_message(encode(reply))

    @property
    def blocks(self) -> list[bytes]:
        return [block.data for message in self.got for block in message.blocks]


class FakeShelf:
    """Blocks in memory, and a note of what went to whom in which order."""

    def __init__(self, blocks: Sequence[bytes] = ()) -> None:
        self.blocks = {CID.of(block).multihash: block for block in blocks}
        self.log: list[tuple[PeerId, int]] = []
        self.waste: list[tuple[PeerId, int]] = []
        self.ready_at = 0.0

    async def sizes(self, multihashes: Sequence[bytes]) -> list[int | None]:
        await trio.lowlevel.checkpoint()
        found = [self.blocks.get(multihash) for multihash in multihashes]
        return [None if block is None else len(block) for block in found]

    async def read(self, hashes: Sequence[bytes], max_bytes: int) -> BlockBatch:
        await trio.lowlevel.checkpoint()
        return FakeBatch([self.blocks.get(one, Absent.NOT_HERE) for one in hashes])  # type: ignore[return-value]  # all of it that is used

    async def wait_to_send(self, peer: PeerId, size: int) -> None:
        del peer, size

    def sent(self, peer: PeerId, size: int) -> None:
        self.log.append((peer, size))

    def wasted(self, peer: PeerId, size: int) -> None:
        self.waste.append((peer, size))

    def paid_at(self, _peer: PeerId) -> float:
        return self.ready_at


class FakeBatch:
    def __init__(self, blocks: list[bytes | Absent]) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.blocks = []


@asynccontextmanager
async def server_and_clients(
    shelf: FakeShelf, count: int = 1, limits: BitswapLimits | None = None
) -> AsyncIterator[tuple[Mesh, bitswap.Bitswap, list[Client]]]:
    async with AsyncExitStack() as stack:
        meshes = await stack.enter_async_context(open_memory_meshes(count + 1))
        opened = open_bitswap(meshes[0], shelf, limits=limits)
        service = await stack.enter_async_context(opened)
        yield meshes[0], service, [Client(mesh) for mesh in meshes[1:]]


def want(data: bytes, *, have: bool = False, tell: bool = True, cancel: bool = False) -> Entry:
    kind = WantType.HAVE if have else WantType.BLOCK
    return Entry(bytes(CID.of(data)), kind, send_dont_have=tell, cancel=cancel)


# --- fetching


async def test_a_file_is_fetched_from_a_peer_that_speaks_bitswap_alone(
    swarm: Swarm, autojump_clock: object
) -> None:
    async with swarm.peers(2) as (provider, receiver):
        speak_bitswap_alone(provider)
        path = provider.file("model.bin", 5_000_000)
        stored = provider.share(path)
        fetched = await receiver.fetch(stored.root, provider)
        assert receiver.got.read_bytes() == path.read_bytes()
        assert fetched.sources == {provider.mesh.peer_id: 5_000_000}
        assert provider.exchange.stats.of(receiver.mesh.peer_id).sent_bytes >= 5_000_000


@pytest.mark.parametrize("function", HashFunction)
async def test_a_directory_with_equal_files_is_fetched_whole(
    swarm: Swarm, autojump_clock: object, function: HashFunction
) -> None:
    async with swarm.peers(2) as (provider, receiver):
        speak_bitswap_alone(provider)
        zeros = bytes(600_000)  # three leaves, two of them the same
        for name in ("a", "b", "deep/c"):
            target = provider.folder / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(zeros)
        (provider.folder / "tree" / "empty").touch()
        stored = provider.store.add(build(provider.folder / "tree", hash_function=function))
        await receiver.fetch(stored.root, provider)
        assert (receiver.got / "deep" / "c").read_bytes() == zeros
        assert (receiver.got / "empty").read_bytes() == b""


async def test_a_single_block_is_an_object_of_its_own(swarm: Swarm, autojump_clock: object) -> None:
    async with swarm.peers(2) as (provider, receiver):
        speak_bitswap_alone(provider)
        stored = provider.share(provider.file("small", 1000))
        assert stored.root.codec == Codec.RAW
        await receiver.fetch(stored.root, provider)
        assert receiver.got.stat().st_size == 1000


async def test_both_kinds_of_provider_help_with_one_fetch(
    swarm: Swarm, autojump_clock: object
) -> None:
    swarm.network.bandwidth = 20e6
    async with swarm.peers(3) as (one, other, receiver):
        speak_bitswap_alone(one)
        path = one.file("model.bin", 20_000_000)
        stored = one.share(path)
        other.share(path)
        fetched = await receiver.fetch(stored.root, one, other)
        assert receiver.got.read_bytes() == path.read_bytes()
        assert all(fetched.sources[peer.mesh.peer_id] > 2_000_000 for peer in (one, other))


async def test_a_provider_that_lacks_the_root_is_left(swarm: Swarm, autojump_clock: object) -> None:
    async with swarm.peers(2) as (provider, receiver):
        speak_bitswap_alone(provider)
        with pytest.raises(NoProvider, match="holds nothing"):
            await receiver.fetch(CID.of(b"nobody has this", Codec.DAG_PB), provider)


@pytest.mark.parametrize("size", [100, 9_000_000])
async def test_who_sends_wrong_blocks_alone_is_named_and_nothing_is_written(
    swarm: Swarm, autojump_clock: object, size: int
) -> None:
    def lie(message: Message) -> list[Message]:
        wanted = [entry for entry in message.entries if not entry.cancel]
        blocks = [block_for(entry.cid, b"not what that is") for entry in wanted]
        haves = [Presence(entry.cid, have=True) for entry in wanted]
        return [Message(blocks=tuple(blocks), presences=tuple(haves))]

    async with swarm.peers(2) as (stranger, receiver):
        speak_bitswap_alone(stranger)
        for protocol in PROTOCOLS:
            stranger.mesh.unhandle(protocol)
        Client(stranger.mesh, lie)
        root = build(stranger.file("model.bin", size)).root
        with pytest.raises(IntegrityError, match="does not match its hash") as caught:
            await receiver.fetch(root, stranger)
        assert caught.value.peer == stranger.mesh.peer_id
        assert trio.current_time() < 10
        assert not receiver.got.exists()
        with pytest.raises(ProvidersBanned):
            await receiver.fetch(root, stranger)


async def test_wrong_blocks_among_right_ones_are_a_lie_in_the_end(
    swarm: Swarm, autojump_clock: object
) -> None:
    async with swarm.peers(3) as (stranger, honest, receiver):
        for peer in (stranger, honest):
            speak_bitswap_alone(peer)
        path = stranger.file("model.bin", 9_000_000)
        stored = stranger.share(path)
        honest.share(path)
        read = stranger.exchange._library.read

        spoiled = 0

        async def spoil(*args: Any, **options: Any) -> Any:
            nonlocal spoiled
            batch = await read(*args, **options)
            for place, block in enumerate(batch.blocks):
                if isinstance(block, memoryview) and block[0] % 3 == 0:
                    batch.blocks[place] = memoryview(bytes(block[:-1]) + b"!")
                    spoiled += 1
            return batch

        stranger.exchange._library.read = spoil  # type: ignore[method-assign]  # it lies
        with pytest.raises(IntegrityError):
            await receiver.fetch(stored.root, stranger)
        assert spoiled
        assert trio.current_time() < 20
        await receiver.fetch(stored.root, honest)
        assert receiver.got.read_bytes() == path.read_bytes()


async def test_a_liar_beside_an_honest_provider_is_left_soon(
    swarm: Swarm, autojump_clock: object
) -> None:
    def lie(message: Message) -> list[Message]:
        wanted = [entry for entry in message.entries if not entry.cancel]
        return [Message(blocks=tuple(block_for(one.cid, b"not that") for one in wanted))]

    async with swarm.peers(3) as (stranger, honest, receiver):
        for peer in (stranger, honest):
            speak_bitswap_alone(peer)
        for protocol in PROTOCOLS:
            stranger.mesh.unhandle(protocol)
        Client(stranger.mesh, lie)
        path = honest.file("model.bin", 9_000_000)
        fetched = await receiver.fetch(honest.share(path).root, stranger, honest)
        assert receiver.got.read_bytes() == path.read_bytes()
        assert set(fetched.sources) == {honest.mesh.peer_id}
        assert trio.current_time() < 10


async def test_who_answers_nothing_is_given_up_soon(swarm: Swarm, autojump_clock: object) -> None:
    async with swarm.peers(2) as (stranger, receiver):
        speak_bitswap_alone(stranger)
        for protocol in PROTOCOLS:
            stranger.mesh.unhandle(protocol)
        Client(stranger.mesh)
        with pytest.raises(ProvidersLost, match="was silent for"):
            await receiver.fetch(CID.of(b"x" * 100), stranger)
        assert trio.current_time() < 90


async def test_blocks_that_come_late_are_no_lie(swarm: Swarm, autojump_clock: object) -> None:
    async with swarm.peers(2) as (provider, receiver):
        speak_bitswap_alone(provider)
        path = provider.file("model.bin", 9_000_000)
        stored = provider.share(path)
        send = provider.exchange._bitswap._send  # type: ignore[union-attr]  # it is open

        async def twice(peer: PeerId, protocol: str, message: Message) -> None:
            await send(peer, protocol, message)
            await trio.sleep(1)
            await send(peer, protocol, message)

        provider.exchange._bitswap._send = twice  # type: ignore[union-attr, method-assign]
        fetched = await receiver.fetch(stored.root, provider)
        assert receiver.got.read_bytes() == path.read_bytes()
        assert not fetched.bad_leaves


async def test_a_peer_that_floods_with_what_it_has_sent_already_is_left(
    swarm: Swarm, autojump_clock: object
) -> None:
    async with swarm.peers(2) as (stranger, receiver):
        stored = stranger.share(stranger.file("model.bin", 600_000))
        first, *_ = build(stored.path).files[0].leaves

        def flood(message: Message) -> list[Message]:
            messages = []
            for entry in message.entries:
                if entry.cid == bytes(first.cid):
                    block = block_for(entry.cid, stored.path.read_bytes()[: first.length])
                    messages += [Message(blocks=(block,) * 8)] * 40
                elif (index := stranger.store.read_index(CID.from_bytes(entry.cid))) is not None:
                    messages.append(Message(blocks=(block_for(entry.cid, index),)))
            return messages

        speak_bitswap_alone(stranger)
        for protocol in PROTOCOLS:
            stranger.mesh.unhandle(protocol)
        Client(stranger.mesh, flood)
        with pytest.raises(NoProvider, match="were not asked for"):
            await receiver.fetch(stored.root, stranger)


async def test_a_cancelled_fetch_takes_its_wants_back(swarm: Swarm, autojump_clock: object) -> None:
    seen: list[Entry] = []

    def hold(message: Message) -> list[Message]:
        seen.extend(message.entries)
        return []

    async with swarm.peers(2) as (stranger, receiver):
        speak_bitswap_alone(stranger)
        for protocol in PROTOCOLS:
            stranger.mesh.unhandle(protocol)
        Client(stranger.mesh, hold)
        root = CID.of(b"x" * 100)
        with trio.move_on_after(1):
            await receiver.fetch(root, stranger)
        await trio.sleep(1)
        blocks = [entry for entry in seen if entry.want is WantType.BLOCK]
        assert [entry.cancel for entry in blocks] == [False, True]


async def test_a_provider_that_is_lost_in_the_middle_is_asked_again(
    swarm: Swarm, autojump_clock: object
) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (provider, receiver):
        speak_bitswap_alone(provider)
        path = provider.file("model.bin", 10_000_000)
        stored = provider.share(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.fetch, stored.root, provider)
            await trio.sleep(1)
            await provider.mesh.disconnect(receiver.mesh.peer_id)
        assert receiver.got.read_bytes() == path.read_bytes()


async def test_what_is_sent_over_bitswap_counts_against_the_upload_limit(
    swarm: Swarm, autojump_clock: object
) -> None:
    async with swarm.peers(2, limits=ExchangeLimits(max_up=1e6)) as (provider, receiver):
        speak_bitswap_alone(provider)
        stored = provider.share(provider.file("model.bin", 5_000_000))
        started = trio.current_time()
        await receiver.fetch(stored.root, provider)
        assert 3.5 < trio.current_time() - started < 7


# --- serving


async def test_answers_come_on_a_stream_of_their_own() -> None:
    shelf = FakeShelf([b"block"])
    async with server_and_clients(shelf) as (server, _, (client,)):
        async with await client.mesh.open_stream(server.peer_id, NEWEST) as stream:
            await stream.send_message(encode(Message(entries=(want(b"block"), want(b"other")))))
            await stream.send_eof()
            assert await stream.receive_some() == b""
        await wait_all_tasks_blocked()
        assert client.blocks == [b"block"]
        said = [presence for message in client.got for presence in message.presences]
        assert said == [Presence(bytes(CID.of(b"other")), have=False)]


@pytest.mark.parametrize("protocol", PROTOCOLS[:2])
async def test_a_peer_is_answered_in_the_version_that_it_speaks(protocol: str) -> None:
    async with server_and_clients(FakeShelf([b"block"])) as (server, _, (client,)):
        lines = Message(entries=(want(b"block"), want(b"other")))
        await client.say(server, lines, protocol=protocol)
        await wait_all_tasks_blocked()
        assert client.blocks == [b"block"]
        assert any(message.presences for message in client.got) == (protocol == NEWEST)


async def test_what_is_wanted_too_early_is_sent_when_it_comes() -> None:
    shelf = FakeShelf()
    async with server_and_clients(shelf) as (server, service, (client,)):
        await client.say(server, Message(entries=(want(b"late", tell=False),)))
        await wait_all_tasks_blocked()
        shelf.blocks[CID.of(b"late").multihash] = b"late"
        service.look_again()
        await wait_all_tasks_blocked()
        assert client.blocks == [b"late"]


async def test_a_block_that_cannot_be_read_any_more_is_said_not_to_be_here() -> None:
    shelf = FakeShelf([b"gone"])
    size = {CID.of(b"gone").multihash: 4}

    async def sizes(multihashes: Sequence[bytes]) -> list[int | None]:
        await trio.lowlevel.checkpoint()
        return [size.get(one) for one in multihashes]

    shelf.sizes = sizes  # type: ignore[method-assign]  # says that it is there
    shelf.blocks.clear()
    async with server_and_clients(shelf) as (server, _, (client,)):
        await client.say(server, Message(entries=(want(b"gone"),)))
        await wait_all_tasks_blocked()
        said = [presence for message in client.got for presence in message.presences]
        assert said == [Presence(bytes(CID.of(b"gone")), have=False)]


async def test_peers_are_answered_in_turn_a_message_at_a_time() -> None:
    blocks = [bytes([number]) * 400_000 for number in range(12)]
    shelf = FakeShelf(blocks)
    async with server_and_clients(shelf, 2, BitswapLimits(answers=1)) as (server, _, clients):
        lines = Message(entries=tuple(map(want, blocks)))
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.say, server, lines)
        await wait_all_tasks_blocked()
        assert all(sorted(client.blocks) == blocks for client in clients)
        turns = [peer for peer, _ in shelf.log]
        # Two blocks make a message; nobody has two turns in a row while another waits.
        assert all(len(set(turns[start : start + 4])) == 2 for start in range(2, 18))


async def test_what_is_still_to_come_is_told() -> None:
    blocks = [bytes([number]) * 600_000 for number in range(3)]
    async with server_and_clients(FakeShelf(blocks)) as (server, _, (client,)):
        await client.say(server, Message(entries=tuple(map(want, blocks))))
        await wait_all_tasks_blocked()
        assert [message.pending_bytes for message in client.got] == [1_200_000, 600_000, 0]


async def test_a_peer_that_takes_nothing_loses_its_wants_and_holds_nobody_up(
    autojump_clock: object,
) -> None:
    blocks = [bytes([number]) * 1_000_000 for number in range(40)]
    shelf = FakeShelf(blocks)
    limits = BitswapLimits(answers=1, send_seconds=5)
    async with server_and_clients(shelf, 2, limits) as (server, service, (slow, other)):

        async def never_read(stream: Stream) -> None:
            await trio.sleep_forever()

        for protocol in PROTOCOLS:
            slow.mesh.unhandle(protocol)
            slow.mesh.handle(protocol, never_read)
        await slow.say(server, Message(entries=tuple(map(want, blocks))))
        await trio.sleep(1)
        await other.say(server, Message(entries=(want(blocks[0]),)))
        await trio.sleep(30)
        assert other.blocks == [blocks[0]]
        assert slow.mesh.peer_id not in service._ledgers
        assert sum(peer == slow.mesh.peer_id for peer, _ in shelf.log) < 40


async def test_slow_readers_lose_their_turns_when_others_wait(autojump_clock: object) -> None:
    blocks = [bytes([number]) * 1_000_000 for number in range(3)]
    shelf = FakeShelf(blocks)
    async with server_and_clients(shelf, 5, BitswapLimits(answers=2)) as (server, _, clients):

        async def never_read(stream: Stream) -> None:
            await trio.sleep_forever()

        *slow, other = clients
        for client in slow:
            for protocol in PROTOCOLS:
                client.mesh.unhandle(protocol)
                client.mesh.handle(protocol, never_read)
            await client.say(server, Message(entries=tuple(map(want, blocks))))
        await trio.sleep(1)
        await other.say(server, Message(entries=(want(blocks[0]),)))
        await trio.sleep(10)  # two of the four at a time, five seconds each
        assert other.blocks == [blocks[0]]


async def test_a_slow_reader_keeps_its_turn_while_nobody_waits(autojump_clock: object) -> None:
    block = bytes(1_000_000)
    async with server_and_clients(FakeShelf([block])) as (server, _, (client,)):
        got: list[bytes] = []

        async def read_late(stream: Stream) -> None:
            await trio.sleep(20)
            data = await stream.receive_message(bitswap.MAX_MESSAGE)
            assert data is not None
            got.extend(each.data for each in decode(data).blocks)

        for protocol in PROTOCOLS:
            client.mesh.unhandle(protocol)
            client.mesh.handle(protocol, read_late)
        await client.say(server, Message(entries=(want(block),)))
        await trio.sleep(21)
        assert got == [block]


async def test_wants_end_with_the_connection() -> None:
    async with server_and_clients(FakeShelf()) as (server, service, (client,)):
        await client.say(server, Message(entries=(want(b"nothing"),)))
        await wait_all_tasks_blocked()
        assert client.mesh.peer_id in service._ledgers
        await client.mesh.disconnect(server.peer_id)
        await wait_all_tasks_blocked()
        assert not service._ledgers
        assert service._room.left == BitswapLimits().wants


async def test_wants_are_kept_of_so_many_peers_and_no_more() -> None:
    async with server_and_clients(FakeShelf(), 3, BitswapLimits(peers=2)) as opened:
        server, service, clients = opened
        for client in clients:
            await client.say(server, Message(entries=(want(b"nothing", tell=False),)))
            await wait_all_tasks_blocked()
        assert list(service._ledgers) == [client.mesh.peer_id for client in clients[1:]]


async def test_a_long_message_is_read_only_of_those_that_we_ask() -> None:
    shelf = FakeShelf()
    async with server_and_clients(shelf, limits=BitswapLimits(wantlist_bytes=10_000)) as opened:
        server, service, (client,) = opened
        await client.mesh.connect(server.peer_id)
        gift = Message(blocks=(block_for(bytes(CID.of(bytes(20_000))), bytes(20_000)),))
        async with await client.mesh.open_stream(server.peer_id, NEWEST) as stream:
            await stream.send_message(encode(gift))
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with service.asking(client.mesh.peer_id) as heard:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.say, server, gift)
                news = await heard.receive()
        assert news.blocks == ((CID.of(bytes(20_000)).multihash, bytes(20_000)),)


async def test_one_peer_sends_on_so_many_streams_and_no_more() -> None:
    async with server_and_clients(FakeShelf(), limits=BitswapLimits(streams_per_peer=2)) as opened:
        server, _, (client,) = opened
        streams = []
        for _ in range(3):
            streams.append(await client.mesh.open_stream(server.peer_id, NEWEST))
            await streams[-1].send_all(b"\x01")
            await wait_all_tasks_blocked()  # so that the third is the one too many
        with pytest.raises(trio.BrokenResourceError):
            await streams[2].receive_some()
        for stream in streams:
            stream.reset()


async def test_a_stream_on_which_nothing_comes_is_given_up(autojump_clock: object) -> None:
    async with server_and_clients(FakeShelf()) as (server, _, (client,)):
        stream = await client.mesh.open_stream(server.peer_id, NEWEST)
        await stream.send_all(b"\x7f")
        with trio.fail_after(130), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_garbage_ends_its_stream_and_nothing_else() -> None:
    async with server_and_clients(FakeShelf([b"block"])) as (server, _, (client,)):
        async with await client.mesh.open_stream(server.peer_id, NEWEST) as stream:
            await stream.send_message(b"\xff\xff\xff")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        await client.say(server, Message(entries=(want(b"block"),)))
        await wait_all_tasks_blocked()
        assert client.blocks == [b"block"]


async def test_a_share_reaches_a_peer_that_has_waited_for_it(
    swarm: Swarm, autojump_clock: object
) -> None:
    async with swarm.peers(2) as (provider, receiver):
        for protocol in PROTOCOLS:
            receiver.mesh.unhandle(protocol)
        client = Client(receiver.mesh)
        path = provider.file("small", 1000)
        await client.say(provider.mesh, Message(entries=(want(path.read_bytes()),)))
        await trio.sleep(1)
        provider.share(path)
        provider.exchange.note_gains()
        await trio.sleep(1)
        assert client.blocks == [path.read_bytes()]


def test_a_store_tells_the_size_of_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(600_000))
    with Store.open(tmp_path / "store") as store:
        built = build(tmp_path / "file")
        store.add(built)
        assert store.size_of(CID.of(bytes(600_000 % (256 << 10))).multihash) == 75_712
        assert store.size_of(built.root.multihash) == len(store.read_index(built.root) or b"")
        assert store.size_of(CID.of(b"other").multihash) is None
        assert store.size_of(b"\x13\x01x") is None
