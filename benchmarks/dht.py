"""The DHT: simulated up to 10 000 nodes, and as real processes beside hivemind's and Lattica's."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ._plot import Line, plot
from ._report import Report
from ._rounds import FOREIGN, tell
from ._worker import ROOT, role, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES, QUICK_SIZES = (100, 1000, 10_000), (100, 300, 1000)
HIVEMIND_PYTHON = FOREIGN / "hivemind" / "bin" / "python"
GRADIENT_PYTHON = FOREIGN / "rust" / "bin" / "python"


def run(*, quick: bool, peers: bool) -> Report:
    """Measure simulated networks of growing size, hostile ones, and real processes."""
    report = Report("dht")
    simulated = _simulate(quick=quick)
    _note_growth(report, simulated["growth"])
    if not quick:
        _draw(simulated["growth"])
    _note_trouble(report, simulated["trouble"])
    for nodes in (8,) if quick else (8, 32):
        _measure_processes(report, nodes, rounds=3 if quick else 5, quick=quick, peers=peers)
    report.targets |= {
        "hops_growth_per_doubling": ("<=", 1.0),
        "dead_40_success": (">=", 0.95),
        "dead_40_values_success": (">=", 0.95),
        "hostile_20_success": (">=", 0.99),
        "hostile_20_values_success": (">=", 0.99),
        "hostile_20_providers_success": (">=", 0.99),
        "poisoned_8_of_20_success": (">=", 0.99),
        "sybils_200_success": (">=", 0.95),
        "sybils_200_most_in_a_bucket": ("<=", 2),
        "eclipse_success": (">=", 0.99),
        "hivemind_put_vs_ours": (">=", 4),
        "hivemind_get_vs_ours": (">=", 4),
        "gradient_put_vs_ours": (">=", 1),
        "gradient_get_vs_ours": (">=", 1),
    }
    return report


# Simulated.


def _simulate(*, quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Run all simulations, two processes at a time; the largest begins first."""
    sizes = QUICK_SIZES if quick else SIZES
    tasks = [("growth", str(nodes), ["growth", str(nodes)]) for nodes in reversed(sizes)]
    names = ["dead_40", "hostile_20", "poisoned", "sybils", "eclipse"]
    names += [] if quick else ["dead_20", "hostile_40"]
    tasks += [("trouble", name, [name, "200" if quick else "1000"]) for name in names]
    found: dict[str, dict[str, dict[str, float]]] = {"growth": {}, "trouble": {}}
    with ThreadPoolExecutor(2) as pool:
        running = [
            (group, name, pool.submit(_simulation, [*arguments, "quick" if quick else "full"]))
            for group, name, arguments in tasks
        ]
        for group, name, future in running:
            found[group][name] = future.result()
    return found


def _simulation(arguments: Sequence[str]) -> dict[str, float]:
    tell(f"simulating {' '.join(arguments)}")
    command = role("simulated_dht", *arguments)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _note_growth(report: Report, growth: dict[str, dict[str, float]]) -> None:
    sizes = sorted(int(size) for size in growth)
    units = {
        "hops": "hops",
        "requests": "requests",
        "success": "",
        "bytes_per_hour": "bytes",
        "messages_per_hour": "messages",
        "memory_kib": "KiB",
        "events_per_s": "1/s",
    }
    for nodes in sizes:
        for name, unit in units.items():
            if name in growth[str(nodes)]:
                report.add(f"{name}_{nodes}", unit, [growth[str(nodes)][name]])
    report.notes.append(
        "bytes and messages an hour: what a node at rest sends, and has others send, from two and "
        "a half hours after its start; it looks after its table, and provides ten keys"
    )
    for name in ("hops", "requests"):
        values = [growth[str(nodes)][name] for nodes in sizes]
        slope, start, residual = fit_log2(sizes, values)
        report.add(f"{name}_growth_per_doubling", "", [slope])
        report.notes.append(
            f"{name} = {slope:.2f} · log2 n {start:+.2f}, largest residual {residual:.2f}"
        )


