"""Sealed objects between whole nodes: seeders that cannot read, recipients that can."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.cid import HashFunction
from lattica.content import DestinationTaken, NotInObject, ObjectState, RangeOutside
from lattica.errors import InvalidInput
from lattica.node import open_node
from lattica.sealed import NotARecipient, SealBroken, is_sealed
from lattica.transport import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lattica.node import AsyncNode
    from lattica.results import Progress

MARK = b"the plan is to attack at dawn; "


@asynccontextmanager
async def nodes(
    folder: Path, *names: str, network: MemoryNetwork | None = None
) -> AsyncIterator[list[AsyncNode]]:
    network = network or MemoryNetwork()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_node(
                    folder / name,
                    listen=["/memory/0"],
                    transports=[network.transport(name)],
                    mdns=False,
                    bootstrap=[],
                )
            )
            for name in names
        ]


def secret(path: Path, size: int = 2_000_000) -> bytes:
    data = (MARK * (size // len(MARK) + 1))[:size]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def below(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def traces(folder: Path) -> list[Path]:
    """Files below `folder` that hold a piece of the plain text, or of its name."""
    return [
        path
        for path in folder.rglob("*")
        if "secret-plan" in path.name
        or (path.is_file() and (MARK in (data := path.read_bytes()) or b"secret-plan" in data))
    ]


async def test_three_seeders_store_and_serve_what_only_the_recipient_reads(tmp_path: Path) -> None:
    source = tmp_path / "own" / "secret-plan"
    data = secret(source)
    network = MemoryNetwork()
    names = ("recipient", "seed0", "seed1", "seed2")
    async with nodes(tmp_path, *names, network=network) as (recipient, *seeders):
        async with nodes(tmp_path, "owner", network=network) as (owner,):
            shared = await owner.share(source, encrypt_to=[recipient.id])
            assert shared.ticket.sealed
            assert "secret-plan" not in str(shared.ticket.options)
            for seeder in seeders:
                kept = await seeder.cache(shared.ticket)
                held = seeder.store.object(kept.cid)
                assert held is not None
                assert held.state is ObjectState.COMPLETE
                with pytest.raises(NotARecipient):
                    await seeder.get(shared.ticket, tmp_path / "never")
        assert not traces(tmp_path / "owner")  # its own file is elsewhere
        # The owner is gone; what is left are strangers.
        where = [seeder.addresses[0] for seeder in seeders]
        got = await recipient.get(shared.ticket, tmp_path / "got", peers=where)
        assert got.path.read_bytes() == data
        assert (got.name, got.size) == ("secret-plan", len(data))
        sent = [seeder.exchange.stats.of(recipient.id).sent_bytes for seeder in seeders]
        assert sum(sent) > len(data)
        assert not recipient.objects()  # it keeps no sealed copy unasked
    for name in ("seed0", "seed1", "seed2", "recipient"):
        assert not traces(tmp_path / name), name
    assert not (tmp_path / "never").exists()


async def test_who_is_removed_cannot_read_the_next_version(tmp_path: Path) -> None:
    source = tmp_path / "own" / "model"
    secret(source)
    async with nodes(tmp_path, "owner", "stays", "leaves") as (owner, stays, leaves):
        first = await owner.share(source, encrypt_to=[stays.id, str(leaves.id)])
        await leaves.get(first.ticket, tmp_path / "first")
        source.write_bytes(b"the next version")
        second = await owner.share(source, encrypt_to=[stays.id])
        with pytest.raises(NotARecipient):
            await leaves.get(second.ticket, tmp_path / "second")
        assert not (tmp_path / "second").exists()
        got = await stays.get(second.ticket, tmp_path / "second")
        assert got.path.read_bytes() == b"the next version"


async def test_a_tree_is_sealed_with_its_names(tmp_path: Path) -> None:
    tree = tmp_path / "own" / "secret-plan"
    secret(tree / "deep" / "secret-plan.txt", 700_000)
    (tree / "empty").mkdir()
    async with nodes(tmp_path, "owner", "recipient") as (owner, recipient):
        shared = await owner.share(
            tree, encrypt_to=[recipient.id], hash_function=HashFunction.SHA2_256
        )
        (tmp_path / "to").mkdir()
        got = await recipient.get(shared.ticket, tmp_path / "to")
        assert got.path == tmp_path / "to" / "secret-plan"
        assert (got.path / "deep" / "secret-plan.txt").read_bytes().startswith(MARK)
        assert (got.path / "empty").is_dir()
    assert not traces(tmp_path / "owner")


async def test_it_is_refused_before_a_leaf_is_fetched(tmp_path: Path) -> None:
    source = tmp_path / "own" / "model"
    secret(source, 5_000_000)
    async with nodes(tmp_path, "owner", "other") as (owner, other):
        shared = await owner.share(source, encrypt_to=[owner.id])
        with pytest.raises(NotARecipient):
            await other.get(shared.ticket, tmp_path / "got")
        assert other.exchange.stats.total.received_bytes < 10_000
        # As it is, for whoever can read it, it may be had.
        await other.get(shared.ticket, tmp_path / "kept", unseal=False)
        assert is_sealed((tmp_path / "kept").read_bytes())
        assert other.objects()[0].cid == shared.cid


async def test_a_get_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    source = tmp_path / "own" / "model"
    data = random.Random(1).randbytes(30_000_000)
    source.parent.mkdir()
    source.write_bytes(data)
    async with nodes(tmp_path, "owner", "recipient") as (owner, recipient):
        shared = await owner.share(source, encrypt_to=[recipient.id])
        with trio.CancelScope() as scope:

            def stop(progress: Progress) -> None:
                if progress.done_bytes > 8_000_000:
                    scope.cancel()

            await recipient.get(shared.ticket, tmp_path / "got", progress=stop)
        assert scope.cancelled_caught
        assert not (tmp_path / "got").exists()
        (left,) = (path for path in below(tmp_path) if path.name.endswith(".unsealing"))
        assert left.stat().st_mode & 0o077 == 0
        again = await recipient.get(shared.ticket, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == data
        assert again.received_bytes < len(data)
        assert not left.exists()


async def test_a_bare_identifier_is_opened_when_it_is_said_to_be_sealed(tmp_path: Path) -> None:
    source = tmp_path / "own" / "model"
    data = secret(source, 1000)
    async with nodes(tmp_path, "owner", "recipient") as (owner, recipient):
        shared = await owner.share(source, encrypt_to=[recipient.id])
        plain = await owner.share(source)
        where = [owner.addresses[0]]
        got = await recipient.get(shared.cid, tmp_path / "got", peers=where, unseal=True)
        assert got.path.read_bytes() == data
        with pytest.raises(SealBroken, match="not a sealed"):
            await recipient.get(plain.cid, tmp_path / "other", peers=where, unseal=True)


async def test_a_part_of_a_tree_is_sealed_and_parts_of_that_are_read(tmp_path: Path) -> None:
    top = tmp_path / "own" / "tree"
    data = secret(top / "weights.bin", 3_000_000)
    secret(top / "notes.txt", 100)
    (top / "link.bin").symlink_to("weights.bin")
    async with nodes(tmp_path, "owner", "recipient", "other") as (owner, recipient, other):
        shared = await owner.share(
            top, encrypt_to=[recipient.id], include=["*.bin"], symlinks="follow"
        )
        offset = 2_000_001
        got = await recipient.read(shared.ticket, offset, 1000, path="weights.bin")
        assert got == data[offset : offset + 1000]
        assert recipient.store.objects() == []
        received = recipient.exchange.stats.total.received_bytes
        assert received < 1_500_000  # header, table, a chunk
        out = bytearray(10)
        view = await recipient.read(shared.ticket, 0, 10, path="link.bin", out=out)
        assert bytes(view) == bytes(out) == data[:10]
        part = await recipient.read_to(
            shared.ticket, offset, None, tmp_path / "part", path="weights.bin"
        )
        assert part.path.read_bytes() == data[offset:]
        assert (part.length, part.file) == (len(data) - offset, "weights.bin")
        with pytest.raises(NotInObject, match="directory") as caught:
            await recipient.read(shared.ticket, 0, 10)
        assert "link.bin" in str(caught.value.hint)
        with pytest.raises(NotInObject, match="notes"):
            await recipient.read(shared.ticket, 0, 10, path="notes.txt")
        with pytest.raises(RangeOutside):
            await recipient.read(shared.ticket, 3_000_000, 1, path="weights.bin")
        with pytest.raises(NotARecipient):
            await other.read(shared.ticket, 0, 10, path="weights.bin")
        assert MARK not in await other.read(shared.ticket, 0, 1000, unseal=False)


async def test_mistakes_are_told_before_anything_is_sealed(tmp_path: Path) -> None:
    source = tmp_path / "own" / "model"
    secret(source, 1000)
    async with nodes(tmp_path, "owner") as (owner,):
        wrong: list[dict[str, Any]] = [
            {"encrypt_to": ["nobody"]},
            {"encrypt_to": [str(owner.id)], "include": ["*.txt"]},
            {"encrypt_to": [str(owner.id)], "chunk": "cdc"},
            {"encrypt_to": [str(owner.id)], "origin": "https://example.com/model"},
            {"encrypt_to": ["QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"]},
        ]
        for options in wrong:
            with pytest.raises(InvalidInput):
                await owner.share(source, **options)
        assert not owner.objects()
        shared = await owner.share(source, encrypt_to=[owner.id])
        with pytest.raises(DestinationTaken):
            await owner.get(shared.ticket, source)
        got = await owner.get(shared.ticket, tmp_path / "own" / "copy")
        assert got.path.read_bytes() == source.read_bytes()
    assert not list((tmp_path / "owner" / "sealing").iterdir())


async def test_what_is_sealed_is_not_opened_as_if_its_bytes_were_tensors(tmp_path: Path) -> None:
    secret(tmp_path / "own" / "secret-plan", 1000)
    async with nodes(tmp_path, "owner") as (owner,):
        shared = await owner.share(tmp_path / "own" / "secret-plan", encrypt_to=[owner.id])
        with pytest.raises(InvalidInput, match="sealed") as caught:
            await owner.open(shared.ticket)
        assert "get it" in str(caught.value.hint)
