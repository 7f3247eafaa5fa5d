"""Counts of pairs of labels, one pass over an image, kept sparse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["SparseCounts", "add_up", "count_pairs", "sparse"]


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
    first, second = first.ravel(), second.ravel()
    if not first.size:
        return np.zeros((rows, columns), dtype=np.int64)
    # Both are constant over runs of pixels: count the runs, weighed by their length.
    changes = np.empty(first.size, dtype=bool)
    changes[0] = True
    np.not_equal(first[1:], first[:-1], out=changes[1:])
    changes[1:] |= second[1:] != second[:-1]
    starts = np.flatnonzero(changes)
    keys = row_of.take(first[starts]) * columns + second[starts]
    lengths = np.diff(starts, append=first.size)
    # float64 sums of integers are exact
    counts = np.bincount(keys, weights=lengths, minlength=rows * columns)
    return counts.astype(np.int64).reshape(rows, columns)


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
