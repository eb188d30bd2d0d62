"""One file among many nodes: eight receivers and one seed, four providers and a fifth, loopback."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from . import _network
from ._content import MIB, make_file, workspace
from ._report import Report
from ._rounds import FOREIGN, tell
from ._worker import ROOT, Worker, max_up, role, worker

if TYPE_CHECKING:
    from pathlib import Path

RATE = 10e6  # bytes a second of each link, each way
RECEIVERS = 8
LOOPBACK_RECEIVERS = 3
LIMIT = 5e6  # bytes a second that a provider may send
_JOINS_AFTER_S = 1.0


def run(*, quick: bool, peers: bool) -> Report:
    """Measure how long a crowd takes, and what it costs the seed."""
    report = Report("swarm")
    with workspace() as folder:
        make_file(folder / "small", (48 if quick else 256) * MIB)
        make_file(folder / "large", (160 if quick else 512) * MIB)
        if why := _network.why_not():
            report.notes.append(why)
        else:
            _crowd(report, folder)
            _providers(report, folder)
        _limited(report, folder, seconds=5 if quick else 20)
        _loopback(report, folder, rounds=1 if quick else 5, peers=peers)
    report.targets = {
        "seed8_time_vs_one": ("<=", 2.5),
        "seed8_copies": ("<=", 2),
        "four_providers_vs_limit": (">=", 0.8),
        "fifth_used_after": ("<=", 3),
        "swarm3_vs_libtorrent": (">=", 1),
        "limit_missed_by": ("<=", 0.1),
        "ping_at_limit_p99": ("<=", 100),
    }
    return report


def _crowd(report: Report, folder: Path) -> None:
    """One transfer alone, then eight at once, from one seed; every link has the same rate."""
    path = folder / "small"
    size = path.stat().st_size
    with (
        _network.machines([RATE] * (RECEIVERS + 2)) as (first, alone, *others),
        ExitStack() as stack,
    ):
        seed = _start(stack, first, "share", folder / "seed", path)
        tell("one receiver")
        with ExitStack() as for_one:
            one = _get(for_one, alone, folder / "alone", seed.ready["ticket"])
            seconds = one.run()["seconds"]
        sent = seed.run()["sent"]
        tell(f"{RECEIVERS} receivers")
        crowd = [
            _get(stack, machine, folder / f"crowd-{number}", seed.ready["ticket"])
            for number, machine in enumerate(others)
        ]
        all_seconds = max(figures["seconds"] for figures in _run_all(crowd))
        copies = (seed.run()["sent"] - sent) / size
    report.add("one_transfer", "s", [seconds])
    report.add("eight_transfers", "s", [all_seconds])
    report.ratios["seed8_time_vs_one"] = all_seconds / seconds
    report.ratios["seed8_copies"] = copies


def _providers(report: Report, folder: Path) -> None:
    """Four providers of limited links and one receiver without a limit; a fifth comes later."""
    path = folder / "large"
    with _network.machines([RATE] * 5 + [None]) as made, ExitStack() as stack:
        *shares, getter = made
        providers: list[Worker] = []
        for number, machine in enumerate(shares[:4]):
            bootstrap = [provider.ready["at"] for provider in providers[:1]]
            home = folder / f"provider-{number}"
            providers.append(_start(stack, machine, "share", home, path, *bootstrap))
        cid, bootstrap = providers[0].ready["cid"], [providers[0].ready["at"]]
        tell("four providers")
        figures = _get(stack, getter, folder / "of-four", cid, *bootstrap).run()
        tell("four providers and a fifth")
        again = _get(stack, getter, folder / "of-five", cid, *bootstrap)
        again.tell_to_run()
        time.sleep(_JOINS_AFTER_S)
        started = time.perf_counter()
        fifth = _start(stack, shares[4], "share", folder / "provider-4", path, *bootstrap)
        joined = _JOINS_AFTER_S + time.perf_counter() - started
        used = again.read()["first"]
        del fifth
    rate = figures["size"] / figures["seconds"]
    report.add("four_providers", "MB/s", [rate / 1e6])
    report.ratios["four_providers_vs_limit"] = rate / (4 * RATE)
    if len(used) == 5:
        report.add("fifth_used_after", "s", [max(0.0, used[-1] - joined)])
    else:
        report.notes.append(f"the fifth provider was not used: {len(used)} were")


def _limited(report: Report, folder: Path, *, seconds: int) -> None:
    """One provider that may send so much in a second, and pings to it meanwhile."""
    tell(f"a provider with --max-up {LIMIT / 1e6:.0f}M, for {seconds} s")
    share = _role("share", folder / "limited", "127.0.0.1", folder / "large")
    with max_up(f"{LIMIT / 1e6:.0f}M"), worker(share) as seed:
        get = _role("watch", folder / "watch", "127.0.0.1", seed.ready["ticket"], str(seconds))
        with worker(get) as getter:
            figures = getter.run()
    trips = sorted(figures["trips_ms"])
    report.add("limited", "MB/s", [figures["rate"] / 1e6])
    report.add("ping_at_limit_p99", "ms", [trips[int(0.99 * (len(trips) - 1))]])
    report.ratios["limit_missed_by"] = abs(figures["rate"] / LIMIT - 1)


def _loopback(report: Report, folder: Path, *, rounds: int, peers: bool) -> None:
    """One seed and three receivers as fast as they go, beside libtorrent."""
    path = folder / "large"
    size = path.stat().st_size
    ours: list[float] = []
    theirs: list[float] = []
    foreign = _torrent(report, path, folder) if peers else None
    for number in range(rounds):
        tell(f"loopback, round {number + 1} of {rounds}")
        with ExitStack() as stack:
            seed = stack.enter_context(worker(_role("share", folder / "loop", "127.0.0.1", path)))
            homes = [folder / f"loop-{each}" for each in range(LOOPBACK_RECEIVERS)]
            for home in homes:  # as libtorrent's are: memory that was never used is slow
                shutil.rmtree(home, ignore_errors=True)
            receivers = [
                stack.enter_context(worker(_role("get", home, "127.0.0.1", seed.ready["ticket"])))
                for home in homes
            ]
            seconds = max(figures["seconds"] for figures in _run_all(receivers))
            ours.append(LOOPBACK_RECEIVERS * size / seconds / 1e6)
        if foreign is not None:
            tell(f"libtorrent, round {number + 1} of {rounds}")
            with worker(foreign) as torrent:
                theirs.append(LOOPBACK_RECEIVERS * size / torrent.run()["seconds"] / 1e6)
    report.add("swarm3", "MB/s", ours)
    report.add("libtorrent3", "MB/s", theirs)
    report.compare("swarm3_vs_libtorrent", "swarm3", "libtorrent3")


def _torrent(report: Report, path: Path, folder: Path) -> list[str] | None:
    python = FOREIGN / "torrent" / "bin" / "python"
    if not python.exists():
        report.notes.append("libtorrent is not installed: run `make interop` once")
        return None
    script = ROOT / "benchmarks" / "roles" / "torrent.py"
    return [str(python), str(script), str(path), str(folder), str(LOOPBACK_RECEIVERS)]


def _role(what: str, home: Path, ip: str, ref: object, *bootstrap: str) -> list[str]:
    return role("swarm", what, home, ip, ref, *bootstrap)


def _start(
    stack: ExitStack, machine: _network.Machine, what: str, home: Path, ref: object, *bootstrap: str
) -> Worker:
    command = machine.command(_role(what, home, machine.ip, ref, *bootstrap))
    return stack.enter_context(worker(command))


def _get(
    stack: ExitStack, machine: _network.Machine, home: Path, ref: str, *bootstrap: str
) -> Worker:
    return _start(stack, machine, "get", home, ref, *bootstrap)


def _run_all(workers: list[Worker]) -> list[dict[str, float]]:
    for each in workers:
        each.tell_to_run()
    return [each.read() for each in workers]
