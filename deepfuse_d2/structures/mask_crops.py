"""Instance masks, whatever their form, as small crops of the image.

An instance covers a small part of a street scene, so an evaluator that looks at the crop alone does
work proportional to the area of the masks instead of images x masks x pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from .run_lengths import decode_counts

__all__ = [
    "MaskCrop",
    "crops_from_masks",
    "crops_from_rle",
    "crops_from_unpasted",
    "crops_of_instances",
    "encode_crop",
    "rle_as_text",
]

# (top, left, crop): crop is a bool array (h, w) that lies at rows top..top + h and columns
# left..left + w of the image. An empty mask has a crop of shape (0, 0).
MaskCrop = tuple[int, int, np.ndarray]

_EMPTY: MaskCrop = (0, 0, np.zeros((0, 0), dtype=bool))


def crops_from_masks(masks: np.ndarray) -> Iterator[MaskCrop]:
    """Crop full-image masks to their bounding boxes.

    Args:
        masks: bool or uint8 array (N, H, W); everything but 0 belongs to the mask.

    Yields:
        one :data:`MaskCrop` for each mask, a view of it.

    Raises:
        ValueError: the array is not (N, H, W), or neither bool nor uint8 (a soft mask has no
            official threshold, so it is not ours to choose one).
    """
    if masks.ndim != 3 or masks.dtype not in (np.bool_, np.uint8):
        raise ValueError(
            f"masks are {masks.dtype} of shape {masks.shape}; expected bool or uint8 of shape "
            "(N, H, W). Threshold soft masks first, for example `masks >= 0.5`."
        )
    for mask in masks:
        if mask.dtype == np.uint8:
            mask = mask != 0
        top, bottom = _extent(mask.any(axis=1))
        left, right = _extent(mask[top:bottom].any(axis=0))
        if top == bottom:
            yield _EMPTY
            continue
        yield top, left, mask[top:bottom, left:right]


def crops_from_rle(rles: Sequence[dict]) -> Iterator[MaskCrop]:
    """Decode COCO run-length masks into their bounding boxes only.

    Args:
        rles: dicts ``{"size": [H, W], "counts": str | bytes | list[int]}`` as pycocotools and
            detectron2 write them: runs in column-major order, background first. A list of counts
            is the uncompressed form.

    Yields:
        one :data:`MaskCrop` for each mask.

    Raises:
        ValueError: the runs do not add up to H x W.
    """
    for rle in rles:
        height, width = (int(side) for side in rle["size"])
        counts = decode_counts(rle["counts"])
        edges = np.cumsum(counts)
        total = int(edges[-1]) if edges.size else 0
        if total != height * width or (counts < 0).any():
            raise ValueError(
                f"damaged COCO RLE: its runs cover {total} pixels, its size {[height, width]} "
                f"needs {height * width}."
            )
        starts, stops = edges[0:-1:2], edges[1::2]  # foreground runs are the odd ones
        filled = stops > starts
        starts, stops = starts[filled], stops[filled]
        if not starts.size:
            yield _EMPTY
            continue
        first_column, first_row = np.divmod(starts, height)
        last_column, last_row = np.divmod(stops - 1, height)
        left, right = int(first_column[0]), int(last_column[-1]) + 1
        top, bottom = int(first_row.min()), int(last_row.max()) + 1
        if (first_column != last_column).any():  # a run around the bottom of a column
            top, bottom = 0, height
        # +1 where a run starts and -1 after its end: the running sum is the mask, column by column.
        rows = bottom - top
        steps = np.zeros((right - left) * rows + 1, dtype=np.int8)
        steps[(first_column - left) * rows + first_row - top] += 1
        steps[(last_column - left) * rows + last_row - top + 1] -= 1
        yield top, left, np.cumsum(steps[:-1], dtype=np.int8).view(bool).reshape(-1, rows).T


def crops_from_unpasted(
    masks: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int], *, threshold: float = 0.5
) -> Iterator[MaskCrop]:
    """Paste the masks of a mask head into their boxes, and nowhere else.

    The crops hold the same bits as detectron2's ``paste_masks_in_image`` on a CPU, which samples
    the same points in the same way, then spreads them over an image for each mask.

    Args:
        masks: (N, 1, M, M) probabilities on the CPU.
        boxes: (N, 4) corners x0, y0, x1, y1 in pixels of the image.
        shape: (height, width) of the image.
        threshold: a pixel belongs to the mask from this probability on.

    Yields:
        one :data:`MaskCrop` for each mask; its border may be empty.
    """
    height, width = shape
    # One pixel beyond the box: grid_sample fades to 0 over half a cell of the mask outside it.
    starts = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
    stops = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height])).int().tolist()
    centres_x = torch.arange(width, dtype=torch.float32) + 0.5
    centres_y = torch.arange(height, dtype=torch.float32) + 0.5
    for mask, box, (left, top), (right, bottom) in zip(masks, boxes, starts, stops, strict=True):
        if left >= right or top >= bottom:
            yield _EMPTY
            continue
        x0, y0, x1, y1 = box
        # Pixel centres in coordinates where the box spans -1 .. 1.
        grid = torch.empty(1, bottom - top, right - left, 2)
        grid[0, :, :, 0] = (centres_x[left:right] - x0) / (x1 - x0) * 2 - 1
        grid[0, :, :, 1] = ((centres_y[top:bottom] - y0) / (y1 - y0) * 2 - 1)[:, None]
        inside = F.grid_sample(mask[None], grid.to(mask.dtype), align_corners=False)
        yield top, left, (inside[0, 0] >= threshold).numpy()


def crops_of_instances(
    instances: Instances, shape: tuple[int, int], image: str
) -> Iterator[MaskCrop]:
    """Return the crops of predicted masks in whatever of the forms above they are.

    Raises: ValueError: there are no masks, or not of size ``shape`` (height, width).
    """
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        if masks.ndim == 4 and instances.has("pred_boxes"):
            sizes = {tuple(instances.image_size)}
            crops = crops_from_unpasted(masks, instances.pred_boxes.tensor, shape)
        else:
            sizes = {tuple(masks.shape[1:])}
            crops = crops_from_masks(np.asarray(masks))
    elif instances.has("pred_masks_rle"):
        rles = instances.pred_masks_rle
        sizes = {tuple(int(side) for side in rle["size"]) for rle in rles}
        crops = crops_from_rle(rles)
    else:
        fields = sorted(instances.get_fields())
        raise ValueError(
            f"{image}: the predicted instances have the fields {fields}, but no masks; expected "
            "pred_masks or pred_masks_rle (MODEL.MASK_ON True)."
        )
    if len(instances) and sizes != {tuple(shape)}:
        raise ValueError(
            f"{image}: predicted masks of size {sorted(sizes)} (height, width), ground truth of "
            f"{tuple(shape)}; predictions must be resized to the size of the original image."
        )
    return crops


def encode_crop(crop: MaskCrop, height: int, width: int) -> dict:
    """COCO's compressed run lengths of a mask of which only a part is given.

    The work is proportional to the part: an image of any size costs the same.
    """
    from pycocotools import mask as coco

    top, left, inside = crop
    # along each column, where the mask starts and where it ends
    framed = np.zeros((inside.shape[1], inside.shape[0] + 2), dtype=np.int8)
    framed[:, 1:-1] = inside.T
    column, row = np.nonzero(np.diff(framed, axis=1))
    edges = (left + column).astype(np.int64) * height + top + row
    # a run that goes on at the top of the next column
    joined = np.nonzero(edges[1:-1:2] == edges[2::2])[0]
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if len(edges) and edges[-1] == height * width:
        counts = counts[:-1]
    rle = {"size": [height, width], "counts": counts.tolist()}
    return rle_as_text(coco.frPyObjects(rle, height, width))


def rle_as_text(rle: dict) -> dict:
    """COCO's compressed RLE with text for bytes, which JSON can hold."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def _extent(occupied: np.ndarray) -> tuple[int, int]:
    """Return the first True of a bool vector and one past the last; (0, 0) where there is none."""
    if not occupied.size or not occupied[first := int(occupied.argmax())]:
        return 0, 0
    return first, occupied.size - int(occupied[::-1].argmax())
