"""Masks of a mask head, pasted into images, and nowhere but inside their boxes."""

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from torch import Tensor

from ...structures.mask_crops import crops_from_unpasted
from .unpasted import scale_unpasted

__all__ = ["finish_instances", "paste_masks"]


def finish_instances(
    instances: Instances, height: int, width: int, mask_threshold: float = 0.5
) -> Instances:
    """detectron2's ``detector_postprocess``: boxes and masks in pixels of the image asked for.

    Args:
        instances: as the heads leave them; ``pred_masks`` (N, 1, M, M).
        height, width: of the image asked for.
        mask_threshold: a pixel belongs to a mask from this probability on.
    """
    result = scale_unpasted(instances, height, width)
    if result.has("pred_masks"):
        result.pred_masks = paste_masks(
            result.pred_masks, result.pred_boxes.tensor, (height, width), mask_threshold
        )
    return result


def paste_masks(
    masks: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Masks at full size, those of detectron2's ``paste_masks_in_image``, computed inside the boxes
    only where it would go through the whole image: on a CPU.

    Args:
        masks: (N, 1, M, M) probabilities of the content of the boxes.
        boxes: (N, 4) corners x0, y0, x1, y1 in pixels of the image.
        shape: (height, width) of the image.
        threshold: a pixel belongs to the mask from this probability on.

    Returns:
        (N, height, width) bool
    """
    if masks.device.type != "cpu":
        return paste_masks_in_image(masks[:, 0].float(), boxes, shape, threshold)
    # of NumPy, which takes memory only where something is written
    pasted = np.zeros((len(masks), *shape), dtype=bool)
    crops = crops_from_unpasted(masks, boxes, shape, threshold=threshold)
    for image, crop in zip(pasted, crops, strict=True):
        crop.paste(image)
    return torch.from_numpy(pasted)
