"""What an ablation found so far: cells.csv, table.md, plot.png, curves.png."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation.files import write_csv
from ..files import written_whole
from .plan import Cell, Plan
from .records import log_file, log_tail, metric_of, metrics_of, read_record
from .statistics import estimate
from .summary import Row, summarise

__all__ = ["write_report"]


def write_report(plan: Plan) -> dict[str, int]:
    """Write cells.csv, table.md, plot.png and, with CURVES, curves.png into the plan's folder.

    Returns:
        number of cells that are "finished", "failed", "begun" and "waiting".
    """
    from .curves import plot_curves
    from .plot import plot_rows

    cells = plan.cells
    records = [read_record(cell) for cell in cells]
    _check_metrics(plan, cells, records)
    states = [record.get("state", "waiting") for record in records]
    counts = {state: states.count(state) for state in ("finished", "failed", "begun", "waiting")}
    _write_cells(plan, cells, records, plan.output / "cells.csv")
    tables = {metric: summarise(plan, cells, records, metric) for metric in plan.metrics}
    text = _markdown(plan, cells, records, tables, counts)
    with written_whole(plan.output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    plot_rows(tables, plan.output / "plot.png")
    if plan.curves:
        finished = [cell for cell, state in zip(cells, states, strict=True) if state == "finished"]
        plot_curves(finished, plan.curves, plan.output / "curves.png")
    return counts


def _check_metrics(plan: Plan, cells: Sequence[Cell], records: Sequence[dict[str, Any]]) -> None:
    for cell, record in zip(cells, records, strict=True):
        if record.get("state") == "finished":
            there = metrics_of(record["results"], cell.val)
            for metric in plan.metrics:
                if metric not in there:
                    raise ConfigError(
                        f"METRIC {metric} is not among the results of {cell.name}; there are "
                        f"{', '.join(there)}."
                    )


def _write_cells(
    plan: Plan, cells: Sequence[Cell], records: Sequence[dict[str, Any]], path: Path
) -> None:
    header = ["setting", "seed", "state"]
    for metric in plan.metrics:
        header += [f"val {metric}", f"train {metric}", f"gap {metric}"]
        header += [f"{plan.held_out} {metric}"] * bool(plan.held_out)
    rows = []
    for cell, record in zip(cells, records, strict=True):
        row = [cell.setting, cell.seed, record.get("state", "waiting")]
        for metric in plan.metrics:
            results = record.get("results", {})
            val = metric_of(results, cell.val, metric)
            train = metric_of(results, cell.train, metric)
            gap = None if val is None or train is None else train - val
            row += [val, train, gap]
            if plan.held_out:
                row.append(metric_of(results, cell.held_out, metric))
        seconds = record.get("seconds")
        row += [seconds and round(seconds, 1), record.get("parameters")]
        rows.append(["" if value is None else value for value in row])
    write_csv([*header, "seconds", "parameters"], rows, str(path))


def _markdown(
    plan: Plan,
    cells: Sequence[Cell],
    records: Sequence[dict[str, Any]],
    tables: dict[str, list[Row]],
    counts: dict[str, int],
) -> str:
    seeds = ", ".join(map(str, plan.seeds))
    lines = [
        f"{plan.base}, {shlex.join(plan.overrides) or 'no overrides'}; seeds {seeds}.",
        "Mean ± standard deviation over seeds. Differences are paired by seed, to "
        f'"{plan.reference}", with their 95 % interval (Student t). The gap is train minus val.',
        "",
    ]
    if counts["finished"] < len(cells):
        others = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        lines += [f"**Not complete**: {others} of {len(cells)} cells.", ""]
    for metric, rows in tables.items():
        lines += [_table(metric, rows, plan.held_out), ""]
    for cell, record in zip(cells, records, strict=True):
        if record.get("state") == "failed":
            lines += [
                f"**{cell.name}** failed: {record['reason']}. Log: {log_file(cell)}",
                "", "```", *log_tail(cell), "```", "",
            ]  # fmt: skip
    return "\n".join(lines)


def _table(metric: str, rows: Sequence[Row], held_out: str) -> str:
    from tabulate import tabulate

    # what nobody asked for takes no columns
    with_gap = any(row.gap for row in rows)
    with_best = any(row.best for row in rows)
    headers = ["setting", "seeds", f"val {metric}", "difference"]
    if with_best:
        headers.append("best val")
    if held_out:
        headers.append(f"{held_out} {metric}")
    if with_gap:
        headers += [f"train {metric}", "gap", "difference of the gap"]
    headers += ["parameters, M", "minutes"]
    body = []
    for row in rows:
        line = [row.setting, len(row.val), _spread(row.val), _interval(row.difference)]
        if with_best:
            line.append(_spread(row.best))
        if held_out:
            line.append(_spread(row.held_out))
        if with_gap:
            line += [_spread(row.train), _spread(row.gap), _interval(row.gap_difference)]
        millions = "" if row.parameters is None else f"{row.parameters / 1e6:.2f}"
        minutes = f"{estimate(row.minutes.values()).mean:.1f}" if row.minutes else ""
        body.append([*line, millions, minutes])
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


def _spread(by_seed: dict[int, float]) -> str:
    value = estimate(by_seed.values())
    if not value.count:
        return ""
    return f"{value.mean:.2f}" + ("" if value.count == 1 else f" ± {value.deviation:.2f}")


def _interval(by_seed: dict[int, float] | None) -> str:
    if by_seed is None:
        return "reference"
    value = estimate(by_seed.values())
    if not value.count:
        return ""
    if value.count == 1:
        return f"{value.mean:+.2f} [one seed]"
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"
