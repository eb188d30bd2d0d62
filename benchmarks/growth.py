"""Cost as it grows: bytes on the wire, CPU seconds and peak memory, by size and by providers."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ._content import MIB, workspace
from ._plot import RESULTS, Line, plot
from ._report import Report
from ._rounds import tell
from ._worker import Worker, role, worker

if TYPE_CHECKING:
    from pathlib import Path

PROVIDERS = (1, 4, 16)
_SIZES = (64, 1024, 8192)  # MiB
_QUICK_SIZES = (16, 64, 256)
_PATTERN_MIB = 64  # a file repeats what takes long to make, each time under another number


def run(*, quick: bool, peers: bool) -> Report:
    """Get files of growing size from one provider, and one file from more and more providers."""
    del peers
    report = Report("growth")
    sizes = _QUICK_SIZES if quick else _SIZES
    with workspace() as folder:
        table = [_measure(folder, size, 1) for size in sizes]
        table += [_measure(folder, sizes[1], count) for count in PROVIDERS[1:]]
    for row in table:
        name = f"{row['mib']:.0f}mib_{row['providers']:.0f}"
        report.add(f"{name}_wire", "of the object", [row["wire"]])
        report.add(f"{name}_cpu", "s/GB", [row["cpu_s"] / row["mib"] / MIB * 1e9])
        report.add(f"{name}_peak", "MiB", [row["peak_mib"]])
        report.targets[f"{name}_peak"] = ("<=", 256)
    if not quick:
        _draw(table)
    return report


def _measure(folder: Path, mib: int, providers: int) -> dict[str, float]:
    tell(f"{mib} MiB of {providers} provider{'s' * (providers > 1)}")
    path = folder / f"original-{mib}"
    if not path.exists():
        _write(path, mib)
    home = folder / f"growth-{mib}-{providers}"
    with ExitStack() as stack:
        shares: list[Worker] = []
        for number in range(providers):
            bootstrap = [share.ready["at"] for share in shares[:1]]
            command = role("swarm", "share", home / str(number), "127.0.0.1:0", path, *bootstrap)
            shares.append(stack.enter_context(worker(command)))
        at = shares[0].ready["at"]
        command = role("swarm", "get", home / "got", "127.0.0.1:0", shares[0].ready["cid"], at)
        getter = stack.enter_context(worker(command))
        figures = getter.run()
        sent = sum(share.run()["sent"] for share in shares)
        peak = getter.peak_rss_mib()
    (home / "got" / "copy").unlink()
    return {
        "mib": mib,
        "providers": providers,
        "wire": sent / (mib * MIB),
        "cpu_s": figures["cpu_s"],
        "peak_mib": peak,
        "seconds": figures["seconds"],
    }


def _write(path: Path, mib: int) -> None:
    pattern = bytearray(os.urandom(min(mib, _PATTERN_MIB) * MIB))
    with path.open("wb") as file:
        for number in range(mib * MIB // len(pattern)):
            for leaf in range(0, len(pattern), 1 << 18):  # no two leaves are the same
                pattern[leaf : leaf + 8] = (number << 32 | leaf).to_bytes(8, "big")
            file.write(pattern)


def _draw(table: list[dict[str, float]]) -> None:
    """Write the table and its picture."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.json").write_text(json.dumps(table, indent=1) + "\n")
    by_size = [row for row in table if row["providers"] == 1]
    sizes = [row["mib"] for row in by_size]
    plot(
        "growth",
        [
            Line("receiver's CPU, s", sizes, [row["cpu_s"] for row in by_size]),
            Line("peak memory, GiB", sizes, [row["peak_mib"] / 1024 for row in by_size]),
            Line("on the wire, of the object", sizes, [row["wire"] for row in by_size]),
        ],
        title="What a get costs as the object grows",
        x_label="size of the object, MiB",
        y_label="",
        log_x=True,
        log_y=True,
    )
