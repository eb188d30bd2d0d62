"""Whole nodes on an in-memory network: values put, got, repaired, refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht import (
    Dht,
    InvalidValue,
    NotStored,
    UnknownNamespace,
    ValueNotFound,
    ValueTooLarge,
)
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lattica.codec import Value
    from tests.dht.conftest import Swarm

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


async def test_sixty_four_writers_at_once_lose_nothing(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    nodes = await swarm.start_many(8)
    for round_number in range(2):
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
