"""What a training is continued with, against what it was begun with."""

from collections.abc import Mapping
from typing import Any

from ...config.flatten import plain
from ...config.keys import with_current_names

__all__ = ["changes", "report"]

# What neither a sample nor an update of the weights depends on.
_FREE = (
    "OUTPUT_DIR",
    "MODEL.WEIGHTS",
    "DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH",
    "DATALOADER.NUM_WORKERS",
    "DEEPFUSE_D2.DATALOADER.MAX_DAMAGED",
    "DEEPFUSE_D2.DATALOADER.MAX_WORKER_DEATHS",
    "SOLVER.CHECKPOINT_PERIOD",
    "DEEPFUSE_D2.SOLVER.FINAL_SAFETENSORS",
    "DEEPFUSE_D2.SOLVER.SAFETY.",
)

_NOTES = {
    "SEED": "the random states go on as in the checkpoint",
    "SOLVER.IMS_PER_BATCH": "counted in iterations, the schedule now sees another number of images",
}


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (value then, value now) of what matters to a training and differs.

    A key that only one of them has is left out: another version of the package may bring one. A
    key that had another name then is compared under that of today.
    """
    was = with_current_names(was)
    return {
        key: (plain(was[key]), now[key])
        for key in sorted(now)
        if key in was and plain(was[key]) != now[key] and not key.startswith(_FREE)
    }


def report(found: Mapping[str, tuple[Any, Any]]) -> str:
    """One line a change: what it was, what it is."""
    lines = []
    for key, (was, now) in found.items():
        note = f" ({_NOTES[key]})" if key in _NOTES else ""
        lines.append(f"  {key} was {was!r}, is {now!r}{note}")
    return "\n".join(lines)
