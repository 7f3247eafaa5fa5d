"""Records written as a JSON file of COCO's instance annotations."""

import json
import os
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

from ..errors import DatasetError
from ..files import written_whole
from ..structures.run_lengths import mask_area, to_rle

__all__ = ["as_coco", "write_coco"]


def as_coco(
    records: Sequence[dict[str, Any]], classes: Sequence[str], images: str | os.PathLike
) -> dict[str, Any]:
    """COCO's content of records in detectron2's format: all ids from 1, areas of the masks.

    Args:
        images: folder that file names start from.

    Raises: DatasetError: a record has no annotations of instances.
    """
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, start=1)],
    }
    for number, record in enumerate(records, start=1):
        if "annotations" not in record:
            raise DatasetError(
                f"{record['file_name']} has no annotations of instances, which COCO's format is "
                "made of."
            )
        name = os.path.relpath(record["file_name"], images).replace(os.sep, "/")
        size = record["height"], record["width"]
        content["images"].append(
            {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        )
        for annotation in record["annotations"]:
            box = BoxMode.convert(
                [float(x) for x in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYWH_ABS
            )
            one = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": annotation["category_id"] + 1,
                "bbox": [round(float(x), 2) for x in box],
                "area": annotation.get("area") or round(float(box[2] * box[3]), 2),
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
            mask = annotation.get("segmentation")
            if mask:
                one["area"] = mask_area(mask, *size)
                one["segmentation"] = mask if isinstance(mask, list) else to_rle(mask, *size)
            if "keypoints" in annotation:
                points = annotation["keypoints"]
                one["keypoints"] = [x if i % 3 == 2 else x - 0.5 for i, x in enumerate(points)]
                one["num_keypoints"] = sum(x > 0 for x in points[2::3])
            content["annotations"].append(one)
    return content


def write_coco(
    path: str | os.PathLike,
    records: Sequence[dict[str, Any]],
    classes: Sequence[str],
    images: str | os.PathLike,
) -> dict[str, Any]:
    """Write :func:`as_coco`; returns it."""
    content = as_coco(records, classes, images)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return content
