"""Who else fetches it, and who is banned: what is remembered, for how long, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from lattica.cid import CID
from lattica.content import ProviderLeft
from lattica.content._bans import Bans
from lattica.content._fetchers import MAX_TOLD, Fetchers, decode_peers, encode_peers
from lattica.content._messages import (
    MAX_CONTROL,
    MAX_REQUEST,
    PROTOCOL,
    AnswerKind,
    PeersRequest,
    Status,
    decode_request,
)
from lattica.content._part import PartFile
from lattica.identity import PeerId
from lattica.testing import sample_identity
from lattica.transport import Multiaddr, PeerInfo

from .test_exchange import Asker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from trio.testing import MockClock

    from lattica.transport import Stream

ROOT = CID.of(b"an object")
HOME = Multiaddr.parse("/ip4/192.168.1.7/tcp/4001")
PUBLIC = Multiaddr.parse("/ip4/8.8.4.4/tcp/4001")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
NEIGHBOUR = Multiaddr.parse("/ip4/192.168.1.9/tcp/50000")
STRANGER = Multiaddr.parse("/ip4/8.8.8.8/tcp/50000")


def peer(number: int) -> PeerId:
    return PeerId(bytes((0, 2)) + number.to_bytes(2, "big"))


def test_fetchers_are_told_of_each_other_and_not_of_themselves() -> None:
    fetchers = Fetchers()
    fetchers.join(ROOT, peer(1), [PUBLIC], STRANGER)
    assert fetchers.others(ROOT, peer(1), STRANGER, 0.0) == []
    assert fetchers.others(ROOT, peer(2), STRANGER, 0.0) == [PeerInfo(peer(1), (PUBLIC,))]
    assert fetchers.others(CID.of(b"another"), peer(2), STRANGER, 0.0) == []


def test_an_address_is_believed_and_told_only_where_both_ends_mean_the_same() -> None:
    fetchers = Fetchers()
    fetchers.join(ROOT, peer(1), [HOME, PUBLIC, LOOPBACK], NEIGHBOUR)
    fetchers.join(ROOT, peer(2), [HOME, LOOPBACK], STRANGER)
    assert fetchers.others(ROOT, peer(3), NEIGHBOUR, 0.0) == [PeerInfo(peer(1), (HOME, PUBLIC))]
    assert fetchers.others(ROOT, peer(3), STRANGER, 0.0) == [PeerInfo(peer(1), (PUBLIC,))]


def test_a_fetcher_is_told_of_for_a_minute_after_its_last_stream() -> None:
    fetchers = Fetchers()
    for _ in range(2):
        fetchers.join(ROOT, peer(1), [PUBLIC], STRANGER)
    fetchers.leave(ROOT, peer(1), 10.0)
    assert fetchers.others(ROOT, peer(2), STRANGER, 1000.0)
    fetchers.leave(ROOT, peer(1), 1000.0)
    assert fetchers.others(ROOT, peer(2), STRANGER, 1059.0)
    assert not fetchers.others(ROOT, peer(2), STRANGER, 1060.0)
    fetchers.leave(ROOT, peer(1), 2000.0)  # it is not known any more


def test_as_many_fetchers_and_objects_are_remembered_as_there_is_room_for() -> None:
    fetchers = Fetchers()
    for number in range(200):
        fetchers.join(ROOT, peer(number), [PUBLIC], STRANGER)
    told = fetchers.others(ROOT, peer(500), STRANGER, 0.0)
    assert [info.peer for info in told] == [peer(199 - number) for number in range(MAX_TOLD)]
    for number in range(300):
        fetchers.join(CID.of(number.to_bytes(2, "big")), peer(1), [PUBLIC], STRANGER)
    assert not fetchers.others(ROOT, peer(500), STRANGER, 0.0)
    assert len(fetchers._roots) == 256


def test_what_does_not_fit_an_answer_is_left_out() -> None:
    long = Multiaddr.parse("/dns4/" + "a" * 240 + "/tcp/1")
    others = [PeerInfo(peer(number), (long,) * 10) for number in range(40)]
    payload = encode_peers(1, others)[16:]
    assert 60_000 < len(payload) <= MAX_CONTROL
    assert 20 < len(decode_peers(payload, STRANGER)) < 40


async def test_who_asks_for_peers_is_told_and_told_of(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (seed, one, other):
        where = Multiaddr.parse("/memory/5")
        stream = await one.mesh.open_stream(seed.mesh.peer_id, PROTOCOL)
        async with stream:
            asker = Asker(stream)
            await asker.ask(PeersRequest(1, ROOT, (bytes(where), b"\xff\xff")))
            (answer,), status = await asker.until_end(1)
            assert status is Status.OK
            assert answer.head.kind == AnswerKind.PEERS
            assert decode_peers(answer.payload, where) == []
            again = await other.mesh.open_stream(seed.mesh.peer_id, PROTOCOL)
            async with again:
                asker = Asker(again)
                await asker.ask(PeersRequest(1, ROOT))
                (answer,), _ = await asker.until_end(1)
                told = decode_peers(answer.payload, where)
                assert told == [PeerInfo(one.mesh.peer_id, (where,))]
                for number in range(2, 40):
                    await asker.ask(PeersRequest(number, CID.of(bytes([number]))))
                    _, status = await asker.until_end(number)
                assert status is Status.BUSY  # one stream is for one object, or a few
                again.reset()
            stream.reset()


async def test_who_is_known_from_hearsay_alone_is_dialled_once_and_then_counts_for_nothing(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.network.bandwidth = 1e6
    ghost = sample_identity(99).peer_id
    async with swarm.peers(2) as (seed, receiver):
        shared = seed.share(seed.file("model.bin", 40 << 18))
        fetchers = seed.exchange._library.fetchers
        nowhere = Multiaddr.parse("/memory/66")
        fetchers.join(shared.root, ghost, [nowhere], nowhere)
        dialled: list[PeerId] = []
        connect = receiver.mesh.connect

        async def counted(wanted: PeerId, addresses: Any = ()) -> Any:
            dialled.append(wanted)
            return await connect(wanted, addresses)

        written: list[int] = []
        write = PartFile.write

        def noted(part: PartFile, leaf: int, views: Any) -> None:
            written.extend(range(leaf, leaf + len(views)))
            write(part, leaf, views)

        receiver.mesh.connect = counted
        monkeypatch.setattr(PartFile, "write", noted)
        await receiver.fetch(shared.root, seed)
    assert dialled.count(ghost) == 1
    assert written == list(range(40))  # with nobody to share with, from the front


async def test_invented_fetchers_keep_nobody_out(swarm: Any, autojump_clock: MockClock) -> None:
    async with swarm.peers(3) as (seed, liar, receiver):
        shared = seed.share(seed.file("model.bin", 40 << 18))

        async def lie(stream: Stream) -> None:
            while (data := await stream.receive_message(MAX_REQUEST)) is not None:
                request = decode_request(data)
                if not isinstance(request, PeersRequest):
                    continue  # a slow one, to all appearances
                for start in range(0, 320, MAX_TOLD):
                    nobody = [
                        PeerInfo(peer(number), (Multiaddr.parse("/memory/66"),))
                        for number in range(start, start + MAX_TOLD)
                    ]
                    await stream.send_all(encode_peers(request.id, nobody))

        connecting = most = 0
        connect = receiver.mesh.connect

        async def slow(wanted: PeerId, addresses: Any = ()) -> Any:
            nonlocal connecting, most
            if wanted in (seed.mesh.peer_id, liar.mesh.peer_id):
                return await connect(wanted, addresses)
            connecting += 1
            most = max(most, connecting)
            try:
                await trio.sleep(3600)  # an address that swallows what is sent to it
            finally:
                connecting -= 1

        async def later() -> AsyncIterator[PeerInfo]:
            await trio.sleep(1)
            yield PeerInfo(seed.mesh.peer_id, ())

        liar.mesh.unhandle(PROTOCOL)
        liar.mesh.handle(PROTOCOL, lie)
        receiver.mesh.connect = slow
        await seed.mesh.connect(receiver.mesh.peer_id, receiver.mesh.addresses)
        await liar.mesh.connect(receiver.mesh.peer_id, receiver.mesh.addresses)
        began = trio.current_time()
        with trio.fail_after(60):
            await receiver.fetch(shared.root, liar, more=later())
    assert trio.current_time() - began < 20
    assert 0 < most <= 4
    assert any("a second time" in event.reason for event in receiver.told(ProviderLeft))


def test_a_ban_ends_and_the_next_one_is_longer() -> None:
    bans = Bans()
    first = bans.add(peer(1), "wrong leaf 812", 100.0)
    assert first.text(100.0) == "banned 10 min: wrong leaf 812"
    assert bans.of(peer(1), 699.0) is first
    assert bans.of(peer(1), 700.0) is None
    assert bans.add(peer(1), "wrong leaf 3", 650.0) is first
    assert bans.add(peer(1), "wrong leaf 3", 800.0).text(800.0) == "banned 20 min: wrong leaf 3"
    for number in range(12):
        longest = bans.add(peer(1), "wrong leaf 3", 1e6 * (number + 1))
    assert longest.text(12e6) == "banned 24 h: wrong leaf 3"
    assert bans.of(peer(2), 0.0) is None


def test_so_many_bans_are_remembered() -> None:
    bans = Bans()
    for number in range(2000):
        bans.add(peer(number), "wrong leaf 0", 0.0)
    assert bans.of(peer(0), 1.0) is None
    assert sum(bans.of(peer(number), 1.0) is not None for number in range(2000)) == 1024
