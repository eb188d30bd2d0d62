"""Latency on loopback: dial to the first answered byte, and requests of 128 bytes."""

from __future__ import annotations

from ._report import Report
from ._rounds import Contender, measure
from ._worker import role


def run(*, quick: bool, peers: bool) -> Report:
    """Measure dials and requests over Noise and TLS; the names without a prefix are Noise's."""
    del peers  # each foreign implementation's own figures depend on its own client
    report = Report("connect")
    count = "30" if quick else "100"
    contenders = [
        Contender(
            name,
            role("mesh", "serve", security),
            role("mesh", "connect", security),
            [count],
        )
        for name, security in (("noise", "/noise"), ("tls", "/tls/1.0.0"))
    ]
    figures = measure(contenders, rounds=3 if quick else 7)
    for name, prefix in (("noise", ""), ("tls", "tls_")):
        for figure, values in figures[name].items():
            report.add(prefix + figure, "ms", values)
    report.targets = {
        "connect_ms": ("<=", 10),
        "request_open_ms": ("<=", 0.3),
        "request_new_ms": ("<=", 0.6),
    }
    return report
