"""A file from one node to a file of another, encrypted and verified leaf by leaf."""

from __future__ import annotations

import shutil
from collections import defaultdict
from contextlib import ExitStack

from ._content import MIB, getting, make_file, sharing, workspace
from ._report import Report
from ._rounds import FOREIGN, ssl_baseline, tell
from ._worker import ROOT, role, worker
from .roles.curl import find_nginx

GRADIENT_BLOCK = 64 * MIB


def run(*, quick: bool, peers: bool) -> Report:
    """Measure `get` beside `ssl` sockets, and `curl` from `nginx` where those are installed.

    With `peers`, beside Gradient's Lattica `get_block` as well.
    """
    report = Report("fetch")
    size, rounds = (256 * MIB, 5) if quick else (1024 * MIB, 9)
    figures: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = stack.enter_context(workspace())
        make_file(folder / "original", size)
        seed = stack.enter_context(sharing(folder / "original", folder / "seed"))
        drivers = {"fetch": stack.enter_context(getting(seed.ready, folder / "getter"))}
        ssl = ssl_baseline(size)
        ssl_server = stack.enter_context(worker(ssl.serve))
        ssl_command = [*ssl.drive, ssl_server.ready, *ssl.arguments]
        drivers["ssl"] = stack.enter_context(worker(ssl_command))
        if find_nginx() is None or shutil.which("curl") is None:
            report.notes.append("curl over TLS is left out: install the packages nginx and curl")
        else:
            nginx = stack.enter_context(worker(role("curl", "serve", folder / "original")))
            curl = role("curl", "drive", nginx.ready, folder / "curl-copy")
            drivers["curl"] = stack.enter_context(worker(curl))
        if peers and (command := _gradient(report)):
            drivers["gradient"] = stack.enter_context(worker(command))
        # Memory that a virtual machine touches for the first time comes from its host, slowly. The
        # page cache of one copy is enough for all that follow.
        tell("one fetch to warm up")
        drivers["fetch"].run()
        for number in range(rounds):
            for name, driver in drivers.items():
                tell(f"round {number + 1} of {rounds}: {name}")
                for figure, value in driver.run().items():
                    figures[name if figure == "mb_per_s" else f"{name}_{figure}"].append(value)
    for name in ("fetch", "ssl", "curl", "gradient"):
        report.add(name, "MB/s", figures[name])
    report.add("receiver_cpu", "s/GB", figures["fetch_cpu_s_per_gb"])
    report.compare("fetch_vs_ssl", "fetch", "ssl")
    report.compare("fetch_vs_curl", "fetch", "curl")
    report.compare("fetch_vs_gradient", "fetch", "gradient")
    report.targets = {
        "fetch_vs_ssl": (">=", 0.33),
        "fetch_vs_curl": (">=", 0.9),
        "fetch_vs_gradient": (">=", 2),
    }
    return report


def _gradient(report: Report) -> list[str] | None:
    python = FOREIGN / "rust" / "bin" / "python"
    if not python.exists():
        report.notes.append("Gradient's Lattica is not installed: run `make interop` once")
        return None
    if shutil.which("unshare") is None:
        report.notes.append("Gradient's Lattica is left out: no `unshare` to keep it on loopback")
        return None
    script = ROOT / "benchmarks" / "roles" / "gradient.py"
    inside = f"ip link set lo up && exec {python} -P {script} {GRADIENT_BLOCK}"
    return ["unshare", "--net", "--map-root-user", "sh", "-c", inside]
