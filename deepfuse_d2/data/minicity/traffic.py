"""Fills a street: vehicles on the move and at the kerb, people, street furniture."""

from __future__ import annotations

import math
import random

from . import barriers, furniture, trees
from .camera import Place
from .canvas import Canvas
from .layout import Layout, Thing

__all__ = ["FEATURES", "populate"]

# Every frame asks for one of these besides its ordinary traffic, so that rare classes occur in
# small sets too.
FEATURES = [
    "truck",
    "bus",
    "train",
    "motorcycle",
    "rider",
    "bicycle",
    "crowd",
    "train",
    "motorbike rider",
    "bicycle",
    "crossing",
    "motorcycle",
]


def populate(layout: Layout, feature: str) -> None:
    """Put everything movable into the street; ``feature``, one of ``FEATURES``, in view."""
    _featured(layout, feature)
    _traffic(layout)
    _parked(layout)
    _furniture(layout)
    _pedestrians(layout, feature)
    _groups(layout)


def _featured(layout: Layout, feature: str) -> None:
    rng, street = layout.rng, layout.street
    if feature in ("truck", "bus"):
        for _ in range(6):
            x, heading = rng.choice(street.lanes)
            z = rng.uniform(15, 38) if heading == 0.0 else rng.uniform(13, 34)
            if layout.visible(x, z - 4) and layout.vehicle(
                feature, x, z, heading + rng.gauss(0, 0.02)
            ):
                return
    elif feature == "train":
        heading = rng.choice([0.0, math.pi])
        layout.vehicle("train", street.tram, rng.uniform(24, 46), heading)
    elif feature in ("rider", "motorbike rider"):
        for _ in range(rng.choice([1, 2])):
            x, heading = rng.choice(street.lanes)
            offset = rng.uniform(0.2, 1.1) * (1 if heading == 0.0 else -1)
            layout.vehicle(feature, x + offset, rng.uniform(7, 20), heading + rng.gauss(0, 0.1))
    elif feature in ("motorcycle", "bicycle"):
        for _ in range(rng.choice([1, 2, 3])):
            side = rng.choice([0, 1])
            sign = (-1, 1)[side]
            edge = (street.left, street.right)[side]
            # Parked on the sidewalk near the kerb, seen from the side or at an angle.
            heading = rng.choice(
                [rng.uniform(0.4, 1.2), rng.uniform(1.9, 2.8), math.pi / 2, 0.1]
            ) * rng.choice([-1, 1])
            z = rng.uniform(6.5, 14)
            layout.vehicle(feature, edge + sign * rng.uniform(0.6, 1.5), z, heading)


def _traffic(layout: Layout) -> None:
    rng, street = layout.rng, layout.street
    # Kinds of vehicles by style: car, truck, bus, cyclist, motorcyclist.
    mix = {
        "old": (80, 3, 2, 10, 6),
        "boulevard": (76, 6, 7, 7, 5),
        "suburb": (84, 4, 2, 8, 4),
        "works": (66, 22, 3, 4, 5),
    }[street.style]
    kinds = ["car", "truck", "bus", "rider", "motorbike rider"]
    busy = rng.uniform(0.6, 1.6)
    for x, heading in street.lanes:
        z = rng.uniform(8, 30) if heading == 0.0 else rng.uniform(7, 30)
        if x == 0.0:
            z += 2
        while z < 95:
            kind = rng.choices(kinds, mix)[0]
            offset = rng.gauss(0, 0.15)
            if "rider" in kind:
                offset += 0.9 if heading == 0.0 else -0.9
                if z > 50:
                    kind = "car"
            layout.vehicle(
                kind,
                x + offset,
                z + (4 if kind in ("truck", "bus") else 0),
                heading + rng.gauss(0, 0.03),
                gap=0.6,
            )
            z += 7 + rng.expovariate(busy / 14)
    if street.tram is not None and rng.random() < 0.35:
        layout.vehicle("train", street.tram, rng.uniform(30, 70), rng.choice([0.0, math.pi]))
    if street.crossing is None:
        return
    for row, heading in ((0.27, math.pi / 2), (0.73, -math.pi / 2)):
        for _ in range(rng.choice([0, 1, 1, 2])):
            z = street.crossing + row * street.crossing_width
            x0, x1 = layout.span(z)
            kind = rng.choices(kinds, (66, 8, 8, 10, 8))[0]
            layout.vehicle(kind, rng.uniform(x0, x1), z, heading + rng.gauss(0, 0.04), gap=0.5)


