"""Some files of a directory: what patterns take, and the object that is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lattica.cid import CID, Codec
from lattica.content import (
    NoProvider,
    NothingSelected,
    ObjectState,
    Selection,
    Symlinks,
    UnreadableSource,
    UnsafeName,
    _names,
    build,
    encode_index,
)
from lattica.content._names import check_new_names, check_written_names
from lattica.errors import InvalidInput

from .test_origin import FakeOrigin

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

LEAF = 256 << 10
MODEL = {
    ".gitattributes": 30,
    "config.json": 700,
    "model-00001-of-00002.safetensors": 2 * LEAF + 5,
    "model-00002-of-00002.safetensors": LEAF,
    "original/consolidated.pth": 3 * LEAF,
    "original/params.json": 100,
    "empty": 0,
}


def lay_out(peer: Any, files: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(files.items()):
        peer.file(f"model/{name}", size, seed=number)
    folder: Path = peer.folder / "model"
    return folder


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), {"a.json", "b/c.json", "b/d.bin"}),
        (("*.json",), (), {"a.json", "b/c.json"}),  # `*` matches `/`, as Hugging Face's does
        (("a.*", "b/*"), ("*.bin",), {"a.json", "b/c.json"}),
        (("b/",), (), {"b/c.json", "b/d.bin"}),
        ((), ("b/",), {"a.json"}),
        (("*.JSON",), (), set()),
        (("[ab].json",), (), {"a.json"}),
    ],
)
def test_patterns_take_paths(
    include: tuple[str, ...], exclude: tuple[str, ...], taken: set[str]
) -> None:
    selection = Selection(include, exclude)
    assert {path for path in ("a.json", "b/c.json", "b/d.bin") if selection.takes(path)} == taken


@pytest.mark.parametrize("patterns", [("*",) * 257, ("x" * 1025,), ("",)])
def test_patterns_are_bounded(patterns: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        Selection(include=patterns)


async def test_a_part_is_what_somebody_would_have_who_shared_that_part(
    swarm: Any, autojump_clock: MockClock
) -> None:
    selection = Selection(("*.json", "*-00002-*", ".git*"), ("original/p*",))
    async with swarm.peers(3) as (seed, other, third):
        source = lay_out(seed, MODEL)
        stored = seed.share(source)
        fetched = await other.fetch(stored.root, seed, selection=selection)
        names = {".gitattributes", "config.json", "model-00002-of-00002.safetensors"}
        assert {path.name for path in other.got.rglob("*")} == names
        assert fetched.received_bytes == sum(MODEL[name] for name in names)
        assert fetched.stored.root == build(source, selection=selection).root
        assert fetched.stored.state is ObjectState.COMPLETE
        assert other.store.object(stored.root) is None  # it does not claim to hold all of it
        assert not other.store.verify(fetched.stored.root).damaged_count
        again = await third.fetch(fetched.stored.root, other)
        assert again.received_bytes == fetched.received_bytes


@pytest.mark.parametrize("kind", ["index file", "on this machine"])
async def test_a_part_comes_from_an_origin_where_no_peer_is(
    swarm: Any, autojump_clock: MockClock, kind: str
) -> None:
    selection = Selection(("*-00001-*", "*.json"))
    async with swarm.peers(1) as (peer,):
        source = lay_out(peer, MODEL)
        built = build(source)
        content = {name: (source / name).read_bytes() for name in MODEL}
        origin = FakeOrigin(content, encode_index(built.root, built.index))
        if kind == "on this machine":
            origin = FakeOrigin(content)
            origin.local = source
        fetched = await peer.fetch(built.root, origins=[origin], selection=selection)
        assert fetched.stored.root == build(source, selection=selection).root
        assert {str(path.relative_to(peer.got)) for path in peer.got.rglob("*.*")} == {
            "config.json",
            "model-00001-of-00002.safetensors",
            "original/params.json",
        }
        assert {path for path, _, _ in origin.asked} <= set(MODEL)
        with pytest.raises(NoProvider):
            await peer.fetch(
                CID.of(b"x", Codec.DAG_PB), origins=[origin], selection=selection, patience=1
            )


async def test_everything_selected_is_the_object_itself(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, other):
        stored = seed.share(lay_out(seed, MODEL))
        fetched = await other.fetch(stored.root, seed, selection=Selection(("*",)))
        assert fetched.stored.root == stored.root


async def test_a_part_comes_from_several_and_from_who_holds_the_same_leaves(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(3) as (one, two, other):
        root = one.share(lay_out(one, MODEL)).root
        two.share(lay_out(two, MODEL))
        fetched = await other.fetch(root, one, two, selection=Selection(exclude=("original/",)))
        assert not (other.got / "original").exists()
        assert fetched.received_bytes == sum(
            size for name, size in MODEL.items() if not name.startswith("original")
        )


async def test_a_selection_of_nothing_and_of_a_file_are_refused(
    swarm: Any, autojump_clock: MockClock
) -> None:
    async with swarm.peers(2) as (seed, other):
        root = seed.share(lay_out(seed, MODEL)).root
        with pytest.raises(NothingSelected):
            await other.fetch(root, seed, selection=Selection(("*.gguf",)))
        file = seed.share(seed.file("file", 2 * LEAF)).root
        with pytest.raises(InvalidInput, match="single file"):
            await other.fetch(file, seed, selection=Selection(("*",)))
        with pytest.raises(NoProvider):
            await other.fetch(root, selection=Selection(("*.json",)), patience=1)
        assert not list(other.folder.glob("got*"))


def test_directories_without_a_taken_file_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "top" / "aux" / "deep").mkdir(parents=True)  # a name that would be refused
    (tmp_path / "top" / "aux" / "deep" / "x.bin").write_bytes(b"x")
    (tmp_path / "top" / "kept").mkdir()
    (tmp_path / "top" / "kept" / "y.txt").write_bytes(b"y")
    built = build(tmp_path / "top", selection=Selection(("*.txt",)))
    assert [file.relative for file in built.files] == ["kept/y.txt"]
    with pytest.raises(NothingSelected):
        build(tmp_path / "top", selection=Selection(("*.json",)))


def test_symlinks_are_refused_followed_or_skipped(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "outside").write_bytes(b"outside")
    (top / "link").symlink_to(tmp_path / "outside")
    (top / "loop").symlink_to(top)
    (top / "file").write_bytes(b"file")
    for refusing in (Symlinks.REFUSE, Symlinks.FOLLOW):  # a link to a directory is never followed
        with pytest.raises(UnreadableSource, match="symlink"):
            build(top, symlinks=refusing)
    assert [file.relative for file in build(top, symlinks=Symlinks.SKIP).files] == ["file"]
    followed = build(top, symlinks=Symlinks.FOLLOW, selection=Selection(exclude=("loop",)))
    assert [file.relative for file in followed.files] == ["file", "link"]
    # What is not taken is no reason to refuse.
    assert (
        build(top, selection=Selection(("file",))).root == build(top, symlinks=Symlinks.SKIP).root
    )


# --- names

NEVER_NEW = {
    "CON": "device",
    "nul.txt": "device",
    "Aux.tar.gz": "device",
    "com1": "device",
    "LPT9.bin": "device",
    "com¹": "device",
    "con .txt": "device",
    "dot.": "Windows drops",
    "space ": "Windows drops",
    "photo\u202egpj.exe": r"U\+202E",
    "a\u2066b": r"U\+2066",
    "two\u2028lines": r"U\+2028",
}
FINE = [
    ".gitattributes",
    "console.log",
    "com10",
    "null",
    "model-00001-of-00002.safetensors",
    "2024-01-01T12:00:00.json",
    "naïve.txt",
    "模型.bin",
    "👩\u200d🔬.png",  # a joiner inside an emoji
]


@pytest.mark.parametrize("name", NEVER_NEW)
def test_names_that_are_misread_elsewhere_are_not_shared(tmp_path: Path, name: str) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / name).write_bytes(b"x")
    with pytest.raises(UnsafeName, match=NEVER_NEW[name]) as caught:
        build(tmp_path / "top")
    assert "--exclude" in caught.value.hint
    (tmp_path / "top" / "fine").write_bytes(b"x")
    assert build(tmp_path / "top", selection=Selection(("fine",))).files


@pytest.mark.parametrize(
    ("one", "other"),
    [("README", "readme"), ("é", "e\u0301"), ("\u017f", "S"), ("STRASSE", "straße")],
)
def test_names_that_are_one_on_some_disks_are_not_shared_together(one: str, other: str) -> None:
    with pytest.raises(UnsafeName, match="one name on some systems"):
        check_new_names("here", [one, "between", other])
    check_new_names("here", [one, "between"])


def test_ordinary_names_are_shared_and_written() -> None:
    check_new_names("here", FINE)
    check_written_names([f"deep/{name}" for name in FINE if ":" not in name], windows=True)
    check_written_names(FINE, windows=False)


def test_a_reader_refuses_what_its_own_system_misreads_and_nothing_else() -> None:
    for name, why in NEVER_NEW.items():
        with pytest.raises(UnsafeName):
            check_written_names([f"deep/{name}"], windows=True)
        if why.startswith("U"):
            with pytest.raises(UnsafeName, match=why):
                check_written_names([f"deep/{name}"], windows=False)
        else:
            check_written_names([f"deep/{name}"], windows=False)
    for name in ("a:b", "a?", "<a>", "C:"):
        with pytest.raises(UnsafeName):
            check_written_names([name], windows=True)


async def test_a_deceiving_name_is_not_written_and_can_be_left_out(
    swarm: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm.peers(2) as (seed, other):
        monkeypatch.setattr("lattica.content._build.check_new_names", lambda *_: None)
        stored = seed.share(lay_out(seed, {"photo\u202egpj.exe": 5, "fine": 7}))
        with pytest.raises(UnsafeName, match=r"U\+202E"):
            await other.fetch(stored.root, seed)
        assert not list(other.folder.glob("got*"))
        await other.fetch(stored.root, seed, selection=Selection(exclude=("photo*",)))
        assert [path.name for path in other.got.iterdir()] == ["fine"]


def test_a_folded_name_stands_for_all_that_are_one() -> None:
    assert _names.folded("É") == _names.folded("e\u0301") == _names.folded("E\u0301")
    assert _names.folded("a") != _names.folded("b")
