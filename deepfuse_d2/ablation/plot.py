"""The figures of an ablation as PNG. Imported only where they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..files import written_whole
from .statistics import estimate
from .summary import Row

__all__ = ["plot_rows"]


def plot_rows(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw each metric on val, its difference to the reference, and the gap, side by side.

    A dot is a seed, a bar the mean with its 95 % interval.

    Args:
        tables: metric -> a row for each setting, the reference first.
        path: of the PNG.
    """
    rows_of_all = [row for rows in tables.values() for row in rows]
    reference = rows_of_all[0].setting
    panels = {"val": "val", "difference": f"difference to {reference}:"}
    if any(row.gap for row in rows_of_all):
        panels["gap"] = "gap, train - val"
    seeds = sorted({seed for row in rows_of_all for seed in row.val})
    colors = {seed: f"C{index % 10}" for index, seed in enumerate(seeds)}

    settings = max(len(rows) for rows in tables.values())
    size = (2.5 + 3.8 * len(panels), 0.6 + len(tables) * (0.9 + 0.42 * settings))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(tables), len(panels), squeeze=False, sharey="row")
    for line, (metric, rows) in zip(axes, tables.items(), strict=True):
        names = [row.setting for row in rows]
        for axis, (field, label) in zip(line, panels.items(), strict=True):
            _panel(axis, names, [getattr(row, field) for row in rows], colors)
            axis.set_xlabel(f"{label} {metric}")
    handles = [Line2D([], [], marker="o", linestyle="", color=colors[seed]) for seed in seeds]
    names = [f"seed {seed}" for seed in seeds]
    bar = Line2D([], [], marker="|", color="black")
    figure.legend(
        [*handles, bar], [*names, "mean, 95 % interval"],
        loc="outside upper center", ncols=min(len(seeds) + 1, 6), fontsize="small",
    )  # fmt: skip
    FigureCanvasAgg(figure)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _panel(
    axes: Axes,
    settings: Sequence[str],
    figures: Sequence[dict[int, float] | None],
    colors: dict[int, str],
) -> None:
    """Draw one figure of each setting, from top to bottom; the reference has a line all the way."""
    # its difference to itself is None
    reference = 0.0 if figures[0] is None else estimate(figures[0].values()).mean
    if not math.isnan(reference):
        axes.axvline(reference, color="grey", linestyle=":", linewidth=1)
    for y, by_seed in enumerate(figures):
        mean = estimate((by_seed or {}).values())
        if mean.count > 1:
            axes.errorbar(
                mean.mean, y, xerr=mean.half_width, fmt="|", color="black", capsize=4, markersize=14
            )
        for seed, value in (by_seed or {}).items():
            axes.plot(value, y, "o", color=colors[seed], markersize=5, alpha=0.8)
    axes.set_yticks(range(len(settings)), settings)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
