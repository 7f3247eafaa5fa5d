"""FORMAT label_images: images, label images of the same stems with a class id in each pixel."""

import functools
from typing import Any

from ....errors import ConfigError
from ..catalog import register_dataset
from ..semantic import load_pairs, pair_by_stem
from .base import Format, check_class_names

__all__ = ["LABEL_IMAGES"]


def _check(where: str, entry: dict[str, Any]) -> None:
    check_class_names(where, entry)
    count, ignore = len(entry["CLASSES"]), entry.get("IGNORE_LABEL", 255)
    if count > 255:
        raise ConfigError(f"{where}: CLASSES holds {count} names; ids of 8 bits have room for 255.")
    if not count <= ignore <= 255:
        raise ConfigError(
            f"{where}: IGNORE_LABEL = {ignore} is outside {count}..255, the ids that are no class."
        )


def _register(entry: dict[str, Any]) -> None:
    metadata = {
        "evaluator_type": "sem_seg",
        "stuff_classes": entry["CLASSES"],
        "ignore_label": entry.get("IGNORE_LABEL", 255),
        "has_labels": True,
    }
    register_dataset(entry["NAME"], functools.partial(_load, entry), metadata, replace=True)


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    suffix = entry.get("LABEL_SUFFIX", ".png")
    return load_pairs(
        pair_by_stem(entry["IMAGES"], entry["LABELS"], suffix),
        root=entry["LABELS"],
        name=entry["NAME"],
        num_classes=len(entry["CLASSES"]),
        ignore_label=entry.get("IGNORE_LABEL", 255),
    )


LABEL_IMAGES = Format(
    {"IMAGES": str, "LABELS": str, "CLASSES": list},
    {"IGNORE_LABEL": int, "LABEL_SUFFIX": str},
    ("IMAGES", "LABELS"),
    _register,
    _check,
)
