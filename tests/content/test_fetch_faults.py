"""Providers that lie, stall, break and vanish: nothing wrong is kept, nothing hangs."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.cid import CID, Codec
from lattica.content import (
    BadLeaf,
    ExchangeLimits,
    FetchProgress,
    FetchStalled,
    FetchStarted,
    LeafMismatch,
    Link,
    NoProvider,
    ProviderJoined,
    ProviderLeft,
    ProvidersLost,
    ProviderSlow,
    Segment,
    SourcesChanged,
    _session,
    _stages,
    build,
)
from lattica.content._events import failure
from lattica.content._messages import (
    PROTOCOL,
    AnswerHead,
    AnswerKind,
    BlocksRequest,
    HaveRequest,
    Status,
    decode_request,
    encode_end,
    encode_have,
    encode_have_all,
)
from lattica.content._unixfs import encode_file
from lattica.errors import Unreachable
from lattica.testing import sample_identity
from lattica.testing.providers import (
    HostileProvider,
    Misdeed,
    another_request,
    at,
    chatter,
    duplicate,
    end_inside,
    garbage,
    hang_up,
    no_misdeed,
    oversized,
    silence,
    skipped,
    slow_loris,
    truncated,
    wrong_leaf,
)
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.transport import Stream

LEAF = 256 << 10


class Rogue(HostileProvider):
    """A peer of the swarm turned hostile."""

    def __init__(self, peer: Any, misdeed: Misdeed, *, index_too: bool = False) -> None:
        super().__init__(peer.mesh, peer.store, misdeed, index_too=index_too)


async def compress_unasked(_rogue: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    return bytes(AnswerHead(head.kind, 0, 2, 0, head.request, head.number, 10)) + data[:10]


async def flood(_rogue: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
    return encode_have(head.request, 0, b"\xff" * 60_000) * 50 + bytes(head) + data


BREACHES: list[Misdeed] = [
    garbage,
    oversized,
    truncated,
    compress_unasked,
    another_request,
    skipped,
    duplicate,
    end_inside,
]


async def test_a_lie_is_named_banned_and_never_written(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (liar, honest, receiver):
        for seed in (liar, honest):
            shared = seed.share(seed.file("model.bin", 40 * LEAF))
        Rogue(liar, at(3, wrong_leaf))
        fetched = await receiver.fetch(shared.root, liar, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        (bad,) = receiver.told(BadLeaf)
        assert bad.error is fetched.bad_leaves[0]
        assert isinstance(bad.error, LeafMismatch)
        assert (bad.error.peer, bad.error.cid) == (liar.mesh.peer_id, shared.root)
        assert bad.error.offset == bad.error.leaf * LEAF
        (left,) = [event for event in receiver.told(ProviderLeft) if event.banned]
        assert left.peer == liar.mesh.peer_id


async def test_a_lone_liar_ends_the_fetch_and_what_was_right_is_kept(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (liar, honest, receiver):
        for seed in (liar, honest):
            shared = seed.share(seed.file("model.bin", 40 * LEAF))
        Rogue(liar, at(20, wrong_leaf))
        with pytest.raises(LeafMismatch) as caught:
            await receiver.fetch(shared.root, liar)
        assert (caught.value.leaf, caught.value.peer) == (20, liar.mesh.peer_id)
        assert not receiver.got.exists()
        receiver.events.clear()
        fetched = await receiver.fetch(shared.root, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        (started,) = receiver.told(FetchStarted)
        assert started.verified_bytes >= 20 * LEAF
        assert fetched.received_bytes == 40 * LEAF - started.verified_bytes


async def test_every_lie_is_caught(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(3) as (liar, honest, receiver):
        for seed in (liar, honest):
            shared = seed.share(seed.file("model.bin", 10 * LEAF))
        Rogue(liar, wrong_leaf)
        fetched = await receiver.fetch(shared.root, liar, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert honest.mesh.peer_id in fetched.sources


async def test_a_lie_about_the_index_is_caught_before_anything_is_laid_out(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (liar, honest, receiver):
        for seed in (liar, honest):
            shared = seed.share(seed.file("model.bin", 10 * LEAF))
        Rogue(liar, wrong_leaf, index_too=True)
        with pytest.raises(LeafMismatch) as caught:
            await receiver.fetch(shared.root, liar)
        assert caught.value.cid == shared.root
        assert not receiver.told(FetchStarted)
        await receiver.fetch(shared.root, liar, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_provider_that_breaks_the_protocol_is_left_for_another(
    swarm: Any, breach: Misdeed, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (rogue, honest, receiver):
        for seed in (rogue, honest):
            shared = seed.share(seed.file("model.bin", 30 * LEAF))
        Rogue(rogue, at(2, breach))
        await receiver.fetch(shared.root, rogue, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert rogue.mesh.peer_id in [event.peer for event in receiver.told(ProviderLeft)]


@pytest.mark.parametrize("breach", BREACHES[:-1])
async def test_a_lone_provider_that_breaks_the_protocol_ends_the_fetch(
    swarm: Any, breach: Misdeed, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 30 * LEAF))
        Rogue(rogue, breach)
        with pytest.raises((NoProvider, ProvidersLost)):
            await receiver.fetch(shared.root, rogue, patience=5)


async def test_a_flood_of_news_is_harmless(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))
        Rogue(rogue, flood)
        await receiver.fetch(shared.root, rogue)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_provider_that_keeps_telling_what_is_known_is_left(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))

        async def repeat_news(rogue: HostileProvider, _head: AnswerHead, _data: bytes) -> bytes:
            while True:
                await rogue.stream.send_all(encode_have(1, 0, b"\xff" * 60_000))

        Rogue(rogue, repeat_news)
        with pytest.raises(NoProvider, match="nothing new"):
            await receiver.fetch(shared.root, rogue)


async def test_a_provider_that_only_chatters_counts_as_silent(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 10e6
    async with swarm.peers(3) as (rogue, honest, receiver):
        for seed in (rogue, honest):
            shared = seed.share(seed.file("model.bin", 100 * LEAF))
        Rogue(rogue, at(5, chatter))
        await receiver.fetch(shared.root, rogue, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert rogue.mesh.peer_id in [event.peer for event in receiver.told(ProviderSlow)]
        assert trio.current_time() < 100 * LEAF / 10e6 + 5


async def test_more_news_than_can_be_kept_before_the_index_is_known_is_refused(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))

        async def serve(stream: Stream) -> None:
            data = await stream.receive_message(1 << 16)
            assert data is not None
            await stream.send_all(encode_have(decode_request(data).id, 0, b"\xff" * 65536) * 17)
            await trio.sleep_forever()

        rogue.mesh.unhandle(PROTOCOL)
        rogue.mesh.handle(PROTOCOL, serve)
        with pytest.raises(NoProvider, match="more about leaves than can be kept"):
            await receiver.fetch(shared.root, rogue)


async def test_a_busy_provider_is_asked_again_later(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 5 * LEAF))
        library = seed.exchange._library
        admit, opens_at = library.admit, 3.0
        library.admit = lambda who: trio.current_time() >= opens_at and admit(who)
        await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert 3 <= trio.current_time() < 9


@pytest.mark.parametrize("status", [Status.BUSY, Status.FAILED, Status.CANCELLED])
async def test_a_lone_provider_that_always_puts_us_off_is_given_up(
    swarm: Any, status: Status, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))
        requests: list[int] = []

        async def serve(stream: Stream) -> None:
            while (data := await stream.receive_message(1 << 16)) is not None:
                request = decode_request(data)
                if isinstance(request, HaveRequest):
                    await stream.send_all(encode_have_all(request.id))
                    await stream.send_all(encode_end(request.id, Status.OK))
                else:
                    requests.append(request.id)
                    await stream.send_all(encode_end(request.id, status))

        rogue.mesh.unhandle(PROTOCOL)
        rogue.mesh.handle(PROTOCOL, serve)
        with pytest.raises(FetchStalled, match=r"tried 1|none is known"):
            await receiver.fetch(shared.root, rogue)
        assert 300 <= trio.current_time() < 301
        assert len(requests) < 30


async def test_further_addresses_of_a_provider_are_tried_too(
    swarm: Any, autojump_clock: MockClock
) -> None:
    gone = Multiaddr.parse("/memory/4711")
    async with swarm.peers(2, introduce=False) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 5 * LEAF))
        peer = seed.mesh.peer_id
        infos = [PeerInfo(peer, (gone,)), PeerInfo(peer, (seed.mesh.addresses[0],))]
        await receiver.fetch(shared.root, providers=infos)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


def test_an_error_names_each_provider_and_does_not_run_on() -> None:
    root = CID.of(b"x")
    reasons: dict[Any, Any] = {
        sample_identity(n).peer_id: Unreachable("cannot reach it: " + "refused; " * 99)
        for n in range(9)
    }
    error = failure(root, [], reasons)
    assert isinstance(error, ProvidersLost)
    assert "tried 9" in str(error)
    assert str(sample_identity(4).peer_id) in str(error)
    assert len(str(error)) < 1500


async def test_addresses_of_one_provider_are_bounded(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.content._providers._MAX_ADDRESSES", 3)
    async with swarm.peers(2, introduce=False) as (seed, receiver):
        root = seed.share(seed.file("model.bin", 5 * LEAF)).root
        peer, tried = seed.mesh.peer_id, list[int]()

        async def connect(_peer: Any, addresses: Any) -> Any:
            tried.append(len(addresses))
            raise Unreachable("nobody is there")

        receiver.mesh.connect = connect
        infos = [PeerInfo(peer, (Multiaddr.parse(f"/memory/{n}"),)) for n in range(1, 9)]
        with pytest.raises(ProvidersLost):
            await receiver.fetch(root, providers=infos)
        assert max(tried) == 3


async def test_a_lone_provider_that_never_says_anything_is_given_up_soon(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))

        async def serve(stream: Stream) -> None:
            await trio.sleep_forever()

        rogue.mesh.unhandle(PROTOCOL)
        rogue.mesh.handle(PROTOCOL, serve)
        with pytest.raises(ProvidersLost, match="was silent for"):
            await receiver.fetch(shared.root, rogue)
        assert trio.current_time() < 90


async def test_a_lone_provider_that_trickles_is_given_up(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))
        Rogue(rogue, at(2, slow_loris(3.0)))
        with pytest.raises(FetchStalled):
            await receiver.fetch(shared.root, rogue)
        assert 300 <= trio.current_time() < 305


@pytest.mark.parametrize("slots", [1, 2, 16])
async def test_tricklers_do_not_keep_an_honest_provider_out(
    swarm: Any, slots: int, autojump_clock: MockClock
) -> None:
    async with swarm.peers(4, limits=ExchangeLimits(providers=slots)) as (*seeds, receiver):
        for seed in seeds:
            shared = seed.share(seed.file("model.bin", 5 * LEAF))
        for seed in seeds[:2]:
            Rogue(seed, slow_loris(0.5))
        await receiver.fetch(shared.root, *seeds)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert trio.current_time() < {1: 100, 2: 50, 16: 25}[slots]


async def test_a_directory_with_one_changed_file_is_served_but_for_that(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (seed, other, receiver):
        for peer in (other, seed):
            for name in ("a", "b", "c"):
                path = peer.file(f"model/{name}", 3 * LEAF, seed=ord(name))
            shared = peer.share(path.parent)
        path.write_bytes(b"changed")
        for _ in range(2):  # the second time the seed knows of the change from the start
            with pytest.raises(SourcesChanged):
                await receiver.fetch(shared.root, seed)
        fetched = await receiver.fetch(shared.root, other, seed)
        assert fetched.received_bytes <= 3 * LEAF
        assert (receiver.got / "a").read_bytes() == (path.parent / "a").read_bytes()


async def test_a_lone_provider_that_always_hangs_up_is_given_up(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async def serve(stream: Stream) -> None:
        stream.reset()

    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 5 * LEAF))
        rogue.mesh.unhandle(PROTOCOL)
        rogue.mesh.handle(PROTOCOL, serve)
        with pytest.raises(ProvidersLost, match=str(rogue.mesh.peer_id)):
            await receiver.fetch(shared.root, rogue)
        assert 300 <= trio.current_time() < 305


async def test_memory_for_leaves_does_not_pile_up_whatever_their_sizes(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    keep = _session.Session._keep

    async def watched(session: _session.Session, batch: _session.Batch) -> None:
        await keep(session, batch)
        kept.append(sum(map(len, [b for free in session._free.values() for b in free])))

    monkeypatch.setattr(_session, "_MAX_FREE_BYTES", 1 << 20)
    monkeypatch.setattr(_session.Session, "_keep", watched)
    segments = [Segment(LEAF), Segment(70 << 10), Segment(140 << 10)] * 30
    async with swarm.peers(2) as (seed, receiver):
        path = seed.file("model.bin", sum(segment.length for segment in segments))
        shared = seed.store.add(build(path, segments=segments))
        await receiver.fetch(shared.root, seed)
    assert 0 < max(kept) <= 1 << 20


async def test_a_crowd_of_tiny_leaves_lets_other_tasks_run(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    keep = _session.Session._keep

    async def watched(session: _session.Session, batch: _session.Batch) -> None:
        at_once.append(len(batch))
        await keep(session, batch)

    monkeypatch.setattr(_session.Session, "_keep", watched)
    async with swarm.peers(2) as (seed, receiver):
        path = seed.file("model.bin", 5000)
        shared = seed.store.add(build(path, segments=[Segment(1)] * 5000))
        await receiver.fetch(shared.root, seed)
    assert max(at_once) <= 1024 + 512 * 64


async def test_an_object_that_lies_about_itself_is_nobodys_lie(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        path = seed.file("model.bin", 5 * LEAF)
        built = build(path)
        links = [Link(leaf.cid, leaf.length, leaf.length) for leaf in built.files[0].leaves]
        links[-1] = Link(links[-1].cid, LEAF - 1, LEAF - 1)
        block = encode_file(links)
        root = CID.of(block, Codec.DAG_PB)
        seed.store.add(built)

        async def serve(stream: Stream) -> None:
            while (data := await stream.receive_message(1 << 16)) is not None:
                request = decode_request(data)
                if isinstance(request, BlocksRequest) and request.hashes[0] == root.multihash:
                    head = AnswerHead(AnswerKind.LEAF, 0, 0, 0, request.id, 0, len(block))
                    await stream.send_all(bytes(head) + block)
                elif isinstance(request, BlocksRequest):
                    for number, multihash in enumerate(request.hashes):
                        await rogue.send_block(stream, request.id, number, multihash)
                else:
                    await stream.send_all(encode_have_all(request.id))
                await stream.send_all(encode_end(request.id, Status.OK))

        rogue = Rogue(seed, no_misdeed)
        seed.mesh.unhandle(PROTOCOL)
        seed.mesh.handle(PROTOCOL, serve)
        with pytest.raises(NoProvider, match="not 262143"):
            await receiver.fetch(root, seed)
        assert not receiver.told(BadLeaf)


async def test_a_little_index_that_unfolds_into_millions_of_tiny_leaves_is_refused(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stages, "MAX_SMALL_LEAVES", 2000)
    blocks: dict[CID, bytes] = {}

    def above(links: list[Link]) -> Link:
        block = encode_file(links)
        cid = CID.of(block, Codec.DAG_PB)
        blocks[cid] = block
        total = len(block) + sum(link.total_size for link in links)
        return Link(cid, sum(link.size for link in links), total)

    leaf = Link(CID.of(b"x"), 1, 1)
    for count, refused in ((2, False), (1024, True)):
        root = above([above([leaf] * 1000)] * count).cid
        async with swarm.peers(1) as (receiver,):
            with receiver.store.download(root, receiver.got) as download:
                for cid, block in blocks.items():
                    download.add_index(cid, block)
                index = _stages.IndexStage(root, receiver.store, download, itertools.count())
                if refused:
                    with pytest.raises(_stages.ObjectTooLarge, match="for its 1024000 bytes"):
                        index.load()
                    assert len(index.tables[0]) < 2300
                else:
                    index.load()
                    assert index.done
                download.discard()


async def test_an_object_of_too_many_leaves_is_refused_while_its_index_is_read(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stages, "MAX_LEAVES", 4)
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 5 * LEAF))
        with pytest.raises(_stages.ObjectTooLarge):
            await receiver.fetch(shared.root, seed)
        assert not list(receiver.folder.glob("got*"))


async def test_so_many_providers_are_connected_and_no_more(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 1e6
    limits = ExchangeLimits(providers=2, candidates=3)
    async with swarm.peers(6, limits=limits) as (*seeds, receiver):
        for seed in seeds:
            shared = seed.share(seed.file("model.bin", 20 * LEAF))
        fetched = await receiver.fetch(shared.root, *seeds)
        assert len(fetched.sources) == 2
        assert len(receiver.told(ProviderJoined)) == 2
        assert sum(seed.exchange.stats.total.sent_leaves > 0 for seed in seeds) == 2


async def test_a_provider_that_hangs_up_inside_a_leaf_is_asked_again(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 10 * LEAF))
        Rogue(rogue, at(4, hang_up))
        fetched = await receiver.fetch(shared.root, rogue)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert fetched.received_bytes == 10 * LEAF


async def test_a_provider_that_falls_silent_loses_its_work_to_another(
    swarm: Any, autojump_clock: MockClock
) -> None:
    swarm.network.bandwidth = 10e6
    async with swarm.peers(3) as (rogue, honest, receiver):
        for seed in (rogue, honest):
            shared = seed.share(seed.file("model.bin", 200 * LEAF))
        Rogue(rogue, at(20, silence))
        started = trio.current_time()
        fetched = await receiver.fetch(shared.root, rogue, honest)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert trio.current_time() - started < 200 * LEAF / 10e6 + 3
        assert rogue.mesh.peer_id in [event.peer for event in receiver.told(ProviderSlow)]
        assert fetched.received_bytes == 200 * LEAF


async def test_a_lone_provider_that_falls_silent_is_dialled_again(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (rogue, receiver):
        shared = rogue.share(rogue.file("model.bin", 20 * LEAF))
        Rogue(rogue, at(10, silence))
        fetched = await receiver.fetch(shared.root, rogue)
        assert receiver.got.read_bytes() == shared.path.read_bytes()
        assert fetched.received_bytes == 20 * LEAF


async def test_a_network_that_is_cut_is_waited_for(swarm: Any, autojump_clock: MockClock) -> None:
    swarm.network.bandwidth = 5e6
    async with swarm.peers(2) as (seed, receiver), trio.open_nursery() as nursery:
        shared = seed.share(seed.file("model.bin", 60 * LEAF))

        async def cut() -> None:
            await trio.sleep(1)
            swarm.network.cut("node-0", "node-1")
            await trio.sleep(6)
            swarm.network.heal("node-0", "node-1")

        nursery.start_soon(cut)
        await receiver.fetch(shared.root, seed)
        assert receiver.got.read_bytes() == shared.path.read_bytes()


async def test_a_changed_source_is_told_and_another_provider_used(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (changed, honest, receiver):
        for seed in (changed, honest):
            shared = seed.share(seed.file("model.bin", 20 * LEAF))
        with (changed.folder / "model.bin").open("r+b") as file:
            file.write(b"not what it was")
        with pytest.raises(SourcesChanged) as caught:
            await receiver.fetch(shared.root, changed)
        assert changed.mesh.peer_id.short in str(caught.value) or "12D3" in str(caught.value)
        assert trio.current_time() < 10
        await receiver.fetch(shared.root, changed, honest)
        assert receiver.got.read_bytes() == (honest.folder / "model.bin").read_bytes()


async def test_a_flipped_bit_on_the_disk_is_refused_by_the_provider_itself(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        path = seed.file("model.bin", 20 * LEAF)
        shared = seed.share(path)
        stat = path.stat()
        with path.open("r+b") as file:
            file.seek(7 * LEAF)
            byte = file.read(1)
            file.seek(7 * LEAF)
            file.write(bytes([byte[0] ^ 4]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk would do it
        with pytest.raises(SourcesChanged):
            await receiver.fetch(shared.root, seed)
        assert not receiver.told(BadLeaf)
        (part,) = receiver.folder.glob("got.*")
        kept = part.read_bytes()
        assert kept[: 7 * LEAF] == path.read_bytes()[: 7 * LEAF]
        assert kept[7 * LEAF : 8 * LEAF] == bytes(LEAF)
        with path.open("r+b") as file:
            file.seek(7 * LEAF)
            file.write(byte)
        seed.share(path)
        fetched = await receiver.fetch(shared.root, seed)
        assert fetched.received_bytes == LEAF


async def test_a_provider_that_holds_a_part_is_asked_for_that_part(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (partial_seed, full, receiver):
        path = full.file("model.bin", 20 * LEAF)
        shared = full.share(path)
        rogue = Rogue(partial_seed, no_misdeed)
        partial_seed.share(partial_seed.file("model.bin", 20 * LEAF))

        async def serve(stream: Stream) -> None:
            data = await stream.receive_message(1 << 16)
            assert data is not None
            have = decode_request(data)
            await stream.send_all(encode_have(have.id, 0, b"\xff\x03"))  # leaves 0 to 9
            await stream.send_all(encode_end(have.id, Status.OK))
            await rogue.serve(stream)

        partial_seed.mesh.unhandle(PROTOCOL)
        partial_seed.mesh.handle(PROTOCOL, serve)
        swarm.network.bandwidth = 10e6
        fetched = await receiver.fetch(shared.root, partial_seed, full)
        assert receiver.got.read_bytes() == path.read_bytes()
        assert fetched.sources[full.mesh.peer_id] >= 10 * LEAF
        assert 0 < fetched.sources[partial_seed.mesh.peer_id] <= 10 * LEAF


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope when its task has taken so many steps."""

    def __init__(self, steps: int) -> None:
        self.left, self.scope = steps, trio.CancelScope()

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.parametrize("offset", range(3))
async def test_a_fetch_cancelled_anywhere_resumes_without_asking_twice(
    swarm: Any, offset: int, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 12 * LEAF + 1))
        steps, whole = 1 + offset, False
        while not whole:
            receiver.events.clear()
            cancel = CancelAfter(steps)
            trio.lowlevel.add_instrument(cancel)
            try:
                with cancel.scope:
                    await receiver.fetch(shared.root, seed)
                    whole = True
            finally:
                trio.lowlevel.remove_instrument(cancel)
            kept = max((e.verified_bytes for e in receiver.told(FetchProgress)), default=0)
            receiver.events.clear()
            fetched = await receiver.fetch(shared.root, seed)
            assert receiver.got.read_bytes() == shared.path.read_bytes()
            assert fetched.received_bytes <= 12 * LEAF + 1 - kept
            assert receiver.store.remove(shared.root)
            receiver.got.unlink()
            assert [entry.name for entry in receiver.folder.iterdir()] == ["store"]
            steps += 17
        assert steps > 200
