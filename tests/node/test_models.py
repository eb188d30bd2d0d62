"""Tensors of a checkpoint on another node: what is asked for travels, verified, and no more."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import trio
from safetensors.numpy import save_file

import lattica
from lattica._opened import NoTensors
from lattica.content import NotCutSo, SourcesChanged, segment_cid
from lattica.errors import IntegrityError, InvalidInput
from lattica.node import TooManyOpen
from lattica.testing.providers import HostileProvider, no_misdeed, wrong_leaf

if TYPE_CHECKING:
    from pathlib import Path

    from lattica.content._messages import AnswerHead
    from lattica.results import Progress

    from .conftest import Lab

LEAF = 256 << 10
Array = np.ndarray[Any, np.dtype[Any]]


def make_state(layers: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    state: dict[str, Array] = {
        "model.embed.weight": rng.normal(size=(512, 600)).astype(np.float32),
        "model.scale": np.array(2.5, np.float64),
        "model.none": np.zeros((0, 3), np.int8),
    }
    for number in range(layers):
        weight = rng.normal(size=(700, 512)).astype(ml_dtypes.bfloat16)
        state[f"model.layers.{number}.weight"] = weight
        state[f"model.layers.{number}.bias"] = rng.normal(size=700).astype(np.float16)
    return state


def equal(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )


def received(node: lattica.AsyncNode) -> int:
    return node.exchange.stats.total.received_bytes


async def test_only_the_rows_asked_for_travel(lab: Lab, tmp_path: Path) -> None:
    state = make_state()
    save_file(state, tmp_path / "m.safetensors")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "m.safetensors")
        async with b.open(shared.ticket) as model:
            assert sorted(model.tensors) == sorted(state)
            assert len(model) == len(state)
            assert received(b) < 8192  # headers and topmost index block: no tensor has come
            before = received(b)
            rows = await model["model.embed.weight"][0:128]
            assert np.array_equal(rows, state["model.embed.weight"][0:128])
            assert received(b) - before <= 1.1 * rows.nbytes + LEAF
            picked = await model["model.layers.1.weight"][100:200:3, -5:]
            expected = state["model.layers.1.weight"][100:200:3, -5:]
            assert picked.tobytes() == expected.tobytes()
            assert (await model["model.scale"][...]) == 2.5
            assert (await model["model.none"].read()).shape == (0, 3)
            assert model["model.layers.0.bias"].cid == segment_cid(
                state["model.layers.0.bias"].tobytes()
            )


async def test_layers_move_only_their_tensors(lab: Lab, tmp_path: Path) -> None:
    state = make_state()
    save_file(state, tmp_path / "m.safetensors")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "m.safetensors")
        async with b.open(shared.ticket) as model:
            before = received(b)
            seen: list[Progress] = []
            some = await model.load(layers=(0, 2), include=["*.weight"], progress=seen.append)
            wanted = {f"model.layers.{n}.weight": state[f"model.layers.{n}.weight"] for n in (0, 1)}
            assert equal(some, wanted)
            size = sum(one.nbytes for one in wanted.values())
            assert size <= received(b) - before <= 1.1 * size
            assert (seen[-1].done_bytes, seen[-1].total_bytes) == (size, size)


async def test_the_ranks_together_have_the_model(lab: Lab, tmp_path: Path) -> None:
    state = make_state()
    save_file(state, tmp_path / "m.safetensors")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "m.safetensors")
        async with b.open(shared.ticket) as model:
            parts = [await model.load(rank=(rank, 3)) for rank in range(3)]
        assert [("model.scale" in part) for part in parts] == [True, False, False]
        whole = {
            name: np.concatenate([part[name] for part in parts])
            if state[name].shape
            else parts[0][name]
            for name in state
        }
        assert equal(whole, state)


async def test_all_is_loaded_and_what_is_here_is_not_fetched(lab: Lab, tmp_path: Path) -> None:
    state = make_state()
    save_file(state, tmp_path / "m.safetensors")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "m.safetensors")
        model = await b.open(shared.ticket)
        assert equal(await model.load(), state)
        base = {name: array.copy() for name, array in state.items()}
        base["model.layers.0.weight"][3, 3] = 9
        assert not await model.matches(base)
        before = received(b)
        again = await model.load(base=base)
        assert equal(again, state)
        assert again["model.embed.weight"] is base["model.embed.weight"]
        assert received(b) - before <= state["model.layers.0.weight"].nbytes * 1.1
        assert await model.matches(again)
        assert not await model.matches({})
        await model.aclose()


async def test_a_state_is_filled_in_place(lab: Lab, tmp_path: Path) -> None:
    state = make_state()
    save_file(state, tmp_path / "m.safetensors")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "m.safetensors")
        mine = {name: np.zeros_like(array) for name, array in state.items()}
        places = {name: array.ctypes.data for name, array in mine.items()}
        async with b.open(shared.ticket) as model:
            assert sorted(await model.load_into(mine)) == sorted(state)
            assert equal(mine, state)
            assert {name: array.ctypes.data for name, array in mine.items()} == places
            with pytest.raises(InvalidInput, match=r"the state has no tensor 'model.embed.weight'"):
                await model.load_into({})
            with pytest.raises(InvalidInput, match="the checkpoint has no tensor 'extra'"):
                await model.load_into({**mine, "extra": np.zeros(1)})
            some = {"model.scale": np.zeros((), np.float64), "extra": np.zeros(1)}
            assert await model.load_into(some, strict=False) == ["model.scale"]
            with pytest.raises(InvalidInput, match=r"'model.scale': F64"):
                await model.load_into({"model.scale": np.zeros(1)}, strict=False)


async def test_a_row_that_was_tampered_with_is_never_given(
    lab: Lab, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "m.safetensors"
    save_file(make_state(), path)
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(path)
        async with b.open(shared.ticket) as model:
            info = model.tensors["model.embed.weight"]
            with path.open("r+b") as file:
                file.seek(info.offset + 40)
                file.write(b"\xff")
            with pytest.raises(SourcesChanged):
                await model["model.embed.weight"][0:1]


async def test_a_folder_of_shards_is_one_checkpoint(lab: Lab, tmp_path: Path) -> None:
    state = make_state()
    folder = tmp_path / "hub"
    folder.mkdir()
    names = {name: f"model-0000{n % 2 + 1}-of-00002.safetensors" for n, name in enumerate(state)}
    for file in set(names.values()):
        save_file({name: state[name] for name in state if names[name] == file}, folder / file)
    (folder / "config.json").write_text("{}")
    async with lab.node("a") as a, lab.node("b") as b:
        for index in (False, True):
            if index:
                text = str({"weight_map": names}).replace("'", '"')
                (folder / "model.safetensors.index.json").write_text(text)
            shared = await a.share(folder)
            async with b.open(shared.ticket) as model:
                assert equal(await model.load(), state)
                assert {one.name: one.file for one in model.tensors.values()} == names
                assert await model.read(0, 2) if not model.is_directory else True
        async with b.open(shared.ticket, "model-00001-of-00002.safetensors") as part:
            assert set(part) == {name for name in state if names[name].startswith("model-00001")}


async def test_what_is_no_checkpoint_is_opened_for_its_bytes(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("data.bin", 100_000)
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        for ref in (shared.ticket, shared.cid):
            async with b.open(ref, peers=a.addresses) as opened:
                assert await opened.read(5, 10) == source.read_bytes()[5:15]
                with pytest.raises(NoTensors):
                    _ = opened.tensors
                with pytest.raises(NoTensors):
                    await opened.load()


async def test_a_checkpoint_that_was_shared_whole_can_be_read_but_not_compared(
    lab: Lab, tmp_path: Path
) -> None:
    state = make_state(1)
    save_file(state, tmp_path / "m.bin")  # cut only if it is called .safetensors
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "m.bin")
        async with b.open(shared.cid, peers=a.addresses) as model:
            assert equal(await model.load(), state)
            assert model["model.scale"].cid is None
            with pytest.raises(NotCutSo):
                await model.matches(state)


async def test_what_is_held_open_is_bounded_and_ends_with_the_node(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(make_state(1), tmp_path / "m.safetensors")
    monkeypatch.setattr("lattica._read_calls.MAX_OPEN", 2)
    async with lab.node("a") as a:
        shared = await a.share(tmp_path / "m.safetensors")
        first, second = await a.open(shared.cid), await a.open(shared.cid)
        with pytest.raises(TooManyOpen):
            await a.open(shared.cid)
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        third = await a.open(shared.cid)
        assert list(third) == list(second)


def test_a_blocking_node_reads_tensors(tmp_path: Path) -> None:
    state = make_state(2)
    save_file(state, tmp_path / "m.safetensors")
    options: dict[str, Any] = {"listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": False}
    with (
        lattica.Node(tmp_path / "a", **options) as a,
        lattica.Node(tmp_path / "b", **options) as b,
    ):
        model = b.open(a.share(tmp_path / "m.safetensors").ticket)
        assert sorted(model) == sorted(state)
        rows = model["model.embed.weight"][128:256]
        assert np.array_equal(rows, state["model.embed.weight"][128:256])
        assert model["model.embed.weight"].shape == (512, 600)
        assert equal(model.load(layers=(0, 1)).copy(), {
            name: array for name, array in state.items() if ".layers.0." in name
        })  # fmt: skip
        mine = {name: np.zeros_like(array) for name, array in state.items()}
        model.load_into(mine)
        assert model.matches(mine)
        assert model.metadata == {}
        model.close()
        model.close()
        with b.open(a.share(tmp_path / "m.safetensors").ticket) as again:
            assert len(again) == len(state)


def test_a_state_is_filled_without_a_second_copy_of_the_model(tmp_path: Path) -> None:
    script = f"""
