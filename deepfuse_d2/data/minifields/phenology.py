"""What a satellite sees of a field over a year: curves of greenness, ten bands, clouds."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["BANDS", "draw_clouds", "draw_curve", "draw_dates", "reflectance"]

#: The ten bands of PASTIS, in its order.
BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")

_SOIL = np.array([0.08, 0.11, 0.15, 0.18, 0.20, 0.22, 0.24, 0.26, 0.32, 0.28])
_LEAF = np.array([0.03, 0.06, 0.03, 0.10, 0.32, 0.42, 0.46, 0.48, 0.20, 0.09])
_YEAR = 365
_MIN_GAP = 5

# NDVI of a bare field, of a closed canopy.
_LOW, _HIGH = 0.18, 0.85


def draw_dates(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) days of the year, 0 .. 364, sorted, at least five apart."""
    slack = _YEAR - _MIN_GAP * (count - 1)
    return np.sort(rng.choice(slack, count, replace=False)) + _MIN_GAP * np.arange(count)


def draw_curve(rng: np.random.Generator, phenology: str, days: np.ndarray) -> np.ndarray:
    """(T,) NDVI of one field: ``base + amp (logistic(k (t - start)) - logistic(k (t - end)))``.

    Start and end vary by ten days from field to field, the amplitude by 15 %.
    """
    amplitude = (_HIGH - _LOW) * rng.uniform(0.85, 1.0)
    if phenology == "evergreen":
        return np.full(len(days), _LOW + amplitude)
    if phenology == "flat":
        return np.full(len(days), _LOW * rng.uniform(0.85, 1.15))
    if phenology == "early":
        seasons = [(55, 185)]
    else:
        seasons = [(185, 310)] if rng.random() < 0.5 else [(165, 215), (240, 320)]
    curve = np.full(len(days), _LOW)
    for start, end in seasons:
        start, end = start + rng.uniform(-10, 10), end + rng.uniform(-10, 10)
        curve += amplitude * (_logistic((days - start) / 8) - _logistic((days - end) / 8))
    return curve


def reflectance(ndvi: np.ndarray) -> np.ndarray:
    """(T, ...) NDVI -> (T, 10, ...) reflectance of a mix of soil and leaves."""
    cover = ((ndvi - 0.15) / (_HIGH - 0.15)).clip(0, 1)[:, None]
    shape = (1, -1) + (1,) * (ndvi.ndim - 1)
    return cover * _LEAF.reshape(shape) + (1 - cover) * _SOIL.reshape(shape)


def draw_clouds(
    rng: np.random.Generator, count: int, size: int, probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where clouds are, and how bright: (count, size, size) bool and float.

    A date has clouds with the given probability; they then cover between a tenth and all of it.
    """
    masks = np.zeros((count, size, size), dtype=bool)
    brightness = np.zeros((count, size, size))
    for i in range(count):
        blobs = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), size / 8)
        cover = rng.uniform(0.1, 1.0)
        if rng.random() < probability:
            masks[i] = blobs >= np.quantile(blobs, 1 - cover)
            brightness[i] = 0.55 + 0.35 * (blobs - blobs.min()) / np.ptp(blobs)
    return masks, brightness


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
