"""Counts of pairs of labels, one pass over an image, kept sparse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["SparseCounts", "add_up", "count_pairs", "sparse"]

_STRIP = 1 << 19  # pixels: bounds the memory for keys to 4 MB


class SparseCounts(NamedTuple):
    """The entries of an array of counts that are not 0: flat positions and counts."""

    positions: np.ndarray
    counts: np.ndarray


def count_pairs(
    first: np.ndarray, second: np.ndarray, row_of: np.ndarray, rows: int, columns: int
) -> np.ndarray:
    """Count how often each pair of labels meets at a pixel.

    Args:
        first: (H, W) integers that index ``row_of``.
        second: (H, W) integers in 0 .. columns - 1.
        row_of: row that each label of ``first`` is counted in.
        rows, columns: shape of the result.

    Returns:
        (rows, columns) int64.
    """
    offsets = row_of.astype(np.int64) * columns
    result = np.zeros(rows * columns, dtype=np.int64)
    height, width = first.shape
    step = max(1, _STRIP // max(width, 1))
    for top in range(0, height, step):
        keys = offsets.take(first[top : top + step])
        keys += second[top : top + step]
        result += np.bincount(keys.ravel(), minlength=rows * columns)
    return result.reshape(rows, columns)


def sparse(counts: np.ndarray) -> SparseCounts:
    """Return the entries that are not 0."""
    positions = np.flatnonzero(counts)
    return SparseCounts(positions.astype(np.int32), counts.ravel()[positions])


def add_up(parts: list[SparseCounts], shape: tuple[int, ...]) -> np.ndarray:
    """Return the sum of sparse counts as an int64 array; integers, so their order is no matter."""
    result = np.zeros(int(np.prod(shape)), dtype=np.int64)
    for positions, counts in parts:
        result[positions] += counts
    return result.reshape(shape)
