"""Masks of annotations, whatever form detectron2's format gives them."""

from typing import Any

__all__ = ["to_rle"]


def to_rle(segmentation: list | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Compressed COCO RLE of a mask in an image of that size, for pycocotools.

    Args:
        segmentation: polygons (x0, y0, x1, y1, ...), or RLE with counts compressed or as a list.
    """
    from pycocotools import mask as mask_util

    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation
