"""A process that is killed at any step leaves a store that is sound and can go on.

Each test runs its work in a child process that kills itself (SIGKILL) right before its n-th step,
for every n until the work comes to its end. Steps are what changes the disk: transactions,
and calls of the operating system.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import traceback
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from lattica.cid import CID
from lattica.content import Absent, ObjectState, Segment, Store, build
from lattica.content._dag import SMALL_LEAF
from lattica.content._index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lattica.content import Built
    from lattica.content._transaction import Transaction

_STEPS = ("link", "rename", "replace", "unlink", "fsync", "ftruncate", "pwritev", "open", "mkdir")


def run_until_step(work: Callable[[], None], step: int) -> bool:
    """Run `work` in a child that dies before its `step`-th step. True: it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _die_at(step)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must see it and not we
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def _die_at(step: int) -> None:
    left = step

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*values: object, **options: object) -> object:
            count()
            return real(*values, **options)

        return call

    for name in _STEPS:
        setattr(os, name, counted(getattr(os, name)))
    begin = Index.writing

    @contextmanager
    def writing(index: Index) -> Iterator[Transaction]:
        count()
        with begin(index) as transaction:
            yield transaction
            count()  # all is written, and not committed

    Index.writing = writing  # type: ignore[method-assign, assignment]


def check(path: Path) -> None:
    """Hold the store against what must be true after any kill."""
    with Store.open(path) as store:
        for stored in store.objects():
            if stored.state is not ObjectState.PARTIAL:
                assert store.verify(stored.root).damaged_count == 0
    with closing(sqlite3.connect(path / "index.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        owned = database.execute("SELECT path FROM sources WHERE owned = 1").fetchall()
        assert {os.fsencode(file) for file in (path / "files").iterdir()} == {
            row[0] for row in owned
        }
        stray = "SELECT count(*) FROM sources WHERE id NOT IN (SELECT source FROM files)"
        assert database.execute(stray).fetchone() == (0,)


def kill_at_every_step(path: Path, work: Callable[[], None], *, every: int = 1) -> int:
    """Run `work` over and over on what the last kill left, dying a step later each time."""
    for step in range(1, 2000, every):
        done = run_until_step(work, step)
        check(path)
        if done:
            return step
    pytest.fail("the work did not come to its end")


@pytest.fixture
def source(tmp_path: Path) -> Built:
    path = tmp_path / "elsewhere"
    path.write_bytes(os.urandom(3 * SMALL_LEAF + 5))
    return build(path, segments=[Segment(5, 1, "head"), Segment(3 * SMALL_LEAF, 2, "body")])


def test_sharing_in_place_is_all_or_nothing(
    tmp_path: Path, source: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.content._adding._LEAF_ROWS", 2)

    def work() -> None:
        with Store.open(tmp_path / "store") as store:
            store.add(source)

    assert kill_at_every_step(tmp_path / "store", work) > 10
    with Store.open(tmp_path / "store") as store:
        [stored] = store.objects()
        assert stored.state is ObjectState.COMPLETE
        assert len(store.named(source.root)) == 2


def test_keeping_bytes_in_the_store_is_all_or_nothing(tmp_path: Path, source: Built) -> None:
    def work() -> None:
        with Store.open(tmp_path / "store") as store:
            store.add_bytes(b"some bytes", name="bytes")
            store.add(source, copy=True)

    assert kill_at_every_step(tmp_path / "store", work) > 15


def test_removing_is_all_or_nothing(tmp_path: Path, source: Built) -> None:
    with Store.open(tmp_path / "store") as store:
        store.add(source)
        kept = store.add_bytes(b"some bytes", name="bytes")

    def work() -> None:
        with Store.open(tmp_path / "store") as store:
            store.remove(kept.root)
            store.remove(source.root)
            assert store.objects() == []

    kill_at_every_step(tmp_path / "store", work)
    assert source.path.exists()


def receive(store_path: Path, source: Built, destination: Path) -> None:
    """Get a file as a fetch does, resuming what is there; ends with it at `destination`."""
    with Store.open(store_path) as store:
        stored = store.object(source.root)
        if stored is not None and stored.state is ObjectState.COMPLETE:
            assert stored.path == destination
            return
        data = source.path.read_bytes()
        with store.download(source.root, destination) as download:
            for cid, block in source.index.items():
                download.add_index(cid, block)
            part = download.open_part(source.files[0].leaves)
            part.rescan()
            for index in list(part.missing()):
                leaf = source.files[0].leaves[index]
                part.write(index, [data[leaf.offset : leaf.offset + leaf.length]])
            download.finish()


def test_receiving_goes_on_from_wherever_it_was_killed(tmp_path: Path, source: Built) -> None:
    destination = tmp_path / "out" / "model.bin"
    steps = kill_at_every_step(
        tmp_path / "store", lambda: receive(tmp_path / "store", source, destination)
    )
    assert steps > 15
    assert destination.read_bytes() == source.path.read_bytes()
    assert os.listdir(destination.parent) == ["model.bin"]


def test_a_fresh_download_survives_a_kill_at_each_of_its_steps(
    tmp_path: Path, source: Built
) -> None:
    # Above, each run starts from what the last one left; here each starts from nothing.
    for step in range(1, 200):
        home = tmp_path / str(step)
        home.mkdir()

        def work(home: Path = home) -> None:
            receive(home / "store", source, home / "out")

        done = run_until_step(work, step)
        check(home / "store")
        work()
        assert (home / "out").read_bytes() == source.path.read_bytes()
        assert sorted(os.listdir(home)) == ["out", "store"]
        check(home / "store")
        if done:
            return
    pytest.fail("the work did not come to its end")


def test_discarding_leaves_nothing_or_a_download_to_discard(tmp_path: Path, source: Built) -> None:
    with Store.open(tmp_path / "store") as store:
        with store.download(source.root, tmp_path / "out") as download:
            download.open_part(source.files[0].leaves)

    def work() -> None:
        with Store.open(tmp_path / "store") as store:
            if store.objects():
                store.download(source.root, tmp_path / "out").discard()
            assert store.objects() == []

    kill_at_every_step(tmp_path / "store", work)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "store"]


def test_a_user_file_that_takes_the_inode_of_a_part_file_is_not_taken_for_it(
    tmp_path: Path, source: Built
) -> None:
    with Store.open(tmp_path / "store") as store:
        with store.download(source.root, tmp_path / "out") as download:
            download.open_part(source.files[0].leaves)
    download.part_path.rename(tmp_path / "out")
    with Store.open(tmp_path / "store") as store:
        stored = store.object(source.root)
        assert stored is not None
        assert stored.state is ObjectState.PARTIAL


def test_what_was_read_before_a_kill_is_read_after_it(tmp_path: Path, source: Built) -> None:
    with Store.open(tmp_path / "store") as store:
        store.add(source)

    def work() -> None:
        with Store.open(tmp_path / "store") as store:
            store.add_bytes(b"more", name="more")
            os.kill(os.getpid(), signal.SIGKILL)

    assert not run_until_step(work, 10_000)
    with Store.open(tmp_path / "store") as store:
        multihashes = [leaf.multihash for leaf in source.files[0].leaves]
        with store.read_blocks([*multihashes, CID.of(b"more").multihash]) as batch:
            assert not any(isinstance(block, Absent) for block in batch.blocks)
