"""Pictures of what was measured, in `benchmarks/results/`. Without matplotlib there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._rounds import tell
from ._worker import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot.

    Attributes:
        label: what it shows.
        x: where its points are.
        y: how high they are.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]


def plot(
    name: str,
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Draw lines into `benchmarks/results/<name>.svg`, or say what is missing to do so."""
    try:
        import matplotlib as mpl
    except ImportError:
        tell(f"no plot of {name}: pip install matplotlib")
        return
    mpl.use("svg")
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "lattica"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for line in lines:
        axes.plot(line.x, line.y, marker="o", markersize=4, label=line.label)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    tell(f"wrote benchmarks/results/{name}.svg")
