"""Models between nodes: published, signed, found by name, approved by people, never an old one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trio

import lattica
from lattica._catalog import NameNotFound, NotAManifest, NotApproved
from lattica._opened import NoManifest
from lattica.cid import CID, Codec
from lattica.content import NoProvider
from lattica.errors import InvalidInput, NotFound
from lattica.identity import Identity
from lattica.models import Name, Rule, Statement, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from .conftest import Lab

Array = np.ndarray[Any, np.dtype[Any]]


def make_state(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(300, 400)).astype(np.float32),
        "b": rng.normal(size=400).astype(np.float16),
    }


async def until_told(node: lattica.AsyncNode, name: str, cid: CID) -> None:
    """Wait until `node` hears of a version by the DHT, which its publisher tells meanwhile."""
    with trio.fail_after(60):
        for _ in range(1000):
            if (await node.latest(name)).cid == cid:
                return
            await trio.sleep(0.05)


async def test_a_version_is_published_and_opened_by_its_ticket(lab: Lab) -> None:
    state = make_state()
    async with lab.node("a") as a, lab.node("b") as b:
        first = await a.publish("team/tiny", state, licence="MIT", message="first", meta={"x": 1})
        assert (first.version, first.wire_bytes) == (1, first.full_bytes)
        async with b.open(str(first.ticket)) as model:
            assert (model.signer, model.licence, model.cid) == (a.id, "MIT", first.cid)
            assert model.manifest.meta == {"x": 1}
            assert model.root == first.root
            loaded = await model.load()
            assert all(np.array_equal(loaded[name], state[name]) for name in state)
            assert await model.matches(state)
            assert not await model.is_trusted()
            await b.trust(a.id, "ada")
            assert await model.is_trusted()
        # The manifest and what was read of it are enough to say the same again, without `a`.
        assert (await b.manifest(first.cid)).manifest.message == "first"


async def test_versions_follow_one_another_and_only_news_counts(lab: Lab) -> None:
    state = make_state()
    async with lab.node("a") as a, lab.node("b") as b:
        first = await a.publish("tiny", state)
        state["b"] = state["b"] + 1
        second = await a.publish("tiny", state, parent=first)
        assert second.version == 2
        assert second.wire_bytes < second.full_bytes - state["w"].nbytes + 1
        third = await a.publish("tiny", state)  # the newest is the parent where none is named
        assert (await a.manifest(third)).manifest.parent == second.cid
        assert third.wire_bytes == 0
        async with b.open(first.ticket) as model:
            await until_told(b, f"{a.id}/tiny", third.cid)
            async with model.latest() as newest:
                assert newest.manifest.version == 3
                assert await newest.matches(state)
        async with b.open(f"{a.id}/tiny") as newest:
            assert newest.cid == third.cid


async def test_an_old_record_that_is_replayed_never_wins(lab: Lab) -> None:
    """Three of eight peers answer with the old record, and they answer alone."""
    async with lab.node("seed") as seed:
        where = seed.addresses[0]
        async with lab.node("a", where) as a, lab.node("b", where) as b:
            await a.publish("tiny", make_state(1))
            record = a._catalog.names.newest(Name(a.id, "tiny"))
            assert record is not None
            second = await a.publish("tiny", make_state(2))
            await until_told(b, f"{a.id}/tiny", second.cid)

            async def replay(*_: object, **__: object) -> list[bytes]:
                return [record.encoded] * 3

            b._catalog._look_up = replay  # type: ignore[method-assign]
            assert (await b.latest(f"{a.id}/tiny")).cid == second.cid
        async with lab.node("b", where) as again:  # and after a restart
            again._catalog._look_up = replay  # type: ignore[method-assign]
            assert (await again._catalog.newest(Name(a.id, "tiny"))).manifest == second.cid


async def test_a_version_is_used_when_two_of_three_have_approved(lab: Lab) -> None:
    async with (
        lab.node("a") as a,
        lab.node("x", a.addresses[0]) as x,
        lab.node("y", a.addresses[0]) as y,
        lab.node("reader", a.addresses[0]) as reader,
    ):
        rule = Rule(2, frozenset([x.id, y.id, reader.id]))
        first = await a.publish("tiny", make_state(1))
        for approver in (x, y):
            await approver.vouch(first.ticket)
        second = await a.publish("tiny", make_state(2))
        await x.vouch(second.ticket, Verdict.SIGN)
        await y.vouch(second.ticket)
        await until_told(reader, f"{a.id}/tiny", second.cid)
        name = f"{a.id}/tiny"

        async def newest_is(version: int) -> None:
            with trio.fail_after(120):
                while True:
                    try:
                        async with reader.open_latest(name, rule=rule) as model:
                            if model.manifest.version == version:
                                return
                    except NotApproved:
                        pass
                    await trio.sleep(0.05)

        await newest_is(1)  # one of three approves of the second: it is here, and not used
        assert not await reader.is_approved(await reader.manifest(second.cid), rule)
        got = await reader.get(name, lab.folder / "one", rule=rule)
        assert got.cid == first.root
        with pytest.raises(NotApproved):
            await reader.get(second.ticket, lab.folder / "two", rule=rule)
        with pytest.raises(InvalidInput, match="names content"):
            await reader.get(second.root, lab.folder / "two", rule=rule)
        assert not (lab.folder / "two").exists()
        await x.vouch(second.ticket)
        await newest_is(2)
        assert (await reader.get(name, lab.folder / "two", rule=rule)).cid == second.root
        await x.vouch(second.ticket, Verdict.REVOKE)
        await newest_is(1)
        said = await reader.statements(second.cid)
        assert {(one.signer, one.verdict) for one in said} == {
            (x.id, "sign"), (x.id, "approve"), (x.id, "revoke"), (y.id, "approve")
        }  # fmt: skip


async def test_the_last_word_counts_whatever_the_clock_says(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lab.node("a") as a:
        rule = Rule(1, frozenset([a.id]))
        signed = await a.manifest((await a.publish("tiny", make_state())).cid)
        for now in (5000, 5000, 9000, 100):  # twice at one second, then ahead, then set back
            monkeypatch.setattr("lattica._catalog.time", SimpleNamespace(time=lambda now=now: now))
            await a.vouch(str(signed.cid), Verdict.REVOKE)
            assert not await a.is_approved(signed, rule)
            await a.vouch(str(signed.cid))
            assert await a.is_approved(signed, rule)


async def test_versions_count_up_under_a_name_whatever_the_parent_counts(lab: Lab) -> None:
    async with lab.node("a") as a:
        own = await a.manifest((await a.publish("tiny", make_state())).cid)
        far = replace(own.manifest, version=(1 << 53) - 2).sign(Identity(bytes(32)))
        a.store.add_bytes(far.encoded, name="far.manifest", pinned=True)
        fork = await a.publish("fork", make_state(1), parent=far.cid)
        assert fork.version == 1
        second = await a.publish("fork", make_state(2))
        third = await a.publish("fork", make_state(3), parent=fork)
        assert [second.version, third.version] == [2, 3]


async def test_versions_of_the_model_that_a_fork_was_made_from_are_not_its_own(lab: Lab) -> None:
    async with lab.node("a") as a:
        theirs = await a.publish("tiny", make_state())
        await a.vouch(theirs.ticket)
        rule = Rule(1, frozenset([Identity(bytes(32)).peer_id]))
        await a.publish("fork", make_state(1), parent=theirs)
        with pytest.raises(NotApproved):
            await a.latest(f"{a.id}/fork", rule=rule)


async def test_a_key_in_a_new_home_goes_on_with_its_names(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lab.node("reader") as reader:
        async with lab.node("old", reader.addresses[0]) as publisher:
            for seed in range(2):
                await publisher.publish("tiny", make_state(seed))
            await publisher.tell_own_names()
        (lab.folder / "new").mkdir()
        shutil.copy(lab.folder / "old" / "key", lab.folder / "new" / "key")

        async def nowhere(cid: CID, *_: object) -> None:
            raise NotFound(f"nobody has {cid}")

        async with lab.node("new", reader.addresses[0]) as publisher:
            monkeypatch.setattr(publisher._catalog, "manifest", nowhere)
            assert (await publisher.publish("tiny", make_state(2))).version == 3


async def test_lineage_is_walked_across_peers(lab: Lab) -> None:
    async with (
        lab.node("a") as a,
        lab.node("b", a.addresses[0]) as b,
        lab.node("reader", a.addresses[0]) as reader,
    ):
        source = lab.file("data.bin", 1000)
        data = await a.share(source)
        base = await a.publish("base", make_state(1), data=[data.cid], licence="MIT")
        tuned = await b.publish("tuned", make_state(2), base=[base.ticket], recipe=[str(data.cid)])
        found = await reader.lineage(tuned.ticket)
        assert found.complete
        assert [(depth, how, one.cid) for depth, how, one, _ in found.lines()] == [
            (0, "", tuned.cid),
            (1, "base", base.cid),
            (2, "data", data.cid),
            (1, "recipe", data.cid),
        ]


async def test_a_model_is_got_as_a_file_by_the_ticket_of_its_manifest(
    lab: Lab, tmp_path: Path
) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.publish("team/tiny", make_state())
        got = await b.get(shared.ticket, tmp_path / "copy.safetensors")
        assert got.cid == shared.root
        from safetensors.numpy import load_file

        loaded = load_file(tmp_path / "copy.safetensors")
        assert np.array_equal(loaded["w"], make_state()["w"])
        (tmp_path / "into").mkdir()
        await until_told(b, f"{a.id}/team/tiny", shared.cid)
        named = await b.get(f"{a.id}/team/tiny", tmp_path / "into")
        assert named.path == tmp_path / "into" / "tiny.safetensors"


async def test_a_folder_is_published_in_place(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    lab.safetensors("hub/m.safetensors", 1000, 2000)
    (folder / "config.json").write_text("{}")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.publish("hub", folder)
        signed = await b.manifest(shared.ticket)
        assert [one.path for one in signed.manifest.files] == ["config.json", "m.safetensors"]
        table = await b._catalog.table(signed.manifest, [])
        assert [(one.name, one.file) for one in table] == [
            ("t0", "m.safetensors"),
            ("t1", "m.safetensors"),
        ]


async def test_what_is_no_manifest_is_refused(lab: Lab) -> None:
    async with lab.node("a") as a:
        shared = await a.share(lab.file("data.bin", 1000))
        with pytest.raises(NotAManifest):
            await a.manifest(shared.cid)
        with pytest.raises(InvalidInput):
            await a.publish("tiny", make_state(), parent=shared.cid)
        with pytest.raises(InvalidInput, match="not the name of a model"):
            await a.publish("../tiny", make_state())
        with pytest.raises(InvalidInput, match="not a tensor"):
            await a.publish("tiny", {"w": "text"})
        with pytest.raises(InvalidInput) as caught:
            await a.publish("topic", b"bytes")  # type: ignore[arg-type]  # the mistake to name
        assert "broadcast" in caught.value.hint
        async with a.open(shared.cid) as opened:
            with pytest.raises(NoManifest):
                _ = opened.signer
            with pytest.raises(NoManifest):
                opened.latest()
        assert [one.name for one in a.objects()] == ["data.bin"]  # nothing was left behind


async def test_a_lineage_begins_with_a_manifest_that_is_found(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.node("a") as a:
        with pytest.raises(NoProvider):
            await a.lineage(CID.of(b"nowhere", Codec.MESSAGEPACK))


async def test_statements_beyond_one_of_each_kind_in_a_record_are_not_looked_at(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lab.node("a") as a:
        signed = await a.manifest((await a.publish("tiny", make_state())).cid)
        many = [
            Statement.make(Identity(bytes([n]) * 32), signed.cid, Verdict.SIGN, n) for n in range(9)
        ]

        async def look_up(*_: object) -> list[object]:
            return [[one.encoded for one in many]]

        monkeypatch.setattr(a._catalog, "_look_up", look_up)
        assert len(await a.statements(signed.cid)) == 3


async def test_a_name_that_nobody_knows_is_not_found(lab: Lab, autojump_clock: MockClock) -> None:
    async with lab.node("a") as a:
        with pytest.raises(NameNotFound):
            await a.latest(f"{a.id}/nothing")


async def test_a_manifest_that_was_tampered_with_is_refused(lab: Lab) -> None:
    async with lab.node("a") as a:
        shared = await a.publish("tiny", make_state(), licence="MIT")
        signed = await a.manifest(shared)
        forged = signed.encoded.replace(b"MIT", b"BSD")
        stored = a.store.add_bytes(forged, name="forged")
        with pytest.raises(lattica.LatticaError) as caught:
            await a.manifest(CID(Codec.MESSAGEPACK, stored.root.multihash))
        assert (caught.value.code, caught.value.exit_code) == ("signature", 5)


async def test_a_name_is_told_again_after_a_restart(lab: Lab) -> None:
    async with lab.node("seed") as seed:
        where = seed.addresses[0]
        async with lab.node("a", where) as a:
            name, shared = f"{a.id}/tiny", await a.publish("tiny", make_state())
        async with lab.node("a", where) as a, lab.node("b", where) as b:
            await until_told(b, name, shared.cid)


def test_the_quickstart_holds(tmp_path: Path) -> None:
    options: dict[str, Any] = {"listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": False}
    with lattica.Node(tmp_path / "a", **options) as node:
        state = {"layer.0.weight": np.random.default_rng(0).normal(size=(512, 512)).astype("f4")}
        v1 = node.publish("demo/tiny", state, licence="MIT", message="first")
        state["layer.0.weight"][::97] *= 1.0001
        v2 = node.publish("demo/tiny", state, parent=v1)
        assert v2.full_bytes >= 512 * 512 * 4
        with lattica.Node(tmp_path / "b", **options) as reader:
            m = reader.open(str(v1.ticket))
            assert (m.signer, m.licence, list(m.tensors)) == (node.id, "MIT", ["layer.0.weight"])
            assert m["layer.0.weight"][:128].shape == (128, 512)
            old = m.load(progress=False)
            assert not reader.open(v2.ticket).matches(old)
            for _ in range(100):
                if m.latest().manifest.version == 2:
                    break
            newest = m.latest()
            loaded = newest.load(base=old)
            assert newest.matches(loaded)
            assert newest.matches(state)
            assert m.cid == v1.cid
            assert not m.is_trusted()
            assert [one.signer for one in reader.statements(v1.ticket)] == []
