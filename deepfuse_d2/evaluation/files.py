"""Files of the evaluators: ground truth in, results out."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from ..data.datasets.cityscapes_layout import IMAGE_SUFFIX
from ..data.label_runs import read_labels_cached
from ..errors import DatasetError
from ..files import written_whole

__all__ = ["frame_file", "read_label_image", "write_csv", "write_json"]


def frame_file(image: str, kind: str, suffix: str) -> str | None:
    """Return the path of another file of a frame in the layout of Cityscapes.

    None if the image is not at ``<root>/leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png``.

    Example:
        >>> frame_file("/c/leftImg8bit/val/ulm/x_leftImg8bit.png", "gtFine", "gtFine_labelIds.png")
        '/c/gtFine/val/ulm/x_gtFine_labelIds.png'
    """
    folder, name = os.path.split(image)
    split_folder, city = os.path.split(folder)
    image_folder, split = os.path.split(split_folder)
    root, images = os.path.split(image_folder)
    if images != "leftImg8bit" or not name.endswith(IMAGE_SUFFIX):
        return None
    return os.path.join(root, kind, split, city, f"{name.removesuffix(IMAGE_SUFFIX)}_{suffix}")


def read_label_image(path: str, image: str) -> np.ndarray:
    """Return the (H, W) integers of a PNG with one channel of 8 or 16 bits.

    Raises: DatasetError: the file is missing, damaged or of another kind; names ``image`` too.
    """
    try:
        return read_labels_cached(path)
    except DatasetError as error:
        raise DatasetError(
            f"Ground truth {path} of image {image} cannot be read: {error} Or prepare the data set "
            "again, and check DETECTRON2_DATASETS."
        ) from error


def write_json(report: dict, path: str) -> None:
    """Write nan as null (JSON has no nan); never half a file."""
    text = json.dumps(_nan_to_none(report), indent=2, allow_nan=False)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(header: Sequence[str], rows: Iterable[Sequence], path: str) -> None:
    """Write a table; never half a file."""
    with (
        written_whole(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _nan_to_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _nan_to_none(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
