"""Instance masks, whatever their form, as small crops of the image.

An instance covers a small part of a street scene, so an evaluator that looks at the crop alone does
work proportional to the area of the masks instead of images x masks x pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from .run_lengths import Runs, to_rle

__all__ = [
    "EMPTY",
    "MaskCrop",
    "crops_from_masks",
    "crops_from_rle",
    "crops_from_unpasted",
    "crops_of_instances",
]


class MaskCrop(NamedTuple):
    """The mask of one instance, kept where it is set.

    Args:
        top, left: where the crop lies in the image.
        pixels: bool (h, w); an empty mask has (0, 0) of them.

    Example:
        >>> crop = MaskCrop.of(np.eye(4, dtype=bool)[:, 1:])
        >>> crop.top, crop.left, crop.pixels.shape, crop.rle(4, 3)["counts"]
        (1, 0, (3, 3), '13330')
    """

    top: int
    left: int
    pixels: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> MaskCrop:
        """Of a full-image mask (H, W), bool or uint8."""
        (crop,) = crops_from_masks(mask[None])
        return crop

    @classmethod
    def union(cls, crops: Iterable[MaskCrop]) -> MaskCrop:
        """What any of several masks of one image sets."""
        crops = [crop for crop in crops if crop.pixels.size]
        if len(crops) < 2:
            return crops[0] if crops else EMPTY
        boxes = np.array([crop.box for crop in crops])
        (top, left), (bottom, right) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        whole = np.zeros((bottom - top, right - left), dtype=bool)
        for crop in crops:
            crop.moved(-top, -left).paste(whole)
        return cls(int(top), int(left), whole)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the crop, the last two exclusive."""
        height, width = self.pixels.shape
        return self.top, self.left, self.top + height, self.left + width

    @property
    def area(self) -> int:
        """Pixels that are set."""
        return int(np.count_nonzero(self.pixels))

    def moved(self, down: int, right: int) -> MaskCrop:
        """The same pixels elsewhere."""
        return MaskCrop(self.top + down, self.left + right, self.pixels)

    def part(self, top: int, left: int, bottom: int, right: int) -> MaskCrop:
        """What of it lies in a rectangle of the image, a view."""
        rows = slice(max(top - self.top, 0), max(bottom - self.top, 0))
        columns = slice(max(left - self.left, 0), max(right - self.left, 0))
        return MaskCrop(
            self.top + rows.start, self.left + columns.start, self.pixels[rows, columns]
        )

    def iou(self, other: MaskCrop) -> float:
        """Intersection over union with another mask of the image; 0 where both are empty."""
        shared = self.part(*other.box).pixels & other.part(*self.box).pixels
        common = int(np.count_nonzero(shared))
        return common / max(self.area + other.area - common, 1)

    def paste(self, image: np.ndarray, value: Any = True) -> np.ndarray:
        """Set its pixels in an image, (H, W) or (H, W, C), which is changed and returned."""
        top, left, bottom, right = self.box
        image[top:bottom, left:right][self.pixels] = value
        return image

    def rle(self, height: int, width: int) -> dict:
        """COCO's compressed run lengths of the mask in an image of that size.

        The work is proportional to the crop: an image of any size costs the same.
        """
        # along each column, where the mask starts and where it ends
        framed = np.zeros((self.pixels.shape[1], self.pixels.shape[0] + 2), dtype=np.int8)
        framed[:, 1:-1] = self.pixels.T
        column, row = np.nonzero(np.diff(framed, axis=1))
        edges = (self.left + column).astype(np.int64) * height + self.top + row
        # a run that goes on at the top of the next column
        joined = np.nonzero(edges[1:-1:2] == edges[2::2])[0]
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
        counts = np.diff(np.concatenate([[0], edges, [height * width]]))
        if len(edges) and edges[-1] == height * width:
            counts = counts[:-1]
        return to_rle({"size": [height, width], "counts": counts.tolist()}, height, width)


EMPTY = MaskCrop(0, 0, np.zeros((0, 0), dtype=bool))


def crops_from_masks(masks: np.ndarray) -> Iterator[MaskCrop]:
    """Crop full-image masks to their bounding boxes.

    Args:
        masks: bool or uint8 array (N, H, W); everything but 0 belongs to the mask.

    Yields:
        one :class:`MaskCrop` for each mask, a view of it.

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
            yield EMPTY
            continue
        yield MaskCrop(top, left, mask[top:bottom, left:right])


def crops_from_rle(rles: Sequence[dict]) -> Iterator[MaskCrop]:
    """Decode COCO run-length masks into their bounding boxes only.

    Args:
        rles: dicts ``{"size": [H, W], "counts": str | bytes | list[int]}`` as pycocotools and
            detectron2 write them: runs in column-major order, background first. A list of counts
            is the uncompressed form.

    Yields:
        one :class:`MaskCrop` for each mask.

    Raises:
        ValueError: the runs do not add up to H x W.
    """
    for rle in rles:
        runs = Runs(rle)
        if runs.box is None:
            yield EMPTY
            continue
        x0, y0, x1, y1 = runs.box
        yield MaskCrop(y0, x0, runs.columns(x0, x1)[:, y0:y1].T.view(bool))


def crops_from_unpasted(
    masks: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int], *, threshold: float = 0.5
) -> Iterator[MaskCrop]:
    """Paste the masks of a mask head into their boxes, and nowhere else.

    The crops hold the same bits as detectron2's ``paste_masks_in_image`` on a CPU, which samples
    the same points in the same way, then spreads them over an image for each mask.

    Args:
        masks: (N, 1, M, M) probabilities on the CPU, in any precision.
        boxes: (N, 4) corners x0, y0, x1, y1 in pixels of the image.
        shape: (height, width) of the image.
        threshold: a pixel belongs to the mask from this probability on.

    Yields:
        one :class:`MaskCrop` for each mask; its border may be empty.
    """
    height, width = shape
    # One pixel beyond the box: grid_sample fades to 0 over half a cell of the mask outside it.
    starts = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
    stops = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height])).int().tolist()
    centres_x = torch.arange(width, dtype=torch.float32) + 0.5
    centres_y = torch.arange(height, dtype=torch.float32) + 0.5
    for mask, box, (left, top), (right, bottom) in zip(masks, boxes, starts, stops, strict=True):
        if left >= right or top >= bottom:
            yield EMPTY
            continue
        x0, y0, x1, y1 = box
        # Pixel centres in coordinates where the box spans -1 .. 1.
        grid = torch.empty(1, bottom - top, right - left, 2)
        grid[0, :, :, 0] = (centres_x[left:right] - x0) / (x1 - x0) * 2 - 1
        grid[0, :, :, 1] = ((centres_y[top:bottom] - y0) / (y1 - y0) * 2 - 1)[:, None]
        inside = F.grid_sample(mask[None].float(), grid, align_corners=False)
        yield MaskCrop(top, left, (inside[0, 0] >= threshold).numpy())


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


def _extent(occupied: np.ndarray) -> tuple[int, int]:
    """Return the first True of a bool vector and one past the last; (0, 0) where there is none."""
    if not occupied.size or not occupied[first := int(occupied.argmax())]:
        return 0, 0
    return first, occupied.size - int(occupied[::-1].argmax())
