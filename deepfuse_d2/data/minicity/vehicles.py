"""Cars, trucks, buses and trams: side profiles extruded to solids, with windows, lamps and wheels laid on their faces.

Shapes are data. A profile lists (z, y) in shares of length and height, counter-clockwise as seen from the right side
(front to the right), with the material of the edge that follows each point: b body, g glass, k black trim.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from .camera import Light, Place
from .canvas import Mesh, circle

__all__ = ["CAR_MODELS", "Body", "build_bus", "build_car", "build_trailer", "build_tram", "build_truck"]

GLASS = (44, 54, 66)
TYRE = (22, 22, 24)
CHROME = (176, 180, 184)

CAR_PAINTS = [
    (228, 230, 232), (228, 230, 232), (28, 29, 32), (28, 29, 32), (168, 172, 178), (168, 172, 178),
    (92, 96, 104), (92, 96, 104), (36, 62, 118), (48, 96, 170), (152, 28, 32), (196, 44, 38),
    (36, 84, 60), (196, 182, 148), (214, 176, 52), (122, 70, 44), (92, 150, 158), (222, 112, 40),
]  # fmt: skip
BUS_PAINTS = [
    ((216, 62, 48), (238, 238, 234)), ((242, 242, 240), (42, 98, 172)), ((238, 196, 60), (60, 60, 66)),
    ((36, 128, 96), (236, 234, 224)), ((48, 104, 188), (240, 240, 240)), ((232, 226, 208), (150, 32, 44)),
]  # fmt: skip
TRAM_PAINTS = [
    ((236, 204, 70), (60, 60, 64)), ((208, 40, 44), (240, 236, 226)), ((238, 240, 240), (60, 130, 70)),
    ((50, 90, 150), (234, 236, 238)), ((228, 222, 200), (176, 44, 40)),
]  # fmt: skip
TRUCK_PAINTS = [
    (226, 228, 230), (206, 60, 44), (44, 88, 158), (240, 190, 48), (58, 118, 80), (230, 122, 40), (70, 74, 82),
]  # fmt: skip
CARGO_PAINTS = [
    (236, 236, 232), (216, 218, 220), (60, 104, 168), (188, 52, 44), (226, 182, 62), (84, 140, 96), (120, 110, 100),
]  # fmt: skip


@dataclass(frozen=True)
class CarModel:
    """Length, height, width in metres; profile and side windows in shares of length and height."""

    size: tuple[float, float, float]
    profile: list[tuple[float, float, str]]
    windows: list[list[tuple[float, float]]]
    wheel: float
    axles: tuple[float, float]
    belt: float  # height share where the body ends and the narrower cabin begins
    doors: list[float] = field(default_factory=list)


CAR_MODELS = {
    "sedan": CarModel(
        (4.7, 1.46, 1.82),
        [(0.49, 0.14, "b"), (0.5, 0.34, "b"), (0.485, 0.5, "b"), (0.43, 0.58, "b"), (0.22, 0.66, "g"),
         (0.06, 0.97, "b"), (-0.05, 1.0, "b"), (-0.17, 0.97, "g"), (-0.35, 0.68, "b"), (-0.47, 0.66, "b"),
         (-0.5, 0.44, "b"), (-0.49, 0.16, "k")],
        [[(-0.02, 0.67), (0.185, 0.67), (0.055, 0.92), (-0.02, 0.94)],
         [(-0.29, 0.68), (-0.045, 0.67), (-0.045, 0.94), (-0.155, 0.92)]],
        0.33, (0.31, -0.3), 0.66, [0.19, -0.035, -0.26],
    ),
    "hatchback": CarModel(
        (4.05, 1.5, 1.76),
        [(0.49, 0.14, "b"), (0.5, 0.34, "b"), (0.48, 0.52, "b"), (0.42, 0.6, "b"), (0.26, 0.67, "g"),
         (0.09, 0.96, "b"), (-0.05, 1.0, "b"), (-0.34, 0.94, "g"), (-0.47, 0.66, "b"), (-0.5, 0.44, "b"),
         (-0.485, 0.16, "k")],
        [[(-0.04, 0.67), (0.225, 0.68), (0.085, 0.91), (-0.04, 0.94)],
         [(-0.33, 0.68), (-0.065, 0.67), (-0.065, 0.94), (-0.30, 0.9)]],
        0.31, (0.31, -0.31), 0.66, [0.22, -0.05],
    ),
    "estate": CarModel(
        (4.75, 1.5, 1.82),
        [(0.49, 0.14, "b"), (0.5, 0.34, "b"), (0.485, 0.5, "b"), (0.43, 0.58, "b"), (0.23, 0.66, "g"),
         (0.08, 0.96, "b"), (-0.05, 1.0, "b"), (-0.4, 0.95, "g"), (-0.475, 0.67, "b"), (-0.5, 0.42, "b"),
         (-0.49, 0.16, "k")],
        [[(0.0, 0.67), (0.2, 0.67), (0.075, 0.91), (0.0, 0.94)],
         [(-0.2, 0.67), (-0.025, 0.67), (-0.025, 0.94), (-0.2, 0.93)],
         [(-0.42, 0.69), (-0.225, 0.67), (-0.225, 0.92), (-0.385, 0.89)]],
        0.33, (0.31, -0.3), 0.66, [0.2, -0.015, -0.215],
    ),
    "suv": CarModel(
        (4.6, 1.74, 1.9),
        [(0.49, 0.17, "k"), (0.5, 0.36, "b"), (0.49, 0.56, "b"), (0.42, 0.64, "b"), (0.23, 0.68, "g"),
         (0.1, 0.97, "b"), (-0.05, 1.0, "b"), (-0.4, 0.97, "g"), (-0.47, 0.68, "b"), (-0.5, 0.42, "k"),
         (-0.49, 0.19, "k")],
        [[(0.0, 0.68), (0.2, 0.68), (0.09, 0.91), (0.0, 0.93)],
         [(-0.2, 0.68), (-0.025, 0.68), (-0.025, 0.93), (-0.2, 0.92)],
         [(-0.43, 0.71), (-0.225, 0.69), (-0.225, 0.92), (-0.39, 0.9)]],
        0.37, (0.31, -0.3), 0.67, [0.2, -0.015, -0.215],
    ),
    "van": CarModel(
        (4.95, 1.98, 1.92),
        [(0.49, 0.13, "k"), (0.5, 0.3, "b"), (0.48, 0.44, "b"), (0.38, 0.55, "g"), (0.25, 0.93, "b"),
         (0.15, 1.0, "b"), (-0.47, 0.97, "g"), (-0.49, 0.58, "b"), (-0.5, 0.3, "k"), (-0.49, 0.14, "k")],
        [[(0.12, 0.57), (0.33, 0.57), (0.23, 0.87), (0.12, 0.89)],
         [(-0.16, 0.58), (0.09, 0.57), (0.09, 0.89), (-0.16, 0.88)],
         [(-0.45, 0.59), (-0.19, 0.58), (-0.19, 0.88), (-0.45, 0.87)]],
        0.34, (0.32, -0.3), 0.55, [0.33, 0.105, -0.175],
    ),
}  # fmt: skip


def _winding(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    area = sum(
        a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True)
    )
    return points if area > 0 else points[::-1]


class Body:
    """Lays shapes on the faces of a vehicle that stands at ``place`` under ``light``.

    ``half`` is half the width in metres; faces get the brightness of their direction.
    """

    def __init__(self, mesh: Mesh, place: Place, light: Light, half: float):
        self.mesh, self.light, self.half = mesh, light, half
        self._sin, self._cos = math.sin(place.heading), math.cos(place.heading)

    def shade(self, x: float, y: float, z: float) -> float:
        """Brightness of a face by its normal in model coordinates."""
        return self.light.shade(z * self._sin + x * self._cos, y, z * self._cos - x * self._sin)

    def side(self, points, color, *, glow=None, inset: float = 0.0, solid: bool = False) -> None:
        """A shape (z, y) on both flanks; ``inset`` metres inside them."""
        points = _winding(list(points))
        for sign in (-1.0, 1.0):
            x = sign * (self.half - inset)
            face = [(x, y, z) for z, y in (points if sign > 0 else points[::-1])]
            shade = self.shade(sign, 0.0, 0.0) if glow is None else glow
            self.mesh.poly(face, color, shade, solid=solid, cull=True)

    def end(self, points, z: float, color, *, front: bool, glow=None, solid: bool = False) -> None:
        """A shape (x, y) on the front or the rear at ``z``; x may be a list of mirrored shapes' points."""
        points = _winding(list(points))
        face = [(x, y, z) for x, y in (points[::-1] if front else points)]
        shade = self.shade(0.0, 0.0, 1.0 if front else -1.0) if glow is None else glow
        self.mesh.poly(face, color, shade, solid=solid, cull=True)

    def pair(self, points, z: float, color, *, front: bool, glow=None) -> None:
        """The same shape left and right, such as lamps."""
        self.end(points, z, color, front=front, glow=glow)
        self.end([(-x, y) for x, y in points], z, color, front=front, glow=glow)

    def extrude(self, profile, colors: dict[str, tuple], halves: list[float]) -> None:
        """The solid itself: strips between the two flanks, then the flanks; ``halves`` is half the width per point."""
        self.mesh.sort_from()
        count = len(profile)
        for k, (z0, y0, material) in enumerate(profile):
            z1, y1, _ = profile[(k + 1) % count]
            h0, h1 = halves[k], halves[(k + 1) % count]
            length = math.hypot(z1 - z0, y1 - y0) or 1.0
            shade = self.shade(0.0, -(z1 - z0) / length, (y1 - y0) / length)
            if material == "g":
                shade = 0.75 + 0.5 * shade
            face = [(h1, y1, z1), (h0, y0, z0), (-h0, y0, z0), (-h1, y1, z1)]
            self.mesh.poly(face, colors[material], shade, cull=True)
        self.mesh.sort_to()
        for sign in (-1.0, 1.0):
            face = [(sign * h, y, z) for (z, y, _), h in zip(profile, halves, strict=True)]
            self.mesh.poly(
                face if sign > 0 else face[::-1], colors["b"], self.shade(sign, 0, 0), cull=True
            )

    def box(self, z0: float, z1: float, y0: float, y1: float, color, half: float) -> None:
        """A plain box from ``z0`` (rear) to ``z1`` (front)."""
        profile = [(z1, y0, "b"), (z1, y1, "b"), (z0, y1, "b"), (z0, y0, "k")]
        self.extrude(profile, {"b": color, "k": (30, 30, 32)}, [half] * 4)

    def tyres(self, axles, radius: float, width: float = 0.22) -> None:
        """Wheels as black drums; drawn before the body, which hides their upper halves."""
        for z in axles:
            for sign in (-1.0, 1.0):
                outer, inner = sign * self.half * 0.99, sign * (self.half - width)
                for x in (inner, outer):
                    self.mesh.poly(circle(x, radius, z, radius), TYRE)
                tread = [(inner, 0.0, z), (outer, 0.0, z), (outer, radius, z), (inner, radius, z)]
                for end in (-radius * 0.9, radius * 0.9):
                    low = radius * 0.35
                    self.mesh.poly(
                        [(x, max(y, low) if y else low, zz + end) for x, y, zz in tread], TYRE
                    )
                self.mesh.poly(tread, TYRE)

    def rims(self, axles, radius: float, rng: random.Random, color=CHROME) -> None:
        """Wheel arches, tyres and rims on the flanks; drawn after the body."""
        spokes = rng.choice([0, 5, 6])
        for z in axles:
            for sign in (-1.0, 1.0):
                x = sign * self.half * 1.005
                turn = 1 if sign > 0 else -1
                for scale, tone in ((1.16, (14, 14, 15)), (1.0, TYRE), (0.66, color), (0.2, (60, 62, 66))):
                    ring = circle(x, radius, z, radius * scale, 14)[::turn]
                    if scale > 1:
                        ring = [(a, max(b, 0.25 * radius), c) for a, b, c in ring]
                    self.mesh.poly(ring, tone, 0.9, solid=scale <= 1, cull=True)
                    if scale == 0.66 and spokes:
                        for k in range(spokes):
                            a = 2 * math.pi * k / spokes + 0.3
                            b = a + 0.55
                            wedge = [
                                (x, radius + r * radius * math.sin(t), z + r * radius * math.cos(t))
                                for r, t in ((0.18, (a + b) / 2), (0.56, a), (0.56, b))
                            ]
                            self.mesh.poly(wedge[::turn], (44, 45, 48), solid=False, cull=True)


