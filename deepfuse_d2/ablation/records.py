"""The record of a cell: what was asked for, how far it is, and what came of it.

The folder of a cell is the OUTPUT_DIR of its training. Two files in it are ours: train.log, what
the process wrote, and cell.json, the record:

    state       "begun", "failed" or "finished"
    config      the merged config that it was begun with
    seconds     spent on it so far, all attempts together
    parameters, results      finished: those of train_net.py's results.json
    course      finished: metric -> [iteration, value] of each evaluation of the val split
    reason                   failed: why
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation.files import write_json
from .plan import Cell, changed_keys

__all__ = [
    "course_of",
    "log_file",
    "log_tail",
    "metric_of",
    "metrics_of",
    "read_curve",
    "read_record",
    "write_record",
]

_TAIL = 12  # lines of the log that a failure is told with


def record_file(cell: Cell) -> Path:
    return cell.folder / "cell.json"


def log_file(cell: Cell) -> Path:
    return cell.folder / "train.log"


def write_record(cell: Cell, record: dict[str, Any]) -> None:
    """Write the record of a cell with the config that the plan has for it."""
    write_json({**record, "config": cell.config}, str(record_file(cell)))


def read_record(cell: Cell) -> dict[str, Any]:
    """The record of a cell, {} if it was never begun.

    Raises ConfigError if it was begun with another config than the plan has now.
    """
    path = record_file(cell)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        config = record["config"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); delete the folder {cell.folder} to train it again."
        ) from error
    changes = changed_keys(config, cell.config)
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise ConfigError(
            f"{cell.name}: {cell.folder} was begun with another config ({'; '.join(changes[:5])}"
            f"{more}), and the two are not to be mixed. Take the plan back to what it was, choose "
            "another OUTPUT, or delete that folder to train it again."
        )
    return record


def log_tail(cell: Cell, lines: int = _TAIL) -> list[str]:
    """The last lines of a cell's log, [] if there is none."""
    try:
        with open(log_file(cell), encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque(file, lines)]
    except FileNotFoundError:
        return []


def course_of(cell: Cell, metric: str) -> list[tuple[int, float]]:
    """Iteration and value of each evaluation of the val split, as metrics.json has them."""
    file = cell.folder / "metrics.json"
    # with one data set to evaluate on, detectron2 leaves its name out
    curve = read_curve(file, f"{cell.val}/{metric}") or read_curve(file, metric)
    return sorted(curve.items())


def read_curve(file: Path, name: str) -> dict[int, float]:
    """iteration -> value of a metric, of the lines of a metrics.json that have it; the last line of
    an iteration counts, and one that was cut off by a crash does not."""
    curve: dict[int, float] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and name in row and "iteration" in row:
            curve[row["iteration"]] = float(row[name])
    return curve


def metrics_of(results: dict[str, Any], dataset: str) -> dict[str, float | None]:
    """Figures of a data set by names such as "segm/AP"; None for one that is undefined."""
    return _flat(results.get(dataset, {}))


def metric_of(results: dict[str, Any], dataset: str, metric: str) -> float | None:
    """A figure of a data set; None if it is undefined or not there."""
    return metrics_of(results, dataset).get(metric)


def _flat(results: dict[str, Any]) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for key, value in results.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{name}": x for name, x in _flat(value).items()}
        else:
            flat[key] = value
    return flat
