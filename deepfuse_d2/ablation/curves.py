"""The course of the trainings of an ablation, from the metrics.json of each cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import written_whole
from .plan import Cell
from .records import read_curve

__all__ = ["mean_curve", "plot_curves"]


def plot_curves(cells: Iterable[Cell], names: Sequence[str], path: Path) -> None:
    """Draw each of `names` over the iterations, a line a setting: thin for seeds, thick for means.

    Args:
        cells: those to draw.
        names: as in metrics.json, such as "total_loss" or "validation/total_loss".
        path: of the PNG.
    """
    by_setting: dict[str, list[Path]] = defaultdict(list)
    for cell in cells:
        by_setting[cell.setting].append(cell.folder / "metrics.json")
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for index, (setting, files) in enumerate(by_setting.items()):
            color = f"C{index % 10}"
            curves = [read_curve(file, name) for file in files]
            for curve in curves:
                axis.plot(curve.keys(), curve.values(), color=color, linewidth=0.7, alpha=0.35)
            mean = mean_curve(curves)
            axis.plot(mean.keys(), mean.values(), color=color, linewidth=1.8, label=setting)
        axis.set_xlabel("iteration")
        axis.set_title(name, fontsize="medium")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    FigureCanvasAgg(figure)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def mean_curve(curves: Sequence[dict[int, float]]) -> dict[int, float]:
    """The mean of several curves, at the iterations that all of them have."""
    shared = set.intersection(*map(set, curves)) if curves else set()
    return {x: sum(curve[x] for curve in curves) / len(curves) for x in sorted(shared)}
