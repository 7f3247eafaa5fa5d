"""Instance AP of Cityscapes from match records: accumulate over images, average over classes.

Pure functions on arrays: no file, no global state. The rules are those of the official script
(cityscapesScripts, ``evalInstanceLevelSemanticLabeling``), written down here because they are
written nowhere else:

*Ground truth.* An id of 1000 or more is one instance, of label ``id // 1000``. A smaller id is the
label itself: for a class with instances that is a *group* that could not be told apart. Instances
of at least 100 pixels are targets; groups and smaller instances are not to be found. Another
:class:`Scope` narrows the targets: AP100m and AP50m leave out what is under 1000 pixels, farther
away, or of an uncertain distance, and treat it as they treat small instances. Void is each pixel
whose id is a label that evaluation ignores; an *instance* of such a label (caravan 29001) is not
void, only its group (29) is.

*Matching*, for each class and each overlap threshold t in 0.5, 0.55 .. 0.95. A prediction without a
pixel does not exist. A prediction and a ground truth of its class match if IoU > t; as t >= 0.5 and
ground truths are disjoint, a prediction matches at most one.

- A target with matches is found once, with the highest score among them; every further match is a
  false positive with its own score. A target without a match is missed.
- A prediction that matches a group or an instance out of scope counts for nothing.
- Any other prediction is a false positive, unless more than the share t of its pixels is to be
  ignored: void, groups of its class, instances of its class out of scope. A *group out of scope*
  counts twice.

*Average precision* of a class is the area under the precision-recall curve over all images, with
one point for each distinct score (equal scores enter together, so neither the order of images nor
that of predictions matters) and an end point of precision 1 at recall 0. A point has the width of
half the distance between the recalls of its two neighbours. The outer ends count as their own
neighbours: before the first point stands its own recall, after the last one recall 0. AP is nan
without a target. With targets it is 0 without a prediction, and also where every prediction is
ignored and no target is found: nothing was found, so recall and hence the area is 0 (the official
script has no answer in that case, it stops with an IndexError: cityscapesScripts issue 89).

The AP of all classes is the mean over classes and thresholds that are not nan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .instance_matching import ImageMatches, label_of

__all__ = [
    "BY_DISTANCE",
    "BY_SIZE",
    "MIN_AREA",
    "OVERLAPS",
    "Outcomes",
    "Scope",
    "accumulate",
    "average",
    "average_precision",
    "mean_defined",
    "outcomes",
    "precision_recall",
]

# Built as the official script builds them: 0.6000000000000001 must stay what it is.
OVERLAPS = np.arange(0.5, 1.0, 0.05)
MIN_AREA = 100  # pixels


@dataclass(frozen=True)
class Scope:
    """Which instances are targets; groups never are.

    Attributes:
        min_area, max_area: pixels, min_area <= area < max_area.
        max_distance: metres, for the median distance of the instance.
        min_density: smallest share of the instance's pixels whose distance is known.
        predictions: areas [from, to) outside of which a false positive does not count.
    """

    min_area: float = MIN_AREA
    max_area: float = np.inf
    max_distance: float = np.inf
    min_density: float = -np.inf
    predictions: tuple[float, float] = (0, np.inf)


EVERYTHING = Scope()
#: The official distance scopes.
BY_DISTANCE = {
    "100m": Scope(min_area=1000, max_distance=100, min_density=0.5),
    "50m": Scope(min_area=1000, max_distance=50, min_density=0.5),
}
#: COCO's sizes; Cityscapes knows none. A false positive belongs to the size that it has itself.
BY_SIZE = {
    "s": Scope(max_area=32**2, predictions=(0, 32**2)),
    "m": Scope(min_area=32**2, max_area=96**2, predictions=(32**2, 96**2)),
    "l": Scope(min_area=96**2, predictions=(96**2, np.inf)),
}


@dataclass(frozen=True)
class Outcomes:
    """What became of the predictions and targets of one class at one overlap threshold.

    Attributes:
        scores: (M,) scores of the predictions that count.
        is_true: (M,) bool: found a target, or a false positive.
        missed: number of targets without a match.
        predictions: number of predictions before any was ignored.
    """

    scores: np.ndarray
    is_true: np.ndarray
    missed: int
    predictions: int

    @property
    def targets(self) -> int:
        return int(self.is_true.sum()) + self.missed


def outcomes(
    records: Sequence[ImageMatches], label: int, overlap: float, scope: Scope = EVERYTHING
) -> Outcomes:
    """Decide what became of each prediction and target of one class over all images.

    Args:
        records: one for each image.
        label: label id of the class.
        overlap: IoU that a match must exceed, at least 0.5 (below, a match is not unique).
        scope: which instances are targets.
    """
    return _decide(_select(records, label), overlap, scope)


def accumulate(
    records: Sequence[ImageMatches],
    labels: Sequence[int],
    overlaps: Sequence[float] | np.ndarray = OVERLAPS,
    scope: Scope = EVERYTHING,
) -> np.ndarray:
    """Return the average precision (len(labels), len(overlaps)) in 0 .. 1, nan where undefined.

    Args:
        records: one for each image, in any order: the result does not depend on it.
        labels: label ids of the classes.
        overlaps: IoU thresholds of at least 0.5.
        scope: which instances are targets.
    """
    result = np.full((len(labels), len(overlaps)), np.nan)
    for row, label in enumerate(labels):
        selected = _select(records, label)
        for column, overlap in enumerate(overlaps):
            result[row, column] = average_precision(_decide(selected, overlap, scope))
    return result


def precision_recall(outcome: Outcomes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, precision and recall: a point for each distinct score, ascending, and the end.

    Point i tells precision and recall of the predictions with at least scores[i]; the end point is
    (inf, 1, 0).
    Meaningful with at least one target only.
    """
    order = np.argsort(outcome.scores, kind="stable")
    scores, first = np.unique(outcome.scores[order], return_index=True)
    true_before = np.concatenate(([0], np.cumsum(outcome.is_true[order])))
    true_positives = true_before[-1] - true_before[first]
    precision = true_positives / (len(order) - first)
    recall = true_positives / max(outcome.targets, 1)
    return np.append(scores, np.inf), np.append(precision, 1.0), np.append(recall, 0.0)


