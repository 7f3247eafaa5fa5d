"""From (seed, split, index) to a finished frame: picture, instance ids and polygons."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from . import barriers, buildings, trees
from .camera import Light
from .canvas import SUPERSAMPLE, Canvas
from .cities import CITIES
from .labels import CLASS_TEXTURE, has_instances, label_id
from .layout import back_to_front
from .scene import Plot, Scene, make_scene
from .street import FAR, Street, draw_ground, draw_shadows, draw_sky
from .traffic import FEATURES

_SHADE = 0.6  # light that remains where the sun does not reach
_SLACK = 97  # pixels by which the noise is larger than the picture

__all__ = ["Frame", "render_frame"]


@dataclass(frozen=True)
class Frame:
    """One street scene.

    Args:
        image: (H, W, 3) uint8 RGB.
        instance_ids: (H, W) uint16, ``label id * 1000 + k`` for instances, the plain label id
            elsewhere.
        objects: (label, polygon (N, 2)) in drawing order; filled one after another they give
            ``instance_ids``.
    """

    image: np.ndarray
    instance_ids: np.ndarray
    objects: list[tuple[str, np.ndarray]]

    @property
    def label_ids(self) -> np.ndarray:
        """(H, W) uint8 Cityscapes label ids."""
        ids = self.instance_ids
        return np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)


def render_frame(seed: int, split: str, index: int, width: int, height: int) -> Frame:
    """Draw frame ``index`` of a split; the same arguments give the same bytes."""
    rng = random.Random(f"minicity/{seed}/{split}/{index}")
    cities = list(CITIES[split])
    # 12 features and 4 or 2 cities: the shift by the round keeps every city from always showing
    # the same ones.
    feature = FEATURES[(index + index // len(FEATURES)) % len(FEATURES)]
    scene = make_scene(rng, CITIES[split][cities[index % len(cities)]], feature)
    canvas = Canvas(scene.camera(width, height), scene.light)
    _draw(canvas, scene)
    label_ids, instance_ids, objects = _labels(canvas)
    image = _develop(canvas.image, label_ids, scene.light, random.Random(scene.seed))
    return Frame(image, instance_ids, objects)


def _draw(canvas: Canvas, scene: Scene) -> None:
    rng = random.Random(scene.seed)
    draw_sky(canvas, rng)
    if rng.random() < 0.75:
        buildings.draw_skyline(canvas, rng, -110, 110, FAR)
    draw_ground(canvas, scene.street, rng)
    for _ in range(rng.randint(2, 6)):
        side = rng.choice([-1, 1])
        trees.draw_tree(canvas, rng, side * rng.uniform(8, 60), FAR - 10, rng.uniform(9, 16))
    draw_shadows(canvas, _shadows(scene))
    for plot in sorted(scene.plots, key=lambda p: -p.z1):
        _draw_plot(canvas, scene.street, plot)
    for thing in back_to_front(scene.things):
        thing.draw(canvas)
    _draw_own_car(canvas, rng)


def _shadows(scene: Scene) -> list[tuple[np.ndarray, float]]:
    """(ground points whose hull lies in shadow, share of light that remains) of all things and
    houses.
    """
    light, shadows = scene.light, []
    cast = np.array([-light.sun[0], 0.0, -light.sun[2]]) / max(
        light.sun[1], 0.3
    )  # a metre's shadow
    for thing in scene.things:
        if thing.footprint is None:
            continue
        if thing.height < 4:  # the dark under a car, whatever the weather
            shadows.append((thing.footprint, 0.45))
        if light.strength > 0.3:
            tip = thing.footprint + cast * min(thing.height, 9.0)
            shadows.append((np.concatenate([thing.footprint, tip]), _SHADE))
            if thing.crown:
                centre = thing.footprint.mean(axis=0) + 0.65 * thing.height * cast
                angles = np.linspace(0, 2 * math.pi, 12, endpoint=False)
                ring = np.stack([np.cos(angles), 0 * angles, np.sin(angles)], axis=1)
                shadows.append((centre + thing.crown * ring, _SHADE))
    if light.strength > 0.3:
        height = {"suburb": 4.5, "works": 6.0}.get(scene.street.style, 11.0)
        for plot in scene.plots:
            if plot.kind == "house" and plot.z1 > 1:
                x = scene.street.front[0 if plot.side < 0 else 1]
                foot = np.array([(x, 0, max(plot.z0, 0.5)), (x, 0, plot.z1)])
                shadows.append((np.concatenate([foot, foot + height * cast]), _SHADE))
    return shadows


def _draw_plot(canvas: Canvas, street: Street, plot: Plot) -> None:
    rng = random.Random(plot.seed)
    front = street.front[0 if plot.side < 0 else 1]
    # Nothing of a plot is nearer to the street than its front, so it is out of view while its far
    # corner is.
    if plot.z1 < 1.0 or not canvas.camera.sees(front, plot.z1, 1.0):
        return
    if plot.kind == "house":
        setback = rng.uniform(1.5, 5.0) if street.style == "suburb" else 0.0
        buildings.draw_building(
            canvas, rng, street.style, front + plot.side * setback, plot.z0, plot.z1
        )
        if setback > 2 and plot.z0 > 1.5:
            for _ in range(rng.randint(0, 3)):
                trees.draw_bush(
                    canvas,
                    rng,
                    front + plot.side * rng.uniform(0.5, 1.2),
                    rng.uniform(plot.z0, plot.z1),
                    rng.uniform(1.2, 2.2),
                    rng.uniform(0.7, 1.3),
                )
    else:
        for _ in range(rng.randint(1, 3)):
            z = max(rng.uniform(plot.z0, plot.z1), 5.0)
            trees.draw_tree(
                canvas, rng, front + plot.side * rng.uniform(3, 9), z, rng.uniform(5, 10)
            )
        for _ in range(rng.randint(0, 3)):
            z = max(rng.uniform(plot.z0, plot.z1), 4.0)
            trees.draw_bush(
                canvas,
                rng,
                front + plot.side * rng.uniform(1, 3),
                z,
                rng.uniform(1.5, 3),
                rng.uniform(0.9, 1.8),
            )
    barrier = {"old": 0.6, "boulevard": 0.5, "suburb": 0.75, "works": 0.8}[street.style]
    if (plot.kind == "garden" or street.style == "suburb") and rng.random() < barrier:
        kind = rng.choice(
            ["fence", "fence", "wall"] if street.style != "works" else ["fence", "wall", "wall"]
        )
        barriers.draw_barrier(
            canvas,
            rng,
            kind,
            front,
            plot.z0,
            plot.z1,
            rng.uniform(0.9, 1.5) if street.style == "suburb" else rng.uniform(1.4, 2.6),
        )


def _draw_own_car(canvas: Canvas, rng: random.Random) -> None:
    """The bonnet of the camera's car and the dark border of a rectified picture, both void."""
    height, width = canvas.owner.shape
    if rng.random() < 0.7:
        tone = rng.choice([(46, 48, 52), (120, 124, 128), (30, 44, 70)])
        top = 1 - rng.uniform(0.045, 0.085)
        u = np.linspace(0.0, 1.0, 25)
        arc = np.stack([u * width, (top + 0.06 * np.abs(2 * u - 1) ** 2.5) * height], 1)
        corners = [[width, height + 2], [0, height + 2]]
        canvas.begin("ego vehicle")
        canvas.claim(canvas.fixed(np.concatenate([arc, corners])))
        canvas.end()
        for shift, shade in ((0.0, 1.0), (0.012, 1.25), (0.03, 0.85)):
            outline = np.concatenate([arc + np.array([0.0, shift * height]), corners])
            canvas.fill(canvas.fixed(outline), canvas.light.tint(tone, 0.1, shade), False)
    edge = max(1, round(0.002 * width))
    for x0, y0, x1, y1 in (
        (0, 0, width, edge),
        (0, 0, edge, height),
        (width - edge, 0, width, height),
        (0, height - edge, width, height),
    ):
        canvas.begin("out of roi")
        box = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)
        canvas.claim(canvas.fixed(box))
        canvas.end()
    s = SUPERSAMPLE * edge
    for part in (canvas.image[:s], canvas.image[-s:], canvas.image[:, :s], canvas.image[:, -s:]):
        part[:] = part // 3


