"""What a node tells the DHT that it has, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lattica import Phase

if TYPE_CHECKING:
    from pathlib import Path

    from lattica import AsyncNode, Progress

    from .conftest import Lab

SIZE = 2 << 20


class Halfway:
    """A progress callback that notes when some leaves are here."""

    def __init__(self) -> None:
        self.reached = trio.Event()

    def __call__(self, report: Progress) -> None:
        if report.phase is Phase.FETCH and report.done_bytes > 0:
            self.reached.set()


async def test_receivers_that_know_the_cid_alone_find_each_other(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    async with (
        lab.node("meeting") as meeting,
        lab.node("first", meeting.addresses[0]) as first,
        lab.node("second", meeting.addresses[0]) as second,
        trio.open_nursery() as nursery,
    ):
        halfway = Halfway()
        async with lab.node("a", max_up="1M") as a:  # which is not in their DHT
            shared = await a.share(source)

            async def get_first() -> None:
                await first.get(shared.ticket, tmp_path / "first.bin", progress=halfway)

            nursery.start_soon(get_first)
            await halfway.reached.wait()
            assert first.dht.is_providing(shared.cid.multihash)
            with trio.fail_after(20):
                got = await second.get(shared.cid, tmp_path / "second.bin")
        assert got.path.read_bytes() == source.read_bytes()
        assert first.id in {part.peer for part in got.sources}


async def test_what_a_get_that_is_given_up_has_left_is_announced_until_it_is_removed(
    lab: Lab, tmp_path: Path
) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("a", max_up="1M") as a, lab.node("b") as b:
        shared = await a.share(source)
        halfway = Halfway()
        async with trio.open_nursery() as nursery:

            async def get() -> None:
                await b.get(shared.ticket, tmp_path / "copy.bin", progress=halfway)

            nursery.start_soon(get)
            await halfway.reached.wait()
            assert b.dht.is_providing(shared.cid.multihash)
            nursery.cancel_scope.cancel()
        assert b.dht.is_providing(shared.cid.multihash)
    async with lab.node("b") as b:
        with trio.fail_after(20):
            while not b.dht.is_providing(shared.cid.multihash):  # noqa: ASYNC110  # no event of it
                await trio.sleep(0.05)
        _delete_parts(tmp_path)
        assert (await b.collect_garbage()).forgotten == (shared.cid,)
        assert not b.dht.is_providing(shared.cid.multihash)
        await b.share(lab.file("other.bin", 100))  # which tells anew what is here
        assert not b.dht.is_providing(shared.cid.multihash)


async def test_a_visitor_announces_no_part(lab: Lab, tmp_path: Path) -> None:
    source = lab.file("model.bin", SIZE)
    async with lab.node("a", max_up="2M") as a, lab.node("b", dht_server=False) as b:
        shared = await a.share(source)
        halfway = Halfway()
        async with trio.open_nursery() as nursery:

            async def get() -> None:
                await b.get(shared.ticket, tmp_path / "copy.bin", progress=halfway)

            nursery.start_soon(get)
            await halfway.reached.wait()
            assert not b.dht.is_providing(shared.cid.multihash)


async def test_what_has_changed_is_announced_no_more(lab: Lab) -> None:
    async with lab.node("a") as a:
        shared = await a.share(lab.file("model.bin", SIZE))
        assert a.dht.is_providing(shared.cid.multihash)
        _overwrite(shared.path)
        a.store.look()
        other = await a.share(lab.file("other.bin", 100))
        assert not a.dht.is_providing(shared.cid.multihash)
        assert a.dht.is_providing(other.cid.multihash)
    await _is_provided_after_restart(lab, shared.cid.multihash, expected=False)


async def _is_provided_after_restart(lab: Lab, multihash: bytes, *, expected: bool) -> None:
    node: AsyncNode
    async with lab.node("a") as node:
        assert node.dht.is_providing(multihash) is expected


def _delete_parts(folder: Path) -> None:
    for part in folder.glob("*.part"):
        part.unlink()


def _overwrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!!")
