"""A street and all that it holds, in metres.

Nothing here depends on the size of the image, so that a larger picture shows the same scene.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .camera import Camera, Light
from .layout import Layout, Thing
from .street import Street
from .traffic import populate

__all__ = ["Plot", "Scene", "make_scene"]

LANE = 3.25  # width in metres


@dataclass
class Plot:
    """A piece of land along one side: a house, a garden, or a gap where a street joins."""

    kind: str
    side: int
    z0: float
    z1: float
    seed: int


@dataclass
class Scene:
    street: Street
    light: Light
    view: dict[str, float]
    plots: list[Plot]
    things: list[Thing]
    seed: int

    def camera(self, width: int, height: int) -> Camera:
        return Camera(width, height, **self.view)


def make_scene(rng: random.Random, city_style: dict[str, float], feature: str) -> Scene:
    """A street of one of the city's styles, with ``feature`` in view."""
    style = rng.choices(list(city_style), list(city_style.values()))[0]
    light, street = _light(rng), _street(rng, style, feature)
    view = {
        "focal": rng.uniform(0.88, 1.02), "horizon": rng.uniform(0.4, 0.47),
        "centre": rng.uniform(0.43, 0.57),
        "eye": rng.uniform(1.25, 1.5), "bend": rng.choice([0.0, 0.0, rng.uniform(-0.0022, 0.0022)]),
    }  # fmt: skip
    layout = Layout(rng, street, light, view)
    populate(layout, feature)
    return Scene(street, light, view, _plots(rng, street), layout.things, rng.getrandbits(64))


def _light(rng: random.Random) -> Light:
    kind = rng.choice(["noon", "noon", "overcast", "overcast", "morning", "evening", "dusk"])
    azimuth = rng.uniform(-math.pi, math.pi)
    elevation = math.radians(
        {"noon": rng.uniform(38, 60), "overcast": 60.0}.get(kind, rng.uniform(18, 32))
    )
    sun = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        math.cos(elevation) * math.cos(azimuth),
    )
    haze = {
        "noon": (214, 224, 234), "overcast": (206, 209, 212), "morning": (232, 222, 206),
        "evening": (240, 206, 168), "dusk": (132, 122, 138),
    }[kind]  # fmt: skip
    strength = {
        "noon": rng.uniform(0.6, 0.85),
        "overcast": rng.uniform(0.0, 0.12),
        "morning": 0.7,
        "evening": 0.75,
        "dusk": 0.1,
    }[kind]
    level = {
        "noon": 1.1,
        "overcast": 0.92,
        "morning": 0.98,
        "evening": 0.92,
        "dusk": rng.uniform(0.52, 0.68),
    }[kind]
    distance = rng.uniform(160, 420) if rng.random() > 0.15 else rng.uniform(75, 120)
    return Light(
        sun,
        strength,
        level * rng.uniform(0.93, 1.07),
        haze,
        distance,
        rng.uniform(0.6, 1.0) if kind == "dusk" else 0.0,
    )


def _street(rng: random.Random, style: str, feature: str) -> Street:
    own = 1 if style == "old" or rng.random() < 0.5 else 2
    opposite = rng.choice([1, 1, 2]) if style != "old" else rng.choice([0, 1, 1])
    lanes = [(0.0, 0.0)]
    if own == 2:
        lanes.append((LANE if rng.random() < 0.5 else -LANE, 0.0))
    low, high = min(x for x, _ in lanes), max(x for x, _ in lanes)
    x = low - LANE / 2
    tram = None
    if feature == "train" or (style == "boulevard" and rng.random() < 0.3):
        tram = x - 1.55
        x = tram - 1.55
    for _ in range(opposite):
        lanes.append((x - LANE / 2, math.pi))
        x -= LANE
    chance = {"old": 0.75, "boulevard": 0.7, "suburb": 0.6, "works": 0.3}[style]
    parking = tuple(
        rng.choice([2.15, 2.15, 4.4]) if rng.random() < chance else 0.0 for _ in range(2)
    )
    walk = tuple(
        rng.uniform(2.2, 3.4) if style in ("old", "suburb", "works") else rng.uniform(3.4, 5.5)
        for _ in range(2)
    )
    verge = tuple(
        rng.uniform(1.5, 4.0)
        if style in ("suburb", "works")
        else (rng.uniform(1.0, 2.4) if rng.random() < 0.2 else 0.0)
        for _ in range(2)
    )
    crossing = rng.uniform(14, 42) if feature == "crossing" or rng.random() < 0.3 else None
    zebra = None
    if crossing is not None and rng.random() < 0.6:
        zebra = crossing - 5.2
    elif crossing is None and rng.random() < 0.3:
        zebra = rng.uniform(8, 26)
    return Street(
        style, x - 0.25 - parking[0], high + LANE / 2 + 0.25 + parking[1], lanes, parking, walk,
        verge, tram, crossing, rng.uniform(6.5, 9.0), zebra,
    )  # fmt: skip


def _plots(rng: random.Random, street: Street) -> list[Plot]:
    plots = []
    open_share = {"old": 0.06, "boulevard": 0.1, "suburb": 0.3, "works": 0.4}[street.style]
    for side in (-1, 1):
        z = rng.uniform(-6, 1)
        end = rng.uniform(85, 150)
        while z < end:
            length = rng.uniform(9, 20) if street.style != "works" else rng.uniform(12, 30)
            if street.crossing is not None:
                gap = (street.crossing - 3.0, street.crossing + street.crossing_width + 3.0)
                if z < gap[1] and z + length > gap[0]:
                    if gap[0] - z > 5:
                        plots.append(Plot("house", side, z, gap[0], rng.getrandbits(64)))
                    z = gap[1]
                    continue
            kind = "garden" if rng.random() < open_share else "house"
            plots.append(Plot(kind, side, z, z + length, rng.getrandbits(64)))
            z += length
            if street.style in ("suburb", "works") and rng.random() < 0.7:
                gap_length = rng.uniform(3, 8)
                plots.append(Plot("garden", side, z, z + gap_length, rng.getrandbits(64)))
                z += gap_length
    return plots
