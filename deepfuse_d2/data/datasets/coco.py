"""A COCO JSON file by path, and detectron2's names of COCO, loaded as clean records."""

import functools
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import DatasetError
from ..records.coco import Annotations, read_coco, records_of_coco
from ..records.keypoints import flip_pairs
from ..records.tally import keep_tally

__all__ = ["clean_records", "load_coco", "take_over_coco"]


def load_coco(
    json_file: str,
    images: str,
    name: str,
    *,
    classes: Sequence[str] | None = None,
    crowds_are_objects: bool = False,
) -> list[dict[str, Any]]:
    """Load instance annotations in detectron2's format, and the class names into the metadata.

    What the file has otherwise than it should is counted (:mod:`..records.tally`), and said in one
    line of the log.

    Args:
        json_file: in COCO's format, with "images", "annotations" and "categories".
        images: the folder that the file names in it start from.
        name: of the registered data set; gets `thing_classes` in its metadata.
        classes, crowds_are_objects: see :func:`..records.coco.read_coco`.

    Raises:
        DatasetError: the file or folder does not exist, or the file is not in that format.
    """
    try:
        found = read_coco(json_file, images, classes=classes, crowds_are_objects=crowds_are_objects)
    except DatasetError as error:
        raise DatasetError(f'Data set "{name}": {error}') from error
    return _noted(name, found)


def clean_records(
    name: str, content: dict[str, Any], images: str, *, classes: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """As :func:`load_coco`, from COCO's content that a reader of another format has made."""
    try:
        found = records_of_coco(content, images, classes=classes)
    except DatasetError as error:
        raise DatasetError(f'Data set "{name}": {error}') from error
    return _noted(name, found)


def _noted(name: str, found: Annotations) -> list[dict[str, Any]]:
    keep_tally(name, found.tally)
    metadata = MetadataCatalog.get(name)
    ids = {original: number for number, original in enumerate(found.category_ids)}
    told: dict[str, Any] = {
        "thing_classes": found.classes,
        "thing_dataset_id_to_contiguous_id": ids,
    }
    if found.keypoints and metadata.get("keypoint_names") != found.keypoints:
        told["keypoint_names"] = found.keypoints
        told["keypoint_flip_map"] = flip_pairs(found.keypoints)
    # the file may have changed since it was read last; an attribute is set but once
    for key, value in told.items():
        if metadata.get(key) != value:
            vars(metadata).pop(key, None)
            metadata.set(**{key: value})
    return found.records


def take_over_coco() -> None:
    """Let detectron2's names of COCO load by :func:`load_coco`; read no file."""
    for name in DatasetCatalog.list():
        metadata = MetadataCatalog.get(name)
        is_of_instances = name.startswith(("coco_20", "keypoints_coco_20"))
        if is_of_instances and metadata.get("evaluator_type") == "coco":
            DatasetCatalog.remove(name)
            load = functools.partial(
                load_coco, os.fspath(metadata.json_file), os.fspath(metadata.image_root), name
            )
            DatasetCatalog.register(name, load)
