"""What went wrong with each prediction and target of an image, in five kinds of error.

In the manner of TIDE (arXiv 2008.08115), at one overlap, on the decisions of the official rules in
:mod:`.instance_ap`. A target is *found* or *missed*. A false positive is the first of these that
holds:

- *duplicate*: it matches a target that a higher score has found;
- *wrong class*: it overlaps a target of another class by more than :data:`OVERLAP`;
- *mislocalised*: it overlaps a target of its own class by more than :data:`NEAR`;
- *background*: none of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .instance_ap import MIN_AREA, Outcomes, precision_recall
from .instance_matching import ImageMatches, label_of

__all__ = ["KINDS", "NEAR", "OVERLAP", "ImageErrors", "best_threshold", "image_errors"]

KINDS = ("found", "missed", "duplicate", "mislocalised", "wrong class", "background")
OVERLAP = 0.5
NEAR = 0.1


@dataclass(frozen=True)
class ImageErrors:
    """Counts of one image.

    Attributes:
        image: its name.
        counts: (classes, :data:`KINDS`).
        confusion: (classes, classes): pairs of a target (row) and a prediction (column) of whatever
            class that overlap by more than :data:`OVERLAP`.
    """

    image: str
    counts: np.ndarray
    confusion: np.ndarray

    @property
    def errors(self) -> int:
        return int(self.counts[:, 1:].sum())


def best_threshold(outcome: Outcomes) -> float:
    """Return the score from which on F1 is best; inf where no prediction is right.

    Errors are counted from this score on: below, a detector lists what it hardly believes in.
    """
    if not outcome.is_true.any():
        return float("inf")
    scores, precision, recall = precision_recall(outcome)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return float(scores[int(f1.argmax())])


def image_errors(
    record: ImageMatches, labels: Sequence[int], thresholds: Mapping[int, float]
) -> ImageErrors:
    """Sort the predictions and targets of an image into :data:`KINDS`.

    Args:
        record: the image.
        labels: label ids of the classes.
        thresholds: smallest score that counts, by label id.
    """
    gt_labels = label_of(record.gt_ids)
    is_small = record.gt_areas < MIN_AREA
    is_group = record.gt_ids < 1000
    is_target = ~is_group & ~is_small
    lowest = np.array([thresholds[label] for label in record.pred_labels.tolist()])
    counts_at_all = record.pred_scores >= lowest

    pairs = counts_at_all[record.pair_pred]
    pred, gt, pixels = (x[pairs] for x in (record.pair_pred, record.pair_gt, record.pair_pixels))
    overlap = pixels / (record.gt_areas[gt] + record.pred_areas[pred] - pixels)
    same = gt_labels[gt] == record.pred_labels[pred]
    matches = same & (overlap > OVERLAP)
    on_target = is_target[gt]

    found, duplicate = _best_of_each(
        gt[matches & on_target], pred[matches & on_target], record.pred_scores
    )
    is_found = _mark(found, len(record.gt_ids))
    ignored = record.pred_void.astype(np.int64)
    times = is_group.astype(np.int64) + is_small
    np.add.at(ignored, pred[same], pixels[same] * times[gt[same]])
    is_false = counts_at_all & (ignored / record.pred_areas <= OVERLAP)
    is_false[pred[matches]] = False

    count = len(record.pred_scores)
    is_confused = is_false & _mark(pred[~same & on_target & (overlap > OVERLAP)], count)
    is_near = is_false & ~is_confused & _mark(pred[same & on_target & (overlap > NEAR)], count)
    members = (
        gt_labels[is_target & is_found],
        gt_labels[is_target & ~is_found],
        record.pred_labels[duplicate],
        record.pred_labels[is_near],
        record.pred_labels[is_confused],
        record.pred_labels[is_false & ~is_confused & ~is_near],
    )
    row_of = {label: row for row, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(KINDS)), dtype=np.int64)
    for column, of_kind in enumerate(members):
        for label in of_kind.tolist():
            counts[row_of[label], column] += 1
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    overlapping = on_target & (overlap > OVERLAP)
    for pair in np.flatnonzero(overlapping):
        row, column = gt_labels[gt[pair]], record.pred_labels[pred[pair]]
        confusion[row_of[int(row)], row_of[int(column)]] += 1
    return ImageErrors(record.image, counts, confusion)


def _best_of_each(
    gt: np.ndarray, pred: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ground truths that are matched, and the predictions that come too late."""
    order = np.lexsort((-scores[pred], gt))
    gt, pred = gt[order], pred[order]
    is_first = np.ones(len(gt), dtype=bool)
    is_first[1:] = gt[1:] != gt[:-1]
    return gt[is_first], pred[~is_first]


def _mark(indices: np.ndarray, count: int) -> np.ndarray:
    marked = np.zeros(count, dtype=bool)
    marked[indices] = True
    return marked
