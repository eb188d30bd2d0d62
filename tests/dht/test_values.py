"""Whole nodes on an in-memory network: values put, got, repaired, refused."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from lattica import codec
from lattica.dht import (
    ClockSkew,
    Dht,
    InvalidValue,
    NotStored,
    UnknownNamespace,
    ValueNotFound,
    ValueTooLarge,
)
from lattica.dht._messages import Message, MessageType, Record
from lattica.dht._record_store import RecordStore
from lattica.dht._records import Entry, decode_set, encode_set, sign_entry
from lattica.dht._renewal import HAND_ON_SECONDS, HandOn
from lattica.dht._values import TELLINGS
from lattica.errors import InvalidInput
from lattica.transport import PeerInfo
from tests.dht.conftest import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from lattica.codec import Value
    from lattica.dht._requests import Reply
    from lattica.identity import PeerId
    from tests.dht.conftest import Node, Swarm

KEY = "/lattica/greeting"


async def test_a_value_is_read_back_by_every_node(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(8)
    value: Value = {"layers": [1, 2, 3], "name": "é", "hash": b"\x00\xff", "none": None, "lr": 0.5}
    put = await nodes[2].dht.put(KEY, value, ttl=600, subkey="rank-3")
    assert (put.author, put.subkey, put.holders, put.asked) == (nodes[2].peer, b"rank-3", 8, 7)
    for node in nodes:
        got = await node.dht.get(KEY)
        assert got.value == value
        (entry,) = got.entries
        assert (entry.author, entry.subkey) == (nodes[2].peer, b"rank-3")
        assert (got.invalid, got.stale, got.complete) == (0, 0, True)
        assert entry.expires - entry.created == pytest.approx(600)


async def test_where_everybody_is_known_a_value_is_put_without_looking_for_peers(
    autojump_clock: MockClock, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = await swarm.start_many(8)
    client = nodes[2].dht._client
    assert client.table.holds_everybody(trio.current_time())
    monkeypatch.setattr(client, "find_node", None)
    assert (await nodes[2].dht.put(KEY, 1)).holders == 8
    monkeypatch.undo()
    nodes[2].dht._table.failed(nodes[5].peer, now=trio.current_time())  # it has to look again
    assert (await nodes[2].dht.put(KEY, 2)).holders == 8
    assert (await nodes[6].dht.get(KEY)).value == 2


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.slow)])
async def test_sixty_four_writers_at_once_lose_nothing(
    autojump_clock: MockClock, swarm: Swarm, rounds: int
) -> None:
    nodes = await swarm.start_many(8)
    for round_number in range(rounds):
        key = f"/lattica/round/{round_number}"
        async with trio.open_nursery() as writing:
            for number in range(64):
                node = nodes[number % len(nodes)]
                writing.start_soon(_put, node.dht, key, number)
        for node in nodes:
            entries = (await node.dht.get(key)).entries
            assert [entry.value for entry in entries] == list(range(64))


async def _put(dht: Dht, key: str, number: int) -> None:
    await dht.put(key, number, subkey=f"writer-{number:02}")


async def test_a_later_value_replaces_the_earlier_one_of_its_author_and_subkey_alone(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(5)
    for value in ("old", "new"):
        await nodes[1].dht.put(KEY, value, subkey="a")
    await nodes[2].dht.put(KEY, "other author", subkey="a")
    await nodes[1].dht.put(KEY, "other subkey", subkey="b")
    got = await nodes[4].dht.get(KEY, subkey="a")
    assert {entry.value for entry in got.entries} == {"new", "other author"}
    got = await nodes[4].dht.get(KEY, author=nodes[1].peer)
    assert [(entry.subkey, entry.value) for entry in got.entries] == [
        (b"a", "new"),
        (b"b", "other subkey"),
    ]


async def test_nothing_there_is_an_empty_result(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(3)
    got = await nodes[0].dht.get(KEY)
    assert (got.entries, got.holders, got.answered) == ((), 0, 2)
    with pytest.raises(ValueNotFound, match="2 of 2 peers"):
        _ = got.value
    many = await nodes[0].dht.get_many([KEY, b"/lattica/other"])
    assert list(many) == [KEY, b"/lattica/other"]


async def test_what_cannot_be_kept_is_said_before_it_is_sent(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    node = await swarm.start(1)
    with pytest.raises(ValueTooLarge, match="limit 12288") as caught:
        await node.dht.put(KEY, bytes(16_000))
    assert caught.value.limit == 12_288
    assert "CID" in caught.value.hint
    with pytest.raises(ValueTooLarge, match="subkey"):
        await node.dht.put(KEY, 1, subkey=bytes(257))
    with pytest.raises(InvalidValue):
        await node.dht.put(KEY, {1: 2})  # type: ignore[dict-item]
    for ttl in (0, -1, 8 * 86_400, float("nan")):
        with pytest.raises(InvalidInput, match="ttl"):
            await node.dht.put(KEY, 1, ttl=ttl)
    for key in (
        "greeting",
        "/lattica",
        "/lattica/",
        "//x",
        "/other/x",
        b"/\xff/x",
        "",
        b"/lattica/" + bytes(1024),
    ):
        with pytest.raises(UnknownNamespace):
            await node.dht.put(key, 1)
        with pytest.raises(UnknownNamespace):
            await node.dht.get(key)


async def test_a_visitor_without_peers_cannot_put(autojump_clock: MockClock, swarm: Swarm) -> None:
    visitor = await swarm.start(1, server=False)
    with pytest.raises(NotStored, match="no peer is known"):
        await visitor.dht.put(KEY, 1)
    assert visitor.dht.status().own_values == 0, "it is not put behind its user's back later"


async def test_values_put_at_one_instant_by_one_node_follow_each_other(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(3)
    async with trio.open_nursery() as writing:
        for number in range(8):
            writing.start_soon(nodes[1].dht.put, KEY, number)
    sequences = [(await node.dht.get(KEY)).newest.sequence for node in nodes]
    assert len(set(sequences)) == 1
    own = nodes[1].dht._renewal.own.of(KEY.encode())
    assert [item.entry.sequence for item in own if item.entry] == sequences[:1]


class Liar:
    """A keeper that answers with forgeries, with what is old, or with nothing; it takes all."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._first: dict[bytes, Record] = {}

    def put(self, request: Message, *, now: float, **_whence: object) -> Message:
        assert request.record is not None
        self._first.setdefault(request.key, request.record)
        return Message(MessageType.PUT_VALUE, request.key, request.record)

    def get(self, key: bytes, *, now: float, room: int = 0) -> Record | None:
        first = self._first.get(key)
        if first is None or self._kind == "silent":
            return None
        if self._kind == "stale":
            return first
        (encoded,) = decode_set(first.value)
        fields = codec.unpack(encoded, max_size=1 << 16)
        assert isinstance(fields, list)
        assert isinstance(fields[3], int)
        fields[2:4] = [codec.pack("a lie"), fields[3] + 10_000]
        return Record(key, codec.pack([1, [codec.pack(fields)]]))


