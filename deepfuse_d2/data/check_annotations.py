"""Checking the annotations of one image: classes, boxes, and masks of any form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode

from ..structures.run_lengths import Runs, mask_area

__all__ = ["Findings", "check_annotations"]


@dataclass
class Findings:
    #: Category and area in pixels of each instance, groups (iscrowd) apart.
    instances: list[tuple[int, int]] = field(default_factory=list)
    groups: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_annotations(
    annotations: Sequence[dict[str, Any]], size: tuple[int, int], num_classes: int
) -> Findings:
    """Check what training would stop at.

    Args:
        annotations: of one record, in detectron2's format.
        size: (height, width) of the image.
        num_classes: categories are 0 .. num_classes - 1.
    """
    findings = Findings()
    for number, annotation in enumerate(annotations):
        where = f"annotation {number}"
        if annotation.get("iscrowd"):
            findings.groups += 1
        category = annotation.get("category_id")
        if not isinstance(category, int) or not 0 <= category < num_classes:
            findings.errors.append(
                f"{where} has category_id {category}; expected 0..{num_classes - 1}"
            )
            category = -1
        box = _box(annotation)
        if box is None:
            findings.errors.append(f"{where} has the box {annotation.get('bbox')!r}")
            area = 0
        else:
            x0, y0, x1, y1 = box
            area = max(x1 - x0, 0) * max(y1 - y0, 0)
            if area == 0:
                findings.warnings.append(f"{where} has an empty box; training leaves it out")
            # labels of half a pixel beyond the border are common, and harmless
            elif min(x0, y0) < -1 or x1 > size[1] + 1 or y1 > size[0] + 1:
                findings.warnings.append(f"{where} has the box {box}, beyond the image")
        if "segmentation" in annotation:
            area, problem = _mask_area(annotation["segmentation"], size)
            if problem:
                findings.errors.append(f"{where} has {problem}")
            elif area == 0:
                findings.warnings.append(f"{where} has an empty mask; training leaves it out")
        if not annotation.get("iscrowd") and category >= 0:
            findings.instances.append((category, round(area)))
    masks = sum("segmentation" in annotation for annotation in annotations)
    if 0 < masks < len(annotations):
        findings.errors.append(
            f"{len(annotations) - masks} of {len(annotations)} annotations have no segmentation"
        )
    return findings


def _box(annotation: dict[str, Any]) -> tuple[float, ...] | None:
    """Return x0, y0, x1, y1; None if there is no such box."""
    try:
        box = BoxMode.convert(
            tuple(annotation["bbox"]), annotation.get("bbox_mode"), BoxMode.XYXY_ABS
        )
    except (KeyError, TypeError, ValueError, AssertionError, NotImplementedError):
        return None
    valid = len(box) == 4 and all(math.isfinite(edge) for edge in box)
    return tuple(float(edge) for edge in box) if valid else None


def _mask_area(segmentation: Any, size: tuple[int, int]) -> tuple[float, str]:
    """Return the area in pixels, and what is wrong with a mask ("" if nothing is)."""
    try:
        if isinstance(segmentation, dict):
            if tuple(segmentation["size"]) != tuple(size):
                given = tuple(segmentation["size"])
                return 0, f"a mask of size {given} (height, width) in an image of {tuple(size)}"
            try:
                Runs(segmentation)
            except ValueError:
                return 0, "a damaged RLE mask"
            return mask_area(segmentation, *size), ""
        if not isinstance(segmentation, list) or not segmentation:
            return 0, f"a segmentation of type {type(segmentation).__name__} without content"
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                return 0, f"a polygon of {len(polygon)} numbers; expected x, y of 3 or more points"
            if not all(math.isfinite(x) for x in polygon):
                return 0, "a polygon with coordinates that are no numbers"
        return mask_area(segmentation, *size), ""
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return 0, f"a mask that cannot be decoded ({error!r})"
