"""Trees and bushes: crowns are stamps made of thousands of leaves once a process, then coloured,
scaled and set in place.

A stamp is brightness and cover; colour comes from a ramp between shaded and sunlit leaves when it
is drawn.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import cv2
import numpy as np

from .camera import Light, Place
from .canvas import SUPERSAMPLE, Canvas, Mesh

__all__ = ["draw_bush", "draw_tree"]

LEAVES = [(74, 104, 44), (92, 118, 54), (62, 92, 46), (108, 122, 58), (84, 110, 70), (140, 124, 56)]

_SIZE = 256
_MARGIN = 6
KINDS = ("round", "oval", "fir", "bush")
_EACH = 4  # stamps of a kind


@lru_cache(maxsize=2)
def _stamps(mirrored: bool = False) -> dict[str, list[list[np.ndarray]]]:
    """kind -> stamps -> levels of half the size each; a level is (S, S, 2) uint8: brightness,
    cover.

    The light comes from the upper left, or right if ``mirrored``. The bottom row of a stamp is the
    lowest leaf.
    """
    if mirrored:
        return {
            kind: [[np.ascontiguousarray(level[:, ::-1]) for level in levels] for levels in each]
            for kind, each in _stamps().items()
        }
    return {
        kind: [_levels(_draw(kind, random.Random(f"{kind}{k}"))) for k in range(_EACH)]
        for kind in KINDS
    }


def _levels(stamp: np.ndarray) -> list[np.ndarray]:
    levels = [stamp]
    while levels[-1].shape[0] > 16:
        size = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (size, size), interpolation=cv2.INTER_AREA))
    return levels


def _draw(kind: str, rng: random.Random) -> np.ndarray:
    gray, cover = np.full((_SIZE, _SIZE), 70, np.uint8), np.zeros((_SIZE, _SIZE), np.uint8)
    clumps = []
    for _ in range({"round": 44, "oval": 40, "fir": 60, "bush": 30}[kind]):
        t, angle = rng.random(), rng.uniform(0, 2 * math.pi)
        reach = math.sqrt(t)
        if kind == "fir":
            y = t * 0.94
            x = rng.uniform(-1, 1) * 0.42 * (0.12 + y)
            size = 0.05 + 0.09 * y
            x, y = 0.5 + x, 0.04 + y * 0.9
        elif kind == "bush":
            x, y, size = (
                0.5 + 0.4 * rng.uniform(-1, 1),
                0.55 + 0.42 * rng.uniform(-0.7, 1),
                rng.uniform(0.09, 0.16),
            )
            y = max(y, 0.2 + 0.9 * abs(x - 0.5))
        else:
            wide = 0.4 if kind == "round" else 0.3
            x, y = 0.5 + wide * reach * math.cos(angle), 0.5 + 0.4 * reach * math.sin(angle)
            size = rng.uniform(0.07, 0.14) * (1.2 - 0.4 * reach)
        clumps.append((x, y, size))
    clumps.sort(
        key=lambda c: -c[0] * 0.3 - c[1]
    )  # from the shaded lower right to the sunny upper left
    for x, y, size in clumps:
        base = 118 - 95 * (y - 0.5) - 60 * (x - 0.5) + rng.uniform(-14, 14)
        for _ in range(34):
            a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 1.1
            dx, dy = r * math.cos(a), r * math.sin(a) * 0.85
            tone = base - 42 * dy - 24 * dx + rng.uniform(-26, 26)
            px = min(max((x + dx * size) * _SIZE, _MARGIN), _SIZE - _MARGIN)
            py = min(max((y + dy * size) * _SIZE, _MARGIN), _SIZE - _MARGIN)
            leaf = _SIZE * size * rng.uniform(0.1, 0.26)
            centre, axes = (int(px * 16), int(py * 16)), (int(leaf * 16), int(leaf * 10))
            turn = rng.uniform(0, 180)
            cv2.ellipse(gray, centre, axes, turn, 0, 360, min(255, max(8, tone)), -1, cv2.LINE_8, 4)
            cv2.ellipse(cover, centre, axes, turn, 0, 360, 255, -1, cv2.LINE_8, 4)
    rows = np.flatnonzero(cover.any(axis=1))
    top, bottom = rows[0], rows[-1] + 1
    stamp = np.stack([gray, cover], axis=-1)[top:bottom]
    return cv2.resize(stamp, (_SIZE, _SIZE), interpolation=cv2.INTER_LINEAR)


def _leaf_ramp(leaf: tuple[float, float, float], light: Light, depth: float) -> np.ndarray:
    """(256, 3) uint8 RGB: the colour of a leaf by its brightness in the stamp."""
    level = np.arange(256, dtype=np.float32)[:, None] / 118.0
    contrast = 0.65 + 0.5 * light.strength
    level = 1.0 + (level - 1.0) * contrast
    # Sunlit leaves turn yellow, shaded ones blue.
    tone = np.array(leaf, np.float32) * level + np.array([18, 12, -14], np.float32) * (level - 1.0)
    air = 1.0 - math.exp(-depth / light.haze_distance)
    tone = tone * light.level * (1 - air) + np.array(light.haze, np.float32) * air
    return np.clip(tone, 0, 255).astype(np.uint8)


def draw_tree(canvas: Canvas, rng: random.Random, x: float, z: float, height: float) -> None:
    """A tree: a branching trunk below a crown."""
    if not canvas.camera.sees(x, z, 0.4 * height):
        return
    leaf, kind = rng.choice(LEAVES), rng.choice(["round", "round", "round", "oval", "oval", "fir"])
    bark = rng.choice([(84, 68, 54), (100, 86, 72), (70, 60, 52)])
    base = height * (rng.uniform(0.26, 0.38) if kind != "fir" else 0.12)
    width = height * rng.uniform(0.55, 0.75) * (0.75 if kind == "fir" else 1.0)
    variant, crown = rng.randrange(16), height - base
    trunk = 0.04 * height
    mesh = Mesh()
    mesh.poly(
        [
            (-trunk * 0.6, 0, 0),
            (trunk * 0.6, 0, 0),
            (trunk * 0.4, base * 1.2, 0),
            (-trunk * 0.4, base * 1.2, 0),
        ],
        bark,
    )
    mesh.poly(
        [
            (-trunk * 0.6, 0, 0),
            (-trunk * 0.2, 0, 0),
            (-trunk * 0.1, base * 1.2, 0),
            (-trunk * 0.4, base * 1.2, 0),
        ],
        bark,
        1.25,
        solid=False,
    )
    if kind != "fir":
        for a in (-0.26, 0.22):
            mesh.line(
                [(0, base * 0.85, 0), (a * width, base + 0.35 * crown, 0)], trunk * 0.5, bark, 0.9
            )
    canvas.begin("vegetation")
    mesh.draw(canvas, Place(x, z))
    _foliage(canvas, x, z, (width, crown), base, kind, variant, leaf)
    canvas.end()


def draw_bush(
    canvas: Canvas, rng: random.Random, x: float, z: float, width: float, height: float
) -> None:
    """A bush or a piece of hedge."""
    if not canvas.camera.sees(x, z, 0.5 * width):
        return
    leaf, variant = rng.choice(LEAVES), rng.randrange(16)
    canvas.begin("vegetation")
    _foliage(canvas, x, z, (width, height), 0.0, "bush", variant, leaf)
    canvas.end()


def _foliage(
    canvas: Canvas, x: float, z: float, size: tuple, base: float, kind: str, variant: int, leaf
) -> None:
    corners = np.array([[x - size[0] / 2, base + size[1], z], [x + size[0] / 2, base, z]])
    pixels, _ = canvas.camera.project(corners)
    (x0, y0), (x1, y1) = pixels
    choice = _stamps(mirrored=canvas.light.sun[0] > 0)[kind]
    levels = choice[variant % len(choice)]
    level = 0
    while level + 1 < len(levels) and levels[level + 1].shape[0] >= (x1 - x0) * SUPERSAMPLE:
        level += 1
    canvas.stamp(levels[level], (x0, y0), (x1 - x0, y1 - y0), _leaf_ramp(leaf, canvas.light, z))
