"""Machines on links of a given rate: network namespaces of Linux, bridged, shaped with `tc tbf`.

Nothing of the host's own network is touched. Needs root, `ip` and `tc`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BURST_KB, _QUEUE_MS = 128, 50


def why_not() -> str:
    """Say what is missing to make such links; "" where nothing is."""
    if os.geteuid() != 0:
        return "links of a given rate need root (network namespaces): left out"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"links of a given rate need {' and '.join(missing)} (iproute2): left out" * bool(
        missing
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """One end of the bridge."""

    namespace: str
    ip: str

    def command(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return `command` as it runs there."""
        return ["ip", "netns", "exec", self.namespace, *command]


@contextmanager
def machines(rates: Sequence[float | None]) -> Iterator[list[Machine]]:
    """Run a machine for each rate, in bytes a second each way (None: unbounded), for the block."""
    prefix = f"lattica-{os.getpid()}"
    hub = f"{prefix}-hub"
    made: list[str] = []
    try:
        _run("ip", "netns", "add", hub)
        made.append(hub)
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        found = []
        for number, rate in enumerate(rates, 1):
            machine = Machine(f"{prefix}-{number}", f"10.77.0.{number}")
            _run("ip", "netns", "add", machine.namespace)
            made.append(machine.namespace)
            _connect(hub, f"port{number}", machine)
            if rate is not None:
                _shape(machine.namespace, "eth0", rate)
                _shape(hub, f"port{number}", rate)
            found.append(machine)
        yield found
    finally:
        for namespace in reversed(made):
            _run("ip", "netns", "del", namespace)


def _connect(hub: str, port: str, machine: Machine) -> None:
    namespace = machine.namespace
    peer = ("type", "veth", "peer", "name", "eth0", "netns", namespace)
    _run("ip", "-n", hub, "link", "add", port, *peer)
    _run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
    _run("ip", "-n", namespace, "link", "set", "lo", "up")
    _run("ip", "-n", namespace, "addr", "add", f"{machine.ip}/24", "dev", "eth0")
    _run("ip", "-n", namespace, "link", "set", "eth0", "up")


def _shape(namespace: str, device: str, rate: float) -> None:
    """Limit what leaves by a device, headers of Ethernet, IP and TCP included."""
    bucket = ("burst", f"{_BURST_KB}kb", "latency", f"{_QUEUE_MS}ms")
    limit = ("rate", f"{8 * rate / 1000:.0f}kbit", *bucket)
    _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *limit)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
