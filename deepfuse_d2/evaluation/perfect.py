"""Predictions made from the ground truth: an evaluation of them must score 100."""

from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from ..data.label_images import read_labels
from ..structures.run_lengths import to_rle

__all__ = ["perfect_output"]


def perfect_output(record: dict[str, Any], num_classes: int = 0) -> dict[str, Any]:
    """What a model without fault would give for a record in detectron2's format.

    Args:
        num_classes: of labels of pixels, for their logits; 0 where the record has none.

    Returns:
        "instances" (groups left out) and "sem_seg" logits (K, H, W), as the record has labels.
    """
    size = record["height"], record["width"]
    output: dict[str, Any] = {}
    if "annotations" in record:
        output["instances"] = _instances(record["annotations"], size)
    if num_classes and record.get("sem_seg_file_name"):
        labels = torch.from_numpy(read_labels(record["sem_seg_file_name"]).astype(np.int64))
        logits = torch.zeros(num_classes, *size)
        logits.scatter_(0, labels.clamp(0, num_classes - 1)[None], 1.0)
        output["sem_seg"] = logits
    return output


def _instances(annotations: list[dict[str, Any]], size: tuple[int, int]) -> Instances:
    single = [one for one in annotations if not one.get("iscrowd", 0)]
    boxes = [
        BoxMode.convert([float(x) for x in one["bbox"]], one["bbox_mode"], BoxMode.XYXY_ABS)
        for one in single
    ]
    result = Instances(size)
    # in double precision: what is read here is written there
    result.pred_boxes = Boxes(torch.zeros(len(single), 4))
    result.pred_boxes.tensor = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    result.scores = torch.linspace(1, 0.5, len(single), dtype=torch.float64)
    kinds = [int(one["category_id"]) for one in single]
    result.pred_classes = torch.tensor(kinds, dtype=torch.int64)
    if any(one.get("segmentation") for one in single):
        result.pred_masks_rle = [_mask(one, size) for one in single]
    if single and all("keypoints" in one for one in single):
        points = [one["keypoints"] for one in single]
        result.pred_keypoints = torch.tensor(points, dtype=torch.float64).reshape(
            len(single), -1, 3
        )
    return result


def _mask(annotation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """RLE; without a pixel where there is no mask."""
    if annotation.get("segmentation"):
        return to_rle(annotation["segmentation"], *size)
    return {"size": list(size), "counts": [size[0] * size[1]]}