def fit_log2(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float, float]:
    """Return a, b of the line a · log2 n + b nearest to the values, and the largest distance."""
    logs = [math.log2(size) for size in sizes]
    slope, start = statistics.linear_regression(logs, values)
    residuals = [abs(slope * log + start - value) for log, value in zip(logs, values, strict=True)]
    return slope, start, max(residuals)


def _note_trouble(report: Report, trouble: dict[str, dict[str, float]]) -> None:
    names = {"poisoned": "poisoned_8_of_20", "sybils": "sybils_200"}
    for name, figures in trouble.items():
        for figure, value in figures.items():
            if figure.endswith(("success", "most_in_a_bucket")):
                report.add(f"{names.get(name, name)}_{figure}", "", [value])


def _draw(growth: dict[str, dict[str, float]]) -> None:
    """Draw how lookups grow, beside the lines that were fitted."""
    sizes = sorted(int(size) for size in growth)
    lines = []
    for name, label in (("hops", "steps"), ("requests", "requests")):
        values = [growth[str(nodes)][name] for nodes in sizes]
        slope, start, _ = fit_log2(sizes, values)
        fitted = [slope * math.log2(size) + start for size in sizes]
        lines += [Line(label, sizes, values)]
        lines += [Line(f"{slope:.2f} · log2 n {start:+.2f}", sizes, fitted)]
    plot(
        "dht",
        lines,
        title="What a lookup costs as the network grows",
        x_label="simulated nodes",
        y_label="per lookup",
        log_x=True,
        log_y=True,
    )


# Real processes.


def _measure_processes(
    report: Report, nodes: int, *, rounds: int, quick: bool, peers: bool
) -> None:
    """Put from one node and get from another, each system in turn, round by round."""
    count = "30" if quick else "100"
    commands: dict[str, list[str]] = {"ours": role("dht", "swarm", nodes, count)}
    if peers:
        commands |= _foreign(report, str(nodes), count)
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for name, command in commands.items():
        # One system at a time: dozens of idle nodes of another would take part of the machine.
        with worker(command) as running:
            for number in range(rounds):
                tell(f"{nodes} nodes, round {number + 1} of {rounds}: {name}")
                figures[name].append(running.run())
    for name, rows in figures.items():
        for figure in rows[0]:
            report.add(f"{name}_{nodes}_{figure}", "ms", [row[figure] for row in rows])
    suffix = "" if nodes == 8 else f"_{nodes}"
    for name in figures.keys() - {"ours"}:
        for what in ("put", "get"):
            report.compare(
                f"{name}_{what}_vs_ours{suffix}",
                f"{name}_{nodes}_{what}_p50_ms",
                f"ours_{nodes}_{what}_p50_ms",
            )


def _foreign(report: Report, nodes: str, count: str) -> dict[str, list[str]]:
    commands = {}
    roles = ROOT / "benchmarks" / "roles"
    if HIVEMIND_PYTHON.exists():
        script = str(roles / "hivemind_dht.py")
        commands["hivemind"] = [str(HIVEMIND_PYTHON), "-P", script, nodes, count]
    else:
        note = "hivemind is left out: `python tests/interop/install_peers.py hivemind` sets it up"
        report.notes.append(note)
    if not GRADIENT_PYTHON.exists():
        report.notes.append("Gradient's Lattica is not installed: run `make interop` once")
    elif shutil.which("unshare") is None:
        report.notes.append("Gradient's Lattica is left out: no `unshare` to keep it on loopback")
    else:
        script = str(roles / "gradient_dht.py")
        inside = f"ip link set lo up && exec {GRADIENT_PYTHON} -P {script} swarm {nodes} {count}"
        commands["gradient"] = ["unshare", "--net", "--map-root-user", "sh", "-c", inside]
    return commands
