"""The metrics of a training, kept over an interruption: smoothed curves and metrics.json go on."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import EventStorage

__all__ = [
    "forget_smoothed",
    "history_state",
    "last_written",
    "restore_history",
    "trim_metrics",
]

# Values kept of each metric: what the longest window of a writer needs, and some more.
_KEPT = 100


def history_state(storage: EventStorage, last: int) -> dict[str, Any]:
    """The latest values of every metric, and whether writers smooth it.

    Args:
        last: iteration; what comes after it is left out, it is of a step that was not completed.
    """
    state = {}
    for name, history in storage.histories().items():
        values = [list(x) for x in history.values()[-_KEPT:] if x[1] <= last]
        if values:
            state[name] = {"smooth": storage.smoothing_hints()[name], "values": values}
    return state


def restore_history(storage: EventStorage, state: dict[str, Any], written: int) -> None:
    """Put the values back into `storage`; those up to iteration `written` are not written again."""
    for name, metric in state.items():
        for value, iteration in metric["values"]:
            storage.put_scalar(name, value, smoothing_hint=metric["smooth"], cur_iter=iteration)
    latest = storage.latest()
    for name in [name for name, (_, iteration) in latest.items() if iteration <= written]:
        del latest[name]


def forget_smoothed(storage: EventStorage) -> None:
    """Let the next step put them first: not all (a timer warms up) are put by the very next one."""
    latest, hints = storage.latest(), storage.smoothing_hints()
    for name in [name for name in latest if hints[name]]:
        del latest[name]


def last_written(hooks: Iterable[HookBase], done: int) -> int:
    """The last iteration, up to `done`, whose metrics the writers among `hooks` have written."""
    periods = [hook._period for hook in hooks if isinstance(hook, PeriodicWriter)]
    period = max([1, *periods])
    return (done + 1) // period * period - 1


def trim_metrics(path: str | os.PathLike, written: int) -> int:
    """Cut the lines after iteration `written`, and a half one, off a metrics.json.

    The training comes to these iterations again. Whoever has the file open to append goes on behind
    what is left.

    Returns: the number of lines cut off.
    """
    path = Path(path)
    if not path.is_file():
        return 0
    kept = cut = 0
    with open(path, "rb") as file:
        for line in file:
            cut += bool(cut) or not _is_up_to(line, written)
            kept += 0 if cut else len(line)
    if cut:
        os.truncate(path, kept)
    return cut


def _is_up_to(line: bytes, written: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line).get("iteration", -1) <= written
    except (ValueError, AttributeError):
        return False
