"""Instances of an image larger than what the network takes: tile by tile, then joined.

Neighbouring tiles overlap. What both see of one object lies in the overlap, and there their masks
agree: two instances of a class whose masks, of which only the part in the overlap counts, cover
each other by `min_iou` are one object. So an object cut by a border is joined, over any number of
tiles, and one that both tiles see whole is not found twice.
"""

from collections.abc import Iterator

import numpy as np

from ..modeling.postprocessing.tiling import tile_starts
from ..structures.detected_instances import DetectedInstances
from ..structures.mask_crops import MaskCrop

__all__ = ["Tile", "merge_tiles", "tiles_of"]

# (top, left, bottom, right)
Tile = tuple[int, int, int, int]


def tiles_of(height: int, width: int, tile: tuple[int, int], overlap: int) -> Iterator[Tile]:
    """Tiles of an image, row by row; each overlaps its neighbours by `overlap` pixels at least."""
    rows, columns = min(tile[0], height), min(tile[1], width)
    for top in tile_starts(height, tile[0], overlap):
        for left in tile_starts(width, tile[1], overlap):
            yield top, left, top + rows, left + columns


def merge_tiles(
    parts: list[tuple[Tile, DetectedInstances]],
    size: tuple[int, int],
    *,
    min_iou: float = 0.5,
    limit: int = -1,
) -> DetectedInstances:
    """One set of instances of the image, best first.

    An instance has the box around, the mask of, and the best score among what it was joined of, and
    the keypoints of the one with that score.

    Args:
        parts: what was found in each tile, in pixels of the tile.
        size: (height, width) of the image.
        min_iou: masks in the overlap, or boxes where there are none, that make two one.
        limit: instances to keep; -1 for all.
    """
    tile_of, boxes, scores, classes, crops, keypoints = [], [], [], [], [], []
    for number, ((top, left, _, _), found) in enumerate(parts):
        tile_of += [number] * len(found)
        boxes += list(found.boxes + np.array([left, top, left, top], dtype=found.boxes.dtype))
        scores += found.scores.tolist()
        classes += found.classes.tolist()
        if found.crops is not None:
            crops += [crop.moved(top, left) for crop in found.crops]
        if found.keypoints is not None:
            keypoints += list(found.keypoints + np.array([left, top, 0], found.keypoints.dtype))
    masked = all(found.crops is not None for _, found in parts)
    groups = list(range(len(boxes)))  # to which earlier instance each one belongs

    def root(i: int) -> int:
        while groups[i] != i:
            groups[i] = groups[groups[i]]
            i = groups[i]
        return i

    for i, j, area in _candidates(parts, tile_of, boxes, classes):
        if masked:
            iou = crops[i].part(*area).iou(crops[j].part(*area))
        else:
            iou = _box_iou(boxes[i], boxes[j], area)
        if iou >= min_iou:
            groups[root(j)] = root(i)

    members: dict[int, list[int]] = {}
    for i in range(len(boxes)):
        members.setdefault(root(i), []).append(i)
    joined = sorted(members.values(), key=lambda group: -max(scores[i] for i in group))
    if limit >= 0:
        joined = joined[:limit]
    best = [max(group, key=lambda i: scores[i]) for group in joined]
    return DetectedInstances(
        size,
        np.array([_hull([boxes[i] for i in g]) for g in joined], dtype=np.float32).reshape(-1, 4),
        np.array([max(scores[i] for i in g) for g in joined], dtype=np.float32),
        np.array([classes[g[0]] for g in joined], dtype=np.int64),
        [MaskCrop.union(crops[i] for i in g) for g in joined] if masked else None,
        np.array([keypoints[i] for i in best]) if keypoints else None,
    )


def _candidates(
    parts: list[tuple[Tile, DetectedInstances]],
    tile_of: list[int],
    boxes: list,
    classes: list[int],
) -> Iterator[tuple[int, int, Tile]]:
    """Pairs of a class in two tiles that overlap, whose boxes meet there, and where that is."""
    of_tile: dict[int, list[int]] = {}
    for i, number in enumerate(tile_of):
        of_tile.setdefault(number, []).append(i)
    for first in range(len(parts)):
        for second in range(first + 1, len(parts)):
            area = _common(parts[first][0], parts[second][0])
            if area is None:
                continue
            near = [j for j in of_tile.get(second, []) if _meets(boxes[j], area)]
            for i in of_tile.get(first, []):
                if not _meets(boxes[i], area):
                    continue
                for j in near:
                    if classes[i] == classes[j]:
                        yield i, j, area


def _common(a: Tile, b: Tile) -> Tile | None:
    top, left, bottom, right = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (top, left, bottom, right) if top < bottom and left < right else None


def _meets(box: np.ndarray, area: Tile) -> bool:
    top, left, bottom, right = area
    return box[0] < right and box[2] > left and box[1] < bottom and box[3] > top


def _box_iou(a: np.ndarray, b: np.ndarray, area: Tile) -> float:
    """Of the parts of two boxes in `area`."""
    top, left, bottom, right = area
    low, high = np.array([left, top]), np.array([right, bottom])
    a, b = ((np.maximum(box[:2], low), np.minimum(box[2:], high)) for box in (a, b))
    common = np.prod(np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0, None))
    union = np.prod(a[1] - a[0]) + np.prod(b[1] - b[0]) - common
    return float(common / union) if union > 0 else 0.0


def _hull(boxes: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack(boxes)
    return np.concatenate([stacked[:, :2].min(axis=0), stacked[:, 2:].max(axis=0)])
