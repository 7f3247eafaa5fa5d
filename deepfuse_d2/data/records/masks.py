"""Masks of annotations, in whatever form a file has them, as clean polygons or compressed RLE."""

from math import isfinite
from typing import Any

import numpy as np

from ...structures.run_lengths import Runs, decode_counts, to_rle

__all__ = ["Unusable", "clean_segmentation", "extent_of"]

# Polygons reach beyond their image by half a pixel, or by an object that is cut off. Further out
# than this many times its longer side they are no outline, and drawing them takes all memory.
_FAR = 10


class Unusable(ValueError):
    """Says in its message why a mask or a box cannot be used."""


def clean_segmentation(raw: Any, height: int, width: int) -> tuple[list | dict | None, str]:
    """A mask as lists of x, y, x, y, ... or as RLE with compressed counts; None if there is none.

    Args:
        raw: polygons (also a single one as a flat list, or made of pairs), or RLE with counts as
            text or as a list.

    Returns:
        the mask, and what was changed in it ("" if nothing but its form was).

    Raises:
        Unusable: it is there, but cannot be used.
    """
    if not raw:
        return None, ""
    if isinstance(raw, dict):
        return _clean_rle(raw, height, width), ""
    if isinstance(raw, str) and len(raw) < 40:
        raise Unusable(f"it is {raw!r}, which has no area")
    if not isinstance(raw, list):
        raise Unusable(f"its mask is a {type(raw).__name__}; polygons or RLE are known")
    limit = _FAR * max(height, width)
    for polygon in raw:
        # the sum of finite numbers is finite, and summing is the quickest look at all of them
        if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
            return _mended_polygons(raw, limit)
        try:
            if not isfinite(sum(polygon)) or max(polygon) > limit or min(polygon) < -limit:
                return _mended_polygons(raw, limit)
        except (TypeError, OverflowError):
            return _mended_polygons(raw, limit)
    return raw, ""


def _mended_polygons(raw: list, limit: float) -> tuple[list, str]:
    polygons, dropped = [], ""
    for polygon in _as_polygons(raw):
        try:
            points = np.asarray(polygon, dtype=object).reshape(-1)
            numbers = [_number(value) for value in points.tolist()]
        except (TypeError, ValueError, OverflowError):
            raise Unusable("its polygon holds what is no number") from None
        if len(numbers) % 2:
            raise Unusable("its polygon has an odd number of coordinates")
        if not all(isfinite(value) for value in numbers):
            raise Unusable("its polygon has coordinates that are not finite")
        if numbers and max(map(abs, numbers)) > limit:
            raise Unusable(f"its polygon lies more than {_FAR} images beyond its image")
        if len(numbers) < 6:
            dropped = "a polygon of fewer than 3 points is left out of its mask"
            continue
        polygons.append(numbers)
    if not polygons:
        raise Unusable("its polygon has fewer than 3 points")
    return polygons, dropped


def _as_polygons(raw: list) -> list:
    if not any(isinstance(part, (list, tuple)) for part in raw):
        return [raw]  # one polygon, flat
    is_pairs = all(isinstance(part, (list, tuple)) and len(part) == 2 for part in raw)
    if is_pairs and not any(isinstance(x, (list, tuple)) for part in raw for x in part):
        return [raw]  # one polygon of points
    return [part for part in raw if part]


def _number(value: Any) -> float:
    if isinstance(value, bool) or value is None:
        raise TypeError(value)
    return float(value)


def _clean_rle(raw: dict, height: int, width: int) -> dict:
    try:
        size = [int(side) for side in raw["size"]]
        counts = raw["counts"]
        if not isinstance(counts, (str, bytes)):
            numbers = [_number(value) for value in counts]
            if not all(isfinite(x) and x == int(x) for x in numbers):
                raise Unusable("its run lengths are no whole numbers")
            counts = [int(x) for x in numbers]
        if size != [height, width]:
            where = f"{size[1]} x {size[0]}, its image {width} x {height}"
            raise Unusable(f"its run lengths are for another size ({where})")
        lengths = decode_counts(counts)
        if (lengths < 0).any() or int(lengths.sum()) != height * width:
            raise Unusable("its run lengths do not add up to the pixels of its image")
    except Unusable:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise Unusable("its run lengths cannot be decoded") from error
    return to_rle({"size": size, "counts": counts}, *size)


def extent_of(segmentation: list | dict) -> list[float] | None:
    """x0, y0, x1, y1 of a clean mask; None for an empty one."""
    if isinstance(segmentation, dict):
        try:
            box = Runs(segmentation).box
        except ValueError:
            return None
        return None if box is None else [float(edge) for edge in box]
    xs = [x for polygon in segmentation for x in polygon[0::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    return [float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))]