def _labels(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, list[tuple[str, np.ndarray]]]:
    """Label ids, instance ids and visible objects, numbered as Cityscapes' own script does."""
    seen = np.bincount(canvas.owner.ravel(), minlength=len(canvas.objects) + 1)
    counts: dict[str, int] = {}
    instance_of = np.zeros(len(canvas.objects) + 1, np.uint16)
    label_of = np.zeros(len(canvas.objects) + 1, np.uint8)
    objects = []
    for k, (label, polygon) in enumerate(canvas.objects, start=1):
        if seen[k] == 0:
            continue
        objects.append((label, polygon))
        label_of[k] = label_id(label)
        instance_of[k] = label_of[k]
        if has_instances(label):
            number = counts.get(label, 0)
            counts[label] = number + 1
            instance_of[k] = int(label_of[k]) * 1000 + number
    return label_of[canvas.owner], instance_of[canvas.owner], objects


@lru_cache(maxsize=2)
def _grain(height: int, width: int, channels: int) -> np.ndarray:
    """White noise of unit deviation, larger than a picture: each frame takes a window."""
    shape = (height + _SLACK, width + _SLACK, channels)
    return np.random.default_rng(20).standard_normal(shape, np.float32)


def _noise(rng: random.Random, height: int, width: int, channels: int) -> np.ndarray:
    y, x = rng.randrange(_SLACK), rng.randrange(_SLACK)
    return _grain(height, width, channels)[y : y + height, x : x + width]


