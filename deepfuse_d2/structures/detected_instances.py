"""What was found in one image, with masks as crops: the form that tiles and results are made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ..errors import ImageError
from .mask_crops import MaskCrop, crops_of_instances

__all__ = ["DetectedInstances", "check_memory"]

# Bytes that masks of one image may take; 100 masks of 8192 x 8192.
_MAX_MASK_BYTES = 7 * 1024**3


class DetectedInstances:
    """Instances of one image, in whatever order they are."""

    def __init__(
        self,
        size: tuple[int, int],
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        crops: list[MaskCrop] | None,
        keypoints: np.ndarray | None = None,
    ):
        """
        Args:
            size: (height, width) of the image.
            boxes: (N, 4) corners in pixels.
            scores, classes: (N,)
            crops: of the masks; None where the model has none.
            keypoints: (N, K, 3) x, y in pixels and score; None where the model has none.
        """
        self.size, self.boxes, self.scores, self.classes = size, boxes, scores, classes
        self.crops, self.keypoints = crops, keypoints

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(
        cls, instances: Instances, size: tuple[int, int], image: str = "this image"
    ) -> DetectedInstances:
        """From detectron2's, at the size of the image and on the CPU.

        Args:
            instances: masks in any form of :func:`.crops_of_instances`, or none.
            size: (height, width) of the image.
            image: its name, for messages.
        """
        has_masks = instances.has("pred_masks") or instances.has("pred_masks_rle")
        return cls(
            size,
            instances.pred_boxes.tensor.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
            list(crops_of_instances(instances, size, image)) if has_masks else None,
            instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None,
        )

    def instances(self) -> Instances:
        """detectron2's, with masks of the size of the image."""
        result = Instances(self.size)
        result.pred_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(self.boxes)))
        result.scores = torch.from_numpy(np.ascontiguousarray(self.scores))
        result.pred_classes = torch.from_numpy(np.ascontiguousarray(self.classes))
        if self.crops is not None:
            check_memory(len(self), *self.size)
            masks = np.zeros((len(self), *self.size), dtype=bool)
            for mask, crop in zip(masks, self.crops, strict=True):
                crop.paste(mask)
            result.pred_masks = torch.from_numpy(masks)
        if self.keypoints is not None:
            result.pred_keypoints = torch.from_numpy(np.ascontiguousarray(self.keypoints))
        return result

    def rles(self) -> list[dict]:
        """Masks in COCO's compressed run lengths."""
        return [crop.rle(*self.size) for crop in self.crops or ()]

    def coco_results(self, ids: Mapping[int, int] | None = None) -> list[dict]:
        """COCO's results of one image: category_id, bbox (x, y, w, h), score; segmentation and
        keypoints, where there are any.

        Args:
            ids: class -> category_id; by default the class itself.
        """
        corners = self.boxes.astype(np.float64)
        corners[:, 2:] -= corners[:, :2]
        classes = self.classes.tolist()
        results: list[dict] = [
            {"category_id": (ids or {}).get(kind, kind), "bbox": box, "score": score}
            for kind, box, score in zip(
                classes, corners.tolist(), self.scores.tolist(), strict=True
            )
        ]
        if self.crops is not None:
            for result, rle in zip(results, self.rles(), strict=True):
                result["segmentation"] = rle
        if self.keypoints is not None:
            # COCO counts pixels, and detectron2 measures from their border
            shifted = self.keypoints.astype(np.float64) - (0.5, 0.5, 0)
            for result, keypoints in zip(results, shifted, strict=True):
                result["keypoints"] = keypoints.flatten().tolist()
        return results


def check_memory(count: int, height: int, width: int) -> None:
    """Raise an ImageError if so many masks of an image's size are more than memory is made for."""
    needed = count * height * width
    if needed > _MAX_MASK_BYTES:
        raise ImageError(
            f"{count} masks of {width} x {height} pixels would take {needed / 1024**3:.0f} GB; ask "
            'for output="rle", which takes a few MB, or raise score_threshold.'
        )