def build_car(rng: random.Random, place: Place, light: Light, model: str | None = None) -> tuple[Mesh, tuple]:
    """A car and its size (length, height, width) in metres."""
    shape = CAR_MODELS[model or rng.choice(list(CAR_MODELS))]
    length, height, width = (s * rng.uniform(0.96, 1.05) for s in shape.size)
    paint = rng.choice(CAR_PAINTS)
    fade = rng.uniform(0.9, 1.06)
    paint = tuple(min(255.0, c * fade) for c in paint)
    taxi = rng.random() < 0.04
    if taxi:
        paint = (236, 200, 60)
    mesh, half = Mesh(), width / 2
    body = Body(mesh, place, light, half)

    def narrowing(y: float) -> float:
        return 1.0 if y <= shape.belt else 1.0 - 0.24 * (y - shape.belt) / (1.0 - shape.belt)

    profile = [(z * length, y * height, m) for z, y, m in shape.profile]
    halves = [half * narrowing(y) * (0.93 if abs(z) > 0.47 else 1.0) for z, y, _ in shape.profile]
    axles = [z * length for z in shape.axles]
    body.tyres(axles, shape.wheel)
    body.extrude(profile, {"b": paint, "g": GLASS, "k": (38, 39, 42)}, halves)
    dark = tuple(c * 0.55 for c in paint)
    sill = [(-0.48, 0.13), (0.48, 0.13), (0.48, 0.2), (-0.48, 0.2)]
    body.side([(z * length, y * height) for z, y in sill], (34, 35, 38))
    sky = tuple(0.5 * g + 0.34 * h for g, h in zip(GLASS, light.haze, strict=True))
    for window in shape.windows:
        for sign in (-1.0, 1.0):
            face = _winding([(z, y) for z, y in window])
            face = [(sign * half * narrowing(y) * 1.004, y * height, z * length) for z, y in face]
            mesh.poly(face[:: int(sign)], GLASS, solid=False, cull=True)
            z0, z1 = min(z for z, _ in window), max(z for z, _ in window)
            y0, y1 = min(y for _, y in window), max(y for _, y in window)
            shine = [(0.25, 0.1), (0.5, 0.1), (0.75, 0.8), (0.5, 0.8)]
            face = [
                (sign * half * narrowing(y0 + v * (y1 - y0)) * 1.005, (y0 + v * (y1 - y0)) * height,
                 (z0 + u * (z1 - z0)) * length) for u, v in shine
            ]  # fmt: skip
            mesh.poly(face[:: int(sign)], sky, solid=False, cull=True)
    for door in shape.doors:
        z = door * length
        body.side([(z, 0.2 * height), (z + 0.025, 0.2 * height), (z + 0.025, shape.belt * height), (z, shape.belt * height)], dark)
    for door in shape.doors[:-1]:
        z = door * length - 0.42 * (2 if len(shape.doors) == 2 else 1)
        body.side([(z - 0.2, 0.58 * height), (z, 0.58 * height), (z, 0.6 * height), (z - 0.2, 0.6 * height)], dark)
    front, rear = 0.5 * length, -0.5 * length
    low, belt = shape.profile[1][1] * height, shape.belt * height
    lamps = light.dusk > 0.3
    head = (255, 250, 226) if lamps else (226, 230, 232)
    body.end([(-0.42, 0.7 * low), (0.42, 0.7 * low), (0.5, 1.25 * low), (-0.5, 1.25 * low)], front, (30, 31, 34), front=True)
    body.pair([(0.52, 1.1 * low), (0.86 * half + 0.04, 1.1 * low), (0.86 * half, 1.45 * low), (0.55, 1.35 * low)],
              front, head, front=True, glow=1.3 if lamps else None)  # fmt: skip
    plate = (236, 236, 230) if rng.random() < 0.7 else (226, 200, 90)
    body.end([(-0.26, 0.72 * low), (0.26, 0.72 * low), (0.26, 0.97 * low), (-0.26, 0.97 * low)], front, plate, front=True)
    body.end([(-0.85 * half, 0.17 * height), (0.85 * half, 0.17 * height), (0.85 * half, 0.28 * height), (-0.85 * half, 0.28 * height)], rear, (36, 37, 40), front=False)
    body.end([(-0.26, 0.36 * height), (0.26, 0.36 * height), (0.26, 0.43 * height), (-0.26, 0.43 * height)], rear, plate, front=False)
    braking = rng.random() < 0.3
    tail = (255, 46, 36) if braking or lamps else (166, 22, 24)
    tall = model in ("van", "suv", "estate")
    body.pair([(0.66 * half, 0.44 * height), (0.92 * half, 0.44 * height), (0.92 * half, (0.68 if tall else 0.6) * height), (0.7 * half, (0.66 if tall else 0.58) * height)],
              rear, tail, front=False, glow=1.25 if braking or lamps else None)  # fmt: skip
    body.rims(axles, shape.wheel, rng)
    for sign in (-1.0, 1.0):  # mirrors
        x, z = sign * (half + 0.09), (shape.doors[0] - 0.02) * length
        mesh.ball((x, belt + 0.06, z), 0.11, 0.08, paint, 0.8)
    if taxi:
        mesh.ball((0.0, height + 0.07, 0.0), 0.3, 0.09, (250, 246, 220), 1.1)
    return mesh, (length, height, width)


