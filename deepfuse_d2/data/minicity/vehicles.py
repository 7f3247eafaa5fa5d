"""Cars and what all vehicles share: side profiles extruded to solids, with windows, lamps and
wheels on their faces.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from .camera import Light, Place
from .canvas import Mesh, circle
from .shapes import CAR_MODELS, CAR_PAINTS

__all__ = ["Body", "Size", "build_car", "car_size", "rect"]

GLASS = (44, 54, 66)
TYRE = (22, 22, 24)
TRIM = (34, 35, 38)
CHROME = (176, 180, 184)
PLATE = (236, 236, 230)

Points = list[tuple[float, float]]


class Size(NamedTuple):
    """Outer measures in metres and which of the possible shapes it is."""

    length: float
    height: float
    width: float
    variant: str = ""


def rect(a0: float, a1: float, b0: float, b1: float) -> Points:
    """Corners of a rectangle on a face."""
    return [(a0, b0), (a1, b0), (a1, b1), (a0, b1)]


def dim(color: tuple, share: float) -> tuple:
    return tuple(c * share for c in color)


def _winding(points: Points) -> Points:
    """The same polygon, counter-clockwise."""
    ends = points[1:] + points[:1]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, ends, strict=True))
    return points if area > 0 else points[::-1]


class Body:
    """Lays shapes on the faces of a vehicle that stands at ``place`` under ``light``.

    Each face gets the brightness of its direction, unless ``glow`` fixes it.

    Args:
        half: half the width in metres.
    """

    def __init__(self, place: Place, light: Light, half: float):
        self.mesh, self.light, self.half = Mesh(), light, half
        self._sin, self._cos = math.sin(place.heading), math.cos(place.heading)
        self._glint = 0.55 * math.sin(3.7 * place.x + 1.9 * place.z)  # differs from car to car
        across, ahead = place.camera
        # Flanks and ends that turn away are not even built; the margins keep what a rounding could
        # show.
        self.flanks = [sign for sign in (-1, 1) if across * sign > half - 0.4]
        self._ends = {True: ahead > 0.0, False: ahead < 0.0}
        self.gleam = tuple(0.45 * g + 0.38 * h for g, h in zip(GLASS, light.haze, strict=True))

    def shade(self, x: float, y: float, z: float) -> float:
        """Brightness of a face by its normal in model coordinates."""
        across, along = self._cos, self._sin
        return self.light.shade(z * along + x * across, y, z * across - x * along)

    def side(self, points: Points, color, *, glow=None, taper=None) -> None:
        """A shape (z, y) on both flanks; ``taper(y)``: half the width there."""
        points = _winding(points)
        for sign in self.flanks:
            half = self.half * 1.004
            face = [(sign * (taper(y) * 1.004 if taper else half), y, z) for z, y in points]
            shade = self.shade(sign, 0.0, 0.0) if glow is None else glow
            self.mesh.poly(face if sign > 0 else face[::-1], color, shade, solid=False, cull=True)

    def end(self, points: Points, z: float, color, *, front: bool, glow=None, solid=False) -> None:
        """A shape (x, y) on the front or the rear, at ``z``."""
        if not self._ends[front]:
            return
        face = [(x, y, z) for x, y in _winding(points)]
        shade = self.shade(0.0, 0.0, 1.0 if front else -1.0) if glow is None else glow
        self.mesh.poly(face[::-1] if front else face, color, shade, solid=solid, cull=True)

    def pair(self, points: Points, z: float, color, *, front: bool, glow=None) -> None:
        """The same shape left and right, such as lamps."""
        self.end(points, z, color, front=front, glow=glow)
        self.end([(-x, y) for x, y in points], z, color, front=front, glow=glow)

    def extrude(self, profile, colors: dict[str, tuple], halves: list[float]) -> None:
        """The solid itself: strips between the flanks, then the flanks; half a width per point."""
        panes = []
        self.mesh.sort_from()
        for k, (z0, y0, material) in enumerate(profile):
            z1, y1, _ = profile[(k + 1) % len(profile)]
            h0, h1 = halves[k], halves[(k + 1) % len(profile)]
            length = math.hypot(z1 - z0, y1 - y0) or 1.0
            shade = self.shade(0.0, -(z1 - z0) / length, (y1 - y0) / length)
            face = [(h1, y1, z1), (h0, y0, z0), (-h0, y0, z0), (-h1, y1, z1)]
            self.mesh.poly(face, colors[material], shade, cull=True)
            if material == "g":
                panes.append((z0, y0, h0, z1, y1, h1))
        self.mesh.sort_to()
        for sign in self.flanks:
            face = [(sign * h, y, z) for (z, y, _), h in zip(profile, halves, strict=True)]
            shade = self.shade(sign, 0.0, 0.0)
            self.mesh.poly(face if sign > 0 else face[::-1], colors["b"], shade, cull=True)
        for pane in panes:
            self._reflections(*pane)

    def _reflections(self, z0, y0, h0, z1, y1, h1) -> None:
        """On a windscreen: the sky in its upper part and a slanting gleam."""

        def at(u: float, v: float) -> tuple[float, float, float]:
            return (u * (h0 + (h1 - h0) * v), y0 + (y1 - y0) * v, z0 + (z1 - z0) * v)

        g = self._glint
        for shape, tone in (
            ([(-0.93, 0.62), (0.93, 0.62), (0.93, 0.94), (-0.93, 0.94)], dim(self.gleam, 0.72)),
            ([(g - 0.4, 0.08), (g - 0.1, 0.08), (g + 0.2, 0.94), (g - 0.1, 0.94)], self.gleam),
        ):
            # The strip runs up on the front and down on the rear; wound like the strip, it is
            # culled with it.
            face = (
                [at(u, v) for u, v in shape[::-1]] if y1 > y0 else [at(u, 1 - v) for u, v in shape]
            )
            self.mesh.poly(face, tone, solid=False, cull=True)

    def box(self, z0: float, z1: float, y0: float, y1: float, color, half: float) -> None:
        """A plain box from ``z0`` (rear) to ``z1`` (front)."""
        profile = [(z1, y0, "b"), (z1, y1, "b"), (z0, y1, "b"), (z0, y0, "k")]
        self.extrude(profile, {"b": color, "k": TRIM}, [half] * 4)

    def tyres(self, axles, radius: float, width: float = 0.22, points: int = 12) -> None:
        """Wheels as black drums; drawn before the body, which hides their upper halves."""
        for z in axles:
            for sign in (-1.0, 1.0):
                outer, inner = sign * self.half * 0.99, sign * (self.half - width)
                low = 0.3 * radius
                for x in (inner, outer):
                    self.mesh.poly(circle(x, radius, z, radius, points), TYRE)
                for y0, reach in ((0.0, 0.0), (low, 0.8 * radius), (low, -0.8 * radius)):
                    tread = [(inner, y0), (outer, y0), (outer, radius), (inner, radius)]
                    self.mesh.poly([(x, y, z + reach) for x, y in tread], TYRE)

    def rims(self, axles, radius: float, spokes: int = 0, color=CHROME, points: int = 12) -> None:
        """Wheel arches, tyres and rims on the flanks; drawn after the body."""
        rings = ((1.16, (14, 14, 15)), (1.0, TYRE), (0.66, color), (0.2, (60, 62, 66)))
        for z in axles:
            for sign in self.flanks:
                x = sign * self.half * 1.005
                for scale, tone in rings:
                    ring = circle(x, radius, z, radius * scale, points)[::sign]
                    if scale > 1:
                        ring = [(a, max(b, 0.25 * radius), c) for a, b, c in ring]
                    self.mesh.poly(ring, tone, 0.9, solid=scale == 1.0, cull=True)
                for k in range(spokes):
                    a = 2 * math.pi * k / spokes + 0.3
                    wedge = [
                        (x, radius * (1 + r * math.sin(t)), z + r * radius * math.cos(t))
                        for r, t in ((0.18, a + 0.27), (0.56, a), (0.56, a + 0.55))
                    ]
                    self.mesh.poly(wedge[::sign], (44, 45, 48), solid=False, cull=True)


def car_size(rng: random.Random) -> Size:
    variant = rng.choice(list(CAR_MODELS))
    return Size(*(s * rng.uniform(0.96, 1.05) for s in CAR_MODELS[variant].size), variant)


def build_car(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A car of one of ``CAR_MODELS``; without ``fine`` it lacks what a few pixels cannot show."""
    shape, (length, height, width, _) = CAR_MODELS[size.variant], size
    taxi, fade = rng.random() < 0.04, rng.uniform(0.9, 1.06)
    paint = (236, 200, 60) if taxi else dim(rng.choice(CAR_PAINTS), fade)
    body = Body(place, light, width / 2)
    half, belt = body.half, shape.belt

    def taper(y: float) -> float:
        over = max(0.0, y / height - belt)
        return half * (1.0 - 0.24 * over / (1.0 - belt))

    profile = [(z * length, y * height, m) for z, y, m in shape.profile]
    halves = [taper(y) * (0.93 if abs(z) > 0.47 * length else 1.0) for z, y, _ in profile]
    axles = [z * length for z in shape.axles]
    for sign in (-1.0, 1.0):  # mirrors; the body hides the far one
        at = (sign * (half + 0.09), belt * height + 0.06, (shape.doors[0] - 0.02) * length)
        body.mesh.ball(at, 0.11, 0.08, paint, 0.8)
    body.tyres(axles, shape.wheel, points=20 if fine else 10)
    body.extrude(profile, {"b": paint, "g": GLASS, "k": (38, 39, 42)}, halves)

    def scaled(points: Points) -> Points:
        return [(z * length, y * height) for z, y in points]

    body.side(scaled(rect(-0.48, 0.48, 0.13, 0.2)), TRIM)
    if fine:  # doors mirror the road below and the sky above
        flank = light.shade(0.0, 0.5, 0.0)
        body.side(scaled(rect(-0.485, 0.485, 0.2, 0.36)), dim(paint, 0.82))
        body.side(
            scaled(rect(-0.47, 0.44, 0.53, 0.56)),
            tuple(min(255, c * 1.1 + 22) for c in paint),
            glow=flank,
        )
    for window in shape.windows:
        body.side(scaled(window), GLASS, taper=taper)
        if fine:
            z0, z1 = min(z for z, _ in window), max(z for z, _ in window)
            y0, y1 = min(y for _, y in window), max(y for _, y in window)
            slant = [(0.25, 0.08), (0.5, 0.08), (0.72, 0.85), (0.47, 0.85)]
            gleam = [(z0 + u * (z1 - z0), y0 + v * (y1 - y0)) for u, v in slant]
            body.side(scaled(gleam), body.gleam, taper=taper)
    if fine:
        for door in shape.doors:
            z = door * length
            body.side(rect(z, z + 0.03, 0.2 * height, belt * height), dim(paint, 0.55))
            body.side(rect(z - 0.95, z - 0.75, 0.57 * height, 0.59 * height), dim(paint, 0.55))
    _faces(body, rng, light, shape, size, fine)
    body.rims(axles, shape.wheel, rng.choice([0, 5, 6]) if fine else 0, points=20 if fine else 10)
    if taxi:
        body.mesh.ball((0.0, height + 0.07, 0.0), 0.3, 0.09, (250, 246, 220), 1.1)
    return body.mesh


