"""What the formats of instances share: a reader gives COCO's content, which is then made clean."""

import functools
import os
from collections.abc import Callable
from typing import Any

from ..catalog import register_dataset
from ..coco import clean_records

__all__ = ["image_entry", "register_annotated"]


def register_annotated(
    entry: dict[str, Any], read: Callable[[dict[str, Any]], tuple[dict[str, Any], str]]
) -> None:
    """Register an entry whose files `read` turns into COCO's content and the folder of images."""
    metadata: dict[str, Any] = {"evaluator_type": "coco", "has_labels": True}
    if "CLASSES" in entry:
        metadata["thing_classes"] = entry["CLASSES"]
    load = functools.partial(_load, entry, read)
    register_dataset(entry["NAME"], load, metadata, replace=True)


def _load(
    entry: dict[str, Any], read: Callable[[dict[str, Any]], tuple[dict[str, Any], str]]
) -> list[dict[str, Any]]:
    content, images = read(entry)
    return clean_records(entry["NAME"], content, images, classes=entry.get("CLASSES"))


def image_entry(number: int, name: str, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """An image of COCO's content; without a `size` (height, width) it is read from the file."""
    one: dict[str, Any] = {"id": number, "file_name": name.replace(os.sep, "/")}
    if size is not None:
        one["height"], one["width"] = size
    return one
