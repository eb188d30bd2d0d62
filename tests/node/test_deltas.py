"""Versions of a checkpoint between nodes: only what changed travels, and nothing depends on it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lattica import _deltas
from lattica.cid import CID, Codec
from lattica.errors import LatticaError
from lattica.models import CannotDelta, DeltaLink, ManifestFile, read_delta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Lab

    Write = Callable[..., Path]


@pytest.fixture
def write(lab: Lab) -> Write:
    """Return what writes version `number` of a checkpoint in training."""

    def write(number: int, *, share: float = 0.002) -> Path:
        path = lab.folder / f"v{number}.safetensors"
        if path.exists():  # one that is shared must not change
            return path
        rng = np.random.default_rng(0)
        weights = rng.normal(0, 0.02, 400_000).astype(ml_dtypes.bfloat16)
        for step in range(number):
            moved = np.random.default_rng(step + 1).random(len(weights)) < share
            weights.view(np.uint16)[moved] += 1
        save_file({"w": weights, "frozen": np.arange(50_000, dtype=np.float32)}, path)
        return path

    return write


async def test_who_holds_the_version_before_gets_the_next_by_its_delta(
    lab: Lab, write: Write
) -> None:
    v1, v2 = write(1), write(2)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        await peer.get((await seed.share(v1)).ticket, lab.folder / "got1.safetensors")
        share = await seed.share(v2, base=v1)
        got = await peer.get(share.ticket, lab.folder / "got2.safetensors")
        assert got.path.read_bytes() == v2.read_bytes()
        assert got.deltas == (share.ticket.deltas[0].delta,)
        assert got.received_bytes == share.ticket.deltas[0].size < got.size / 50
        # It serves version and delta on.
        async with lab.node("third") as third:
            await third.get((await seed.share(v1)).ticket, lab.folder / "third1.safetensors")
            stored = peer.store.object(share.cid)
            assert stored is not None
            ticket = peer.ticket(stored, deltas=share.ticket.deltas)
            again = await third.get(ticket, lab.folder / "third2.safetensors")
            assert again.deltas == got.deltas
            assert {source.peer for source in again.sources} <= {peer.id, seed.id}


async def test_a_base_may_be_any_file_of_the_user(lab: Lab, write: Write) -> None:
    v1, v2 = write(1), write(2)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        ticket = (await seed.share(v2, base=v1)).ticket
        (lab.folder / "old").mkdir()
        v1.rename(lab.folder / "old" / "model.safetensors")
        got = await peer.get(ticket, lab.folder / "got.safetensors", base=lab.folder / "old")
        assert got.deltas
        assert got.path.read_bytes() == v2.read_bytes()
        with pytest.raises(CannotDelta, match="no safetensors file"):
            await peer.get(ticket, lab.folder / "again.safetensors", base=lab.folder / "none")


async def test_several_versions_behind_the_chain_is_followed(lab: Lab, write: Write) -> None:
    versions = [write(number) for number in range(4)]
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        await peer.get((await seed.share(versions[0])).ticket, lab.folder / "got0.safetensors")
        for before, after in pairwise(versions):
            ticket = (await seed.share(after, base=before)).ticket
        assert len(ticket.deltas) == 3
        assert all(one.path.exists() for one in seed.store.objects())
        got = await peer.get(ticket, lab.folder / "got3.safetensors")
        assert len(got.deltas) == 3
        assert got.path.read_bytes() == versions[3].read_bytes()
        assert sorted(path.name for path in lab.folder.glob("*.step")) == []


async def test_without_a_base_the_whole_version_travels(lab: Lab, write: Write) -> None:
    v1, v2 = write(1), write(2)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        got = await peer.get((await seed.share(v2, base=v1)).ticket, lab.folder / "got")
        assert got.deltas == ()
        assert got.received_bytes == got.size


async def test_where_a_delta_costs_more_than_the_changed_tensors_those_travel(
    lab: Lab, write: Write
) -> None:
    v1 = write(1)
    noise = np.random.default_rng(9).integers(0, 255, 900_000).astype(np.uint8)
    v2 = lab.folder / "v2.safetensors"
    save_file({"new": noise[:1000], "frozen": np.arange(50_000, dtype=np.float32)}, v2)
    v0 = lab.folder / "v0.safetensors"
    save_file({"w": noise}, v0)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        await peer.get((await seed.share(v0)).ticket, lab.folder / "got0.safetensors")
        await peer.get((await seed.share(v1)).ticket, lab.folder / "got1.safetensors")
        # From v0 all of v2 is new, so the delta has all of it; but `frozen` is here, in v1.
        share = await seed.share(v2, base=v0)
        got = await peer.get(share.ticket, lab.folder / "got2.safetensors")
        assert got.deltas == ()
        assert got.received_bytes < 2000
        assert got.path.read_bytes() == v2.read_bytes()


async def test_a_delta_that_nobody_has_or_that_lies_is_left_for_the_whole(
    lab: Lab, write: Write
) -> None:
    v1, v2, v3 = write(1), write(2), write(3)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        await peer.get((await seed.share(v1)).ticket, lab.folder / "got1.safetensors")
        honest = (await seed.share(v2, base=v1)).ticket
        link = honest.deltas[0]
        gone: list[Any] = [bytes(link.base), bytes(link.result), bytes(link.base), 100]
        other = (await seed.share(v3, base=v1)).ticket.deltas[0]
        lying: list[Any] = [bytes(link.base), bytes(link.result), bytes(other.delta), other.size]
        larger: list[Any] = [bytes(link.base), bytes(link.result), bytes(link.delta), 10]
        for number, bad in enumerate((gone, lying, larger)):
            news: list[str] = []
            ticket = type(honest)(
                honest.root, honest.peer, honest.addresses, {**honest.options, "deltas": [bad]}
            )
            got = await peer.get(
                ticket,
                lab.folder / f"got2-{number}.safetensors",
                progress=lambda report, news=news: news.append(report.news),  # type: ignore[misc]
            )
            assert got.path.read_bytes() == v2.read_bytes()
            assert got.deltas == ()
            assert any("is of no use" in line for line in news), "the user is told"


async def test_deltas_that_lie_of_sizes_or_hashes_cost_less_than_the_version(
    lab: Lab, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    v1, v2 = write(1), write(2)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        honest = (await seed.share(v2, base=v1)).ticket
        link = honest.deltas[0]
        applied: list[Path] = []
        monkeypatch.setattr(
            _deltas, "apply_delta", lambda _base, delta, _out: applied.append(delta)
        )

        # Of a delta that would give more than the version has, nothing is written.
        described = replace(read_delta(seed.store.file_of(link.delta) or v1), result_size=1 << 40)
        monkeypatch.setattr(_deltas, "read_delta", lambda _path: described)
        got = await peer.get(honest, lab.folder / "got.safetensors", base=v1)
        assert (got.deltas, applied) == ((), [])
        assert got.path.read_bytes() == v2.read_bytes()

        # A base by a hash that is not computed here is passed over.
        strange = CID(Codec.DAG_PB, bytes([0x11, 20]) + bytes(20))
        odd: list[Any] = [bytes(strange), bytes(link.result), bytes(link.delta), link.size]
        ticket = type(honest)(
            honest.root, honest.peer, honest.addresses, {**honest.options, "deltas": [odd]}
        )
        again = await peer.get(ticket, lab.folder / "again.safetensors", base=v1)
        assert again.path.read_bytes() == v2.read_bytes()


async def test_what_deltas_of_no_use_took_counts_towards_what_is_worth_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, wanted = CID.of(b"base"), CID.of(b"wanted")
    links = [DeltaLink(base, wanted, CID.of(bytes([n])), 40) for n in range(20)]
    fetched = 0

    async def fetch(*_: object) -> Any:
        nonlocal fetched
        fetched += 1
        stored = SimpleNamespace(path=lab.folder / "nothing")
        return SimpleNamespace(received_bytes=40, stored=stored)

    async def missing(*_: object) -> int:
        return 100

    async with lab.node("peer") as peer:
        deltas = _deltas.Deltas(peer.store, fetch, peer._root_reader)
        whole = _deltas.WantedFile("", wanted, 100)
        held = {base: lab.folder / "base"}
        monkeypatch.setattr(deltas, "_missing", missing)
        use = _deltas.DeltaUse()
        told: list[str] = []
        await deltas._take(whole, lab.folder / "out", links, held, (), use, told.append)
    assert (fetched, len(told)) == (2, 2)  # a third would cost more than the whole


async def test_a_base_that_is_not_there_is_said_even_where_no_delta_is(
    lab: Lab, write: Write
) -> None:
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        ticket = (await seed.share(write(1))).ticket
        with pytest.raises(CannotDelta, match="no safetensors file"):
            await peer.get(ticket, lab.folder / "got", base=lab.folder / "none")


async def test_what_stands_at_the_destination_is_not_touched_by_a_delta(
    lab: Lab, write: Write
) -> None:
    v1, v2 = write(1), write(2)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        held = await peer.get((await seed.share(v1)).ticket, lab.folder / "model.safetensors")
        ticket = (await seed.share(v2, base=v1)).ticket
        with pytest.raises(LatticaError, match="exists"):
            await peer.get(ticket, held.path)
        assert held.path.read_bytes() == v1.read_bytes()
        assert list(lab.folder.glob("*.part")) == []
        # Replaced where that is asked for, though it is the base itself.
        got = await peer.get(ticket, held.path, overwrite=True)
        assert got.deltas
        assert held.path.read_bytes() == v2.read_bytes()


async def test_deltas_are_made_of_checkpoints_alone(lab: Lab, write: Write) -> None:
    v1 = write(1)
    (lab.folder / "text").write_text("hello")
    async with lab.node("seed") as seed:
        with pytest.raises(CannotDelta):
            await seed.share(v1, base=lab.folder / "text")
        with pytest.raises(CannotDelta):
            await seed.share(lab.folder / "text", base=v1)
        same = await seed.share(v1, base=v1)
        assert same.ticket.deltas == ()


async def test_publishing_the_next_version_makes_the_delta_and_its_reader_takes_it(
    lab: Lab, write: Write
) -> None:
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        first = await seed.publish("team/model", write(1))
        got = await peer.get(first.ticket, lab.folder / "got1.safetensors")
        second = await seed.publish("team/model", write(2), parent=first)
        assert second.wire_bytes < second.full_bytes / 50
        again = await peer.get(second.ticket, lab.folder / "got2.safetensors")
        assert len(again.deltas) == 1
        assert again.received_bytes <= second.wire_bytes * 1.02
        assert again.path.read_bytes() == write(2).read_bytes()
        assert got.path.read_bytes() == write(1).read_bytes()
        # Its links lead on: who has only the first needs no other manifest to get the third.
        third = await seed.publish("team/model", write(3), parent=second)
        async with lab.node("late") as late:
            await late.get(first.ticket, lab.folder / "late1.safetensors")
            last = await late.get(third.ticket, lab.folder / "late3.safetensors")
            assert len(last.deltas) == 2
            assert last.path.read_bytes() == write(3).read_bytes()


async def test_every_checkpoint_in_a_directory_has_a_delta_of_its_own(
    lab: Lab, write: Write
) -> None:
    folders = []
    for number in (1, 2):
        folder = lab.folder / f"model-{number}"
        folder.mkdir()
        write(number).rename(folder / "a.safetensors")
        write(5).rename(folder / "b.safetensors")
        (folder / "config.json").write_text(f'{{"step": {number}}}')
        folders.append(folder)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        first = await seed.publish("team/model", folders[0])
        await peer.get(first.ticket, lab.folder / "got1")
        second = await seed.publish("team/model", folders[1], parent=first)
        got = await peer.get(second.ticket, lab.folder / "got2")
        assert len(got.deltas) == 1
        assert got.received_bytes < got.size / 50
        for path in folders[1].iterdir():
            assert (got.path / path.name).read_bytes() == path.read_bytes()


async def test_files_that_an_object_has_not_are_not_made_by_deltas(lab: Lab, write: Write) -> None:
    v1, v2 = write(1), write(2)
    (lab.folder / "model").mkdir()
    save_file({"w": np.ones(100, np.float32)}, lab.folder / "model" / "a.safetensors")
    (lab.folder / "model" / "README").write_text("a model")
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        await peer.get((await seed.share(v1)).ticket, lab.folder / "got1.safetensors")
        share = await seed.share(v2, base=v1)
        published = await seed.publish("m", lab.folder / "model")
        honest = (await seed.manifest(published.cid)).manifest
        planted = ManifestFile("planted.safetensors", share.size, share.cid)
        deltas = share.ticket.deltas
        lying = replace(honest, version=2, files=(*honest.files, planted), deltas=deltas)
        ticket = seed._manifest_ticket(await seed._catalog.sign(lying))
        got = await peer.get(ticket, lab.folder / "got")
        assert got.deltas == ()
        assert sorted(one.name for one in got.path.iterdir()) == ["README", "a.safetensors"]


async def test_a_long_chain_is_spanned_from_anchor_to_anchor(
    lab: Lab, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica._deltas.ANCHOR_EVERY", 2)
    async with lab.node("seed") as seed, lab.node("peer") as peer:
        last = first = await seed.publish("team/model", write(0))
        for number in range(1, 7):
            last = await seed.publish("team/model", write(number), parent=last)
        await peer.get(first.ticket, lab.folder / "got0.safetensors")
        got = await peer.get(last.ticket, lab.folder / "got6.safetensors")
        assert len(got.deltas) < 6
        assert got.path.read_bytes() == write(6).read_bytes()
