"""What the next checkpoint of a training run costs: whole, by changed chunks, as a delta."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import zstandard
from safetensors.numpy import save_file

from lattica.content import build
from lattica.models import apply_delta, cut_file, make_delta

from ._content import workspace
from ._plot import Line, plot
from ._report import Report
from ._rounds import tell
from ._training import Training

if TYPE_CHECKING:
    from pathlib import Path

RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 1e-3)
GAPS = (1, 8)  # steps between two publications
WIDTHS, QUICK_WIDTHS = (1024, 2048, 4096, 2048, 16), (512, 1024, 2048, 16)
WARM_UP, QUICK_WARM_UP = 200, 60  # steps at 1e-3 before anything is published
MB = 1e6


def run(*, quick: bool, peers: bool) -> Report:
    """Train, publish every step or every eighth, and weigh what would travel."""
    del peers
    report = Report("delta")
    training = Training(QUICK_WIDTHS if quick else WIDTHS, seed=1)
    warm_up = QUICK_WARM_UP if quick else WARM_UP
    tell(f"training {sum(weight.size for weight in training.weights) / 1e6:.1f} M parameters")
    loss = training.run(warm_up, 1e-3)
    tell(f"loss {loss:.3f} after {warm_up} steps")
    ratios: dict[tuple[float, int], float] = {}
    chunked: dict[tuple[float, int], float] = {}
    rounds = 1 if quick else 3
    with workspace() as folder:
        for gap in GAPS:
            for rate in RATES:
                name = f"{rate:g}, {gap} step{'s' if gap > 1 else ''}"
                tell(name)
                measured = [_measure(training, rate, gap, folder) for _ in range(rounds)]
                for key, unit in _UNITS.items():
                    report.add(f"{name}: {key}", unit, [one[key] for one in measured])
                ratios[rate, gap] = _middle([one["full"] / one["delta"] for one in measured])
                chunked[rate, gap] = _middle([one["full"] / one["chunks"] for one in measured])
                report.ratios[f"full_vs_delta_{_short(rate)}_{gap}"] = ratios[rate, gap]
    report.ratios["largest_delta_vs_full"] = 1 / min(ratios.values())
    report.targets = {
        "full_vs_delta_1e-6_1": (">=", 100),
        "full_vs_delta_1e-5_1": (">=", 30),
        "largest_delta_vs_full": ("<=", 1.01),
        **{f"{rate:g}, 1 step: encode": (">=", 300) for rate in RATES},
        **{f"{rate:g}, 1 step: apply": (">=", 600) for rate in RATES},
    }
    report.notes.append(
        "full: the bf16 checkpoint. chunks: leaves of 256 KiB that changed. encode and apply: MB "
        "of checkpoint for each second of processor time, file to file, the result hashed."
    )
    if not quick:
        lines = [
            Line(f"delta, every {gap}", RATES, [ratios[rate, gap] for rate in RATES])
            for gap in GAPS
        ]
        lines.append(Line("changed chunks", RATES, [chunked[rate, 1] for rate in RATES]))
        plot(
            "delta",
            lines,
            title="How many times smaller the next checkpoint travels",
            x_label="learning rate (Adam, bf16 published)",
            y_label="full / transferred",
            log_x=True,
            log_y=True,
        )
    return report


_UNITS = {
    "full": "MB",
    "zstd": "MB",
    "chunks": "MB",
    "delta": "MB",
    "encode": "MB/s",
    "apply": "MB/s",
}


def _measure(training: Training, rate: float, gap: int, folder: Path) -> dict[str, float]:
    """Publish, train on, publish again; weigh the second publication."""
    old, new = folder / "old.safetensors", folder / "new.safetensors"
    delta, got = folder / "delta.safetensors", folder / "got.safetensors"
    save_file(training.published(), old)
    training.run(gap, rate)
    save_file(training.published(), new)
    full = new.stat().st_size
    before, after = (build(path, segments=cut_file) for path in (old, new))
    known = {leaf.multihash for leaf in before.files[0].leaves}
    changed = sum(leaf.length for leaf in after.files[0].leaves if leaf.multihash not in known)
    started = time.process_time()
    make_delta(old, new, delta, base_cid=before.root, new_cid=after.root)
    encoded = time.process_time()
    apply_delta(old, delta, got)
    applied = time.process_time()
    if got.read_bytes() != new.read_bytes():
        raise AssertionError("the delta gave something else")
    os.unlink(got)
    return {
        "full": full / MB,
        "zstd": len(zstandard.ZstdCompressor(level=3).compress(new.read_bytes())) / MB,
        "chunks": max(changed, 1) / MB,
        "delta": delta.stat().st_size / MB,
        "encode": full / MB / (encoded - started),
        "apply": full / MB / (applied - encoded),
    }


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _short(rate: float) -> str:
    """1e-06 as people write it: 1e-6."""
    mantissa, _, exponent = f"{rate:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
