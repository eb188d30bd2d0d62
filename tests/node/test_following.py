"""Names told by gossip: the next version is heard at once; an old or forged one goes nowhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trio

import lattica
from lattica.cid import Codec
from lattica.errors import InvalidInput
from lattica.identity import Identity
from lattica.models import Name, NameRecord, NameStore

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from .conftest import Lab

STATE = {"w": np.arange(100)}


SETTLED_S = 5  # virtual: connections and subscriptions are there by then


async def test_a_follower_hears_of_each_new_version_and_opens_it(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.node("a") as a, lab.node("b", a.addresses[0]) as b:
        first = await a.publish("team/model", STATE)
        name = Name(a.id, "team/model")
        async with b.follow(str(name)) as versions:
            await trio.sleep(SETTLED_S)
            second = await a.publish("team/model", {"w": np.zeros(100)})
            with trio.fail_after(20):
                record = await anext(versions)
            assert record.manifest == second.cid != first.cid
            assert b._catalog.names.newest(name) == record
            async with b.open_latest(name) as model:
                assert not (await model["w"][:]).any()


async def test_what_is_old_forged_or_of_another_name_is_not_taken(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.node("a") as a, lab.node("b", a.addresses[0]) as b:
        first = await a.publish("team/model", STATE)
        name = Name(a.id, "team/model")
        old = await trio.to_thread.run_sync(a._catalog.names.newest, name)
        assert old is not None
        async with b.follow(name) as versions:
            await trio.sleep(SETTLED_S)
            second = await a.publish("team/model", {"w": np.zeros(100)})
            with trio.fail_after(20):
                assert (await anext(versions)).manifest == second.cid
            stranger = NameRecord.make(
                Identity.generate(), "team/model", 99, first.cid, int(time.time())
            )
            other = NameRecord.make(a.mesh.identity, "team/other", 99, first.cid, 0)
            for bad in (old.encoded, stranger.encoded, other.encoded, old.encoded[:-1] + b"x"):
                await a.broadcast(name.dht_key, bad)
            with trio.move_on_after(1) as waiting:
                await anext(versions)
            assert waiting.cancelled_caught
        newest = b._catalog.names.newest(name)
        assert newest is not None
        assert newest.manifest == second.cid


async def test_a_follower_in_between_passes_it_on(lab: Lab, autojump_clock: MockClock) -> None:
    async with lab.node("a") as a, lab.node("b", a.addresses[0]) as b:
        async with lab.node("c", b.addresses[0]) as c:
            name = Name(a.id, "team/model")
            async with b.follow(name), c.follow(name) as versions:
                await trio.sleep(SETTLED_S)
                published = await a.publish("team/model", STATE)
                with trio.fail_after(20):
                    assert (await anext(versions)).manifest == published.cid


async def test_names_that_are_followed_are_bounded_and_let_go(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica._following.MAX_FOLLOWED", 1)
    async with lab.node("a") as a:
        one, other = Name(a.id, "team/one"), Name(a.id, "team/other")
        async with a.follow(one), a.follow(one):
            with pytest.raises(InvalidInput, match="1 names"):
                async with a.follow(other):
                    pass
        async with a.follow(other):
            assert list(a._following._followers) == [other]
        assert not a._following._followers
        assert not a._following._latest


def test_the_blocking_node_follows_as_well(tmp_path: Path) -> None:
    local: dict[str, Any] = {"listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": False}
    with lattica.Node(tmp_path / "a", bootstrap=[], **local) as a:
        with lattica.Node(tmp_path / "b", bootstrap=[str(a.addresses[0])], **local) as b:
            with b.follow(f"{a.id}/team/model") as versions:
                published = a.publish("team/model", STATE)
                # Whoever joins the topic a moment late has it from the DHT; here it is said again.
                deadline = time.monotonic() + 20
                while (
                    a.broadcast(
                        Name(a.id, "team/model").dht_key,
                        _record(a, "team/model"),
                    )
                    == 0
                    and time.monotonic() < deadline
                ):
                    b.ping(a.addresses[0], count=1)
                assert next(versions).manifest == published.cid


def _record(node: lattica.Node, name: str) -> bytes:
    async def newest(running: lattica.AsyncNode) -> bytes:
        found = running._catalog.names.newest(Name(running.id, name))
        assert found is not None
        return found.encoded

    return node._call(newest)


def test_names_that_were_asked_for_last_are_forgotten_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.models._names.MAX_NAMES", 3)
    store = NameStore(tmp_path / "names.db")
    records = [
        NameRecord.make(Identity.generate(), "m", 1, _manifest(number), 0) for number in range(5)
    ]
    kept = records[0]
    for record in records:
        store.offer(record)
        store.offer(kept)
    assert store.newest(kept.name) == kept
    assert store.newest(records[1].name) is None
    store.close()


def _manifest(number: int) -> lattica.CID:
    return lattica.CID.of(bytes([number]), Codec.MESSAGEPACK)
