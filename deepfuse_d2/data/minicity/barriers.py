"""Walls, fences and guard rails along the street, and odd things that no class counts."""

from __future__ import annotations

import random
from itertools import pairwise

from .camera import Place
from .canvas import Canvas, Mesh

__all__ = ["draw_barrier", "draw_static"]

_ZERO = Place(0.0, 0.0)


def draw_barrier(
    canvas: Canvas, rng: random.Random, kind: str, x: float, z0: float, z1: float, height: float
) -> None:
    """A wall, a fence or a guard rail along the street at ``x``."""
    side = -1.0 if x < 0 else 1.0
    face = canvas.light.shade(-side, 0, 0)
    mesh = Mesh()
    z0 = max(z0, 0.4)
    steps = [z0 + (z1 - z0) * k / 4 for k in range(5)]
    if kind == "wall":
        tone = rng.choice(
            [(160, 154, 146), (150, 104, 84), (186, 180, 168), (128, 128, 130), (170, 140, 116)]
        )
        for a, b in reversed(list(pairwise(steps))):
            mesh.poly([(x, 0, a), (x, 0, b), (x, height, b), (x, height, a)], tone, face)
        cells, y = [], 0.4
        while y < height - 0.2:
            cells += [(x, y, z0), (x, y, z1), (x, y + 0.05, z1), (x, y + 0.05, z0)]
            y += 0.45
        mesh.poly(cells, tone, face * 0.84, solid=False, count=len(cells) // 4)
        if rng.random() < 0.35:  # sprayed
            for _ in range(rng.randint(1, 3)):
                z = rng.uniform(z0, max(z1 - 2.2, z0))
                paint = (rng.uniform(30, 230), rng.uniform(30, 200), rng.uniform(60, 230))
                pts = [(x, rng.uniform(0.4, height - 0.3), z + 0.5 * k) for k in range(5)]
                mesh.line(pts, 0.14, paint, solid=False)
        mesh.poly(
            [(x, height, z0), (x, height, z1), (x, height + 0.12, z1), (x, height + 0.12, z0)],
            tone,
            face * 1.12,
        )
        mesh.poly(
            [
                (x, 0, z0),
                (x + side * 0.3, 0, z0),
                (x + side * 0.3, height + 0.12, z0),
                (x, height + 0.12, z0),
            ],
            tone,
            canvas.light.shade(0, 0, -1),
        )
        mesh.draw(canvas, _ZERO, "wall")
        return
    if kind == "guard rail":
        for y in (0.5, 0.66):
            mesh.poly(
                [(x, y, z0), (x, y, z1), (x, y + 0.13, z1), (x, y + 0.13, z0)],
                (172, 174, 176),
                face,
            )
        mesh.poly(
            [(x, 0.62, z0), (x, 0.62, z1), (x, 0.67, z1), (x, 0.67, z0)], (112, 114, 116), face
        )
        z = z0
        while z < z1:
            mesh.line([(x, 0, z), (x, 0.6, z)], 0.1, (130, 132, 134))
            z += 2.5
        mesh.draw(canvas, _ZERO, "guard rail")
        return
    # A fence is labelled as a whole, gaps included, as annotators do; the gaps show what stood
    # there before.
    tone = rng.choice([(88, 64, 46), (60, 64, 66), (206, 204, 198), (64, 92, 74), (128, 104, 76)])
    canvas.begin("fence")
    outline = Mesh()
    outline.poly([(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)], tone)
    outline.claim(canvas, _ZERO)
    pickets, z = [], z0
    step, wide = rng.choice([(0.16, 0.05), (0.24, 0.15), (0.5, 0.05)])
    while z < z1 and len(pickets) < 600:
        pickets += [(x, 0.05, z), (x, 0.05, z + wide), (x, height, z + wide), (x, height, z)]
        z += max(step, 0.012 * z)
    mesh.poly(pickets, tone, face, solid=False, count=len(pickets) // 4)
    for y in (0.18 * height, 0.85 * height):
        mesh.poly(
            [(x, y, z0), (x, y, z1), (x, y + 0.07, z1), (x, y + 0.07, z0)], tone, face, solid=False
        )
    mesh.draw(canvas, _ZERO)
    canvas.end()


def draw_static(
    canvas: Canvas, rng: random.Random, x: float, z: float, kind: str | None = None
) -> None:
    """Things of no class: bins, boxes, benches ("static"), prams ("dynamic")."""
    kind = kind or rng.choice(["bin", "box", "bench", "pram", "bollard"])
    mesh = Mesh()
    tone = rng.choice([(58, 70, 62), (84, 86, 90), (200, 110, 40), (40, 70, 120), (120, 84, 56)])
    if kind == "bin":
        mesh.poly([(-0.3, 0.1, 0), (0.3, 0.1, 0), (0.34, 1.0, 0), (-0.34, 1.0, 0)], tone)
        mesh.poly([(-0.37, 1.0, 0), (0.37, 1.0, 0), (0.3, 1.12, 0), (-0.3, 1.12, 0)], tone, 1.2)
        mesh.line([(-0.3, 0.08, 0), (0.3, 0.08, 0)], 0.14, (26, 26, 28))
    elif kind == "box":
        mesh.poly([(-0.45, 0, 0), (0.45, 0, 0), (0.45, 1.25, 0), (-0.45, 1.25, 0)], tone)
        mesh.poly(
            [(-0.02, 0.05, 0), (0.02, 0.05, 0), (0.02, 1.2, 0), (-0.02, 1.2, 0)],
            tone,
            0.7,
            solid=False,
        )
    elif kind == "bench":
        for y in (0.45, 0.7, 0.85):
            mesh.line([(-0.8, y, 0), (0.8, y, 0)], 0.1, tone)
        for px in (-0.65, 0.65):
            mesh.line([(px, 0, 0), (px, 0.85, 0)], 0.08, (50, 52, 54))
    elif kind == "bollard":
        mesh.line([(0, 0, 0), (0, 0.85, 0)], 0.16, tone)
        mesh.line([(0, 0.68, 0), (0, 0.74, 0)], 0.17, (230, 226, 220), solid=False)
    else:
        mesh.poly([(-0.35, 0.45, 0), (0.4, 0.45, 0), (0.45, 0.9, 0), (-0.3, 0.75, 0)], tone)
        mesh.line([(-0.3, 0.75, 0), (-0.6, 1.05, 0)], 0.06, (40, 40, 42))
        for px in (-0.28, 0.3):
            mesh.ball((px, 0.16, 0), 0.16, 0.16, (30, 30, 32))
            mesh.line([(px, 0.16, 0), (0.05, 0.5, 0)], 0.05, (60, 60, 62))
    mesh.draw(canvas, Place(x, z), "dynamic" if kind == "pram" else "static")
