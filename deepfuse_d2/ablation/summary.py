"""What came of the cells of an ablation, a row for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .plan import Cell, Plan
from .records import metric_of

__all__ = ["Row", "summarise"]


@dataclass(frozen=True)
class Row:
    """A setting in one metric: figures by seed, of the seeds that are finished.

    `val` is the last evaluation, `best` the highest of those that there were during the training,
    where there were several. The gap is train minus val; `held_out` is of data that no choice was
    made on. Differences are those to the reference setting with the same seed, for the seeds that
    both have; None for the reference itself.
    """

    setting: str
    val: dict[int, float]
    best: dict[int, float]
    train: dict[int, float]
    held_out: dict[int, float]
    gap: dict[int, float]
    difference: dict[int, float] | None
    gap_difference: dict[int, float] | None
    minutes: dict[int, float]
    parameters: int | None


def summarise(
    plan: Plan, cells: Sequence[Cell], records: Sequence[dict[str, Any]], metric: str
) -> list[Row]:
    """A row for each setting, in the order of the plan."""
    finished: dict[str, dict[int, tuple[Cell, dict[str, Any]]]] = {x: {} for x in plan.settings}
    for cell, record in zip(cells, records, strict=True):
        if record.get("state") == "finished":
            finished[cell.setting][cell.seed] = cell, record

    def figures(setting: str, split: str) -> dict[int, float]:
        of_seeds = {
            seed: metric_of(record["results"], getattr(cell, split), metric)
            for seed, (cell, record) in finished[setting].items()
        }
        return {seed: value for seed, value in of_seeds.items() if value is not None}

    rows: list[Row] = []
    for setting, of_seeds in finished.items():
        val, train = figures(setting, "val"), figures(setting, "train")
        gap = _minus(train, val)
        rows.append(
            Row(
                setting=setting,
                val=val,
                best={
                    seed: max(value for _, value in course)
                    for seed, (_, record) in of_seeds.items()
                    if len(course := record.get("course", {}).get(metric, ())) > 1
                },
                train=train,
                held_out=figures(setting, "held_out"),
                gap=gap,
                difference=_minus(val, rows[0].val) if rows else None,
                gap_difference=_minus(gap, rows[0].gap) if rows else None,
                minutes={seed: record["seconds"] / 60 for seed, (_, record) in of_seeds.items()},
                parameters=next((record["parameters"] for _, record in of_seeds.values()), None),
            )
        )
    return rows


def _minus(ours: dict[int, float], theirs: dict[int, float]) -> dict[int, float]:
    return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}
