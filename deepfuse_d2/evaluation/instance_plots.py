"""Precision-recall curves and tables of errors as PNG. Imported only where they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import written_whole
from .instance_ap import Outcomes, average_precision, precision_recall
from .instance_errors import KINDS

__all__ = ["plot_errors", "plot_precision_recall"]


def plot_precision_recall(
    names: Sequence[str], at_50: Sequence[Outcomes], path: str, *, title: str
) -> None:
    """Draw a curve for each class that has targets, at overlap 0.5."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"{title}, IoU 0.5"
    )
    for name, outcome in zip(names, at_50, strict=True):
        if outcome.targets:
            _, precision, recall = precision_recall(outcome)
            legend = f"{name} ({100 * average_precision(outcome):.1f})"
            axes.plot(recall, precision, label=legend, drawstyle="steps-mid", linewidth=1.5)
    if axes.lines:
        axes.legend(title="class (AP50)", loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    else:
        axes.text(0.5, 0.5, "no target", ha="center")
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_errors(
    names: Sequence[str], counts: np.ndarray, confusion: np.ndarray, path: str, *, title: str
) -> None:
    """Draw counts (classes, kinds), and targets by the class of the predictions that lie on them.

    Args:
        names: classes, rows of both.
        counts, confusion: sums over images, see :class:`~.instance_errors.ImageErrors`.
        path: of the PNG.
        title: above both.
    """
    figure = Figure(figsize=(14, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{title}: predictions from the score on where F1 is best, IoU 0.5")
    _table(left, counts, names, KINDS)
    left.set_title("what became of targets and predictions")
    # Missed targets beside the classes that they were taken for.
    right_columns = [*names, "missed"]
    _table(right, np.column_stack((confusion, counts[:, 1])), names, right_columns)
    right.set(title="targets by the class predicted on them", xlabel="prediction", ylabel="target")
    _save(figure, path)


def _table(axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw numbers on squares as dark as their share of the row."""
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for (row, column), value in np.ndenumerate(values):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(value), ha="center", va="center", color=color, fontsize="small")


def _save(figure: Figure, path: str) -> None:
    """Write at once or not at all; without pyplot, whose state and display are not needed."""
    FigureCanvasAgg(figure)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