def _parked(layout: Layout) -> None:
    rng, street = layout.rng, layout.street
    for side, (edge, width) in enumerate(
        zip((street.left, street.right), street.parking, strict=True)
    ):
        if width == 0:
            continue
        sign = -1 if side == 0 else 1
        along, occupied = width < 3, rng.uniform(0.35, 0.9)
        if not along:
            slant = rng.choice([0.9, math.pi / 2, math.pi / 2, 2.2]) * sign
        z = rng.uniform(3, 8)
        stop = street.crossing - 6 if street.crossing is not None else 80
        while z < stop:
            blocked = street.zebra is not None and abs(z - street.zebra - 1.6) < 5
            if rng.random() < occupied and not blocked:
                x = edge - sign * width / 2
                heading = (
                    (0.0 if sign > 0 or rng.random() < 0.3 else math.pi)
                    if along
                    else slant + rng.choice([0, math.pi])
                )
                kind = (
                    rng.choices(["car", "truck", "motorcycle", "trailer"], (87, 3, 7, 3))[0]
                    if along
                    else "car"
                )
                if kind == "motorcycle":
                    for k in range(rng.choice([1, 2, 3])):
                        layout.vehicle(
                            kind, x, z - 1 + 1.1 * k, sign * rng.uniform(1.1, 2.0), gap=0.05
                        )
                else:
                    layout.vehicle(
                        kind,
                        x + rng.gauss(0, 0.08),
                        z + (1 if kind == "truck" else 0),
                        heading + rng.gauss(0, 0.03),
                    )
            z += (
                rng.uniform(5.6, 6.6)
                if along
                else (2.8 if abs(abs(slant) - math.pi / 2) < 0.1 else 3.4)
            )


def _pedestrians(layout: Layout, feature: str) -> None:
    rng, street = layout.rng, layout.street
    rate = {"old": 5, "boulevard": 6, "suburb": 3, "works": 2}[street.style]
    count = min(12, max(0, round(rng.gauss(rate, 2.2))))
    for _ in range(count):
        side = rng.choice([0, 1])
        sign = (-1, 1)[side]
        edge, walk = (street.left, street.right)[side], street.walk[side]
        z = 5.5 + 45 * rng.random() ** 1.6
        x = edge + sign * rng.uniform(0.4, walk - 0.3)
        if not layout.visible(x, z):
            z += 12
        heading = rng.choice([0.0, math.pi, rng.choice([-1, 1]) * math.pi / 2]) + rng.gauss(0, 0.25)
        layout.vehicle("person", x, z, heading, gap=0.0)
        if rng.random() < 0.35:  # a companion
            layout.vehicle(
                "person",
                x + rng.choice([-1, 1]) * 0.62,
                z + rng.uniform(-0.2, 0.3),
                heading,
                gap=-0.05,
            )
    crossing = (
        street.zebra
        if street.zebra is not None
        else (rng.uniform(9, 30) if feature == "crowd" else None)
    )
    if crossing is not None:
        for _ in range(rng.choice([1, 2, 3]) + 3 * (feature == "crowd")):
            heading = rng.choice([-1, 1]) * math.pi / 2 + rng.gauss(0, 0.15)
            layout.vehicle(
                "person",
                rng.uniform(street.left, street.right),
                crossing + rng.uniform(0.3, 2.9),
                heading,
                gap=0.0,
            )
        if rng.random() < 0.3:
            layout.vehicle(
                "rider",
                rng.uniform(street.left, street.right),
                crossing + 1.5,
                rng.choice([-1, 1]) * math.pi / 2,
            )


