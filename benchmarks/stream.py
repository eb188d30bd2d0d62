"""Bytes through one stream of one connection, two processes, 1 MiB writes, acknowledged."""

from __future__ import annotations

from ._report import Report
from ._rounds import FOREIGN, Contender, measure, pylibp2p_python, ssl_baseline
from ._worker import role

MIB = 1 << 20


def run(*, quick: bool, peers: bool) -> Report:
    """Measure Noise and TLS beside `ssl` sockets, py-libp2p and, with `peers`, go-libp2p.

    go-libp2p runs as two `p2pd` daemons; the local sockets that feed them are in its figure.
    """
    report = Report("stream")
    size = (256 if quick else 1024) * MIB
    contenders = [
        ssl_baseline(size),
        _ours("noise", "/noise", size),
        _ours("tls", "/tls/1.0.0", size),
    ]
    # The slow ones get less to carry: what is compared are rates.
    small = str(size // 8)
    if python := pylibp2p_python():
        serve, drive = (role("pylibp2p", word, python=python) for word in ("serve", "drive"))
        contenders.append(Contender("pylibp2p", serve, drive, [small]))
    else:
        report.notes.append("py-libp2p is not installed: run `make setup` with a compiler present")
    if peers and (FOREIGN / "go" / "p2pd").exists():
        contenders.append(Contender("go", role("go", "serve"), role("go", "drive"), [small]))
    elif peers:
        report.notes.append("go-libp2p is not installed: run `make interop` once")

    figures = measure(contenders, rounds=3 if quick else 7)
    for contender in contenders:
        report.add(contender.name, "MB/s", figures[contender.name]["mb_per_s"])
    for name in ("noise", "tls"):
        report.add(f"{name}_sender_cpu", "s/GB", figures[name]["cpu_s_per_gb"])
    report.compare("noise_vs_ssl", "noise", "ssl")
    report.compare("tls_vs_ssl", "tls", "ssl")
    report.compare("noise_vs_pylibp2p", "noise", "pylibp2p")
    report.compare("noise_vs_go", "noise", "go")
    report.targets = {
        "noise_vs_ssl": (">=", 0.65),
        "tls_vs_ssl": (">=", 0.45),
        "noise_vs_pylibp2p": (">=", 4),
        "noise_vs_go": (">=", 2),
    }
    return report


def _ours(name: str, security: str, size: int) -> Contender:
    drive = role("mesh", "upload", security)
    return Contender(name, role("mesh", "serve", security), drive, [str(size)])
