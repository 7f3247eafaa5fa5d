"""Where things may stand: in view, on the ground, not inside one another; and the order in which
they are drawn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .camera import Light, Place
from .canvas import Canvas
from .models import KINDS, draw_model
from .street import Street

__all__ = ["Layout", "Thing", "back_to_front"]


@dataclass
class Thing:
    """Something on the ground that covers a box (x0, x1, z0, z1)."""

    box: tuple[float, float, float, float]
    height: float
    draw: Callable[[Canvas], None]
    footprint: np.ndarray | None = None  # corners (4, 3) on the ground, where it throws a shadow
    crown: float = 0.0  # radius of a crown that throws a shadow of its own


class Layout:
    """Collects things and refuses those that would stand inside another."""

    def __init__(self, rng: random.Random, street: Street, light: Light, view: dict[str, float]):
        self.rng, self.street, self.light, self.view = rng, street, light, view
        self.things: list[Thing] = []

    def free(self, box: tuple, gap: float = 0.25) -> bool:
        x0, x1, z0, z1 = box
        return not any(
            x0 - gap < t.box[1]
            and t.box[0] < x1 + gap
            and z0 - gap < t.box[3]
            and t.box[2] < z1 + gap
            for t in self.things
        )

    def visible(self, x: float, z: float, margin: float = 0.0) -> bool:
        u = self.view["centre"] + self.view["focal"] * (x / z + self.view["bend"] * z)
        return -margin < u < 1 + margin

    def span(self, z: float) -> tuple[float, float]:
        """x at the left and the right border of the picture at depth z."""
        shift = self.view["bend"] * z * z
        left = -self.view["centre"] * z / self.view["focal"] - shift
        return left, (1 - self.view["centre"]) * z / self.view["focal"] - shift

    def vehicle(self, kind: str, x: float, z: float, heading: float, *, gap: float = 0.25) -> bool:
        """Put a vehicle or person there if it has room and is in view; built when drawn."""
        place = Place(x, z, heading, self.view["bend"])
        size = KINDS[kind].size(self.rng)
        seed = self.rng.getrandbits(64)
        sin, cos = abs(math.sin(heading)), abs(math.cos(heading))
        hx, hz = (
            (sin * size.length + cos * size.width) / 2,
            (cos * size.length + sin * size.width) / 2,
        )
        box = (x - hx, x + hx, z - hz, z + hz)
        if box[2] < 3.0 or not self.in_view(box) or not self.free(box, gap):
            return False
        half, reach = size.width / 2, size.length / 2
        corners = np.array(
            [(-half, 0, -reach), (half, 0, -reach), (half, 0, reach), (-half, 0, reach)]
        )

        def draw(canvas: Canvas) -> None:
            draw_model(canvas, kind, place, size, seed, self.light)

        self.things.append(Thing(box, size.height, draw, place.to_world(corners)))
        return True

    def in_view(self, box: tuple) -> bool:
        """Whether any part of a box is between the left and the right border of the picture."""
        x0, x1, _, z1 = box
        left, right = self.span(z1)
        return x1 > left - 1.0 and x0 < right + 1.0

    def add_static(
        self,
        draw: Callable,
        x: float,
        z: float,
        half: float,
        height: float,
        *args,
        crown: float = 0.0,
    ) -> bool:
        """Furniture drawn by ``draw(canvas, rng, x, z, *args)``."""
        seed = self.rng.getrandbits(64)
        box = (x - half, x + half, z - half, z + half)
        if z < 2.5 or not self.free(box, 0.1):
            return False
        corners = np.array(
            [(x - half, 0, z), (x + half, 0, z), (x + half, 0, z + half), (x - half, 0, z + half)],
            float,
        )

        def run(canvas: Canvas) -> None:
            draw(canvas, random.Random(seed), x, z, *args)

        self.things.append(Thing(box, height, run, corners, crown))
        return True

    def group(self, kind: str, places: list[Place]) -> None:
        """Several things under one outline that nobody could tell apart: a Cityscapes group."""
        rng, light = self.rng, self.light
        members = [
            (p, KINDS[kind].size(rng), rng.getrandbits(64))
            for p in sorted(places, key=lambda p: -p.z)
        ]
        reach = max(size.length for _, size, _ in members) / 2
        x0, x1 = min(p.x for p in places) - 0.9, max(p.x for p in places) + 0.9
        z0, z1 = min(p.z for p in places) - reach, max(p.z for p in places) + reach
        if not self.free((x0, x1, z0, z1)):
            return

        def draw(canvas: Canvas) -> None:
            canvas.begin(f"{kind}group")
            for place, size, seed in members:
                draw_model(canvas, kind, place, size, seed, light, label=None)
            canvas.end()

        corners = np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], float)
        self.things.append(Thing((x0, x1, z0, z1), members[0][1].height, draw, corners))


def back_to_front(things: list[Thing]) -> list[Thing]:
    """Things from back to front.

    One hides another if it is nearer along the road or nearer to the camera's path on the same
    side; where both hold in opposite ways, neither hides the other.
    """
    boxes = np.array([t.box for t in things]).reshape(-1, 4)
    x0, x1, z0, z1 = (boxes[:, k] for k in range(4))
    beyond = z0[:, None] >= z1[None] - 0.05
    aside = ((x1[:, None] <= x0[None] + 0.05) & (x0[None] < 0)) | (
        (x0[:, None] >= x1[None] - 0.05) & (x1[None] > 0)
    )
    behind = (beyond | aside) & ~(beyond | aside).T  # behind[a, b]: a is drawn before b
    waiting = behind.sum(axis=0)
    left, order = set(range(len(things))), []
    while left:
        ready = [k for k in left if waiting[k] <= 0] or [max(left, key=lambda k: z1[k])]
        k = max(ready, key=lambda k: (z0[k], k))
        order.append(things[k])
        left.remove(k)
        waiting = waiting - behind[k]
    return order