def _develop(
    image: np.ndarray, label_ids: np.ndarray, light: Light, rng: random.Random
) -> np.ndarray:
    """Average the large picture down, then surface texture, lens and sensor."""
    height, width = label_ids.shape
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    # Surfaces are rough at two scales: by the pixel and in patches of some pixels.
    fine = cv2.extractChannel(np.ascontiguousarray(_noise(rng, height, width, 3)), 0)
    patches = cv2.resize(
        fine[: height // 8 + 1, : width // 8 + 1], (width, height), interpolation=cv2.INTER_LINEAR
    )
    roughness = cv2.addWeighted(fine, 0.6, patches, 0.7, 0.0)
    gain = cv2.multiply(roughness, CLASS_TEXTURE[label_ids])
    contrast = rng.uniform(0.95, 1.12)
    u, v = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    dark = rng.uniform(0.02, 0.14)
    gain = (gain + 1.0) * ((1.0 - dark * v[:, None] ** 2) - dark * u[None] ** 2) * contrast
    gains = [cv2.multiply(gain, cast) for cast in (rng.gauss(1.0, 0.03), 1.0, rng.gauss(1.0, 0.03))]
    out = cv2.multiply(image, cv2.merge(gains), dtype=cv2.CV_32F)
    sigma = rng.choice([0.0, 0.0, rng.uniform(0.35, 0.8)]) * width / 512
    if sigma > 0.3:
        out = cv2.GaussianBlur(out, (0, 0), sigma)
    noise = rng.uniform(1.0, 3.0) * (1.0 + 1.2 * light.dusk)
    offset = 112 * (1 - contrast) + rng.uniform(-4, 8)
    return cv2.addWeighted(out, 1.0, _noise(rng, height, width, 3), noise, offset, dtype=cv2.CV_8U)
