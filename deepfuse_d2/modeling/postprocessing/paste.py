"""Masks of a mask head, pasted into images, and nowhere but inside their boxes."""

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

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
    """Masks at full size, computed inside the boxes only.

    Samples the points that detectron2's ``paste_masks_in_image`` samples, bilinearly as it does.

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
    # Next to a box, a sample fades to 0 over half a cell of the mask: one pixel more.
    first = (boxes[:, :2].floor() - 1).clamp(min=0)
    last = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height]))
    extents = torch.cat([first, last], dim=1).int().tolist()
    # Bilinear samples on a grid are separable: a matrix for each axis, whose rows are the shares of
    # the cells of a mask in a pixel. A cell's share falls from 1 at its centre to 0 a cell away.
    x0, y0, x1, y1 = boxes.float().split(1, dim=1)
    side_y, side_x = masks.shape[-2:]
    centres_x = torch.arange(width, dtype=torch.float32, device=masks.device) + 0.5
    centres_y = torch.arange(height, dtype=torch.float32, device=masks.device) + 0.5
    cells_x = torch.arange(side_x, dtype=torch.float32, device=masks.device)[:, None] + 0.5
    cells_y = torch.arange(side_y, dtype=torch.float32, device=masks.device) + 0.5
    for i, (left, top, right, bottom) in enumerate(extents):
        if left >= right or top >= bottom:
            continue
        at_x = (centres_x[left:right] - x0[i]) / (x1[i] - x0[i]) * side_x
        at_y = (centres_y[top:bottom] - y0[i]) / (y1[i] - y0[i]) * side_y
        share_x = (1 - (at_x - cells_x).abs_()).clamp_(min=0)
        share_y = (1 - (at_y[:, None] - cells_y).abs_()).clamp_(min=0)
        inside = share_y @ masks[i, 0] @ share_x
        torch.ge(inside, threshold, out=pasted[i, top:bottom, left:right])
    return pasted


def _zeros(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Masks of nothing. On a CPU, memory is taken only where something is written."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros((count, height, width), dtype=bool))
    return torch.zeros(count, height, width, dtype=torch.bool, device=device)
