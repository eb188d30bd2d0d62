"""The DHT of whole nodes: over the control socket, blocking, and across restarts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import lattica
from lattica._control import Request
from lattica._requests import handle
from lattica.cid import CID
from lattica.dht import Entry, SignedEntries, ValueNotFound, ValueRefused, ValueTooLarge
from lattica.errors import DeadlineExceeded, InvalidInput, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from lattica.codec import Value

    from .conftest import Lab

LOCAL: dict[str, Any] = {"listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": False}
KEY = "/lattica/greeting"
MODEL = CID.of(b"model")


async def ask(node: lattica.AsyncNode, method: str, **params: Any) -> Any:
    answer = await handle(node, Request(method, params), lambda _progress: None)
    return json.loads(json.dumps(answer))  # it travels as JSON


async def test_commands_put_get_provide_find_and_crawl(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b", *a.addresses) as b:
        await b.dht.wait_joined()
        await a.dht.wait_joined()
        put = await ask(a, "dht_put", key=KEY, value={"n": [1, 2.5, None]}, ttl=60, subkey="x")
        assert (put["author"], put["holders"], put["key"]) == (str(a.id), 2, KEY)
        await ask(a, "dht_put", key=KEY, base64="AP8=", subkey="y")
        got = await ask(b, "dht_get", key=KEY)
        assert [(e["subkey"], e["value"], e["type"]) for e in got["entries"]] == [
            ("x", {"n": [1, 2.5, None]}, "dict"),
            ("y", {"base64": "AP8="}, "bytes"),
        ]
        assert (await ask(b, "dht_get", key=KEY, author=str(a.id)))["entries"] == got["entries"]
        with pytest.raises(ValueNotFound):
            await ask(b, "dht_get", key=KEY, author=str(b.id))
        with pytest.raises(ValueNotFound):
            await ask(b, "dht_get", key="/lattica/absent")
        assert (await ask(a, "dht_provide", cid=str(MODEL)))["told"] == 1
        found = await ask(b, "dht_providers", cid=str(MODEL))
        assert [row["peer"] for row in found["providers"]] == [str(a.id)]
        assert (await ask(a, "dht_providers", cid=str(MODEL)))["this_node"]
        with pytest.raises(NotFound):
            await ask(b, "dht_providers", cid=str(CID.of(b"absent")))
        crawl = await ask(b, "dht_crawl")
        assert [(row["peer"], row["reachable"]) for row in crawl["peers"]] == [(str(a.id), True)]
        assert crawl["complete"]
        status = await ask(a, "dht_status")
        assert (status["values"], status["own_values"], status["provided"]) == (2, 2, 1)


@pytest.mark.parametrize(
    ("method", "params", "complaint"),
    [
        ("dht_put", {"key": KEY}, "'value' is missing"),
        ("dht_put", {"value": 1}, "'key' is missing"),
        ("dht_put", {"key": KEY, "base64": "?"}, "not base64"),
        ("dht_put", {"key": KEY, "value": 1, "ttl": -1}, "ttl"),
        ("dht_put", {"key": "greeting", "value": 1}, "^greeting: no rules"),
        ("dht_put", {"key": KEY, "value": 1 << 70}, "canonical"),
        ("dht_get", {"key": KEY, "author": "nobody"}, "not a peer ID"),
        ("dht_get", {"key": KEY, "timeout": -1}, "a timeout of"),
        ("dht_provide", {"cid": "x"}, "CID"),
        ("dht_provide", {"cid": "bogus"}, "'bogus' is not a CID"),
        ("dht_providers", {"cid": str(MODEL), "count": 0}, "expected 1 to 1000"),
        ("dht_crawl", {"most": -5}, "expected 1 to 10000"),
    ],
)
async def test_wrong_parameters_are_wrong_input(
    lab: Lab, method: str, params: dict[str, Any], complaint: str
) -> None:
    async with lab.node("a") as node:
        with pytest.raises(InvalidInput, match=complaint):
            await ask(node, method, **params)


async def test_a_request_has_a_deadline(lab: Lab) -> None:
    async with lab.node("a") as node:
        with pytest.raises(DeadlineExceeded, match="put"):
            await ask(node, "dht_put", key=KEY, value=1, timeout=0)


async def test_values_outlive_the_node(lab: Lab) -> None:
    async with lab.node("a") as node:
        await node.dht.put(KEY, "kept", ttl=3600)
    async with lab.node("a") as node:
        assert (await node.dht.get(KEY)).value == "kept"
        assert node.dht.status().own_values == 1


async def test_nodes_of_two_swarms_on_one_host_share_neither_values_nor_providers(lab: Lab) -> None:
    ours, theirs = {"dht_protocol": "/ours/kad/1.0.0"}, {"dht_protocol": "/theirs/kad/1.0.0"}
    async with (
        lab.node("a", **ours) as a,
        lab.node("b", *a.addresses, **ours) as b,
        lab.node("c", *a.addresses, **theirs) as c,
        lab.node("d", *c.addresses, **theirs) as d,
    ):
        await a.dht.put(KEY, "ours")
        await c.dht.put(KEY, "theirs")
        await a.dht.provide(MODEL.multihash)
        assert [entry.value for entry in (await b.dht.get(KEY)).entries] == ["ours"]
        assert [entry.value for entry in (await d.dht.get(KEY)).entries] == ["theirs"]
        assert [info.peer async for info in b.dht.find_providers(MODEL.multihash)] == [a.id]
        assert [info.peer async for info in d.dht.find_providers(MODEL.multihash)] == []
        assert {peer.peer for peer in (await b.dht.crawl()).peers} == {a.id}
        assert {peer.peer for peer in (await d.dht.crawl()).peers} == {c.id}


async def test_a_namespace_of_the_program_is_kept_by_nodes_that_have_its_rules(lab: Lab) -> None:
    def check(key: bytes, entry: Entry, value: Value) -> None:
        if not isinstance(value, int):
            raise ValueRefused("a number is wanted")

    rules = {"dht_namespaces": {"scores": SignedEntries(check)}}
    async with lab.node("a", **rules) as a, lab.node("b", *a.addresses, **rules) as b:
        await a.dht.put("/scores/x", 5)
        assert (await b.dht.get("/scores/x")).value == 5
        with pytest.raises(InvalidInput, match="a number is wanted"):
            await a.dht.put("/scores/x", "five")


def test_the_blocking_dht_has_the_methods_of_the_other(tmp_path: Path) -> None:
    with lattica.Node(tmp_path / "a", **LOCAL) as a:
        with lattica.Node(tmp_path / "b", bootstrap=a.addresses, **LOCAL) as b:
            assert b.dht.put(KEY, b"\x00", ttl=60, subkey="s").holders == 2
            assert a.dht.get(KEY, subkey="s").value == b"\x00"
            assert list(a.dht.get_many([KEY])) == [KEY]
            assert b.dht.provide(MODEL.multihash) == 1
            assert [info.peer for info in a.dht.find_providers(MODEL.multihash)] == [b.id]
            info = b.dht.find_peer(a.id)
            assert info is not None
            assert info.peer == a.id
            assert [each.peer for each in a.dht.crawl().peers] == [b.id]
            assert a.dht.status().values == 1
            with pytest.raises(ValueTooLarge):
                a.dht.put(KEY, bytes(20_000))
            with pytest.raises(DeadlineExceeded):
                a.dht.get(KEY, timeout=0)
