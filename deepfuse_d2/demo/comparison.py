"""What two models say of one picture: found by both, by one of them alone, labelled differently."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from detectron2.data import Metadata

from ..visualization import Shape, class_name, label_names, shapes_of

__all__ = ["Comparison", "compare"]

_SAME = 0.5  # IoU from which on two masks are of one instance, as in AP50


class Comparison(NamedTuple):
    """
    Args:
        both: instances found by both models, as the first draws them.
        first, second: found by one model alone.
        pixels: (H, W) bool, True where labels differ; None unless both models label pixels.
    """

    both: list[Shape]
    first: list[Shape]
    second: list[Shape]
    pixels: np.ndarray | None


def compare(
    first: dict[str, Any], second: dict[str, Any], metadata: Metadata, other: Metadata
) -> Comparison | None:
    """Compare what two models found in one picture; None if they find nothing of the same kind.

    Instances pair up, largest IoU first, if they have one class and an IoU of 0.5 at least. Classes
    are the same if their names are, since two models may count them differently.

    Args:
        first, second: of :class:`.DemoModel`, with the instances to compare.
        metadata, other: of the data set of the first and of the second.
    """
    has_instances = "instances" in first and "instances" in second
    has_labels = "labels" in first and "labels" in second
    if not has_instances and not has_labels:
        return None
    both, alone, other_alone = [], [], []
    if has_instances:
        shapes = shapes_of(first["instances"], metadata), shapes_of(second["instances"], other)
        names = [
            [class_name(data, kind) for kind in found["instances"].pred_classes.tolist()]
            for found, data in ((first, metadata), (second, other))
        ]
        pairs = _pairs(*shapes, *names)
        both = [shapes[0][k] for k, _ in pairs]
        alone = [x for k, x in enumerate(shapes[0]) if k not in {pair[0] for pair in pairs}]
        other_alone = [x for k, x in enumerate(shapes[1]) if k not in {pair[1] for pair in pairs}]
    pixels = None
    if has_labels:
        pixels = _named(first["labels"], metadata) != _named(second["labels"], other)
    return Comparison(both, alone, other_alone, pixels)


def _pairs(
    first: list[Shape], second: list[Shape], names: list[str], other_names: list[str]
) -> list[tuple[int, int]]:
    candidates = []
    for k, shape in enumerate(first):
        for n, other in enumerate(second):
            if names[k] == other_names[n]:
                iou = shape.crop.iou(other.crop)
                if iou >= _SAME:
                    candidates.append((-iou, k, n))
    pairs, used, other_used = [], set(), set()
    for _, k, n in sorted(candidates):
        if k not in used and n not in other_used:
            pairs.append((k, n))
            used.add(k)
            other_used.add(n)
    return sorted(pairs)


def _named(labels: np.ndarray, metadata: Metadata) -> np.ndarray:
    """(H, W) names of classes, as numbers that are the same for the same name."""
    count = int(labels.max()) + 1 if labels.size else 0
    # a hash of the name stands for it: two models, no common list
    table = np.array([hash(name) for name in label_names(metadata, count)], dtype=np.int64)
    return table[labels]
