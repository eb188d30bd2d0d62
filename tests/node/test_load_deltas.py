"""Tensors of a new version for whoever has those of an old one: the difference travels."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from lattica.models import DeltaWays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lattica import AsyncNode
    from lattica.results import Progress, Published

    from .conftest import Lab

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]
INDEX = 24 << 10  # bytes that headers and index blocks may take, of a version and of its deltas


def version(number: int) -> State:
    """Return a checkpoint in training: few weights move with each step, some tensors never."""
    rng = np.random.default_rng(0)
    state: State = {f"h.{n}.w": rng.normal(0, 0.02, (700, 512)) for n in range(4)}
    state = {name: array.astype(ml_dtypes.bfloat16) for name, array in state.items()}
    state["h.0.b"] = rng.normal(size=5000).astype(np.float32)
    state["frozen"] = np.arange(200_000, dtype=np.float32)
    for step in range(number):
        change = np.random.default_rng(step + 1)
        for name, array in state.items():
            if name != "frozen":
                bits = array.view(f"u{array.itemsize}")
                bits[change.random(bits.shape) < 0.005] += 1
    return state


def equal(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )


def received(node: AsyncNode) -> int:
    return node.exchange.stats.total.received_bytes


async def publish(node: AsyncNode, *numbers: int) -> list[Published]:
    return [await node.publish("team/model", version(number)) for number in numbers]


async def test_from_the_version_before_only_the_difference_travels(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        first, second = await publish(a, 1, 2)
        assert second.wire_bytes < second.full_bytes / 20
        async with b.open(first.ticket) as model:
            state = await model.load()
        seen: list[Progress] = []
        before = received(b)
        async with b.open(second.ticket) as model:
            new = await model.load(base=state, progress=seen.append)
            assert equal(new, version(2))
            assert equal(state, version(1)), "the old tensors are left as they were"
            assert new["frozen"] is state["frozen"]
            assert received(b) - before <= 1.1 * second.wire_bytes + INDEX
            assert model.received_bytes <= received(b) - before
            total = sum(array.nbytes for array in new.values())
            assert (seen[-1].done_bytes, seen[-1].total_bytes) == (total, total)
            assert seen[-1].received_bytes <= 1.1 * second.wire_bytes + INDEX


async def test_the_newest_version_is_loaded_on_top_of_what_is_there(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        first, second = await publish(a, 1, 2)
        async with b.open(first.ticket) as model:
            state = await model.load()
            assert await model.matches(state)
            before = received(b)
            async with model.latest() as latest:
                assert latest.manifest.version == 2
                state = await latest.load(base=state)
                assert await latest.matches(state)
                assert received(b) - before <= 1.1 * second.wire_bytes + INDEX


async def test_a_state_is_brought_up_to_date_in_place(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        _, second = await publish(a, 1, 2)
        state = version(1)
        places = {name: array.ctypes.data for name, array in state.items()}
        seen: list[Progress] = []
        before = received(b)
        async with b.open(second.ticket) as model:
            await model.load_into(state, base=True, progress=seen.append)
        assert equal(state, version(2))
        assert {name: array.ctypes.data for name, array in state.items()} == places
        assert received(b) - before <= 1.1 * second.wire_bytes + INDEX
        assert seen[-1].done_bytes == seen[-1].total_bytes


async def test_one_tensor_is_held_beside_a_state_that_is_brought_up_to_date(lab: Lab) -> None:
    size = 24 << 20
    old = {f"h.{n}": np.full(size, n, np.uint8) for n in range(5)}
    new = {name: array.copy() for name, array in old.items()}
    for array in new.values():
        array[::4099] += 7
    async with lab.node("a") as a, lab.node("b") as b:
        await a.publish("team/model", old)
        second = await a.publish("team/model", new)
        async with b.open(second.ticket) as model:
            tracemalloc.start()
            try:
                await model.load_into(old, base=True)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert model.received_bytes < size / 10
    assert equal(old, new)
    assert peak < size + (16 << 20)


async def test_several_versions_behind_the_deltas_are_followed(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        published = await publish(a, 1, 2, 3, 4)
        cost = sum(one.wire_bytes for one in published[1:])
        async with b.open(published[-1].ticket) as model:
            assert equal(await model.load(base=version(1)), version(4))
            assert model.received_bytes <= 1.1 * cost + 4 * INDEX


async def test_tensors_of_different_old_versions_come_each_by_its_own_way(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        published = await publish(a, 1, 2, 3)
        mixed = {**version(1), "h.1.w": version(2)["h.1.w"], "h.0.b": version(2)["h.0.b"]}
        async with b.open(published[-1].ticket) as model:
            assert equal(await model.load(base=mixed), version(3))
            assert model.received_bytes < published[-1].full_bytes / 5


async def test_a_base_that_no_delta_starts_from_costs_little_and_all_is_read(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        _, second = await publish(a, 1, 2)
        strange = {name: array + array.dtype.type(1) for name, array in version(1).items()}
        strange["h.2.w"] = strange["h.2.w"][:5]
        async with b.open(second.ticket) as model:
            assert equal(await model.load(base=strange), version(2))
            assert model.received_bytes <= second.full_bytes * 1.05 + INDEX
            await model.load_into(strange_copy := fresh(strange), base=True)
            assert equal(strange_copy, version(2))


def fresh(state: State) -> State:
    """Return arrays to fill with a whole version, with the values of `state` where they fit."""
    fitting = version(1)
    return {n: state[n].copy() if state[n].shape == a.shape else a for n, a in fitting.items()}


async def test_parts_of_ranks_are_read_as_they_are(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        _, second = await publish(a, 1, 2)
        async with b.open(second.ticket) as model:
            parts = [await model.load(rank=(rank, 2), base=version(1)) for rank in range(2)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert equal(joined, version(2))


async def test_a_delta_that_lies_or_is_gone_is_left_for_the_whole(
    lab: Lab, autojump_clock: object
) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        _, second, third = await publish(a, 1, 2, 3)
        true = (await b.manifest(second.ticket)).manifest.deltas[0]
        other = (await b.manifest(third.ticket)).manifest.deltas[0]
        gone = type(true)(true.base, true.result, true.base, true.size)
        lying = type(true)(true.base, true.result, other.delta, other.size)
        larger = type(true)(true.base, true.result, true.delta, true.size + 1)
        missing = type(true)(true.base, true.result, second.cid, true.size)
        async with b.open(second.ticket) as model:
            ways = model._ways
            assert ways is not None
            for bad in (gone, lying, larger, missing):
                model._ways = DeltaWays([bad], ways._open_delta)
                assert equal(await model.load(base=version(1)), version(2))
            before = model.received_bytes
            model._ways = DeltaWays([gone, lying, true], ways._open_delta)
            assert equal(await model.load(base=version(1)), version(2))
            assert model.received_bytes - before <= 1.1 * second.wire_bytes + INDEX


async def test_wrong_bytes_of_a_delta_do_not_reach_the_tensor(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        _, second = await publish(a, 1, 2)
        state = version(1)
        wrong = state["h.3.w"].view(np.uint16)
        wrong[5, 5] ^= 1  # so what the delta makes of it is not what is wanted
        async with b.open(second.ticket) as model:
            assert equal(await model.load(base=state), version(2))
            await model.load_into(state, base=True)
            assert equal(state, version(2))
