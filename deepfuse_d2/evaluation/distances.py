"""Distances of a Cityscapes frame, from its stereo disparity and its camera.

    <root>/disparity/<split>/<city>/<frame>_disparity.png    16 bits: (d * 256) + 1, 0 is unknown
    <root>/camera/<split>/<city>/<frame>_camera.json         baseline in metres, focal length

Distance is ``baseline * fx / d``, along the optical axis. The official script takes the median
distance of an instance (``medDist``) and the share of its pixels with a disparity (``distConf``,
"stereo density") from a table that is not public; they are computed here by what those names say,
and its rules for them are applied as they stand.
"""

from __future__ import annotations

import json
import os

import numpy as np

from ..errors import DatasetError
from .files import frame_file, read_label_image

__all__ = ["read_distances", "region_distances"]


def read_distances(image: str) -> np.ndarray | None:
    """Return the distances (H, W) of a frame in metres, nan where unknown.

    None if its disparity or camera file is absent, or if it is not in the layout of Cityscapes.

    Raises: DatasetError: a file is damaged.
    """
    disparity_file = frame_file(image, "disparity", "disparity.png")
    camera_file = frame_file(image, "camera", "camera.json")
    if disparity_file is None or camera_file is None:
        return None
    if not (os.path.isfile(disparity_file) and os.path.isfile(camera_file)):
        return None
    try:
        with open(camera_file, encoding="utf-8") as file:
            camera = json.load(file)
        product = float(camera["extrinsic"]["baseline"]) * float(camera["intrinsic"]["fx"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"Camera file {camera_file} cannot be used ({error!r}); expected JSON with "
            "extrinsic.baseline and intrinsic.fx. Unpack camera_trainvaltest.zip again."
        ) from error
    stored = read_label_image(disparity_file, image)
    # One entry for each value a PNG of 16 bits can hold.
    disparity = (np.arange(1 << 16, dtype=np.float64) - 1.0) / 256.0
    with np.errstate(divide="ignore"):
        table = product / disparity  # disparity 0 is infinitely far
    table[0] = np.nan
    return table[stored]


def region_distances(
    codes: np.ndarray, distances: np.ndarray, count: int, *, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return median distance and share of known distances of regions.

    Args:
        codes: (H, W) integers, region r is where the code is ``first + r``.
        distances: (H, W), nan where unknown.
        count: number of regions, each with at least one pixel.
        first: code of the first region.

    Returns:
        medians (count,), -1 where nothing is known, and shares (count,).
    """
    if codes.shape != distances.shape:
        raise DatasetError(
            f"a disparity image has the size {distances.shape} (height, width), the ground truth "
            f"{codes.shape}; prepare the disparity images again."
        )
    inside = codes >= first
    regions, values = codes[inside].astype(np.int64) - first, distances[inside]
    areas = np.bincount(regions, minlength=count)
    known = ~np.isnan(values)
    regions, values = regions[known], values[known]
    known_areas = np.bincount(regions, minlength=count)
    ends = np.cumsum(known_areas)
    values = values[np.argsort(regions, kind="stable")]
    medians = np.full(count, -1.0)
    for region in np.flatnonzero(known_areas):
        medians[region] = np.median(values[ends[region] - known_areas[region] : ends[region]])
    return medians, known_areas / areas
