"""Patterns of fields as a sharp image shows them, all of mean 0 and deviation 1 within a field."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["draw_texture"]


def draw_texture(rng: np.random.Generator, texture: str, field: np.ndarray) -> np.ndarray:
    """(H, W) pattern, normalised over the pixels of `field` (H, W) bool.

    Equal mean and variance leave the pattern as all that tells textures apart.
    """
    pattern = _PATTERNS[texture](rng, max(field.shape))[: field.shape[0], : field.shape[1]]
    pattern = pattern + 0.25 * pattern.std() * rng.standard_normal(pattern.shape)
    inside = pattern[field]
    return (pattern - inside.mean()) / max(inside.std(), 1e-6)


def _smooth(rng: np.random.Generator, size: int) -> np.ndarray:
    """A sward: soft patches, and grain."""
    patches = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), 5.0)
    grain = rng.standard_normal((size, size))
    return patches / patches.std() + 0.8 * grain


def _rows(rng: np.random.Generator, size: int) -> np.ndarray:
    """Parallel rows, three to five pixels apart, some plants of them missing."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(3.2, 5.0)
    y, x = np.mgrid[:size, :size]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + rng.uniform(0, 6))
    vigour = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), 4.0)
    return wave * (1 + 0.25 * vigour / vigour.std())


def _crowns(rng: np.random.Generator, size: int) -> np.ndarray:
    """Crowns of trees, lit from the top left, with dark gaps and shadows between them."""
    spacing = rng.uniform(6.0, 8.0)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    canopy = np.full((size, size), -1.4)
    rows = np.arange(-spacing, size + spacing, spacing * 0.87)
    for i, row in enumerate(rows):
        for column in np.arange(-spacing + (i % 2) * spacing / 2, size + spacing, spacing):
            cy, cx = row + rng.normal(0, 0.9), column + rng.normal(0, 0.9)
            radius = spacing * rng.uniform(0.42, 0.62)
            top, left = max(int(cy - radius), 0), max(int(cx - radius), 0)
            place = np.s_[top : int(cy + radius) + 2, left : int(cx + radius) + 2]
            dy, dx = (y[place] - cy) / radius, (x[place] - cx) / radius
            height = 1 - dy**2 - dx**2
            lit = 0.6 * height - 0.9 * (dy + dx) * 0.7 + 0.3
            canopy[place] = np.where(height > 0, np.maximum(canopy[place], lit), canopy[place])
    return canopy


def _blocks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Roofs of two sides along streets, and yards."""
    town = np.full((size, size), -0.8)
    step = int(rng.integers(9, 13))
    for top in range(-int(rng.integers(step)), size, step):
        for left in range(-int(rng.integers(step)), size, step):
            height, width = rng.integers(5, step - 2, 2)
            y, x = top + int(rng.integers(0, 3)), left + int(rng.integers(0, 3))
            light = rng.uniform(0.4, 2.0)
            roof = np.s_[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
            town[roof] = light
            half = np.s_[
                max(y + height // 2, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)
            ]
            town[half] = light - 0.9
            shadow = np.s_[
                max(y + height, 0) : max(y + height + 1, 0), max(x + 1, 0) : max(x + width + 1, 0)
            ]
            town[shadow] = -2.0
    return town


_PATTERNS = {"smooth": _smooth, "rows": _rows, "crowns": _crowns, "blocks": _blocks}
