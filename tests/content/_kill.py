"""A store that is killed at random instants, and what must be true of it every time.

    report = run(folder, kills=200, seed=1)

A child process writes into the store without pause: it shares, copies, fetches, pins, removes, and
makes room. The parent kills it (SIGKILL) at a random instant, opens the store, and holds it against
what it promised: nothing is served that does not hash to its name, what was pinned is there and
sound, the index is sound. Then the next child goes on with what the last one left.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lattica.cid import CID
from lattica.content import Absent, ObjectState, QuotaExceeded, Store, build
from lattica.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LEAF = 256 << 10
_QUOTA = 8 << 20
_FILES = 4  # of the user: shared in place, copied, and fetched


@dataclass
class KillReport:
    """What came of all kills. Everything but the first two counts is to be 0.

    Attributes:
        kills: how often the writer was killed.
        steps: what it had done by then, in all.
        wrong_leaves: leaves that were served and did not match their hash.
        lost_pins: pinned objects that were gone or damaged.
        unsound: objects that claimed to be complete and were not.
        broken: times that the store or its index could not be used.
    """

    kills: int = 0
    steps: int = 0
    wrong_leaves: int = 0
    lost_pins: int = 0
    unsound: int = 0
    broken: int = 0

    @property
    def faults(self) -> int:
        """How many promises were broken."""
        return self.wrong_leaves + self.lost_pins + self.unsound + self.broken


def run(folder: Path, *, kills: int, seed: int) -> KillReport:
    """Kill a writer `kills` times in `folder`, which must be empty, and check after each."""
    chooser = random.Random(seed)
    report = KillReport()
    folder.mkdir(exist_ok=True)
    for number in range(_FILES):
        size = chooser.randrange(3 * LEAF) + 1
        (folder / f"file-{number}").write_bytes(chooser.randbytes(size))
    for kill in range(kills):
        report.steps += _write_until_killed(folder, seed=seed * 1000 + kill, chooser=chooser)
        report.kills += 1
        check(folder, report)
    return report


def _write_until_killed(folder: Path, *, seed: int, chooser: random.Random) -> int:
    """Run a writer and kill it at a random instant; return how many steps it had done."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _Writer(folder, seed).write_for_ever(partial(os.write, writing, b"."))
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must see it and not we
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb", buffering=0) as steps:
        done = len(steps.read(1))  # the store is open: from now on any instant will do
        time.sleep(chooser.random() ** 2 * 0.08)
        os.kill(child, signal.SIGKILL)
        done += len(steps.read() or b"")
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself: see what it printed"
    return done


class _Writer:
    """Does one thing after another to the store, chosen by a seeded random generator."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._chooser = folder, random.Random(seed)
        self._store = Store.open(folder / "store", quota=_QUOTA)
        self._files = [build(folder / f"file-{number}") for number in range(_FILES)]

    def write_for_ever(self, told: Callable[[], object]) -> None:
        once = [self._share, self._copy, self._remove, self._unpin]
        works = [self._add, self._fetch, *once, self._add, self._fetch]
        while True:
            told()
            with suppress(QuotaExceeded):
                self._chooser.choice(works)()

    def _add(self) -> None:
        pinned = self._chooser.random() < 0.3
        data = self._chooser.randbytes(self._chooser.randrange(3 * LEAF))
        stored = self._store.add_bytes(data, name="bytes", pinned=pinned)
        if pinned:
            self._promise(stored.root)

    def _share(self) -> None:
        self._store.add(self._chooser.choice(self._files))

    def _copy(self) -> None:
        self._store.add(self._chooser.choice(self._files), copy=True)

    def _fetch(self) -> None:
        """Receive a file into the store, or to a place of the user; now and then not to the end."""
        built = self._chooser.choice(self._files)
        place = self._store.cache_path(built.root)
        if self._chooser.random() < 0.3:
            place = self._folder / f"got-{self._chooser.randrange(3)}"
            place.unlink(missing_ok=True)
        if os.path.lexists(place):
            return
        with self._store.download(built.root, place) as download:
            for cid, block in built.index.items():
                download.add_index(cid, block)
            download.reserve(built.size)
            part = download.open_part(built.files[0].leaves)
            part.rescan()
            content = built.path.read_bytes()
            for index in list(part.missing()):
                leaf = part.leaves[index]
                part.write(index, [content[leaf.offset : leaf.offset + leaf.length]])
                if self._chooser.random() < 0.1:
                    return
            download.finish()

    def _remove(self) -> None:
        loose = [stored.root for stored in self._store.objects() if not stored.pinned]
        if loose:
            with suppress(InvalidInput, NotFound):
                self._store.remove(self._chooser.choice(loose))

    def _unpin(self) -> None:
        """Let the oldest promise go, so that there is room for others."""
        promised = promises(self._folder)
        if len(promised) > 6:
            root = promised[0]
            _log(self._folder, "-", root)  # first, or a kill would make of it a promise broken
            self._store.pin(root, pinned=False)

    def _promise(self, root: CID) -> None:
        _log(self._folder, "+", root)


def promises(folder: Path) -> list[CID]:
    """Return what was pinned and not let go, by the writers' own account."""
    kept: dict[str, None] = {}
    path = folder / "promises"
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("+"):
            kept[line[1:]] = None
        else:
            kept.pop(line[1:], None)
    return [CID.parse(text) for text in kept]


def _log(folder: Path, sign: str, root: CID) -> None:
    descriptor = os.open(folder / "promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{sign}{root}\n".encode())
    os.close(descriptor)


def check(folder: Path, report: KillReport) -> None:
    """Open the store and count in `report` what is not as it was promised."""
    try:
        with Store.open(folder / "store", quota=_QUOTA) as store:
            store.look()  # the writer deletes files of the user, too, which nobody can promise
            for root in promises(folder):
                if not _is_sound(store, root):
                    report.lost_pins += 1
            for stored in store.objects():
                if stored.state is ObjectState.COMPLETE and not _is_sound(store, stored.root):
                    report.unsound += 1
            report.wrong_leaves += _wrong_leaves(store)
        with closing(sqlite3.connect(folder / "store" / "index.sqlite")) as database:
            sound = database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            broken_links = database.execute("PRAGMA foreign_key_check").fetchall()
            report.broken += (not sound) + bool(broken_links)
    except Exception:  # noqa: BLE001 - a store that cannot be opened is what we count
        traceback.print_exc(file=sys.__stderr__)
        report.broken += 1


def _is_sound(store: Store, root: CID) -> bool:
    return store.object(root) is not None and store.verify(root).damaged_count == 0


def _wrong_leaves(store: Store) -> int:
    """Ask for every leaf that the store knows of, and hash what it serves."""
    rows = store._index._rows("SELECT DISTINCT multihash FROM leaves")
    wrong = 0
    for (multihash,) in rows:
        with store.read_blocks([multihash]) as batch:
            (block,) = batch.blocks
            if not isinstance(block, Absent):
                wrong += not CID(0x55, multihash).matches(block)
    return wrong