import resource, sys
import numpy as np, lattica
from pathlib import Path
folder = Path({str(tmp_path)!r})
sys.path.insert(0, {str(tmp_path)!r})
with lattica.Node(folder / "b", listen=["/ip4/127.0.0.1/tcp/0"], mdns=False) as node:
    model = node.open(sys.argv[1])
    warm = model["t0"][0:1]
    state = {{name: np.zeros(one.shape, np.uint8) for name, one in model.tensors.items()}}
    for array in state.values():
        array[:] = 1  # its pages are there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.load_into(state)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    assert all((array[::4096] == n + 7).all() for n, array in enumerate(state.values()))
    assert not list(folder.glob("b/**/*.part"))
    assert grown < 96, grown
"""
    size = 64 << 20
    save_file(
        {f"t{n}": np.full(size, n + 7, np.uint8) for n in range(4)}, tmp_path / "m.safetensors"
    )
    with lattica.Node(tmp_path / "a", listen=["/ip4/127.0.0.1/tcp/0"], mdns=False) as a:
        ticket = str(a.share(tmp_path / "m.safetensors").ticket)
        subprocess.run([sys.executable, "-c", script, ticket], check=True, timeout=120)


async def test_a_liar_is_named_and_an_honest_peer_gives_the_right_rows(
    lab: Lab, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    state = make_state()
    save_file(state, tmp_path / "m.safetensors")
    wanted = state["model.embed.weight"]
    lies = 0

    async def wrong_rows(provider: HostileProvider, head: AnswerHead, data: bytes) -> bytes:
        nonlocal lies
        if data not in wanted.tobytes():
            return await no_misdeed(provider, head, data)
        lies += 1
        return await wrong_leaf(provider, head, data)

    async with lab.node("liar") as liar:
        ticket = (await liar.share(tmp_path / "m.safetensors")).ticket
        async with lab.node("honest") as honest:
            await honest.get(ticket, tmp_path / "copy.safetensors")
        HostileProvider(liar.mesh, liar.store, wrong_rows)
        async with lab.node("b") as b, b.open(ticket) as model:
            right = await model["model.layers.0.weight"][5:9]  # of what it does not lie about
            assert right.tobytes() == state["model.layers.0.weight"][5:9].tobytes()
            with pytest.raises(IntegrityError) as caught:
                await model["model.embed.weight"][0:128]
            assert caught.value.peer == liar.id
        told = lies
        assert told
        async with lab.node("honest") as honest, lab.node("c") as c:
            async with c.open(ticket, peers=honest.addresses) as model:
                rows = await model["model.embed.weight"][0:512]
            assert np.array_equal(rows, wanted)
        assert lies > told, "it was asked, and what it said was not taken"
