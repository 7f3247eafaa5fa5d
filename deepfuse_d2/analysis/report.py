"""The costs of one model, or of two side by side, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from tabulate import tabulate

from .costs import Analysis, Cost

__all__ = ["as_json", "report"]

# Column: field of Cost, unit
COLUMNS = {
    "parameters, M": ("parameters", 1e6),
    "trained, M": ("trained", 1e6),
    "multiply-adds, G": ("multiply_adds", 1e9),
    "activations, M": ("activations", 1e6),
}


def report(
    configs: Sequence[str],
    found: Sequence[Analysis],
    size: Sequence[int],
    proposals: int,
    detections: int,
) -> str:
    """The table, and what was counted.

    Args:
        configs: a name for each model.
        found: of one model, or of two to compare.
        size: (height, width) of the image that was asked for.
        proposals: for each box head.
        detections: for mask and keypoint heads.
    """
    lines = [f"{letter}: {config}" for letter, config in zip("AB", configs, strict=False)]
    sizes = " and ".join(dict.fromkeys("{} x {}".format(*analysis.size) for analysis in found))
    lines += [
        "",
        table(found),
        "",
        f"One image of {size[0]} x {size[1]} (padded: {sizes}); {proposals} "
        f"proposals for each box head, {detections} detections for mask and keypoint heads.",
        "Counted are convolutions, linear layers and matrix products, a multiply-add as one (as "
        "fvcore counts flops),",
        "and as activations the elements that they give; not norms, activation functions, "
        "resizing, RoI pooling, NMS.",
    ]
    for letter, analysis in zip("AB", found, strict=False):
        if analysis.unsupported:
            listed = ", ".join(f"{name} ({n})" for name, n in analysis.unsupported.items())
            lines.append(f"Not known how to count in {letter}: {listed}")
    return "\n".join(lines)


def table(found: Sequence[Analysis]) -> str:
    """A row for each part; of two models, each column twice, with the ratio of the second."""
    names = [*dict.fromkeys(name for analysis in found for name in analysis.parts), "total"]
    headers, rows = ["part"], [[name] for name in names]
    for title, (field, unit) in COLUMNS.items():
        if field == "trained" and len(found) == 2:
            continue  # what is compared is the network, not which part of it learns
        headers += [title] if len(found) == 1 else [f"A: {title}", "B", "B / A"]
        for name, row in zip(names, rows, strict=True):
            costs = [{**analysis.parts, "total": analysis.total}.get(name) for analysis in found]
            values = [getattr(cost or Cost(), field) for cost in costs]
            row += [f"{value / unit:.2f}" for value in values]
            if len(values) == 2:
                row.append(f"{values[1] / values[0]:.3f}" if values[0] else "")
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


def as_json(
    configs: Sequence[str],
    found: Sequence[Analysis],
    size: Sequence[int],
    proposals: int,
    detections: int,
) -> dict:
    """The same as plain numbers; the arguments are those of :func:`report`."""
    return {
        "size": list(size),
        "proposals": proposals,
        "detections": detections,
        "models": [
            {
                "config": config,
                "padded_size": list(analysis.size),
                "parts": {name: asdict(cost) for name, cost in analysis.parts.items()},
                "total": asdict(analysis.total),
                "unsupported": Counter(analysis.unsupported),
            }
            for config, analysis in zip(configs, found, strict=True)
        ],
    }