def build_truck(rng: random.Random, place: Place, light: Light) -> tuple[Mesh, tuple]:
    """A lorry: a cab in front of a box, a tarpaulin, a tipper or a tank."""
    long = rng.random() < 0.3
    length = rng.uniform(10.5, 13.0) if long else rng.uniform(6.6, 8.2)
    height, width = rng.uniform(2.9, 3.7), rng.uniform(2.3, 2.5)
    half, wheel = width / 2, 0.48
    mesh = Mesh()
    body = Body(mesh, place, light, half)
    paint, cargo = rng.choice(TRUCK_PAINTS), rng.choice(CARGO_PAINTS)
    kind = rng.choice(["box", "box", "tarp", "tipper"])
    front, rear, cab = length / 2, -length / 2, 1.9
    axles = [front - 1.1, rear + 1.3] + ([rear + 2.5] if length > 7.5 else [])
    body.tyres(axles, wheel, 0.32)
    top = 2.7 if height > 3.0 else 2.5
    cargo_top = height if kind != "tipper" else rng.uniform(2.1, 2.5)

    def draw_cab() -> None:
        nose = [
            (front, 0.45, "k"), (front, 0.85, "b"), (front, 1.45, "g"), (front - 0.12, top - 0.35, "b"),
            (front - 0.3, top, "b"), (front - cab, top, "b"), (front - cab, 0.5, "k"),
        ]  # fmt: skip
        body.extrude(nose, {"b": paint, "g": GLASS, "k": (40, 41, 44)}, [half * 0.97] * 7)
        glass = [(front - 0.15, 1.5), (front - 0.28, top - 0.4), (front - 1.25, top - 0.4), (front - 1.25, 1.5)]
        body.side(glass, GLASS)
        body.side([(front - 0.35, 1.6), (front - 0.6, 1.6), (front - 0.85, top - 0.5), (front - 0.6, top - 0.5)], (88, 100, 112))
        body.side([(front - 1.3, 0.7), (front - 1.34, 0.7), (front - 1.34, 2.2), (front - 1.3, 2.2)], tuple(c * 0.6 for c in paint))
        body.end([(-0.62, 0.9), (0.62, 0.9), (0.68, 1.36), (-0.68, 1.36)], front, (44, 45, 48), front=True)
        for y in (1.0, 1.13, 1.26):
            body.end([(-0.6, y), (0.6, y), (0.6, y + 0.04), (-0.6, y + 0.04)], front, CHROME, front=True)
        lamp = (255, 250, 228) if light.dusk > 0.3 else (224, 228, 232)
        body.pair([(0.74, 0.6), (1.08, 0.6), (1.08, 0.85), (0.74, 0.85)], front, lamp, front=True)
        body.end([(-0.26, 0.52), (0.26, 0.52), (0.26, 0.64), (-0.26, 0.64)], front, (236, 236, 230), front=True)
        for sign in (-1.0, 1.0):
            x = sign * (half + 0.14)
            mesh.poly([(x - 0.1, 1.6, front), (x + 0.1, 1.6, front), (x + 0.1, 2.15, front), (x - 0.1, 2.15, front)], (34, 35, 38))

    def draw_cargo() -> None:
        z1, z0 = front - cab - 0.25, rear
        body.box(z0 + 0.2, z1 + 0.4, 0.55, 0.95, (52, 53, 57), half * 0.7)
        body.box(z0, z1, 0.95, cargo_top, cargo, half)
        ribs = rng.randint(5, 12)
        tone = tuple(c * 0.8 for c in cargo)
        for k in range(1, ribs):
            z = z0 + (z1 - z0) * k / ribs
            body.side([(z, 1.0), (z + 0.05, 1.0), (z + 0.05, cargo_top), (z, cargo_top)], tone)
        if kind != "tipper" and rng.random() < 0.6:
            mark = rng.choice(TRUCK_PAINTS)
            y0, y1 = 1.0 + 0.3 * (cargo_top - 1), 1.0 + rng.uniform(0.5, 0.75) * (cargo_top - 1)
            a, b = z0 + 0.2 * (z1 - z0), z0 + rng.uniform(0.5, 0.85) * (z1 - z0)
            body.side([(a, y0), (b, y0), (b, y1), (a, y1)], mark)
        edge = tuple(c * 0.62 for c in cargo)
        body.end([(-0.02, 1.0), (0.02, 1.0), (0.02, cargo_top), (-0.02, cargo_top)], rear, edge, front=False)
        for x in (0.35, 0.8):
            body.pair([(x, 1.0), (x + 0.04, 1.0), (x + 0.04, cargo_top - 0.05), (x, cargo_top - 0.05)], rear, edge, front=False)
        body.end([(-half, 0.6), (half, 0.6), (half, 0.92), (-half, 0.92)], rear, (60, 60, 64), front=False, solid=True)
        body.pair([(0.72, 0.64), (1.1, 0.64), (1.1, 0.86), (0.72, 0.86)], rear, (214, 36, 30), front=False)
        body.end([(-0.26, 0.66), (0.26, 0.66), (0.26, 0.82), (-0.26, 0.82)], rear, (232, 232, 226), front=False)
        for k in range(-4, 4):
            x = k * half / 4
            tone = (236, 236, 236) if k % 2 else (206, 44, 36)
            body.end([(x, 0.94), (x + half / 4, 0.94), (x + half / 4, 1.04), (x, 1.04)], rear, tone, front=False)

    # The half of the lorry that is farther away is drawn first.
    for draw in (draw_cab, draw_cargo) if math.cos(place.heading) > 0 else (draw_cargo, draw_cab):
        draw()
    body.rims(axles, wheel, random.Random(1), (150, 152, 156))
    return mesh, (length, max(height, top), width)


