"""Files of the evaluators: ground truth in, results out."""

from __future__ import annotations

import json
import math
import os

import numpy as np

__all__ = ["read_instance_ids", "write_json"]


def read_instance_ids(path: str, image: str) -> np.ndarray:
    """Return the (H, W) instance ids of a PNG."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as png:
            ids = np.asarray(png)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Ground truth {path} of image {image} is not there; prepare the data set again or "
            "check DETECTRON2_DATASETS."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"Ground truth {path} of image {image} cannot be read ({error}); copy or make it again."
        ) from error
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"Ground truth {path} of image {image} is {ids.dtype} of shape {ids.shape}; expected a "
            "PNG of instance ids with one 16-bit channel."
        )
    return ids


def write_json(report: dict, path: str) -> None:
    """Write nan as null (JSON has no nan), under a temporary name first: never half a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(_nan_to_none(report), file, indent=2, allow_nan=False)
    os.replace(temporary, path)


def _nan_to_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _nan_to_none(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
