"""Masks of a mask head, pasted into images, and nowhere but inside their boxes."""

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from ..engine.inference import scale_unpasted

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
    """Masks at full size, computed inside the boxes only.

    Samples the points that detectron2's ``paste_masks_in_image`` samples, in the same way.

    Args:
        masks: (N, 1, M, M) probabilities of the content of the boxes.
        boxes: (N, 4) corners x0, y0, x1, y1 in pixels of the image.
        shape: (height, width) of the image.
        threshold: a pixel belongs to the mask from this probability on.

    Returns:
        (N, height, width) bool
    """
    height, width = shape
    masks = masks.float()
    pasted = _zeros(len(masks), height, width, masks.device)
    if not len(masks):
        return pasted
    # Next to a box, grid_sample fades to 0 over half a cell of the mask: one pixel more.
    first = (boxes[:, :2].floor() - 1).clamp(min=0)
    last = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height]))
    extents = torch.cat([first, last], dim=1).int().tolist()
    # pixel centres in coordinates where each box spans -1 .. 1
    x0, y0, x1, y1 = boxes.float().split(1, dim=1)
    centres_x = torch.arange(width, dtype=torch.float32, device=masks.device) + 0.5
    centres_y = torch.arange(height, dtype=torch.float32, device=masks.device) + 0.5
    for i, (left, top, right, bottom) in enumerate(extents):
        if left >= right or top >= bottom:
            continue
        grid = masks.new_empty(1, bottom - top, right - left, 2)
        grid[..., 0] = (centres_x[left:right] - x0[i]) / (x1[i] - x0[i]) * 2 - 1
        grid[..., 1] = ((centres_y[top:bottom] - y0[i]) / (y1[i] - y0[i]) * 2 - 1)[:, None]
        inside = F.grid_sample(masks[i : i + 1], grid, align_corners=False)[0, 0]
        torch.ge(inside, threshold, out=pasted[i, top:bottom, left:right])
    return pasted


def _zeros(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Masks of nothing. On a CPU, memory is taken only where something is written."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros((count, height, width), dtype=bool))
    return torch.zeros(count, height, width, dtype=torch.bool, device=device)
