"""COCO's run lengths: read, written, measured, and cropped before they become pixels.

Runs go down the columns, so a stretch of columns is a stretch of runs, and cutting it out touches
neither the pixels nor the runs beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Runs", "decode_counts", "mask_area", "to_rle"]


def to_rle(segmentation: list | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE of the mask of an annotation; its counts are text, as JSON needs them.

    Args:
        segmentation: polygons (x0, y0, x1, y1, ...), or RLE with counts compressed or as a list.
        height, width: of its image.
    """
    from pycocotools import mask as mask_util

    if isinstance(segmentation, list):
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def mask_area(segmentation: list | dict[str, Any], height: int, width: int) -> float:
    """Pixels of the mask of an annotation, in any form of :func:`to_rle`."""
    from pycocotools import mask as mask_util

    return float(mask_util.area(to_rle(segmentation, height, width)))


def decode_counts(counts: str | bytes | Sequence[int]) -> np.ndarray:
    """Run lengths, first of 0 then of 1 and so on in turn, from COCO's compressed text or a list.

    In the text, a number is digits to the base 32, lowest first, in characters from "0" on; bit 5
    says that another follows, bit 4 of the last is the sign. From the fourth on, a number is the
    difference to the one two before it.
    """
    if not isinstance(counts, (str, bytes)):
        return np.asarray(counts, dtype=np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if not ends.size:
        return ends
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    place = np.arange(ends[-1] + 1) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits[: ends[-1] + 1] & 31) << (5 * place), starts)
    values -= ((digits[ends] >> 4) & 1) << (5 * lengths)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


class Runs:
    """A mask as runs, from which windows are cut.

    Args:
        rle: COCO's, of which ``counts`` is text, bytes or a list.

    Attributes:
        box: x0, y0, x1, y1 (exclusive) of what is set; None if nothing is.

    Raises:
        ValueError: the runs do not fill the size that ``rle`` names.
    """

    def __init__(self, rle: dict):
        self.height, self.width = (int(side) for side in rle["size"])
        counts = decode_counts(rle["counts"])
        self._ends = np.cumsum(counts)
        total = int(self._ends[-1]) if counts.size else 0
        if total != self.height * self.width or (counts < 0).any():
            raise ValueError(
                f"damaged COCO RLE: its runs cover {total} pixels, and {self.height} x {self.width}"
                f" pixels are {self.height * self.width}."
            )
        self.box = self._tight_box()

    def _tight_box(self) -> tuple[int, int, int, int] | None:
        first, end = self._ends[:-1:2], self._ends[1::2]
        first = first[: end.size]
        is_set = end > first
        if not is_set.all():
            first, end = first[is_set], end[is_set]
        if not first.size:
            return None
        columns, last_columns = first // self.height, (end - 1) // self.height
        if np.array_equal(columns, last_columns):
            rows, last_rows = first - columns * self.height, end - 1 - last_columns * self.height
            y0, y1 = int(rows.min()), int(last_rows.max()) + 1
        else:  # a run goes on in the next column: it touches the bottom and the top
            y0, y1 = 0, self.height
        return int(columns[0]), y0, int(last_columns[-1]) + 1, y1

    def columns(self, x0: int, x1: int) -> np.ndarray:
        """(x1 - x0, height) bytes of 0 and 1: the columns from `x0` up to `x1`, each as a row."""
        begin, end = x0 * self.height, x1 * self.height
        # the runs that hold the first and the last of these pixels
        low, high = np.searchsorted(self._ends, (begin, end - 1), side="right")
        ends = np.minimum(self._ends[low : high + 1], end)
        lengths = np.diff(ends, prepend=begin)
        values = (np.arange(low, low + ends.size) & 1).astype(np.uint8)
        return np.repeat(values, lengths).reshape(x1 - x0, self.height)
