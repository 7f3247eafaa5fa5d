"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562) of label maps.

The boundary of a mask is what of it lies within d pixels of its contour: the pixels that have
something else, or the outside of the image, within a square of 2 d + 1 pixels (d erosions by 3 x 3,
as in the authors' code). Boundary IoU of a class is the IoU of the boundaries of its prediction and
its ground truth. d is 2 % of the image's diagonal. For label maps, the masks are those of the
classes, and intersections and unions are summed over images, as for IoU.

Where the ground truth is to be ignored, the prediction is as well: it has the same contour there,
so what a model says about such a region changes nothing.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["DILATION_RATIO", "boundary", "boundary_width"]

DILATION_RATIO = 0.02


def boundary_width(shape: tuple[int, int], ratio: float = DILATION_RATIO) -> int:
    """Return d in pixels for an image of (height, width): at least 1."""
    return max(1, round(ratio * math.hypot(*shape)))


def boundary(labels: np.ndarray, width: int) -> np.ndarray:
    """Return where (H, W) labels have another label or the outside within ``width`` pixels.

    One pass for all classes: each pixel belongs to one mask, and is on its boundary if something
    else is near.
    """
    import cv2

    labels = labels.astype(np.uint8 if labels.size and labels.max() < 256 else np.uint16)
    around = np.ones((3, 3), dtype=np.uint8)
    # pixels that touch another label; all others within `width` are at most width - 1 from these
    contour = (cv2.erode(labels, around) != cv2.dilate(labels, around)).view(np.uint8)
    contour[[0, -1]] = 1
    contour[:, [0, -1]] = 1
    if width > 1:
        contour = cv2.dilate(contour, np.ones((2 * width - 1, 2 * width - 1), dtype=np.uint8))
    return contour.view(bool)