def _faces(body: Body, rng: random.Random, light: Light, shape, size: Size, fine: bool) -> None:
    """Lamps, grille, bumper and plates of a car."""
    front, rear, height, half = size.length / 2, -size.length / 2, size.height, body.half
    low = shape.profile[1][1] * height
    lit = light.dusk > 0.3
    body.end(
        [(-0.42, 0.7 * low), (0.42, 0.7 * low), (0.5, 1.25 * low), (-0.5, 1.25 * low)],
        front,
        TRIM,
        front=True,
    )
    if fine:
        for y in (1.02, 1.12):
            body.end(rect(-0.44, 0.44, y * low, (y + 0.035) * low), front, CHROME, front=True)
        body.end(rect(-0.8 * half, 0.8 * half, 0.42 * low, 0.6 * low), front, TRIM, front=True)
    lamp = [
        (0.52, 1.1 * low),
        (0.9 * half, 1.1 * low),
        (0.88 * half, 1.45 * low),
        (0.55, 1.35 * low),
    ]
    tone = (255, 250, 226) if lit else (226, 230, 232)
    body.pair(lamp, front, tone, front=True, glow=1.3 if lit else None)
    plate = PLATE if rng.random() < 0.7 else (226, 200, 90)
    body.end(rect(-0.26, 0.26, 0.72 * low, 0.97 * low), front, plate, front=True)
    bright = lit or rng.random() < 0.3  # braking
    top = 0.68 if size.variant in ("van", "suv", "estate") else 0.6
    lamp = rect(0.66 * half, 0.92 * half, 0.44 * height, top * height)
    body.end(rect(-0.85 * half, 0.85 * half, 0.17 * height, 0.28 * height), rear, TRIM, front=False)
    body.end(rect(-0.26, 0.26, 0.36 * height, 0.43 * height), rear, plate, front=False)
    body.pair(
        lamp,
        rear,
        (255, 46, 36) if bright else (166, 22, 24),
        front=False,
        glow=1.25 if bright else None,
    )