def _groups(layout: Layout) -> None:
    rng, street = layout.rng, layout.street
    for side, sign in ((0, -1), (1, 1)):
        edge, walk = (street.left, street.right)[side], street.walk[side]
        if rng.random() < 0.22:
            z = rng.uniform(40, 60)
            layout.group(
                "person",
                [
                    Place(
                        edge + sign * rng.uniform(0.3, walk),
                        z + rng.uniform(-2, 2),
                        rng.choice([0, math.pi]),
                    )
                    for _ in range(rng.randint(5, 9))
                ],
            )
        if rng.random() < 0.2 and street.parking[side] and street.crossing is None:
            x = edge - sign * street.parking[side] / 2
            layout.group("car", [Place(x, 84 + 6.2 * k, 0.0) for k in range(4)])
        if rng.random() < 0.2:
            z, x = rng.uniform(9, 28), edge + sign * 0.9
            layout.group(
                "bicycle",
                [
                    Place(x, z + 0.55 * k, sign * rng.uniform(1.2, 1.7))
                    for k in range(rng.randint(4, 7))
                ],
            )


def _furniture(layout: Layout) -> None:
    rng, street = layout.rng, layout.street
    crossing = street.crossing
    for side, sign in ((0, -1), (1, 1)):
        edge, walk = (street.left, street.right)[side], street.walk[side]
        kerb = edge + sign * 0.45
        if (
            street.style == "boulevard"
            or rng.random() < {"old": 0.15, "suburb": 0.45, "works": 0.3}[street.style]
        ):
            z, step, tall = rng.uniform(6, 16), rng.uniform(9, 16), rng.uniform(5.5, 10)
            while z < 95:
                if crossing is None or not crossing - 3 < z < crossing + street.crossing_width + 3:
                    layout.add_static(
                        trees.draw_tree,
                        kerb + sign * 0.3,
                        z,
                        0.35,
                        tall,
                        tall * rng.uniform(0.8, 1.15),
                        crown=0.3 * tall,
                    )
                z += step * rng.uniform(0.8, 1.3)
        z, step = rng.uniform(7, 22), rng.uniform(22, 34)
        while z < 110 and rng.random() < 0.95:
            layout.add_static(furniture.draw_lamp, kerb, z, 0.1, 7.0)
            z += step
        for _ in range(rng.choice([0, 1, 1, 2])):
            layout.add_static(furniture.draw_sign, kerb, rng.uniform(10, 42), 0.1, 2.6)
        for _ in range(rng.choice([0, 0, 1, 2])):
            layout.add_static(
                barriers.draw_static,
                kerb + sign * rng.uniform(0, walk - 0.9),
                rng.uniform(6, 26),
                0.4,
                0.9,
            )
        for kind, chance in (
            ("bicycle", 0.4),
            ("motorcycle", 0.12),
        ):  # left at the kerb or against a wall
            if rng.random() < chance:
                x = edge + sign * rng.choice([0.8, walk - 0.5])
                heading = rng.choice([0.0, math.pi]) + rng.choice(
                    [rng.gauss(0, 0.3), rng.uniform(0.8, 2.0)]
                )
                layout.vehicle(kind, x, rng.uniform(6, 18), heading)
        if rng.random() < 0.2:
            layout.add_static(
                furniture.draw_post, kerb, rng.uniform(8, 30), 0.1, 5.0, rng.uniform(4, 8)
            )
        if street.style == "works" and rng.random() < 0.3:
            seed, z0 = rng.getrandbits(64), rng.uniform(3, 20)
            z1 = z0 + rng.uniform(10, 40)

            def rail(canvas: Canvas, seed=seed, x=edge + sign * 0.1, z0=z0, z1=z1) -> None:
                barriers.draw_barrier(canvas, random.Random(seed), "guard rail", x, z0, z1, 0.8)

            x = edge + sign * 0.1
            layout.things.append(Thing((x - 0.05, x + 0.05, z0, z1), 0.8, rail))
    stop = (
        crossing - 2.0
        if crossing is not None
        else (street.zebra - 0.6 if street.zebra is not None else None)
    )
    if stop is not None and (crossing is not None or rng.random() < 0.5) and rng.random() < 0.85:
        layout.add_static(furniture.draw_traffic_light, street.right + 0.5, stop, 0.1, 3.4)
        layout.add_static(furniture.draw_traffic_light, street.left - 0.5, stop, 0.1, 3.4)
        if crossing is not None:
            layout.add_static(
                furniture.draw_traffic_light,
                street.right + 0.6,
                crossing + street.crossing_width + 1.5,
                0.1,
                3.4,
            )
