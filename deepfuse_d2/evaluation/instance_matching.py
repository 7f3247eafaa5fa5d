"""Match the predictions of one image with its ground truth, into a record small enough to gather.

The record holds areas and overlaps, no decision: which overlap is a match, which ground truth is a
target and which prediction is ignored is decided later, at any threshold, by :mod:`.instance_ap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..structures.mask_crops import MaskCrop
from .distances import region_distances

__all__ = ["ImageMatches", "label_of", "match"]

_MAX_ID = 1 << 16  # Cityscapes stores ids as 16-bit PNG


@dataclass(frozen=True)
class ImageMatches:
    """All that evaluation needs to know of one image: G ground truths, P predictions, K overlaps.

    Attributes:
        image: name of the image, unique in the data set.
        gt_ids: (G,) ids of the ground truths of evaluated classes, groups included, ascending.
        gt_areas: (G,) pixels.
        gt_distances: (G,) median distance in metres, -1 where unknown.
        gt_densities: (G,) share of the pixels whose distance is known, 0 .. 1.
        has_distances: whether distances of this image were given.
        pred_labels: (P,) label ids of the predictions that have a pixel.
        pred_scores: (P,) float64.
        pred_areas: (P,) pixels.
        pred_void: (P,) pixels on void.
        pair_pred, pair_gt: (K,) indices of a prediction and a ground truth, of whatever classes,
            that share ``pair_pixels`` (K,) > 0 pixels.
    """

    image: str
    gt_ids: np.ndarray
    gt_areas: np.ndarray
    gt_distances: np.ndarray
    gt_densities: np.ndarray
    has_distances: bool
    pred_labels: np.ndarray
    pred_scores: np.ndarray
    pred_areas: np.ndarray
    pred_void: np.ndarray
    pair_pred: np.ndarray
    pair_gt: np.ndarray
    pair_pixels: np.ndarray


def match(
    image: str,
    gt_map: np.ndarray,
    crops: Iterable[MaskCrop],
    pred_labels: Sequence[int] | np.ndarray,
    pred_scores: Sequence[float] | np.ndarray,
    *,
    labels: Sequence[int],
    void_labels: Sequence[int],
    distances: np.ndarray | None = None,
) -> ImageMatches:
    """Reduce one image to its match record.

    The cost is one pass over ``gt_map`` and one over each crop.

    Args:
        image: name of the image.
        gt_map: (H, W) integers: Cityscapes instance ids, 0 .. 65535.
        crops: one crop for each prediction, see :mod:`.mask_crops`.
        pred_labels: (P,) Cityscapes label ids.
        pred_scores: (P,) confidences.
        labels: label ids that are evaluated; predictions of other labels are left out.
        void_labels: label ids whose pixels are void.
        distances: (H, W) metres, nan where unknown; None if there are none.

    Raises:
        ValueError: ids out of range, or lengths that differ.
    """
    if (
        gt_map.dtype != np.uint16
        and gt_map.size
        and not 0 <= gt_map.min() <= gt_map.max() < _MAX_ID
    ):
        raise ValueError(
            f"{image}: ground truth holds ids from {gt_map.min()} to {gt_map.max()}; "
            f"instance ids lie in 0 .. {_MAX_ID - 1}."
        )
    areas = np.bincount(gt_map.ravel(), minlength=_MAX_ID)
    gt_ids = np.flatnonzero(areas)
    gt_ids = gt_ids[np.isin(label_of(gt_ids), labels)]

    # Compact ids: 0 is everything else, 1 is void, 2 + g is ground truth g.
    codes = np.zeros(_MAX_ID, dtype=np.uint8 if len(gt_ids) <= 253 else np.uint16)
    codes[[label for label in void_labels if label >= 0]] = 1  # -1 (license plate) is in no PNG
    codes[gt_ids] = np.arange(2, 2 + len(gt_ids))
    code_map = codes.take(gt_map)

    pred_labels = np.asarray(pred_labels, dtype=np.int64)
    pred_scores = np.asarray(pred_scores, dtype=np.float64)
    wanted = np.isin(pred_labels, labels)
    kept, pred_areas, pixels = [], [], []
    for index, (top, left, crop) in _zip_equal(image, crops, pred_labels, pred_scores):
        area = np.count_nonzero(crop)
        if not wanted[index] or not area:
            continue
        height, width = crop.shape
        under = code_map[top : top + height, left : left + width] * crop
        kept.append(index)
        pred_areas.append(area)
        pixels.append(np.bincount(under.ravel(), minlength=2 + len(gt_ids)))
    counts = np.array(pixels, dtype=np.int64).reshape(len(kept), 2 + len(gt_ids))
    pair_pred, pair_gt = np.nonzero(counts[:, 2:])
    gt_distances, gt_densities = np.full(len(gt_ids), -1.0), np.zeros(len(gt_ids))
    if distances is not None and len(gt_ids):
        gt_distances, gt_densities = region_distances(code_map, distances, len(gt_ids), first=2)
    return ImageMatches(
        image=image,
        gt_ids=gt_ids,
        gt_areas=areas[gt_ids],
        gt_distances=gt_distances,
        gt_densities=gt_densities,
        has_distances=distances is not None,
        pred_labels=pred_labels[kept],
        pred_scores=pred_scores[kept],
        pred_areas=np.array(pred_areas, dtype=np.int64),
        pred_void=counts[:, 1],
        pair_pred=pair_pred,
        pair_gt=pair_gt,
        pair_pixels=counts[:, 2:][pair_pred, pair_gt],
    )


def label_of(ids: np.ndarray) -> np.ndarray:
    """Return the label ids that Cityscapes instance ids belong to."""
    return np.where(ids < 1000, ids, ids // 1000)


def _zip_equal(
    image: str, crops: Iterable[MaskCrop], labels: np.ndarray, scores: np.ndarray
) -> Iterable[tuple[int, MaskCrop]]:
    count = 0
    for count, crop in enumerate(crops, start=1):
        if count <= len(labels):
            yield count - 1, crop
    if not count == len(labels) == len(scores):
        raise ValueError(
            f"{image}: {count} masks, {len(labels)} classes and {len(scores)} scores; "
            "a prediction needs one of each."
        )
