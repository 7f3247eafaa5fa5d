"""FORMAT instance_label_images: images, label images of the same stems with an id an object.

What microscopists have: PNG or TIFF of 8, 16 or 32 bits, 0 where there is no object. All objects
are of one class, CLASSES: [its name]; "object" by default.
"""

import functools
from typing import Any

from ....errors import ConfigError
from ..catalog import register_dataset
from ..instance_labels import load_instance_labels
from ..semantic import pair_by_stem
from .base import Format, check_class_names

__all__ = ["INSTANCE_LABEL_IMAGES"]


def _check(where: str, entry: dict[str, Any]) -> None:
    check_class_names(where, entry)
    if len(entry.get("CLASSES", ["object"])) > 1:
        raise ConfigError(
            f"{where}: CLASSES = {entry['CLASSES']!r}; an id an object tells no class, so give "
            "one name. For several classes, give a data set each, or use FORMAT coco."
        )


def _register(entry: dict[str, Any]) -> None:
    metadata = {
        "evaluator_type": "coco",
        "thing_classes": entry.get("CLASSES", ["object"]),
        "has_labels": True,
    }
    register_dataset(entry["NAME"], functools.partial(_load, entry), metadata, replace=True)


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = pair_by_stem(entry["IMAGES"], entry["LABELS"], entry.get("LABEL_SUFFIX"))
    return load_instance_labels(pairs, root=entry["LABELS"], name=entry["NAME"])


INSTANCE_LABEL_IMAGES = Format(
    {"IMAGES": str, "LABELS": str},
    {"CLASSES": list, "LABEL_SUFFIX": str},
    ("IMAGES", "LABELS"),
    _register,
    _check,
)
