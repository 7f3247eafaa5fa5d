"""Bicycles and motorcycles, made of thick lines and small faces."""

from __future__ import annotations

import math
import random

from .camera import Light, Place
from .canvas import Mesh, circle
from .vehicles import Size

__all__ = ["BICYCLE", "MOTORCYCLE", "build_bicycle", "build_motorcycle"]

BICYCLE = Size(1.75, 1.1, 0.6)
MOTORCYCLE = Size(2.1, 1.1, 0.75)


def _ring(mesh: Mesh, z: float, radius: float, width: float, color, shade: float = 1.0) -> None:
    points = circle(0.0, radius, z, radius - width / 2, 14)
    mesh.line([*points, points[0]], width, color, shade)


def build_bicycle(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A bicycle: two spoked wheels, a frame, saddle, handlebar; some with a basket."""
    mesh = Mesh()
    frame = rng.choice(
        [
            (190, 36, 38),
            (30, 32, 36),
            (40, 88, 160),
            (226, 226, 222),
            (60, 130, 90),
            (222, 170, 50),
            (110, 180, 190),
        ]
    )
    r, front, rear = 0.34, 0.52, -0.52
    for z in (front, rear):
        disc = circle(0.0, r, z, r * 0.9, 12)
        mesh.poly(disc, (104, 106, 108), 0.8)
        for k in range(4 if fine else 0):
            a = k * math.pi / 4
            dy, dz = r * 0.85 * math.sin(a), r * 0.85 * math.cos(a)
            mesh.line(
                [(0, r - dy, z - dz), (0, r + dy, z + dz)], 0.014, (190, 192, 194), solid=False
            )
        _ring(mesh, z, r, 0.055, (26, 26, 28))
        mesh.line(
            [(0, 0.02, z), (0, 2 * r, z)], 0.045, (30, 30, 32)
        )  # the tyre from straight behind
    crank, seat, stem = (0, 0.3, 0.0), (0, 0.84, -0.2), (0, 0.86, 0.36)
    for a, b in (
        (crank, seat),
        (crank, stem),
        (seat, stem),
        (crank, (0, r, rear)),
        ((0, r, rear), seat),
        (stem, (0, r, front)),
    ):
        mesh.line([a, b], 0.055, frame)
    mesh.line([(0, 0.84, -0.2), (0, 0.95, -0.23)], 0.04, (150, 152, 154))
    mesh.line([(0, 0.97, -0.34), (0, 0.97, -0.12)], 0.09, (34, 28, 26))
    mesh.line([(0, 0.86, 0.36), (0, 1.04, 0.34)], 0.04, (150, 152, 154))
    mesh.line([(-0.28, 1.06, 0.3), (0.28, 1.06, 0.3)], 0.045, (40, 40, 42))
    mesh.ball(crank, 0.08, 0.08, (70, 70, 72))
    if rng.random() < 0.3:
        mesh.poly(
            [(0, 0.82, 0.45), (0, 0.82, 0.75), (0, 1.05, 0.8), (0, 1.05, 0.42)], (146, 112, 74)
        )
        mesh.poly(
            [(-0.17, 0.82, 0.6), (0.17, 0.82, 0.6), (0.19, 1.05, 0.6), (-0.19, 1.05, 0.6)],
            (146, 112, 74),
        )
    if math.cos(place.heading) > 0:
        mesh.ball((0, 0.62, -0.58), 0.04, 0.04, (220, 30, 28))
    else:
        mesh.ball((0, 0.9, 0.46), 0.05, 0.05, (240, 240, 220))
    return mesh


def build_motorcycle(
    rng: random.Random, place: Place, light: Light, size: Size, fine: bool
) -> Mesh:
    """A motorcycle or a scooter: fat tyres, tank, seat, engine, lamp."""
    mesh = Mesh()
    paint = rng.choice(
        [
            (186, 30, 34),
            (28, 30, 34),
            (36, 80, 160),
            (230, 230, 226),
            (230, 132, 40),
            (70, 120, 80),
            (212, 184, 60),
        ]
    )
    scooter = rng.random() < 0.4
    r = 0.24 if scooter else 0.32
    front, rear = (0.66, -0.58) if scooter else (0.74, -0.68)
    for z in (front, rear):
        mesh.poly(circle(0.0, r, z, r, 14), (24, 24, 26))
        mesh.poly(circle(0.0, r, z, r * 0.62, 12), (150, 152, 156), 0.9, solid=False)
        mesh.poly(circle(0.0, r, z, r * 0.25, 10), (52, 52, 56), solid=False)
        mesh.line([(0, 0.06, z), (0, 2 * r - 0.06, z)], 0.14, (26, 26, 28))

    def slab(points: list[tuple[float, float]], half: float, color) -> None:
        # Three sheets across: seen from any side they cover what a solid of that width would.
        for x, shade in ((-half, 0.85), (half, 0.85), (0.0, 1.0)):
            mesh.poly([(x, y, z) for z, y in points], color, shade)
        zs, ys = [z for z, _ in points], [y for _, y in points]
        for z in (min(zs), max(zs)):
            mesh.poly(
                [(-half, min(ys), z), (half, min(ys), z), (half, max(ys), z), (-half, max(ys), z)],
                color,
                0.9,
            )

    if scooter:
        slab([(-0.85, 0.3), (-0.2, 0.26), (-0.1, 0.72), (-0.8, 0.74)], 0.17, paint)
        slab([(-0.25, 0.24), (0.5, 0.24), (0.5, 0.34), (-0.25, 0.34)], 0.16, (60, 60, 64))
        slab([(0.46, 0.3), (0.58, 0.3), (0.5, 0.98), (0.42, 0.98)], 0.2, paint)
        slab([(-0.75, 0.74), (0.0, 0.74), (-0.02, 0.83), (-0.75, 0.84)], 0.14, (34, 32, 32))
    else:
        slab([(-0.2, 0.26), (0.32, 0.26), (0.36, 0.62), (-0.22, 0.62)], 0.15, (76, 78, 82))
        mesh.ball((0.0, 0.44, 0.06), 0.15, 0.14, (150, 152, 156))
        slab([(-0.05, 0.62), (0.4, 0.66), (0.42, 0.86), (0.2, 0.95), (-0.08, 0.8)], 0.16, paint)
        slab(
            [(-0.78, 0.74), (0.0, 0.72), (-0.02, 0.83), (-0.45, 0.84), (-0.85, 0.92)],
            0.14,
            (32, 30, 30),
        )
        slab([(-0.95, 0.78), (-0.6, 0.7), (-0.6, 0.8), (-0.95, 0.92)], 0.09, paint)
        mesh.line([(0.13, 0.36, 0.2), (0.13, 0.32, -0.85)], 0.09, (176, 178, 182))
    mesh.line([(0, r, front), (0, 0.98, 0.42)], 0.09, (140, 142, 146))
    mesh.poly(circle(0.0, r + 0.04, front, r * 1.06, 14)[1:7], paint)
    mesh.line([(-0.34, 1.03, 0.38), (0.34, 1.03, 0.38)], 0.055, (36, 36, 38))
    if math.cos(place.heading) > 0:
        mesh.ball((0, 0.82, rear - 0.22), 0.08, 0.05, (226, 34, 30))
        mesh.poly(
            [
                (-0.1, 0.5, rear - 0.2),
                (0.1, 0.5, rear - 0.2),
                (0.1, 0.66, rear - 0.2),
                (-0.1, 0.66, rear - 0.2),
            ],
            (232, 232, 226),
        )
    else:
        mesh.ball((0, 0.88, 0.52), 0.11, 0.11, paint)
        mesh.ball((0, 0.88, 0.54), 0.085, 0.085, (250, 248, 226))
    return mesh
