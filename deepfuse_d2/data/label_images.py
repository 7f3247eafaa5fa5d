"""Label images on disk: reading them, and turning an image of ids into RLE masks.

An image of instance ids becomes masks in one pass over its runs. COCO's RLE counts the pixels in
column-major order, so the runs of equal ids in that order, grouped by id, already are the masks:
no binary mask is ever made, and the cost does not grow with the number of instances.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import DatasetError
from ..files import written_whole
from ..structures.run_lengths import to_rle
from .images import DECODE_ERRORS, damaged, upright_size

__all__ = [
    "Region",
    "check_same_size",
    "encode_regions",
    "read_labels",
    "save_labels",
]


class Region(NamedTuple):
    """All pixels of one id."""

    id: int
    #: x0, y0, x1, y1 in pixel edges (x1 and y1 are exclusive): the tight box.
    box: tuple[int, int, int, int]
    #: Compressed COCO RLE counts, as text so that JSON can hold them.
    counts: str


def encode_regions(ids: np.ndarray, keep: Callable[[np.ndarray], np.ndarray]) -> list[Region]:
    """Find the mask and the box of every id that `keep` asks for.

    Args:
        ids: (H, W) integers.
        keep: gets the distinct ids, ascending, and returns a boolean for each.

    Returns:
        one region an id, by ascending id.

    Example:
        >>> encode_regions(np.array([[0, 7], [7, 7]]), lambda ids: ids > 0)
        [Region(id=7, box=(0, 0, 2, 2), counts='13')]
    """
    height, width = ids.shape
    flat = np.ascontiguousarray(ids.T).ravel()
    if flat.size == 0:
        return []
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    distinct, run_ids = np.unique(flat[starts], return_inverse=True)
    distinct = distinct.astype(np.int64)  # uint8 would overflow in comparisons of `keep`
    run_ids = run_ids.reshape(-1)

    chosen = np.flatnonzero(np.asarray(keep(distinct), dtype=bool)[run_ids])
    # stable: the runs of one id stay in the order of the pixels
    chosen = chosen[np.argsort(run_ids[chosen], kind="stable")]
    borders = np.flatnonzero(np.diff(run_ids[chosen])) + 1
    regions = []
    for runs in np.split(chosen, borders):
        if runs.size == 0:
            continue
        first, end = starts[runs], ends[runs]
        columns, last_columns = first // height, (end - 1) // height
        if np.array_equal(columns, last_columns):
            y0, y1 = (first % height).min(), ((end - 1) % height).max() + 1
        else:  # a run goes on in the next column: it touches the bottom and the top
            y0, y1 = 0, height
        # gap, length, gap, length ...: the first gap counts from 0, the last run is followed by
        # the background that is left
        counts = np.empty(2 * runs.size, dtype=np.int64)
        counts[0], counts[2::2] = first[0], first[1:] - end[:-1]
        counts[1::2] = end - first
        counts = counts.tolist()
        if end[-1] < flat.size:
            counts.append(int(flat.size - end[-1]))
        rle = to_rle({"size": [height, width], "counts": counts}, height, width)
        regions.append(
            Region(
                id=int(distinct[run_ids[runs[0]]]),
                box=(int(columns.min()), int(y0), int(last_columns.max()) + 1, int(y1)),
                counts=rle["counts"],
            )
        )
    return regions


def read_labels(path: str | os.PathLike) -> np.ndarray:
    """Read a label image (8 or 16 bits, one channel) as an (H, W) array of integers.

    Raises:
        DatasetError: the file is missing, damaged, or has several channels.
    """
    try:
        with Image.open(path) as image:
            # upright, as the image beside it is read
            labels = np.asarray(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise DatasetError(f"Label file {path} is missing.") from error
    except DECODE_ERRORS as error:
        raise DatasetError(damaged(path, error)) from error
    if labels.dtype == bool:  # 1 bit a pixel
        labels = labels.astype(np.uint8)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"{path} holds {labels.dtype} pixels of shape {labels.shape}; a label image has one "
            "channel of integer ids. Is it a colour image?"
        )
    return labels


def save_labels(labels: np.ndarray, path: str | os.PathLike) -> None:
    """Write (H, W) uint8 ids as a grey PNG; it appears under its name only when complete."""
    with written_whole(path) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")


def check_same_size(image: str | os.PathLike, label: str | os.PathLike, label_size) -> None:
    """Raise a DatasetError unless `image` has the (height, width) `label_size` of its label."""
    size = upright_size(image)
    if size != tuple(label_size):
        raise DatasetError(
            f"{image} is {size[1]} x {size[0]} pixels, but its label {label} is "
            f"{label_size[1]} x {label_size[0]}. The two must belong to one frame"
            + (" and be turned alike (EXIF)." if size[::-1] == tuple(label_size) else ".")
        )