def _coach(body: Body, light: Light, rng: random.Random, size, paint, stripe, *, doors: int, tram: bool) -> None:
    """The box that buses and trams share: window band, doors, stripe, front and rear."""
    length, height, half = size[0], size[1], body.half
    front, rear, base = length / 2, -length / 2, 0.3
    nose = 0.55 if tram else 0.12
    profile = [
        (front, base, "k"), (front, 0.42 * height, "g"), (front - nose, 0.88 * height, "b"),
        (front - nose - 0.25, height, "b"), (rear + (nose if tram else 0.1) + 0.2, height, "b"),
        (rear + (nose if tram else 0.1), 0.9 * height, "g"), (rear, (0.42 if tram else 0.5) * height, "b"),
        (rear, base, "k"),
    ]  # fmt: skip
    profile[0] = (front, base, "b")
    body.extrude(profile, {"b": paint, "g": GLASS, "k": (40, 41, 44)}, [half] * 8)
    body.side([(rear + 0.05, base), (front - 0.05, base), (front - 0.05, 0.2 * height), (rear + 0.05, 0.2 * height)], tuple(c * 0.5 for c in stripe))
    body.side([(rear + 0.02, 0.34 * height), (front - 0.02, 0.34 * height), (front - 0.02, 0.41 * height), (rear + 0.02, 0.41 * height)], stripe)
    lit = light.dusk > 0.35
    glass = (222, 196, 130) if lit else GLASS
    gleam = tuple(0.45 * g + 0.36 * h for g, h in zip(GLASS, light.haze, strict=True))
    panes = max(4, int(length / 1.5))
    step = (length - 1.6) / panes
    for k in range(panes):
        z0, z1 = rear + 0.7 + k * step + 0.06, rear + 0.7 + (k + 1) * step - 0.06
        body.side([(z0, 0.47 * height), (z1, 0.47 * height), (z1, 0.83 * height), (z0, 0.83 * height)], glass, glow=1.0 if lit else None)
        if not lit:
            body.side([(z0, 0.66 * height), (z1, 0.74 * height), (z1, 0.83 * height), (z0, 0.83 * height)], gleam)
    for k in range(doors):
        z = front - 1.5 - k * (length - 3.2) / max(doors - 1, 1)
        body.side([(z - 0.6, base + 0.05), (z + 0.6, base + 0.05), (z + 0.6, 0.82 * height), (z - 0.6, 0.82 * height)], (36, 40, 46))
        for a in (z - 0.53, z + 0.05):
            body.side([(a, base + 0.3), (a + 0.48, base + 0.3), (a + 0.48, 0.78 * height), (a, 0.78 * height)], (96, 110, 122))
    sign = (250, 176, 50)
    top = front - nose * 0.97
    body.end([(-0.75, 0.86 * height), (0.75, 0.86 * height), (0.75, 0.96 * height), (-0.75, 0.96 * height)], top, (18, 18, 20), front=True)
    body.end([(-0.5, 0.885 * height), (0.55, 0.885 * height), (0.55, 0.935 * height), (-0.5, 0.935 * height)], top, sign, front=True, glow=1.15)
    lamp = (255, 250, 226) if lit else (228, 232, 234)
    body.pair([(0.66 * half, 0.2 * height), (0.92 * half, 0.2 * height), (0.92 * half, 0.28 * height), (0.66 * half, 0.28 * height)], front, lamp, front=True, glow=1.25 if lit else None)
    body.end([(-half, base), (half, base), (half, 0.17 * height), (-half, 0.17 * height)], front, tuple(c * 0.5 for c in stripe), front=True)
    body.end([(-half, 0.33 * height), (half, 0.33 * height), (half, 0.38 * height), (-half, 0.38 * height)], front, stripe, front=True)
    body.end([(-half, 0.3 * height), (half, 0.3 * height), (half, 0.38 * height), (-half, 0.38 * height)], rear, stripe, front=False)
    body.pair([(0.72 * half, 0.2 * height), (0.93 * half, 0.2 * height), (0.93 * half, 0.3 * height), (0.72 * half, 0.3 * height)], rear, (214, 36, 30), front=False)
    body.end([(-0.5 * half, 0.16 * height), (0.5 * half, 0.16 * height), (0.5 * half, 0.26 * height), (-0.5 * half, 0.26 * height)], rear, (52, 53, 57), front=False)
    body.end([(-0.3, 0.88 * height), (0.3, 0.88 * height), (0.3, 0.95 * height), (-0.3, 0.95 * height)], rear + 0.1, sign, front=False, glow=1.1)


