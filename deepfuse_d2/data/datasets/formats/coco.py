"""FORMAT coco: a JSON file of COCO's instance annotations, and the folder of its images."""

import functools
from typing import Any

from ..catalog import register_dataset
from ..coco import load_coco
from .base import Format, check_class_names

__all__ = ["COCO"]


def _register(entry: dict[str, Any]) -> None:
    name = entry["NAME"]
    load = functools.partial(
        load_coco,
        entry["JSON"],
        entry["IMAGES"],
        name,
        classes=entry.get("CLASSES"),
        crowds_are_objects=entry.get("CROWDS_ARE_OBJECTS", False),
    )
    metadata = {
        "evaluator_type": "coco",
        "json_file": entry["JSON"],
        "image_root": entry["IMAGES"],
        "has_labels": True,
    }
    register_dataset(name, load, metadata, replace=True)


COCO = Format(
    {"JSON": str, "IMAGES": str},
    {"CLASSES": list, "CROWDS_ARE_OBJECTS": bool},
    ("JSON", "IMAGES"),
    _register,
    check_class_names,
)
