"""The form of sealed objects: what is hidden, who can open it, and what damage is noticed."""

from __future__ import annotations

import os
import random
import tempfile
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st

from lattica.content import (
    DestinationTaken,
    NothingSelected,
    NotInObject,
    RangeOutside,
    Selection,
    Symlinks,
    UnreadableSource,
    UnsafeName,
    build,
)
from lattica.errors import InvalidInput, SourceChanged
from lattica.identity import PeerId, seal_box
from lattica.sealed import (
    CHUNK_BYTES,
    MAX_HEADER_BYTES,
    PREFIX_BYTES,
    SEALED_BYTES,
    Header,
    NotARecipient,
    Opener,
    SealBroken,
    Sealer,
    Table,
    Unsealing,
    header_size,
    is_sealed,
    open_sealed,
    seal,
    sealed_segments,
)
from lattica.sealed._format import BOX_BYTES, MAX_RECIPIENTS
from lattica.testing import sample_identity

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from lattica.identity import Identity

ADA, BOB, EVE = (sample_identity(number) for number in range(3))


class Bytes:
    """Sealed bytes in memory, as a reader of an object gives them, and how many were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, 0

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked += length
        return self.data[offset : offset + length]

    @asynccontextmanager
    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[memoryview]]:
        async def pieces() -> AsyncGenerator[memoryview, None]:
            end = len(self.data) if length is None else offset + length
            for start in range(offset, end, 100_000):
                await trio.lowlevel.checkpoint()
                yield memoryview(self.data[start : min(start + 100_000, end)])

        async with aclosing(pieces()) as stream:
            yield stream


def sealed(source: Path, *recipients: Identity, name: str | None = None) -> bytes:
    target = source.with_name("sealed")
    target.unlink(missing_ok=True)
    seal(source, target, [one.peer_id for one in recipients], name=name)
    return target.read_bytes()


async def unsealed(data: bytes, identity: Identity, to: Path) -> Path:
    reader = await open_sealed(Bytes(data), identity)
    with Unsealing(reader.table, to, "tag", overwrite=False) as output:
        async with reader.chunks(output.next_chunk) as chunks:
            async for chunk in chunks:
                output.write(chunk)
        output.finish()
    return to


def below(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def noise(path: Path, size: int) -> bytes:
    data = random.Random(str(path.name)).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    noise(folder / "weights.bin", 700_000)
    noise(folder / "deep" / "more.bin", 3)
    (folder / "deep" / "empty").touch()
    (folder / "nothing").mkdir()
    return folder


# --- what comes out again


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 100, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
async def test_a_file_is_what_it_was(tmp_path: Path, size: int) -> None:
    data = noise(tmp_path / "file", size)
    wire = sealed(tmp_path / "file", ADA, BOB)
    for number, reader in enumerate((ADA, BOB)):
        assert (await unsealed(wire, reader, tmp_path / f"out{number}")).read_bytes() == data


async def test_a_tree_is_what_it_was(tree: Path, tmp_path: Path) -> None:
    out = await unsealed(sealed(tree, ADA), ADA, tmp_path / "out")
    found = below(out)
    assert found == below(tree)
    for path in found:
        if (tree / path).is_file():
            assert (out / path).read_bytes() == (tree / path).read_bytes()
    assert (out / "weights.bin").stat().st_mode & 0o077 == 0  # what was secret stays so


async def test_a_part_is_read_without_the_rest(tree: Path) -> None:
    source = Bytes(sealed(tree, ADA))
    reader = await open_sealed(source, ADA)
    before = source.asked
    data = (tree / "weights.bin").read_bytes()
    start = CHUNK_BYTES + 1000
    assert await reader.read(start, 5000, path="weights.bin") == data[start : start + 5000]
    assert source.asked - before <= 2 * SEALED_BYTES
    assert await reader.read(0, 3, path="deep/more.bin") == (tree / "deep/more.bin").read_bytes()
    for offset, length, path in ((0, 700_001, "weights.bin"), (0, 1, "nowhere"), (-1, 1, "")):
        with pytest.raises((RangeOutside, NotInObject)):
            await reader.read(offset, length, path=path)


def test_each_leaf_of_a_sealed_file_is_one_chunk(tmp_path: Path) -> None:
    noise(tmp_path / "file", 3 * CHUNK_BYTES)
    sealed(tmp_path / "file", ADA)
    built = build(tmp_path / "sealed", segments=sealed_segments)
    leaves = list(built.files[0].leaves)
    assert [leaf.length for leaf in leaves[1:]] == [SEALED_BYTES] * (len(leaves) - 1)


# --- what nobody else learns


async def test_nothing_of_the_content_or_the_names_can_be_seen(tmp_path: Path) -> None:
    secret = tmp_path / "secret-name"
    secret.mkdir()
    (secret / "plan.txt").write_bytes(b"attack at dawn, " * 10_000)
    wire = sealed(secret, ADA)
    for word in (b"attack", b"dawn", b"plan", b"secret-name", ADA.peer_id.raw, b"12D3Koo"):
        assert word not in wire
    assert ADA.public_key.data not in wire


def test_the_size_is_told_to_a_chunk_and_no_nearer(tmp_path: Path) -> None:
    sizes = set()
    for size in (1, 1000, 200_000):
        noise(tmp_path / "file", size)
        sizes.add(len(sealed(tmp_path / "file", ADA)))
    assert len(sizes) == 1


def test_the_number_of_recipients_is_told_to_eight_and_no_nearer() -> None:
    sizes = set()
    for count in range(1, 9):
        peers = [sample_identity(number).peer_id for number in range(count)]
        sizes.add(len(bytes(Header.make(bytes(32), peers))))
    assert len(sizes) == 1


def test_the_same_file_is_never_sealed_the_same(tmp_path: Path) -> None:
    noise(tmp_path / "file", 1000)
    first, second = sealed(tmp_path / "file", ADA), sealed(tmp_path / "file", ADA)
    start = header_size(first[:PREFIX_BYTES])
    assert first[start : start + SEALED_BYTES] != second[start : start + SEALED_BYTES]


async def test_who_is_no_recipient_is_refused_after_the_header(tree: Path) -> None:
    source = Bytes(sealed(tree, ADA, BOB))
    with pytest.raises(NotARecipient) as caught:
        await open_sealed(source, EVE)
    assert caught.value.exit_code == 6
    assert source.asked < 2000


async def test_who_is_left_out_of_the_next_version_cannot_read_it(tmp_path: Path) -> None:
    noise(tmp_path / "file", 1000)
    first = sealed(tmp_path / "file", ADA, EVE)
    second = sealed(tmp_path / "file", ADA)
    key = Header.parse(first[: header_size(first[:PREFIX_BYTES])]).find_key(EVE)
    with pytest.raises(NotARecipient):
        await open_sealed(Bytes(second), EVE)
    header = second[: header_size(second[:PREFIX_BYTES])]
    body = second[len(header) :]
    with pytest.raises(SealBroken):  # nor with the key of the version before
        Opener(key, header, len(body)).open(0, body[:SEALED_BYTES])


# --- damage


async def test_chunks_cannot_be_changed_moved_doubled_or_left_off(tmp_path: Path) -> None:
    noise(tmp_path / "file", 3 * CHUNK_BYTES)
    wire = sealed(tmp_path / "file", ADA)
    size = header_size(wire[:PREFIX_BYTES])
    header, body = wire[:size], wire[size:]
    chunks = [body[start : start + SEALED_BYTES] for start in range(0, len(body), SEALED_BYTES)]
    assert len(chunks) == 4
    for number, damaged in enumerate(
        (
            [chunks[0], chunks[2], chunks[1], chunks[3]],
            [chunks[0], chunks[1], chunks[1], chunks[3]],
            chunks[:3],
            [*chunks, chunks[3]],
            [*chunks[:3], bytes(SEALED_BYTES)],
            [*chunks[:3], chunks[3][:-1]],
        )
    ):
        with pytest.raises(SealBroken):
            await unsealed(header + b"".join(damaged), ADA, tmp_path / f"out{number}")
        assert not (tmp_path / f"out{number}").exists()


async def test_a_recipient_cannot_be_added_behind_the_sealer_s_back(tmp_path: Path) -> None:
    noise(tmp_path / "file", 1000)
    wire = sealed(tmp_path / "file", ADA)
    header = wire[: header_size(wire[:PREFIX_BYTES])]
    parsed = Header.parse(header)
    key = parsed.find_key(ADA)
    boxes = (*parsed.boxes[1:], seal_box(key, EVE.peer_id))
    forged = bytes(Header(boxes, parsed.check))
    with pytest.raises(SealBroken):
        await open_sealed(Bytes(forged + wire[len(header) :]), EVE)


async def test_a_key_that_is_not_the_object_s_is_no_key(tmp_path: Path) -> None:
    """Two recipients cannot be given two keys, and so two contents, in one object."""
    header = Header.make(bytes(32), [ADA.peer_id])
    other = Header((seal_box(bytes(31) + b"x", ADA.peer_id),), header.check)
    with pytest.raises(NotARecipient):
        other.find_key(ADA)


@given(st.data())
def test_any_header_is_read_or_refused(data: st.DataObject) -> None:
    header = bytearray(bytes(Header.make(bytes(32), [ADA.peer_id])))
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(header[: data.draw(st.integers(0, len(header)))])
    try:
        Header.parse(cut)
    except SealBroken:
        return
    assert is_sealed(cut)


def test_a_header_that_declares_too_much_is_refused_unread() -> None:
    prefix = bytes(Header.make(bytes(32), [ADA.peer_id]))[: PREFIX_BYTES - 4]
    assert header_size(prefix + MAX_HEADER_BYTES.to_bytes(4, "big")) > MAX_HEADER_BYTES
    with pytest.raises(SealBroken, match="limit"):
        header_size(prefix + (MAX_HEADER_BYTES + 1).to_bytes(4, "big"))


def test_recipients_are_bounded_and_have_to_be_keys() -> None:
    many = [sample_identity(number).peer_id for number in range(MAX_RECIPIENTS + 1)]
    with pytest.raises(InvalidInput, match="recipients"):
        Header.make(bytes(32), many)
    with pytest.raises(InvalidInput, match="recipients"):
        Header.make(bytes(32), [])
    hashed = PeerId(b"\x12\x20" + bytes(32))
    with pytest.raises(InvalidInput, match="no Ed25519 key"):
        Header.make(bytes(32), [hashed])
    assert len(seal_box(bytes(32), ADA.peer_id)) == len(seal_box(bytes(32))) == BOX_BYTES


def test_a_key_to_which_nothing_can_be_sealed_is_refused() -> None:
    low_order = PeerId(b"\x00\x24\x08\x01\x12\x20" + b"\x01" + bytes(31))
    with pytest.raises(InvalidInput, match="cannot be encrypted to"):
        seal_box(bytes(32), low_order)


def test_a_sealer_seals_nothing_after_the_last_chunk() -> None:
    sealer = Sealer([ADA.peer_id])
    sealer.seal(bytes(CHUNK_BYTES), last=True)
    with pytest.raises(ValueError, match="after the last"):
        sealer.seal(bytes(CHUNK_BYTES), last=True)


# --- a sealer that means harm


HOSTILE = [
    {"../evil": 1},
    {"/etc/passwd": 1},
    {"/evil": 1},
    {"evil/": 1},
    {"a/../b": 1},
    {"no-such-directory/x": 1},
    {"": 1},
    {"a\x00b": 1},
    {"a\\b": 1},
    {".": 1},
]


@pytest.mark.parametrize("files", HOSTILE, ids=repr)
def test_a_hostile_name_is_refused_before_anything_is_written(files: dict[str, int]) -> None:
    body = bytes(Table("tree", files, (), is_directory=True))[4:]
    with pytest.raises(SealBroken):
        Table.parse(body)


@pytest.mark.parametrize(
    "table",
    [
        Table("..", {"": 1}),
        Table("a/b", {"": 1}),
        Table("file", {"x": 1}),
        Table("file", {"": 1}, ("d",)),
        Table("tree", {"d": 1}, ("d",), is_directory=True),
        Table("tree", {}, ("d", "d"), is_directory=True),
        Table("tree", {"a": 1 << 62, "b": 1 << 62}, is_directory=True),
        Table("tree", {}, ("/".join("d" * 40),), is_directory=True),
    ],
    ids=repr,
)
def test_a_table_that_makes_no_sense_is_refused(table: Table) -> None:
    with pytest.raises(SealBroken):
        Table.parse(bytes(table)[4:])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(body: bytes) -> None:
    with pytest.raises(SealBroken):
        Table.parse(body)


async def test_a_table_that_declares_more_than_there_is_is_refused(tmp_path: Path) -> None:
    sealer = Sealer([ADA.peer_id])
    for head in (
        (1 << 30).to_bytes(4, "big"),
        bytes(Table("file", {"": 10 * CHUNK_BYTES})),
        bytes(Table("file", {"": 1})) + b"x",
    ):
        sealer = Sealer([ADA.peer_id])
        count = 2 if head.endswith(b"x") else 1  # one chunk too many
        chunks = [
            sealer.seal((head if not n else b"").ljust(CHUNK_BYTES, b"\0"), last=n == count - 1)
            for n in range(count)
        ]
        with pytest.raises(SealBroken):
            await open_sealed(Bytes(sealer.header + b"".join(chunks)), ADA)


# --- sealing


def test_symlinks_and_names_that_could_be_misread_are_not_sealed(tree: Path) -> None:
    (tree / "link").symlink_to("weights.bin")
    with pytest.raises(UnreadableSource, match="link"):
        sealed(tree, ADA)
    (tree / "link").unlink()
    (tree / "CON").touch()
    with pytest.raises(UnsafeName):
        sealed(tree, ADA)
    assert not (tree.parent / "sealed").exists()


async def test_what_is_selected_is_sealed_and_links_as_the_policy_has_them(tree: Path) -> None:
    (tree / "link").symlink_to("weights.bin")
    (tree / "nowhere").symlink_to("gone")
    (tree / "elsewhere").symlink_to(tree.parent)
    path = tree.parent / "sealed"
    table = seal(tree, path, [ADA.peer_id], symlinks=Symlinks.SKIP)
    assert not {"link", "nowhere", "elsewhere"} & set(table.sizes)
    path.unlink()
    for broken in ("nowhere", "elsewhere"):
        with pytest.raises(UnreadableSource, match="symlink"):
            seal(tree, path, [ADA.peer_id], symlinks=Symlinks.FOLLOW)
        (tree / broken).unlink()
    selection = Selection(include=("link", "weights.bin"))
    table = seal(tree, path, [ADA.peer_id], symlinks=Symlinks.FOLLOW, selection=selection)
    assert set(table.sizes) == {"link", "weights.bin"}
    assert table.directories == ()
    reader = await open_sealed(Bytes(path.read_bytes()), ADA)
    content = (tree / "weights.bin").read_bytes()
    assert await reader.read(0, len(content), path="link") == content
    path.unlink()
    with pytest.raises(NothingSelected):
        seal(tree, path, [ADA.peer_id], selection=Selection(include=("*.none",)))
    assert not path.exists()


async def test_a_range_is_streamed_from_its_chunks_alone(tmp_path: Path) -> None:
    data = noise(tmp_path / "file", 5 * CHUNK_BYTES + 99)
    seal(tmp_path / "file", tmp_path / "sealed", [ADA.peer_id])
    source = Bytes((tmp_path / "sealed").read_bytes())
    reader = await open_sealed(source, ADA)
    for offset, length in [(0, 0), (0, 1), (CHUNK_BYTES - 100, 300), (7, len(data) - 7)]:
        async with reader.stream(offset, length) as pieces:
            assert b"".join([piece async for piece in pieces]) == data[offset : offset + length]
    with pytest.raises(RangeOutside):
        async with reader.stream(len(data), 1):
            pass


def test_a_file_that_changes_while_it_is_sealed_is_not_sealed(tmp_path: Path) -> None:
    noise(tmp_path / "file", 4 * CHUNK_BYTES)
    for size in (3 * CHUNK_BYTES, 5 * CHUNK_BYTES):

        def change(_done: int, size: int = size) -> None:
            os.truncate(tmp_path / "file", size)

        with pytest.raises(SourceChanged):
            seal(tmp_path / "file", tmp_path / "out", [ADA.peer_id], progress=change)
        assert not (tmp_path / "out").exists()


# --- writing what was sealed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.integers(0, 3), max_size=4))
async def test_an_unsealing_goes_on_where_it_stopped(
    tree: Path, tmp_path: Path, stops: list[int]
) -> None:
    wire = sealed(tree, ADA)
    reader = await open_sealed(Bytes(wire), ADA)
    async with reader.chunks() as chunks:
        plain = [chunk async for chunk in chunks]
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    to = folder / "out"
    for stop in stops:
        with Unsealing(reader.table, to, "tag", overwrite=False) as output:
            for chunk in plain[output.next_chunk :][:stop]:
                output.write(chunk)
            output._save()
    with Unsealing(reader.table, to, "tag", overwrite=False) as output:
        assert output.next_chunk == min(sum(stops), len(plain))
        for chunk in plain[output.next_chunk :]:
            output.write(chunk)
        output.finish()
    assert (to / "weights.bin").read_bytes() == (tree / "weights.bin").read_bytes()
    assert os.listdir(folder) == ["out"]


async def test_what_stands_there_is_not_written_over(tree: Path, tmp_path: Path) -> None:
    reader = await open_sealed(Bytes(sealed(tree, ADA)), ADA)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DestinationTaken):
        Unsealing(reader.table, tmp_path / "out", "tag", overwrite=False)
    assert (tmp_path / "out").read_text() == "mine"
