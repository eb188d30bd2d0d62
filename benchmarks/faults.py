"""What goes wrong on purpose: lying, broken and killed peers, counted by what came of it."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lattica.testing.providers import MISDEEDS, after, at, wrong_leaf

from ._content import MIB, make_file, workspace
from ._report import Report
from ._rounds import tell
from ._swarms import Outcome, damaged_and_repaired, lone_liar, one_bad_of_five
from ._worker import ROOT, Worker, WorkerFailed, max_up, role, worker

if TYPE_CHECKING:
    from pathlib import Path

LEAVES = 80
_CROWD_LEAVES = 240  # 60 MB; a liar wastes the 1.5 MB that are on their way, whatever the size
_MAX_UP = "40M"  # so that there is time to kill somebody half-way
_DEADLINE_S = 60.0


@dataclass
class _Row:
    """All runs of one kind of fault."""

    runs: int = 0
    wrong: int = 0
    hangs: int = 0
    wasted: list[float] = field(default_factory=list)
    unnamed: int = 0
    again: int = 0

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.wrong += outcome.wrong_bytes
        self.hangs += outcome.hung
        self.wasted.append(outcome.wasted)
        self.unnamed += not outcome.named
        self.again += outcome.again


def run(*, quick: bool, peers: bool) -> Report:
    """Try every fault; wrong bytes and hangs are to be 0, and little is to be wasted."""
    del peers
    report = Report("faults")
    rows: dict[str, _Row] = defaultdict(_Row)
    with workspace() as folder:
        _lies(rows["lie"], folder, runs=3 if quick else 40)
        for seed in range(1 if quick else 5):
            tell(f"one bad provider of five, seed {seed}")
            for name, misdeed in MISDEEDS.items():
                honest = random.Random(f"{seed} {name}").randrange(_CROWD_LEAVES // 5)
                place = folder / f"bad-{seed}-{name.replace(' ', '-')}"
                outcome = one_bad_of_five(place, after(honest, misdeed), _CROWD_LEAVES, seed)
                rows["one_bad_of_five"].add(outcome)
        _kills(rows, folder, size=(64 if quick else 256) * MIB, runs=1 if quick else 5)
        _repairs(rows["damaged"], folder, runs=3 if quick else 40)
        _store_kills(report, folder, kills=25 if quick else 200)
    for name, row in rows.items():
        report.add(f"{name}_runs", "runs", [row.runs])
        report.add(f"{name}_wrong", "bytes", [row.wrong])
        report.add(f"{name}_hangs", "runs", [row.hangs])
        report.add(f"{name}_wasted", "of the object", [max(row.wasted)])
        report.targets |= {f"{name}_wrong": ("<=", 0), f"{name}_hangs": ("<=", 0)}
    report.add("lie_unnamed", "runs", [rows["lie"].unnamed])
    report.add("damaged_unnoticed", "runs", [rows["damaged"].unnamed])
    for name in ("receiver_killed", "sender_killed", "damaged"):
        report.add(f"{name}_fetched_again", "bytes", [rows[name].again])
        report.targets[f"{name}_fetched_again"] = ("<=", 0)
    report.targets |= {
        "lie_unnamed": ("<=", 0),
        "damaged_unnoticed": ("<=", 0),
        "lie_wasted": ("<=", 1 / LEAVES),  # what is kept past the wrong leaf
        "one_bad_of_five_wasted": ("<=", 0.05),
        "receiver_killed_wasted": ("<=", 0.25),  # what was in flight to a process that died
        "sender_killed_wasted": ("<=", 0.25),
        "store_kills_faults": ("<=", 0),
    }
    return report


def _lies(row: _Row, folder: Path, *, runs: int) -> None:
    tell(f"a wrong leaf half-way and elsewhere, {runs} times")
    for seed in range(runs):
        wrong = LEAVES // 2 if seed == 0 else random.Random(seed).randrange(LEAVES)
        misdeed = at(wrong, wrong_leaf)
        row.add(lone_liar(folder / f"lie-{seed}", misdeed, wrong, LEAVES, seed))


def _kills(rows: dict[str, _Row], folder: Path, *, size: int, runs: int) -> None:
    """Kill the receiver, or the sender, when 60 % are over.

    What is wasted is what was in flight when it died: nothing that was verified and kept is fetched
    again.
    """
    make_file(folder / "original", size)
    for number in range(runs):
        for who in ("receiver", "sender"):
            tell(f"kill the {who}, {number + 1} of {runs}")
            home = folder / f"{who}-{number}"
            rows[f"{who}_killed"].add(_killed(who, folder / "original", home))


def _killed(who: str, path: Path, home: Path) -> Outcome:
    size = path.stat().st_size
    with max_up(_MAX_UP), worker(_role("share", home / "seed", "127.0.0.1:0", path)) as seed:
        ticket, port = seed.ready["ticket"], seed.ready["at"].split("/")[4]
        get = _role("get", home / "got", "127.0.0.1:0", ticket)
        sent = 0.0
        with worker(get) as getter:
            getter.tell_to_run()
            while sent < 0.6 * size:
                time.sleep(0.01)
                sent = seed.run()["sent"]
            os.kill((getter if who == "receiver" else seed).pid, signal.SIGKILL)
            if who == "sender":
                again = _role("share", home / "seed", f"127.0.0.1:{port}", path)
                with worker(again) as second:
                    figures = _read(getter)
                    total = sent + second.run()["sent"]
        if who == "receiver":
            with worker(get) as getter:
                getter.tell_to_run()
                figures = _read(getter)
                total = seed.run()["sent"]
    copy = home / "got" / "copy"
    wrong = size if copy.exists() and copy.read_bytes() != path.read_bytes() else 0
    began, received = figures.get("began", 0), figures.get("received", 0)
    wasted = max(0.0, total - size) / size
    return Outcome(wrong, not figures, wasted, again=max(0, began + received - size))


def _repairs(row: _Row, folder: Path, *, runs: int) -> None:
    tell(f"damage on disk and mend it, {runs} times")
    for seed in range(runs):
        row.add(damaged_and_repaired(folder / f"damaged-{seed}", LEAVES, seed))


def _read(getter: Worker) -> dict[str, Any]:
    """What a get came to; {} if it did not end in time."""
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, _DEADLINE_S)
    try:
        return getter.read()
    except (TimeoutError, WorkerFailed):
        return {}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_late(_number: int, _frame: object) -> None:
    raise TimeoutError


def _role(what: str, home: Path, ip: str, ref: object) -> list[str]:
    return role("swarm", what, home, ip, ref)


def _store_kills(report: Report, folder: Path, *, kills: int) -> None:
    """Kill a process that writes into a store, and hold the store against its promises."""
    tell(f"{kills} kills of a process that writes into a store")
    harness = ROOT / "tests" / "content" / "_kill.py"
    spec = importlib.util.spec_from_file_location("store_kills", harness)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    came_of_it = module.run(folder / "killed-store", kills=kills, seed=1)
    report.add("store_kills", "kills", [came_of_it.kills])
    report.add("store_kills_faults", "promises broken", [came_of_it.faults])
