"""Contenders measured in turn, round by round, so that all of them see the same machine."""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._worker import ROOT, Worker, role, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

FOREIGN = ROOT / ".foreign"


@dataclass(frozen=True, slots=True)
class Contender:
    """Two processes: one serves, one drives; the driver's command ends with the address.

    Attributes:
        name: what its figures are called.
        serve: the serving command.
        drive: the driving command up to the address.
        arguments: the driving command after the address.
    """

    name: str
    serve: Sequence[str | Path]
    drive: Sequence[str | Path]
    arguments: Sequence[str] = ()


def measure(contenders: Sequence[Contender], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Run every contender once a round.

    Returns:
        For each contender's name, its figures by name, one value a round.
    """
    figures: dict[str, dict[str, list[float]]] = {c.name: defaultdict(list) for c in contenders}
    with ExitStack() as stack:
        drivers: list[tuple[Contender, Worker]] = []
        for contender in contenders:
            server = stack.enter_context(worker(contender.serve))
            command = [*contender.drive, server.ready, *contender.arguments]
            drivers.append((contender, stack.enter_context(worker(command))))
        for number in range(rounds):
            for contender, driver in drivers:
                tell(f"round {number + 1} of {rounds}: {contender.name}")
                for name, value in driver.run().items():
                    figures[contender.name][name].append(value)
    return figures


def tell(text: str) -> None:
    """Say on standard error what goes on."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def ssl_baseline(size: int) -> Contender:
    """Blocking sockets under `ssl`."""
    return Contender("ssl", role("ssl_sockets", "serve"), role("ssl_sockets", "drive"), [str(size)])


def pylibp2p_python() -> Path | None:
    """An interpreter that has py-libp2p: ours with the `libp2p` extra, or the foreign peers'."""
    if importlib.util.find_spec("libp2p") is not None:
        return Path(sys.executable)
    apart = FOREIGN / "py" / "bin" / "python"
    return apart if apart.exists() else None
