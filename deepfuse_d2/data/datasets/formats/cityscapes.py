"""FORMAT cityscapes_instances, cityscapes_semantic: own frames in the layout of Cityscapes.

leftImg8bit/SPLIT and gtFine/SPLIT below ROOT, with the classes of Cityscapes. HAS_LABELS False:
images only, to write a submission for; by default so for SPLIT "test".
"""

import functools
from typing import Any

from ..cityscapes import register_cityscapes_layout
from .base import Format

__all__ = ["CITYSCAPES_INSTANCES", "CITYSCAPES_SEMANTIC"]


def _register(task: str, entry: dict[str, Any]) -> None:
    register_cityscapes_layout(
        entry["NAME"],
        entry["ROOT"],
        entry["SPLIT"],
        task,
        with_labels=entry.get("HAS_LABELS"),
        replace=True,
    )


_KEYS: dict[str, Any] = {
    "required": {"ROOT": str, "SPLIT": str},
    "optional": {"HAS_LABELS": bool},
    "paths": ("ROOT",),
}

CITYSCAPES_INSTANCES = Format(**_KEYS, register=functools.partial(_register, "instance_seg"))
CITYSCAPES_SEMANTIC = Format(**_KEYS, register=functools.partial(_register, "sem_seg"))
