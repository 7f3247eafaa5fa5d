"""IoU and iIoU of Cityscapes from counts: pure functions, the rules of the official script.

cityscapesScripts, ``evalPixelLevelSemanticLabeling``. Ground truth is the instance-id image: an id
under 1000 is a label, another one an instance of label ``id // 1000``.

*IoU* of a class is TP / (TP + FP + FN) over the pixels of all images. FP leaves out pixels whose
ground truth is a label that evaluation ignores; FN holds every pixel of the class, whatever is
predicted there. A category (vehicle, human, ...) is the same with its classes as one.

*iIoU*, of classes with instances, weighs each pixel of an instance by the average size of the
class over the size of that instance, so that a small one counts as much as a large one: weighted
TP / (weighted TP + FP + weighted FN). Groups have no instances, so they are in neither weighted
sum. FP is that of IoU. A category has an iIoU if all its labels have instances; a pixel predicted
as any label of the category is right, caravans and trailers included.

The average of all is the mean of what is not nan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .counting import SparseCounts

__all__ = [
    "ROWS",
    "ImagePixels",
    "LabelTable",
    "label_table",
    "reduce_image",
    "row_table",
    "scores",
]

# Mean pixels of an instance in the training set, from the official script.
_AVERAGE_SIZE = {
    "bicycle": 4672.3249222261,
    "bus": 35732.1511111111,
    "car": 12794.0202738185,
    "motorcycle": 6298.7200839748,
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "train": 67583.7075812274,
    "truck": 27855.1264367816,
}

LABELS = 34  # label ids 0 .. 33
_FIRST = 24  # instances have the labels 24 .. 33
#: Rows that the ground truth is counted in: labels, instances, ids that should not be there.
ROWS = LABELS + (LABELS - _FIRST) * 1000 + 1


@dataclass(frozen=True)
class ImagePixels:
    """Of one image: counts of (label, predicted column), and of each instance its pixels.

    Attributes:
        pairs: of an array (:data:`LABELS`, columns).
        labels: (I,) label ids of the instances.
        sizes: (I,) their pixels.
        right: (I,) pixels predicted as that label.
        right_category: (I,) pixels predicted as a label of its category.
    """

    pairs: SparseCounts
    labels: np.ndarray
    sizes: np.ndarray
    right: np.ndarray
    right_category: np.ndarray


@dataclass(frozen=True)
class LabelTable:
    """What evaluation needs of the official label table.

    Attributes:
        ids: name -> id of the labels that are evaluated, in the order of the table.
        things: names of those with instances.
        categories: category -> ids of its evaluated labels.
        thing_categories: category -> all its ids, of categories whose labels all have instances.
        category_of: (LABELS,) index of each label's category.
    """

    ids: dict[str, int]
    things: tuple[str, ...]
    categories: dict[str, list[int]]
    thing_categories: dict[str, list[int]]
    category_of: np.ndarray


@cache
def label_table() -> LabelTable:
    """Return the table of cityscapesScripts."""
    from cityscapesscripts.helpers.labels import labels

    known = [label for label in labels if label.id >= 0]  # -1 (license plate) is in no PNG
    evaluated = [label for label in known if not label.ignoreInEval]
    categories: dict[str, list[int]] = {}
    for label in evaluated:
        categories.setdefault(label.category, []).append(label.id)
    members = {
        category: [label for label in known if label.category == category]
        for category in categories
    }
    return LabelTable(
        ids={label.name: label.id for label in evaluated},
        things=tuple(label.name for label in evaluated if label.hasInstances),
        categories=categories,
        thing_categories={
            category: [label.id for label in of_category]
            for category, of_category in members.items()
            if _all_have_instances(category, labels)
        },
        category_of=np.array([label.categoryId for label in sorted(known, key=lambda x: x.id)]),
    )


def row_table() -> np.ndarray:
    """Return the row of each of the 65536 ids of an instance-id image."""
    rows = np.full(1 << 16, ROWS - 1)
    rows[:LABELS] = np.arange(LABELS)
    for label in range(1, LABELS):
        ids = np.arange(1000) + 1000 * label
        # No instance of road or sky exists; where a data set has one, it is a piece of its label.
        rows[ids] = LABELS + ids - 1000 * _FIRST if label >= _FIRST else label
    return rows


def reduce_image(counts: np.ndarray, label_of_column: np.ndarray) -> ImagePixels:
    """Reduce the counts of an image to its record.

    Args:
        counts: (ROWS, columns) by :func:`row_table`.
        label_of_column: (columns,) label id that each column predicts.
    """
    table = label_table()
    rows, columns = np.nonzero(counts)
    pixels = counts[rows, columns]
    labels = np.where(rows < LABELS, rows, _FIRST + (rows - LABELS) // 1000)
    pairs = np.zeros((LABELS, counts.shape[1]), dtype=np.int64)
    np.add.at(pairs, (labels, columns), pixels)

    evaluated = [table.ids[name] for name in table.things]
    of_instance = (rows >= LABELS) & np.isin(labels, evaluated)
    rows, columns, pixels = rows[of_instance], columns[of_instance], pixels[of_instance]
    instances, number = np.unique(rows, return_inverse=True)
    labels = _FIRST + (instances - LABELS) // 1000
    predicted = label_of_column[columns]
    hits = predicted == labels[number]
    same_category = table.category_of[predicted] == table.category_of[labels[number]]
    sizes, right, right_category = np.zeros((3, len(instances)), dtype=np.int64)
    np.add.at(sizes, number, pixels)
    np.add.at(right, number, pixels * hits)
    np.add.at(right_category, number, pixels * same_category)
    positions = np.flatnonzero(pairs)
    flat = SparseCounts(positions.astype(np.int32), pairs.ravel()[positions])
    return ImagePixels(flat, labels, sizes, right, right_category)


def scores(
    pairs: np.ndarray, images: Sequence[ImagePixels], label_of_column: np.ndarray
) -> dict[str, float]:
    """Return the official figures in percent, nan where undefined.

    Args:
        pairs: (LABELS, columns), the sum over images.
        images: records, in any order: sums of weights are exact before they are rounded.
        label_of_column: (columns,) label id that each column predicts.

    Returns:
        IoU, iIoU (means over classes), IoU_sup, iIoU_sup (over categories), then IoU-<class>,
        iIoU-<class with instances>, IoU_sup-<category>, iIoU_sup-<category with instances>.
    """
    table = label_table()
    confusion = np.zeros((LABELS, LABELS), dtype=np.int64)
    np.add.at(confusion.T, label_of_column, pairs.T)
    columns = [
        np.concatenate([getattr(x, name) for x in images]) if images else np.zeros(0, np.int64)
        for name in ("labels", "sizes", "right", "right_category")
    ]
    labels, sizes, right, right_category = columns
    weights = np.zeros(LABELS)
    weights[[table.ids[name] for name in table.things]] = [_AVERAGE_SIZE[x] for x in table.things]
    weights = weights[labels] / sizes

    evaluated = list(table.ids.values())
    iou, weighted, iou_of_category, weighted_of_category = {}, {}, {}, {}
    for name, label in table.ids.items():
        true, false, missed = _of_labels(confusion, [label], evaluated)
        iou[name] = _ratio(true, false + missed)
        if name in table.things:
            mine = labels == label
            found, lost = _weigh(right[mine], sizes[mine], weights[mine])
            weighted[name] = _ratio(found, false + lost)
    for category, members in table.categories.items():
        true, false, missed = _of_labels(confusion, members, evaluated)
        iou_of_category[category] = _ratio(true, false + missed)
        if category in table.thing_categories:
            everyone = table.thing_categories[category]
            others = [label for label in evaluated if label not in everyone]
            false = int(confusion[np.ix_(others, everyone)].sum())
            mine = np.isin(labels, everyone)
            found, lost = _weigh(right_category[mine], sizes[mine], weights[mine])
            weighted_of_category[category] = _ratio(found, false + lost)
    parts = {
        "IoU": iou,
        "iIoU": weighted,
        "IoU_sup": iou_of_category,
        "iIoU_sup": weighted_of_category,
    }
    results = {key: _mean(values.values()) for key, values in parts.items()}
    for key, values in parts.items():
        results |= {f"{key}-{name}": value for name, value in values.items()}
    return {key: 100.0 * value for key, value in results.items()}


def _all_have_instances(category: str, labels: Iterable) -> bool:
    return all(x.hasInstances for x in labels if x.category == category and x.id >= 0)


def _of_labels(confusion: np.ndarray, members: list[int], evaluated: list[int]) -> tuple[int, ...]:
    """Return TP, FP and FN in pixels, of labels taken as one."""
    others = [label for label in evaluated if label not in members]
    true = int(confusion[np.ix_(members, members)].sum())
    false = int(confusion[np.ix_(others, members)].sum())
    return true, false, int(confusion[members].sum()) - true


def _weigh(right: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return weighted TP and FN; sums without rounding, so that no order of images matters."""
    return math.fsum(right * weights), math.fsum((sizes - right) * weights)


def _ratio(true: float, errors: float) -> float:
    return true / (true + errors) if true + errors else float("nan")


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")