def build_bus(rng: random.Random, place: Place, light: Light) -> tuple[Mesh, tuple]:
    """A city bus, now and then with two decks."""
    size = (rng.uniform(9.5, 12.0), rng.uniform(2.95, 3.2), 2.5)
    paint, stripe = rng.choice(BUS_PAINTS)
    mesh = Mesh()
    body = Body(mesh, place, light, size[2] / 2)
    axles = [size[0] / 2 - 2.5, -size[0] / 2 + 2.9]
    body.tyres(axles, 0.48, 0.3)
    _coach(body, light, rng, size, paint, stripe, doors=rng.choice([2, 3]), tram=False)
    body.rims(axles, 0.46, random.Random(1), (140, 142, 146))
    for sign in (-1.0, 1.0):
        x, z = sign * (size[2] / 2 + 0.16), size[0] / 2 + 0.05
        mesh.poly([(x - 0.09, 1.9, z), (x + 0.09, 1.9, z), (x + 0.09, 2.4, z), (x - 0.09, 2.4, z)], (30, 31, 33))
    return mesh, size


def build_tram(rng: random.Random, place: Place, light: Light) -> tuple[Mesh, tuple]:
    """A tram of two or three cars with bellows between them and a pantograph."""
    cars = rng.choice([2, 2, 3])
    unit = rng.uniform(8.0, 9.5)
    size = (cars * unit, 3.4, 2.45)
    paint, stripe = rng.choice(TRAM_PAINTS)
    mesh = Mesh()
    body = Body(mesh, place, light, size[2] / 2)
    body.box(-size[0] / 2 + 0.6, size[0] / 2 - 0.6, 0.06, 0.4, (38, 39, 42), size[2] / 2 - 0.12)
    _coach(body, light, rng, size, paint, stripe, doors=2 * cars, tram=True)
    for k in range(1, cars):
        z = -size[0] / 2 + k * unit
        for j in range(4):
            tone = (46, 47, 50) if j % 2 else (66, 67, 71)
            body.side([(z - 0.4 + 0.2 * j, 0.3), (z - 0.2 + 0.2 * j, 0.3), (z - 0.2 + 0.2 * j, 3.4), (z - 0.4 + 0.2 * j, 3.4)], tone)
    z = size[0] / 2 - unit * 0.6
    for x in (-0.5, 0.5):
        mesh.line([(x, 3.45, z - 0.6), (x, 4.1, z + 0.5), (x, 4.75, z - 0.4)], 0.06, (52, 52, 56))
    mesh.line([(-0.8, 4.75, z - 0.4), (0.8, 4.75, z - 0.4)], 0.08, (52, 52, 56))
    return mesh, size


