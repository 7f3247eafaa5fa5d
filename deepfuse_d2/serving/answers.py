"""A record as a client asks for it: JSON with masks in some form, or a PNG."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..errors import ConfigError
from ..inference.records import Record, image_of_png, labels_as_png
from ..structures.mask_crops import MaskCrop

__all__ = ["FORMS", "JSON", "PNG", "answer"]

#: Of masks in an answer: COCO's run lengths, polygons, none; or a picture of labels in its place.
FORMS = ("rle", "polygons", "boxes", "png")
JSON, PNG = "application/json", "image/png"


def answer(
    record: Record, form: str, threshold: float, labels: Mapping[str, Sequence[str]]
) -> tuple[str, bytes]:
    """Return the media type and the content of an answer.

    Args:
        form: one of :data:`FORMS`. A PNG holds the ids of panoptic segments as COCO's, else the
            class of each pixel, else the place of an instance in the list, counted from 1, with the
            one of the highest score on top.
        threshold: instances of lower scores are left out.
        labels: names of classes, ``thing_classes`` and ``stuff_classes``.
    """
    instances = [one for one in record.get("instances", ()) if one["score"] >= threshold]
    if form == "png":
        return PNG, _picture(record, instances)
    found: dict[str, Any] = {"height": record["height"], "width": record["width"]}
    things, stuff = labels.get("thing_classes") or [], labels.get("stuff_classes") or []
    if "instances" in record:
        found["instances"] = [
            _named(_in_form(one, form), _name(things, labels, one["category_id"]))
            for one in instances
        ]
    if "segments" in record:
        ids = image_of_png(record["panoptic"]).astype(np.uint32)
        ids = ids[..., 2] + (ids[..., 1] << 8) + (ids[..., 0] << 16)
        found["segments"] = [
            _in_form({**one, "segmentation": _rle(ids == one["id"])}, form)
            for one in record["segments"]
        ]
    elif "labels" in record:
        classes = image_of_png(record["labels"])
        found["labels"] = [
            _named(
                _in_form({"category_id": kind, "segmentation": _rle(classes == kind)}, form),
                stuff[kind] if kind < len(stuff) else "",
            )
            for kind in np.unique(classes).tolist()
        ]
    return JSON, json.dumps(found).encode()


def _picture(record: Record, instances: Sequence[Mapping[str, Any]]) -> bytes:
    for name in ("panoptic", "labels"):
        if name in record:
            return record[name]
    places = np.zeros((record["height"], record["width"]), np.uint16)
    order = sorted(range(len(instances)), key=lambda k: instances[k]["score"])
    for place in order:
        if "segmentation" not in instances[place]:
            raise ConfigError("This model gives boxes without masks; ask for output=boxes.")
        places[coco_mask.decode(instances[place]["segmentation"]) == 1] = place + 1
    return labels_as_png(places)


def _in_form(one: Mapping[str, Any], form: str) -> dict[str, Any]:
    """A found object with its mask as run lengths or polygons, or without."""
    if "segmentation" not in one or form == "rle":
        return dict(one)
    rest = {name: value for name, value in one.items() if name != "segmentation"}
    if form == "polygons":
        rest["polygons"] = _polygons(coco_mask.decode(one["segmentation"]))
    if "bbox" not in rest:
        rest["bbox"] = coco_mask.toBbox(one["segmentation"]).tolist()
    return rest


def _polygons(mask: np.ndarray) -> list[list[int]]:
    """Outlines of the parts of a mask, each as x, y, x, y, ...; holes are not told."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline.reshape(-1).tolist() for outline in outlines if len(outline) > 2]


def _rle(mask: np.ndarray) -> dict[str, Any]:
    return MaskCrop.of(mask).rle(*mask.shape)


def _name(things: Sequence[str], labels: Mapping[str, Any], category: int) -> str:
    """Of a category of the data set."""
    number = (labels.get("thing_dataset_id_to_contiguous_id") or {}).get(category, category)
    return things[number] if 0 <= number < len(things) else ""


def _named(one: dict[str, Any], name: str) -> dict[str, Any]:
    return {"category": name, **one} if name else one