@pytest.mark.parametrize("rounds", [6, pytest.param(100, marks=pytest.mark.slow)])
async def test_with_eight_of_twenty_nodes_lying_every_reader_finds_the_newest_value(
    autojump_clock: MockClock, swarm: Swarm, rounds: int
) -> None:
    nodes = await swarm.start_many(20)
    for number, liar in enumerate(nodes[::5] + nodes[1::5]):
        kind = ("forging", "stale", "silent")[number % 3]
        liar.dht._responder._keeper = Liar(kind)  # type: ignore[assignment]  # that is the attack
    honest = [node for number, node in enumerate(nodes) if number % 5 > 1]
    assert len(honest) == 12
    refused = 0
    for number in range(rounds):
        key = f"/lattica/poisoned/{number}"
        writer = honest[number % len(honest)]
        for value in ("old", "new"):
            await writer.dht.put(key, value)
        for reader in honest[:10]:
            got = await reader.dht.get(key)
            assert [entry.value for entry in got.entries] == ["new"]
            refused += got.invalid
    assert refused, "lies were told"


async def test_readers_tell_holders_what_they_lack(autojump_clock: MockClock, swarm: Swarm) -> None:
    nodes = await swarm.start_many(8)
    await nodes[1].dht.put(KEY, "here")
    for node in nodes[2:7]:
        node.dht._keeper.store = RecordStore(node.dht._keeper.namespaces)
    assert (await nodes[7].dht.get(KEY)).value == "here"
    await trio.sleep(1.0)
    for _ in range(4):
        await nodes[7].dht.get(KEY)
        await trio.sleep(1.0)
    assert sum(node.dht.status().values for node in nodes) >= 5


