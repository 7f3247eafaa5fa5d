"""Files of the evaluators: ground truth in, results out."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DatasetError

__all__ = ["frame_file", "read_label_image", "write_csv", "write_json"]

_IMAGE_SUFFIX = "_leftImg8bit.png"


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
    if images != "leftImg8bit" or not name.endswith(_IMAGE_SUFFIX):
        return None
    return os.path.join(root, kind, split, city, f"{name.removesuffix(_IMAGE_SUFFIX)}_{suffix}")


def read_label_image(path: str, image: str) -> np.ndarray:
    """Return the (H, W) integers of a PNG with one channel of 8 or 16 bits.

    Raises: DatasetError: the file is missing, damaged or of another kind; names ``image`` too.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as png:
            ids = np.asarray(png)
    except FileNotFoundError:
        raise DatasetError(
            f"Ground truth {path} of image {image} is not there; prepare the data set again or "
            "check DETECTRON2_DATASETS."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DatasetError(
            f"Ground truth {path} of image {image} cannot be read ({error}); copy or make it again."
        ) from error
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise DatasetError(
            f"Ground truth {path} of image {image} is {ids.dtype} of shape {ids.shape}; expected a "
            "PNG of ids with one channel of 8 or 16 bits."
        )
    return ids


def write_json(report: dict, path: str) -> None:
    """Write nan as null (JSON has no nan), under a temporary name first: never half a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(_nan_to_none(report), file, indent=2, allow_nan=False)
    os.replace(temporary, path)


def write_csv(header: Sequence[str], rows: Iterable[Sequence], path: str) -> None:
    """Write a table, under a temporary name first: never half a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(temporary, path)


def _nan_to_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _nan_to_none(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
