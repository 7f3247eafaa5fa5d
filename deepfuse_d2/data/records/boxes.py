"""Boxes of annotation files: COCO's are left, top, width, height; some exporters write others."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from .masks import Unusable, clean_segmentation, extent_of

__all__ = ["BOX_FORMS", "clean_box", "form_of_boxes"]

#: What the four numbers of a box may be, by the words for a message.
BOX_FORMS = {
    "xywh": "left, top, width, height",
    "xyxy": "left, top, right, bottom",
    "cxcywh": "centre x, centre y, width, height",
}

# So many boxes are compared with their masks to find out what a file's boxes are.
_COMPARED = 300


def clean_box(raw: Any, form: str = "xywh") -> list[float] | None:
    """[left, top, width, height] of a box of that form; None if it is no box, or has no area."""
    try:
        a, b, c, d = raw
        if type(a) is not float or type(b) is not float:
            a, b, c, d = (float(value) for value in (a, b, c, d))
        if form == "xyxy":
            c, d = c - a, d - b
        elif form == "cxcywh":
            a, b = a - c / 2, b - d / 2
        if c > 0 and d > 0 and isfinite(a + b + c + d):
            return [a, b, c, d]
    except (TypeError, ValueError, OverflowError):
        pass
    return None


def form_of_boxes(annotations: Sequence[Any]) -> str:
    """Which of :data:`BOX_FORMS` the boxes of a file are, by the masks beside them.

    "xywh" unless another form fits nearly all masks and that one hardly any.
    """
    fits = dict.fromkeys(BOX_FORMS, 0)
    compared = 0
    step = max(len(annotations) // _COMPARED, 1)
    for raw in annotations[::step]:
        extent = _extent(raw)
        if extent is None:
            continue
        compared += 1
        tolerance = 2 + 0.02 * max(extent[2] - extent[0], extent[3] - extent[1])
        for form in fits:
            box = clean_box(raw.get("bbox"), form)
            if box is not None:
                corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
                fits[form] += bool(np.abs(np.subtract(corners, extent)).max() <= tolerance)
    other = max(("xyxy", "cxcywh"), key=fits.get)
    if compared >= 2 and fits[other] >= 0.9 * compared and fits["xywh"] <= 0.1 * compared:
        return other
    return "xywh"


def _extent(raw: Any) -> list[float] | None:
    """Corners of the mask of an annotation that is not near the origin, where all forms agree."""
    if not isinstance(raw, dict) or not raw.get("segmentation"):
        return None
    mask = raw["segmentation"]
    size = (1 << 15, 1 << 15)
    if isinstance(mask, dict):
        size = mask.get("size")
        if not (isinstance(size, list) and len(size) == 2 and all(type(x) is int for x in size)):
            return None
    try:
        segmentation, _ = clean_segmentation(mask, *size)
        extent = extent_of(segmentation)
    except Unusable:
        return None
    return extent if extent is not None and max(extent[:2]) > 8 else None