def build_trailer(rng: random.Random, place: Place, light: Light, caravan: bool) -> tuple[Mesh, tuple]:
    """A caravan (with windows) or an open trailer, as towed by a car."""
    size = (4.6, 2.45, 2.1) if caravan else (2.6, 1.1, 1.5)
    half, rear, front = size[2] / 2, -size[0] / 2, size[0] / 2
    mesh = Mesh()
    body = Body(mesh, place, light, half)
    body.tyres([0.0], 0.3)
    paint = (236, 234, 226) if caravan else (112, 116, 122)
    body.box(rear, front, 0.42, size[1], paint, half)
    if caravan:
        body.side([(rear + 0.02, 0.9), (front - 0.02, 0.9), (front - 0.02, 1.08), (rear + 0.02, 1.08)], (172, 96, 60))
        for z in (-1.4, 0.5):
            body.side([(z, 1.35), (z + 1.0, 1.35), (z + 1.0, 1.95), (z, 1.95)], GLASS)
        body.end([(-0.7, 1.3), (0.7, 1.3), (0.7, 2.0), (-0.7, 2.0)], rear, GLASS, front=False)
    body.pair([(0.5, 0.5), (0.9, 0.5), (0.9, 0.66), (0.5, 0.66)] if caravan else [(0.4, 0.5), (0.7, 0.5), (0.7, 0.62), (0.4, 0.62)], rear, (200, 34, 30), front=False)
    body.rims([0.0], 0.3, rng)
    return mesh, size
