"""Large vehicles: lorries, buses, trams, and what cars tow."""

from __future__ import annotations

import math
import random

from .camera import Light, Place
from .canvas import Mesh
from .shapes import BUS_PAINTS, CARGO_PAINTS, TRAM_PAINTS, TRUCK_PAINTS
from .vehicles import CHROME, GLASS, PLATE, TRIM, Body, Size, dim, rect

__all__ = [
    "build_bus", "build_trailer", "build_tram", "build_truck", "bus_size", "trailer_size",
    "tram_size", "truck_size",
]  # fmt: skip

_RED = (214, 36, 30)
_AMBER = (250, 176, 50)


def truck_size(rng: random.Random) -> Size:
    length = rng.uniform(10.5, 13.0) if rng.random() < 0.3 else rng.uniform(6.6, 8.2)
    kind = rng.choice(["box", "box", "ribbed", "tipper"])
    return Size(length, rng.uniform(2.9, 3.7), rng.uniform(2.3, 2.5), kind)


def build_truck(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A lorry: a cab in front of a smooth or ribbed box or a tipper."""
    body = Body(place, light, size.width / 2)
    front, rear, wheel = size.length / 2, -size.length / 2, 0.48
    axles = [front - 1.1, rear + 1.3] + ([rear + 2.5] if size.length > 7.5 else [])
    body.tyres(axles, wheel, 0.32, 16)
    parts = [_cab, _cargo] if math.cos(place.heading) > 0 else [_cargo, _cab]
    for part in parts:  # the farther half first
        part(body, rng, light, size, fine)
    body.rims(axles, wheel, 0, (150, 152, 156), 16)
    return body.mesh


def _cab(body: Body, rng: random.Random, light: Light, size: Size, fine: bool) -> None:
    front, half, top = size.length / 2, body.half, 2.7 if size.height > 3.0 else 2.5
    back, paint = front - 1.9, rng.choice(TRUCK_PAINTS)
    nose = [
        (front, 0.45, "k"), (front, 0.85, "b"), (front, 1.45, "g"), (front - 0.12, top - 0.35, "b"),
        (front - 0.3, top, "b"), (back, top, "b"), (back, 0.5, "k"),
    ]  # fmt: skip
    body.extrude(nose, {"b": paint, "g": GLASS, "k": TRIM}, [half * 0.97] * 7)
    rear_pillar, sill = front - 1.25, top - 0.4
    body.side(
        [(front - 0.15, 1.5), (front - 0.28, sill), (rear_pillar, sill), (rear_pillar, 1.5)], GLASS
    )
    if fine:
        body.side(
            [(front - 0.35, 1.6), (front - 0.6, 1.6), (front - 0.85, sill), (front - 0.6, sill)],
            body.gleam,
        )
        body.side(rect(front - 1.34, front - 1.3, 0.7, 2.2), dim(paint, 0.6))
    body.end(
        [(-0.62, 0.9), (0.62, 0.9), (0.68, 1.36), (-0.68, 1.36)], front, (44, 45, 48), front=True
    )
    for y in (1.0, 1.13, 1.26) if fine else ():
        body.end(rect(-0.6, 0.6, y, y + 0.04), front, CHROME, front=True)
    lamp = (255, 250, 228) if light.dusk > 0.3 else (224, 228, 232)
    body.pair(rect(0.74, 1.08, 0.6, 0.85), front, lamp, front=True)
    body.end(rect(-0.26, 0.26, 0.52, 0.64), front, PLATE, front=True)
    _mirrors(body, front, 1.6)


def _mirrors(body: Body, z: float, y: float) -> None:
    for sign in (-1.0, 1.0):
        x = sign * (body.half + 0.12)
        body.mesh.poly([(a, b, z) for a, b in rect(x - 0.1, x + 0.1, y, y + 0.5)], TRIM)


def _cargo(body: Body, rng: random.Random, light: Light, size: Size, fine: bool) -> None:
    half, rear, z1 = body.half, -size.length / 2, size.length / 2 - 2.15
    top = rng.uniform(2.1, 2.5) if size.variant == "tipper" else size.height
    paint, bare = rng.choice(CARGO_PAINTS), size.variant == "tipper"
    body.box(rear + 0.2, z1 + 0.4, 0.55, 0.95, (52, 53, 57), half * 0.7)
    body.box(rear, z1, 0.95, top, paint, half)
    ribs = {"box": 3, "ribbed": rng.randint(9, 14), "tipper": rng.randint(5, 8)}[size.variant]
    for k in range(1, ribs):
        z = rear + (z1 - rear) * k / ribs
        body.side(rect(z, z + 0.06, 1.0, top), dim(paint, 0.78))
    body.side(rect(rear, z1, 0.95, 1.08), dim(paint, 0.6))
    if not bare and rng.random() < 0.75:  # the haulier's sign
        a, b = rear + 0.2 * (z1 - rear), rear + rng.uniform(0.5, 0.85) * (z1 - rear)
        y0, y1 = 1.0 + 0.3 * (top - 1), 1.0 + rng.uniform(0.5, 0.8) * (top - 1)
        sign = rng.choice(TRUCK_PAINTS)
        body.side(rect(a, b, y0, y1), sign)
        if fine:
            middle = (y0 + y1) / 2
            body.side(
                rect(a + 0.2, b - 0.2, middle - 0.1, middle + 0.1),
                PLATE if sum(sign) < 480 else TRIM,
            )
    edge = dim(paint, 0.62)
    body.end(rect(-0.02, 0.02, 1.0, top), rear, edge, front=False)
    for x in (0.35, 0.8) if fine else ():
        body.pair(rect(x, x + 0.04, 1.0, top - 0.05), rear, edge, front=False)
    body.end(rect(-half, half, 0.6, 0.92), rear, (60, 60, 64), front=False, solid=True)
    body.pair(rect(0.72, 1.1, 0.64, 0.86), rear, _RED, front=False)
    body.end(rect(-0.26, 0.26, 0.66, 0.82), rear, PLATE, front=False)
    for k in range(-4, 4):
        x, tone = k * half / 4, (236, 236, 236) if k % 2 else (206, 44, 36)
        body.end(rect(x, x + half / 4, 0.94, 1.04), rear, tone, front=False)


def bus_size(rng: random.Random) -> Size:
    return Size(rng.uniform(9.5, 12.0), rng.uniform(2.95, 3.2), 2.5, "")


def build_bus(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A city bus."""
    paint, stripe = rng.choice(BUS_PAINTS)
    body = Body(place, light, size.width / 2)
    axles = [size.length / 2 - 2.5, -size.length / 2 + 2.3]
    body.tyres(axles, 0.48, 0.3, 16)
    _coach(body, rng, light, size, paint, stripe, doors=rng.choice([2, 3]), nose=0.12, tail=0.08)
    body.rims(axles, 0.46, 0, (140, 142, 146), 16)
    _mirrors(body, size.length / 2 + 0.05, 1.9)
    return body.mesh


def tram_size(rng: random.Random) -> Size:
    cars = rng.choice([2, 2, 3])
    return Size(cars * rng.uniform(8.0, 9.5), 3.4, 2.45, str(cars))


def build_tram(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A tram of two or three cars with bellows between them and a pantograph."""
    paint, stripe = rng.choice(TRAM_PAINTS)
    body, cars = Body(place, light, size.width / 2), int(size.variant)
    rear, unit = -size.length / 2, size.length / cars
    body.box(rear + 0.6, -rear - 0.6, 0.06, 0.4, TRIM, body.half - 0.12)
    _coach(body, rng, light, size, paint, stripe, doors=2 * cars, nose=0.6, tail=0.6)
    for k in range(1, cars):
        for j in range(4):
            z, tone = rear + k * unit - 0.4 + 0.2 * j, (46, 47, 50) if j % 2 else (66, 67, 71)
            body.side(rect(z, z + 0.2, 0.3, 3.4), tone)
    z, dark = -rear - unit * 0.6, (52, 52, 56)
    for x in (-0.5, 0.5):
        body.mesh.line([(x, 3.45, z - 0.6), (x, 4.1, z + 0.5), (x, 4.75, z - 0.4)], 0.06, dark)
    body.mesh.line([(-0.8, 4.75, z - 0.4), (0.8, 4.75, z - 0.4)], 0.08, dark)
    return body.mesh


def _coach(
    body: Body,
    rng,
    light: Light,
    size: Size,
    paint,
    stripe,
    *,
    doors: int,
    nose: float,
    tail: float,
) -> None:
    """What buses and trams share: window band, doors, stripes, front and rear."""
    half, height, base = body.half, size.height, 0.24
    front, rear, lit = size.length / 2, -size.length / 2, light.dusk > 0.35
    profile = [
        (front, base, "b"), (front, 0.42 * height, "g"), (front - nose, 0.86 * height, "b"),
        (front - nose - 0.25, height, "b"), (rear + tail + 0.2, height, "b"),
        (rear + tail, 0.88 * height, "g"), (rear, 0.46 * height, "b"), (rear, base, "k"),
    ]  # fmt: skip
    body.extrude(profile, {"b": paint, "g": GLASS, "k": TRIM}, [half] * 8)
    dark = dim(stripe, 0.5)
    body.side(rect(rear + 0.05, front - 0.05, base, 0.2 * height), dark)
    body.side(rect(rear + 0.02, front - 0.02, 0.34 * height, 0.41 * height), stripe)
    # A dark band carries the panes, as on most city buses.
    body.side(rect(rear + 0.35, front - nose - 0.25, 0.45 * height, 0.85 * height), (30, 33, 38))
    glass = (222, 196, 130) if lit else GLASS
    panes = max(4, int(size.length / 1.5))
    step = (size.length - 1.2 - nose) / panes
    for k in range(panes):
        z0, z1 = rear + 0.45 + k * step + 0.06, rear + 0.45 + (k + 1) * step - 0.06
        body.side(rect(z0, z1, 0.47 * height, 0.83 * height), glass, glow=1.0 if lit else None)
        if not lit:
            low, high = (0.66 + 0.1 * rng.random()) * height, (0.7 + 0.1 * rng.random()) * height
            body.side([(z0, low), (z1, high), (z1, 0.83 * height), (z0, 0.83 * height)], body.gleam)
    for k in range(doors):
        z = front - 1.5 - nose - k * (size.length - 3.2 - nose) / max(doors - 1, 1)
        body.side(rect(z - 0.6, z + 0.6, base + 0.05, 0.84 * height), dim(paint, 0.45))
        for a in (z - 0.53, z + 0.05):
            body.side(rect(a, a + 0.48, base + 0.3, 0.8 * height), (92, 106, 118))
    top, lamp = front - nose * 0.97, (255, 250, 226) if lit else (228, 232, 234)
    glow = 1.25 if lit else None
    body.end(rect(-0.78, 0.78, 0.86 * height, 0.965 * height), top, (18, 18, 20), front=True)
    body.end(rect(-0.55, 0.55, 0.885 * height, 0.94 * height), top, _AMBER, front=True, glow=1.15)
    body.end(rect(-half, half, base, 0.17 * height), front, dark, front=True)
    body.end(rect(-half, half, 0.33 * height, 0.38 * height), front, stripe, front=True)
    body.pair(
        rect(0.62 * half, 0.92 * half, 0.2 * height, 0.28 * height),
        front,
        lamp,
        front=True,
        glow=glow,
    )
    body.end(rect(-0.3, 0.3, 0.19 * height, 0.24 * height), front, PLATE, front=True)
    body.end(rect(-half, half, 0.33 * height, 0.39 * height), rear, stripe, front=False)
    body.pair(
        rect(0.76 * half, 0.94 * half, 0.18 * height, 0.31 * height),
        rear,
        _RED,
        front=False,
        glow=glow,
    )
    body.end(
        rect(-0.5 * half, 0.5 * half, 0.17 * height, 0.3 * height),
        rear,
        dim(paint, 0.62),
        front=False,
    )
    for y in (0.19, 0.22, 0.25):
        body.end(
            rect(-0.45 * half, 0.45 * half, y * height, (y + 0.012) * height),
            rear,
            TRIM,
            front=False,
        )
    body.end(
        rect(-0.3, 0.3, 0.9 * height, 0.95 * height), rear + tail, _AMBER, front=False, glow=1.1
    )


def trailer_size(rng: random.Random) -> Size:
    return Size(4.6, 2.45, 2.1, "caravan") if rng.random() < 0.5 else Size(2.6, 1.1, 1.5, "trailer")


def build_trailer(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A caravan (with windows) or an open trailer, as towed by a car."""
    body = Body(place, light, size.width / 2)
    caravan, rear, front = size.variant == "caravan", -size.length / 2, size.length / 2
    body.tyres([0.0], 0.3)
    body.box(
        rear, front, 0.42, size.height, (236, 234, 226) if caravan else (112, 116, 122), body.half
    )
    if caravan:
        body.side(rect(rear + 0.02, front - 0.02, 0.9, 1.08), (172, 96, 60))
        for z in (-1.4, 0.5):
            body.side(rect(z, z + 1.0, 1.35, 1.95), GLASS)
        body.end(rect(-0.7, 0.7, 1.3, 2.0), rear, GLASS, front=False)
        body.end(rect(-0.66, 0.66, 1.7, 1.96), rear, body.gleam, front=False)
    lamp = rect(0.5, 0.9, 0.5, 0.66) if caravan else rect(0.4, 0.7, 0.5, 0.62)
    body.pair(lamp, rear, (200, 34, 30), front=False)
    body.rims([0.0], 0.3)
    return body.mesh
