"""One scene: fields on the grid of the series, what the satellite sees of them over a year, and one
sharp image.

The image does not know the phenology and the series does not know the texture: mean colour and
contrast of a field in the image are drawn without a look at its class.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .kinds import MODES
from .phenology import draw_clouds, draw_curve, draw_dates, reflectance
from .textures import draw_texture

__all__ = ["Scene", "draw_scene"]

#: Reflectance is stored as in PASTIS.
SCALE = 10_000

# Colours that farmland has in early summer, of any class: greens, straw, earth.
_PALETTE = np.array(
    [
        (86, 104, 58), (104, 122, 66), (122, 136, 80), (142, 144, 92), (168, 154, 106),
        (182, 164, 120), (150, 126, 92), (132, 108, 82), (98, 92, 66), (114, 126, 92),
    ],
    dtype=np.float64,
)  # fmt: skip
_HEDGE = np.array([58, 74, 46], dtype=np.float64)


class Scene(NamedTuple):
    #: (h, w) uint8, the class of each pixel of the series.
    labels: np.ndarray
    #: (h, w) uint16, the field of each pixel, from 1 on.
    fields: np.ndarray
    #: (fields,) place in the mode's kinds, of field 1, 2, ...
    kinds: np.ndarray
    #: (T, 10, h, w) int16.
    series: np.ndarray
    #: (T,) days of the year, 0 .. 364.
    days: np.ndarray
    #: (T, h, w) bool, True where a cloud hides the ground.
    clouds: np.ndarray
    #: (r h, r w, 3) uint8, red first.
    image: np.ndarray


def draw_scene(
    seed: int | list[int],
    mode: str = "mixed",
    *,
    size: int = 40,
    ratio: int = 5,
    cloud_probability: float = 0.3,
) -> Scene:
    """Draw a scene; the same seed gives the same scene.

    Args:
        seed: of numpy's default_rng.
        mode: "mixed" or "xor", see kinds.py.
        size: pixels of the series along a side.
        ratio: pixels of the image along a side of one of the series.
        cloud_probability: of a date to have clouds, in [0, 1].
    """
    rng = np.random.default_rng(seed)
    kinds = MODES[mode].kinds
    fields = _draw_fields(rng, size)
    count = fields.max()
    # every kind as often as chance and the number of fields allow
    drawn = rng.permutation(np.resize(rng.permutation(len(kinds)), count))
    labels = np.array([kinds[i].label for i in drawn], dtype=np.uint8)[fields - 1]

    days = draw_dates(rng, int(rng.integers(12, 21)))
    curves = np.stack([draw_curve(rng, kinds[i].phenology, days) for i in drawn], axis=1)
    ground = reflectance(curves[:, fields - 1])
    masks, brightness = draw_clouds(rng, len(days), size, cloud_probability)
    ground = np.where(masks[:, None], brightness[:, None], ground)
    ground = ground + rng.normal(0, 0.02, ground.shape)
    series = (ground * SCALE).round().clip(0, 2 * SCALE).astype(np.int16)

    textures = [kinds[i].texture for i in drawn]
    image = _draw_image(rng, fields, textures, ratio)
    return Scene(labels, fields.astype(np.uint16), drawn, series, days, masks, image)


def _draw_fields(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) numbers from 1 on: Voronoi cells of 25 to 40 seeds, in a stretched metric.

    Farmland lies along its roads: all fields of a scene are stretched one way.
    """
    count = int(rng.integers(25, 41) * size**2 / 40**2 + 0.5)
    y, x = np.mgrid[:size, :size] + 0.5
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.6)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = np.stack([y.ravel(), x.ravel()], axis=1) @ turn.T * [stretch, 1]
    seeds = points[rng.choice(len(points), max(count, 2), replace=False)]
    for _ in range(3):  # Lloyd's steps: fields of about one size
        nearest = ((points[:, None] - seeds) ** 2).sum(-1).argmin(1)
        seeds = np.array(
            [
                points[nearest == i].mean(0) if (nearest == i).any() else s
                for i, s in enumerate(seeds)
            ]
        )
    nearest = ((points[:, None] - seeds) ** 2).sum(-1).argmin(1)
    return np.unique(nearest, return_inverse=True)[1].reshape(size, size) + 1


def _draw_image(
    rng: np.random.Generator, fields: np.ndarray, textures: list[str], ratio: int
) -> np.ndarray:
    large = fields.repeat(ratio, axis=0).repeat(ratio, axis=1)
    size = len(large)
    image = np.zeros((size, size, 3))
    for number, texture in enumerate(textures, start=1):
        rows, columns = np.nonzero(fields == number)
        # all of the field and no more, which takes a tenth of the time
        place = np.s_[
            rows.min() * ratio : (rows.max() + 1) * ratio,
            columns.min() * ratio : (columns.max() + 1) * ratio,
        ]
        field = large[place] == number
        color = _PALETTE[rng.integers(len(_PALETTE))] * rng.uniform(0.85, 1.15)
        contrast = rng.uniform(14, 24)
        # dark parts turn a little to the blue of shadows
        tint = np.array([1.0, 1.0, 0.85])
        pattern = draw_texture(rng, texture, field)[..., None] * contrast * tint
        image[place][field] = (color + pattern)[field]
    _draw_hedges(rng, image, large)
    relief = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), size / 6)
    image *= 1 + 0.06 * (relief / relief.std())[..., None]
    return (image + rng.normal(0, 2.5, image.shape)).round().clip(0, 255).astype(np.uint8)


def _draw_hedges(rng: np.random.Generator, image: np.ndarray, large: np.ndarray) -> None:
    """A margin between fields: a hedge here, a track there, whatever grows on either side."""
    border = np.zeros(large.shape, dtype=bool)
    border[:-1] |= large[:-1] != large[1:]
    border[:, :-1] |= large[:, :-1] != large[:, 1:]
    hedge = cv2.GaussianBlur(rng.standard_normal(large.shape), (0, 0), 12) > 0
    image[border & hedge] = _HEDGE + rng.normal(0, 8, (int((border & hedge).sum()), 1))
    track = border & ~hedge
    image[track] = 0.5 * image[track] + 0.5 * np.array([176, 160, 128])
