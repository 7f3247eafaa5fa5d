"""Poles at the kerb: lamps, signs and traffic lights."""

from __future__ import annotations

import math
import random

from .camera import Place
from .canvas import Canvas, Mesh

__all__ = ["draw_lamp", "draw_post", "draw_sign", "draw_traffic_light"]

METAL = [(120, 124, 128), (92, 96, 98), (66, 70, 72), (150, 152, 150), (58, 76, 66)]


def draw_post(
    canvas: Canvas, rng: random.Random, x: float, z: float, height: float, width: float = 0.1
) -> None:
    """A bare pole."""
    mesh = Mesh()
    _pole(mesh, height, width, rng.choice(METAL))
    mesh.draw(canvas, Place(x, z), "pole")


def _pole(mesh: Mesh, height: float, width: float, color) -> None:
    mesh.poly(
        [(-width / 2, 0, 0), (width / 2, 0, 0), (width / 2, height, 0), (-width / 2, height, 0)],
        color,
    )
    mesh.poly(
        [(-width / 2, 0, 0), (-width / 6, 0, 0), (-width / 6, height, 0), (-width / 2, height, 0)],
        color,
        1.3,
        solid=False,
    )


def draw_lamp(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
    """A street lamp with an arm over the road."""
    height, arm = rng.uniform(6, 9), (1.8 if x < 0 else -1.8)
    color = rng.choice(METAL)
    mesh = Mesh()
    _pole(mesh, height, 0.17, color)
    mesh.line([(0, height, 0), (arm * 0.5, height + 0.35, 0), (arm, height + 0.35, 0)], 0.1, color)
    lit = canvas.light.dusk > 0.3
    mesh.poly([(arm * 0.8, height + 0.22, 0), (arm * 1.25, height + 0.22, 0), (arm * 1.2,
    height + 0.48, 0), (arm * 0.85, height + 0.48, 0)],
              (255, 240, 196) if lit else (186, 188, 186), 1.3 if lit else 1.0)  # fmt: skip
    mesh.draw(canvas, Place(x, z), "pole")


def draw_sign(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
    """One or two plates on a pole: round, triangular, square or a direction board."""
    height = rng.uniform(2.5, 3.1)
    draw_post(canvas, rng, x, z, height, 0.09)
    y = height - 0.1
    for _ in range(rng.choice([1, 1, 2])):
        kind = rng.choice(["ban", "warn", "info", "order", "yield", "board"])
        mesh, r = Mesh(), rng.uniform(0.36, 0.46)
        white, red, blue, ink = (238, 238, 236), (196, 26, 34), (28, 84, 168), (24, 24, 26)
        if kind in ("ban", "order"):
            mesh.ball((0, y, -0.05), r, r, red if kind == "ban" else blue)
            if kind == "ban":
                mesh.ball((0, y, -0.06), r * 0.72, r * 0.72, white, solid=False)
                mesh.line(
                    [(-0.12, y - 0.14, -0.06), (-0.12, y + 0.14, -0.06)], 0.08, ink, solid=False
                )
                mesh.line(
                    [(0.12, y - 0.14, -0.06), (0.12, y + 0.14, -0.06)], 0.12, ink, solid=False
                )
            else:
                mesh.line(
                    [(-0.2, y - 0.14, -0.06), (0.2, y + 0.14, -0.06)], 0.1, white, solid=False
                )
        elif kind in ("warn", "yield"):
            flip = 1 if kind == "warn" else -1
            outer = [
                (-r, y - 0.55 * r * flip, -0.05),
                (r, y - 0.55 * r * flip, -0.05),
                (0, y + 1.05 * r * flip, -0.05),
            ]
            inner = [(px * 0.62, y + (py - y) * 0.62, pz) for px, py, pz in outer]
            mesh.poly(outer, red)
            mesh.poly(inner, white, solid=False)
            if flip > 0:
                mesh.line([(0, y - 0.1, -0.06), (0, y + 0.18, -0.06)], 0.08, ink, solid=False)
        elif kind == "info":
            mesh.poly(
                [(-r, y - r, -0.05), (r, y - r, -0.05), (r, y + r, -0.05), (-r, y + r, -0.05)], blue
            )
            mesh.poly(
                [
                    (-r * 0.6, y - r * 0.6, -0.05),
                    (r * 0.6, y - r * 0.6, -0.05),
                    (0, y + r * 0.7, -0.05),
                ],
                white,
                solid=False,
            )
        else:
            tone = rng.choice([(236, 204, 60), blue, white])
            mesh.poly(
                [
                    (-1.0, y - 0.28, -0.05),
                    (0.8, y - 0.28, -0.05),
                    (1.05, y, -0.05),
                    (0.8, y + 0.28, -0.05),
                    (-1.0, y + 0.28, -0.05),
                ],
                tone,
            )
            mesh.line(
                [(-0.75, y, -0.06), (0.5, y, -0.06)],
                0.14,
                ink if tone != blue else white,
                solid=False,
            )
        mesh.draw(canvas, Place(x, z), "traffic sign")
        y -= 0.95


def draw_traffic_light(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
    """A signal on a pole, some with a second one on an arm over the road."""
    height = rng.uniform(3.2, 3.7)
    arm = rng.random() < 0.4
    color = rng.choice(METAL)
    mesh = Mesh()
    _pole(mesh, 5.9 if arm else height, 0.14, color)
    reach = -math.copysign(min(4.5, abs(x) - 0.5), x)
    if arm:
        mesh.line([(0, 5.8, 0), (reach, 6.0, 0)], 0.12, color)
    mesh.draw(canvas, Place(x, z), "pole")
    lamp, back = rng.choice([0, 0, 1, 2]), rng.random() < 0.2
    for dx, top in [(0.0, height)] + ([(reach, 6.2)] if arm else []):
        box = Mesh()
        box.poly(
            [
                (dx - 0.2, top - 1.05, -0.1),
                (dx + 0.2, top - 1.05, -0.1),
                (dx + 0.2, top, -0.1),
                (dx - 0.2, top, -0.1),
            ],
            (26, 28, 28),
        )
        tones = [(255, 46, 40), (255, 190, 40), (60, 240, 150)]
        for k, tone in enumerate(tones if not back else []):
            on = k == lamp
            box.ball(
                (dx, top - 0.2 - 0.32 * k, -0.12),
                0.13,
                0.13,
                tone if on else tuple(c * 0.28 for c in tone),
                1.3 if on else 1.0,
                solid=False,
            )
        box.draw(canvas, Place(x, z), "traffic light")