async def test_what_is_put_reaches_peers_that_come_later(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    first = await swarm.start(1)
    assert (await first.dht.put(KEY, "early")).holders == 1
    late = await swarm.start(2, bootstrap=(first.address,))
    await late.dht.wait_joined()
    await trio.sleep(120)
    assert late.dht.status().values == 1


async def test_a_value_outlives_its_writer_and_all_who_were_told_first(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    early = await swarm.start_many(4)
    for node in early:
        node.dht._renewal._held = HandOn(random.Random(1), seconds=60)
    await early[1].dht.put(KEY, "still here", ttl=86_400)
    swarm.network.crash(early[1].host)
    swarm.stop(early[1])
    late = [await swarm.start(number, bootstrap=(early[0].address,)) for number in range(20, 24)]
    for node in late:
        await node.dht.wait_joined()
    await trio.sleep(180)
    assert [node.dht.status().values for node in late] == [1] * 4
    for node in (early[0], *early[2:]):
        swarm.network.crash(node.host)
        swarm.stop(node)
    await trio.sleep(120)
    assert (await late[2].dht.get(KEY)).value == "still here"


def test_keepers_hand_a_value_on_in_turn_not_all_at_once() -> None:
    key, rounds = KEY.encode(), 0
    keepers = [HandOn(random.Random(number)) for number in range(20)]
    now = 0.0
    for keeper in keepers:
        keeper.touch(key, now)
    while now < 100 * HAND_ON_SECONDS:
        now = min(keeper.next_due() for keeper in keepers)
        first = next(keeper for keeper in keepers if keeper.next_due() == now)
        if first.due(now, 10):
            rounds += 1
            for keeper in keepers:  # they are put to, all but one; and that one touches it as well
                keeper.touch(key, now)
    assert 50 <= rounds <= 100
    assert all(len(keeper._heap) <= 2 * 1 + 64 + 1 for keeper in keepers)
    assert keepers[0].due(now + 2 * HAND_ON_SECONDS, 10) == [key]
    assert len(keepers[0]) == 0, "what is due and not touched is forgotten"


async def test_a_stranger_that_puts_nothing_or_what_is_soon_over_leaves_no_trace(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    keeper, stranger = await swarm.start_many(2)

    async def put(key: str, *entries: Entry) -> None:
        record = Record(key.encode(), encode_set(entries))
        request = Message(MessageType.PUT_VALUE, key.encode(), record)
        answer = await stranger.dht._client.ask(PeerInfo(keeper.peer, ()), request)
        assert isinstance(answer, Message)
        assert not answer.refusal

    for number in range(300):
        key = f"/lattica/{number}"
        await put(key)
        now = EPOCH + trio.current_time()
        brief = sign_entry(
            stranger.mesh.identity,
            scope=keeper.dht.protocol,
            key=key.encode(),
            value=codec.pack(number),
            sequence=number,
            created_ms=int(now * 1000),
            expires_ms=int((now + 1) * 1000),
        )
        await put(key, brief)
        await trio.sleep(1)
    assert keeper.dht.status().values <= 1
    assert len(keeper.dht._renewal._held) <= 2 * 1 + 64 + 1


async def test_who_puts_nothing_does_not_keep_others_from_handing_on(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    keeper, writer = await swarm.start_many(2)
    await writer.dht.put(KEY, "kept", ttl=86_400)
    touched: list[bytes] = []
    keeper.dht._keeper.on_put = touched.append
    key = KEY.encode()
    nothing = Message(MessageType.PUT_VALUE, key, Record(key, encode_set([])))
    await writer.dht._client.ask(PeerInfo(keeper.peer, ()), nothing)
    assert touched == []
    held = keeper.dht._keeper.get(key, now=EPOCH)
    await writer.dht._client.ask(
        PeerInfo(keeper.peer, ()), Message(MessageType.PUT_VALUE, key, held)
    )
    assert touched == [key]


async def test_a_value_is_gone_everywhere_when_its_time_is_over(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    await nodes[0].dht.put(KEY, "short", ttl=300)
    await trio.sleep(290)
    assert (await nodes[3].dht.get(KEY)).value == "short"
    await trio.sleep(11)
    assert (await nodes[3].dht.get(KEY)).entries == ()
    await trio.sleep(7200)
    assert [node.dht.status().values for node in nodes] == [0] * 4


@pytest.mark.parametrize("skew", [300.0, -300.0])
async def test_a_node_five_minutes_off_writes_and_reads_as_any_other_and_is_warned(
    autojump_clock: MockClock, swarm: Swarm, caplog: pytest.LogCaptureFixture, skew: float
) -> None:
    nodes = await swarm.start_many(5)
    off = await swarm.start(50, bootstrap=(nodes[0].address,), skew=skew)
    await off.dht.wait_joined()
    await off.dht.put(KEY, "from the odd one", ttl=60)
    await nodes[1].dht.put(KEY, "from another", ttl=60)
    for node in (off, nodes[3]):
        assert len((await node.dht.get(KEY)).entries) == 2
    await trio.sleep(61)
    for node in (off, nodes[3]):
        assert (await node.dht.get(KEY)).entries == ()
    assert "5.0 minutes" in caplog.text
    assert off.dht.status().clock_skew == pytest.approx(skew, abs=1)


@pytest.mark.parametrize("skew", [660.0, -660.0])
async def test_a_node_eleven_minutes_off_is_told_so(
    autojump_clock: MockClock, swarm: Swarm, skew: float
) -> None:
    nodes = await swarm.start_many(4)
    off = await swarm.start(50, bootstrap=(nodes[0].address,), skew=skew)
    await off.dht.wait_joined()
    with pytest.raises(ClockSkew, match=r"11\.0 minutes"):
        await off.dht.put(KEY, 1)
    with pytest.raises(ClockSkew):
        await off.dht.get(KEY)
    await nodes[1].dht.put(KEY, 1)
    assert (await nodes[2].dht.get(KEY)).value == 1, "the others do not care"


async def test_two_swarms_share_no_value_and_no_route(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    ours = await swarm.start(1, protocol="/ours/kad/1.0.0")
    theirs = await swarm.start(2, protocol="/theirs/kad/1.0.0", bootstrap=(ours.address,))
    more = [
        await swarm.start(3, protocol="/ours/kad/1.0.0", bootstrap=(ours.address,)),
        await swarm.start(4, protocol="/theirs/kad/1.0.0", bootstrap=(theirs.address,)),
    ]
    for node in more:
        await node.dht.wait_joined()
    await ours.dht.put(KEY, "ours")
    await theirs.dht.put(KEY, "theirs")
    assert [entry.value for entry in (await more[0].dht.get(KEY)).entries] == ["ours"]
    assert [entry.value for entry in (await more[1].dht.get(KEY)).entries] == ["theirs"]
    assert {contact.peer for contact in ours.dht.peers()} == {more[0].peer}
    assert {contact.peer for contact in theirs.dht.peers()} == {more[1].peer}
    carried = ours.dht._keeper.get(KEY.encode(), now=0.0)
    request = Message(MessageType.PUT_VALUE, KEY.encode(), carried)
    assert theirs.dht._keeper.put(request, now=EPOCH).refusal == "invalid"


def _slow_down(writer: Node, others: list[Node]) -> None:
    """Have requests of `writer` take two seconds to reach some others."""
    client, slow = writer.dht._client, {node.peer for node in others}
    request, ask_now = client._request, client._requester.ask_now

    async def request_slowly(peer: PeerInfo, message: Message) -> Reply | str:
        if peer.peer in slow:
            await trio.sleep(2.0)
        return await request(peer, message)

    def ask_now_or_slowly(
        peer: PeerId, message: Message, done: Callable[[Reply | Exception | None], None]
    ) -> Callable[[], None] | None:
        return None if peer in slow else ask_now(peer, message, done)

    client._request = request_slowly  # type: ignore[method-assign, assignment]
    client._requester.ask_now = ask_now_or_slowly  # type: ignore[method-assign, assignment]


async def test_a_put_is_over_when_most_have_it_and_the_rest_are_told_all_the_same(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(8)
    last = nodes[1:4]
    _slow_down(nodes[0], last)
    started = trio.current_time()
    put = await nodes[0].dht.put(KEY, "here")
    assert trio.current_time() - started < 0.5
    assert (put.asked, put.holders, put.refused) == (7, 5, {})
    assert [node.dht.status().values for node in last] == [0, 0, 0]
    await trio.sleep(3.0)
    assert [node.dht.status().values for node in nodes] == [1] * 8


async def test_with_too_many_values_on_their_way_a_put_waits_for_all_of_its_holders(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(8)
    _slow_down(nodes[0], nodes[1:4])
    waited = []
    for number in range(TELLINGS + 1):
        started = trio.current_time()
        await nodes[0].dht.put(f"{KEY}/{number}", number)
        waited.append(trio.current_time() - started > 0.5)
    assert waited == [False] * TELLINGS + [True]


async def test_a_sequence_that_only_a_slow_holder_has_is_passed_in_the_background(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(4)
    writer, slow = nodes[1], nodes[3]
    namespaces = slow.dht._keeper.namespaces
    now = EPOCH + trio.current_time()
    entry = sign_entry(
        swarm.identity(2),
        scope=namespaces.scope,
        key=KEY.encode(),
        value=codec.pack("forgotten"),
        sequence=1 << 60,
        created_ms=int(now * 1000),
        expires_ms=int(now * 1000) + 600_000,
    )
    item = namespaces.read(KEY.encode(), entry.encoded, now=now)
    slow.dht._keeper.store.add(KEY.encode(), item, now=now)
    _slow_down(writer, [slow])
    assert (await writer.dht.put(KEY, "new")).sequence < 1 << 60
    await trio.sleep(10.0)
    for node in nodes:
        assert (await node.dht.get(KEY)).value == "new"


async def test_a_get_asks_no_more_than_it_takes_to_be_certain(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(8)
    await nodes[1].dht.put(KEY, "here")
    await trio.sleep(1.0)
    got = await nodes[7].dht.get(KEY)
    assert (got.value, got.asked, got.complete) == ("here", 4, True)