def average_precision(outcome: Outcomes) -> float:
    """Return the area under the precision-recall curve, nan without a target."""
    if outcome.targets == 0:
        return float("nan")
    _, precision, recall = precision_recall(outcome)
    neighbours = np.concatenate((recall[:1], recall, [0.0]))
    widths = np.convolve(neighbours, [-0.5, 0.0, 0.5], "valid")
    return float(np.dot(precision, widths))


def average(
    ap: np.ndarray, names: Sequence[str], overlaps: Sequence[float] | np.ndarray = OVERLAPS
) -> dict[str, float]:
    """Average AP (classes, overlaps) to percent: AP, AP50, then AP-<name> and AP50-<name>.

    The mean over classes leaves out nan; it is nan itself if nothing else is there.
    """
    (at_50,) = np.flatnonzero(np.isclose(overlaps, 0.5))
    result = {"AP": mean_defined(ap), "AP50": mean_defined(ap[:, at_50])}
    for name, row in zip(names, ap, strict=True):
        result[f"AP-{name}"] = float(row.mean())
        result[f"AP50-{name}"] = float(row[at_50])
    return {key: 100.0 * value for key, value in result.items()}


@dataclass(frozen=True)
class _ClassRecords:
    """The ground truths, predictions and pairs of one class, over all images."""

    gt_areas: np.ndarray
    is_group: np.ndarray
    gt_distances: np.ndarray
    gt_densities: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    void: np.ndarray
    pair_pred: np.ndarray
    pair_gt: np.ndarray
    pair_pixels: np.ndarray


def _select(records: Sequence[ImageMatches], label: int) -> _ClassRecords:
    parts: list[tuple[np.ndarray, ...]] = []
    gt_offset = pred_offset = 0
    for record in records:
        gts = label_of(record.gt_ids) == label
        preds = record.pred_labels == label
        if not gts.any() and not preds.any():
            continue
        pairs = gts[record.pair_gt] & preds[record.pair_pred]
        parts.append(
            (
                record.gt_areas[gts],
                record.gt_ids[gts] < 1000,
                record.gt_distances[gts],
                record.gt_densities[gts],
                record.pred_scores[preds],
                record.pred_areas[preds],
                record.pred_void[preds],
                # position among the selected ones of this image, then among those of all images
                np.cumsum(preds)[record.pair_pred[pairs]] - 1 + pred_offset,
                np.cumsum(gts)[record.pair_gt[pairs]] - 1 + gt_offset,
                record.pair_pixels[pairs],
            )
        )
        gt_offset += int(gts.sum())
        pred_offset += int(preds.sum())
    integers, floats = (np.int64,), (np.float64,)
    dtypes = integers + (bool,) + 3 * floats + 5 * integers
    if not parts:
        return _ClassRecords(*(np.zeros(0, dtype) for dtype in dtypes))
    return _ClassRecords(
        *(
            np.concatenate(column).astype(d)
            for column, d in zip(zip(*parts, strict=True), dtypes, strict=True)
        )
    )


def _decide(data: _ClassRecords, overlap: float, scope: Scope) -> Outcomes:
    if overlap < 0.5:
        raise ValueError(f"overlap threshold {overlap} is below 0.5: matches would not be unique.")
    is_out = (
        (data.gt_areas < scope.min_area)
        | (data.gt_areas >= scope.max_area)
        | (data.gt_distances > scope.max_distance)
        | (data.gt_densities < scope.min_density)
    )
    is_target = ~data.is_group & ~is_out

    union = data.gt_areas[data.pair_gt] + data.areas[data.pair_pred] - data.pair_pixels
    matches = data.pair_pixels / union > overlap
    matched = np.zeros(len(data.scores), dtype=bool)
    matched[data.pair_pred[matches]] = True

    # Matches of targets, best score of each target first: that one is true, the others are false.
    found = matches & is_target[data.pair_gt]
    found_gt, found_score = data.pair_gt[found], data.scores[data.pair_pred[found]]
    order = np.lexsort((-found_score, found_gt))
    found_gt, found_score = found_gt[order], found_score[order]
    is_best = np.ones(len(found_gt), dtype=bool)
    is_best[1:] = found_gt[1:] != found_gt[:-1]

    ignored_pixels = data.void.copy()
    times = data.is_group.astype(np.int64) + is_out  # a group out of scope counts twice
    np.add.at(ignored_pixels, data.pair_pred, data.pair_pixels * times[data.pair_gt])
    is_false = ~matched & (ignored_pixels / data.areas <= overlap)
    smallest, beyond = scope.predictions
    is_false &= (data.areas >= smallest) & (data.areas < beyond)

    return Outcomes(
        scores=np.concatenate((found_score, data.scores[is_false])),
        is_true=np.concatenate((is_best, np.zeros(int(is_false.sum()), dtype=bool))),
        missed=int(is_target.sum()) - int(is_best.sum()),
        predictions=len(data.scores),
    )


def mean_defined(values: np.ndarray) -> float:
    """Return the mean of what is not nan; nan of nothing."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
