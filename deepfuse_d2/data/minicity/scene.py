"""Lays out a street: its cross-section, what lines it, and the traffic and people on it, all in metres.

Nothing here depends on the size of the image, so that a larger picture shows the same scene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import furniture, lorries, people, vehicles
from .camera import Camera, Light, Place
from .canvas import Canvas, Mesh
from .street import Street
from .vehicles import Size

__all__ = ["Plot", "Scene", "Thing", "make_scene"]

LANE = 3.25
# Every frame asks for one of these besides its ordinary traffic, so that rare classes occur in small sets too.
FEATURES = ["truck", "bus", "train", "motorcycle", "rider", "bicycle", "crowd", "train", "motorbike rider", "bicycle", "crossing", "motorcycle"]  # fmt: skip


@dataclass
class Thing:
    """Something that stands on the ground, with the box (x0, x1, z0, z1) it covers and its height."""

    box: tuple[float, float, float, float]
    height: float
    draw: Callable[[Canvas], None]
    footprint: np.ndarray | None = None  # corners (4, 3) on the ground, where it throws a shadow
    crown: float = 0.0  # radius of a crown that throws a shadow of its own


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

    def ordered(self) -> list[Thing]:
        """Things from back to front.

        One hides another if it is nearer along the road or nearer to the camera's path on the same side; where both
        hold in opposite ways, neither hides the other.
        """
        boxes = np.array([t.box for t in self.things]).reshape(-1, 4)
        x0, x1, z0, z1 = (boxes[:, k] for k in range(4))
        beyond = z0[:, None] >= z1[None] - 0.05
        aside = ((x1[:, None] <= x0[None] + 0.05) & (x0[None] < 0)) | (
            (x0[:, None] >= x1[None] - 0.05) & (x1[None] > 0)
        )
        behind = (beyond | aside) & ~(beyond | aside).T  # behind[a, b]: a is drawn before b
        waiting = behind.sum(axis=0)
        left, order = set(range(len(self.things))), []
        while left:
            ready = [k for k in left if waiting[k] <= 0] or [max(left, key=lambda k: z1[k])]
            k = max(ready, key=lambda k: (z0[k], k))
            order.append(self.things[k])
            left.remove(k)
            waiting = waiting - behind[k]
        return order


class Kind(NamedTuple):
    """How a kind of thing is measured when it is laid out and built when it is drawn."""

    size: Callable[[random.Random], Size]
    build: Callable[..., Mesh]


KINDS = {
    "car": Kind(vehicles.car_size, vehicles.build_car),
    "truck": Kind(lorries.truck_size, lorries.build_truck),
    "bus": Kind(lorries.bus_size, lorries.build_bus),
    "train": Kind(lorries.tram_size, lorries.build_tram),
    "trailer": Kind(lorries.trailer_size, lorries.build_trailer),
    "person": Kind(people.person_size, people.build_person),
    "bicycle": Kind(lambda rng: people.BICYCLE, people.build_bicycle),
    "motorcycle": Kind(lambda rng: people.MOTORCYCLE, people.build_motorcycle),
    "rider": Kind(lambda rng: people.BICYCLE._replace(height=1.8), people.build_bicycle),
    "motorbike rider": Kind(lambda rng: people.MOTORCYCLE._replace(height=1.7), people.build_motorcycle),
}
_FINE = 13.0  # pixels a metre from which on small parts are drawn


def draw_model(canvas: Canvas, kind: str, place: Place, size: Size, seed: int, light: Light, label: str | None = "") -> None:
    """Builds and draws one thing, with its rider if it has one; ``label=None`` draws into the current object."""
    rng = random.Random(seed)
    fine = canvas.camera.pixels / max(place.z, 1.0) > _FINE
    mesh = KINDS[kind].build(rng, place, light, size, fine)
    ridden = {"rider": "bicycle", "motorbike rider": "motorcycle"}.get(kind)
    own = ridden or (size.variant if kind == "trailer" else kind)
    mesh.draw(canvas, place, own if label is not None else None)
    if ridden:
        people.build_rider(rng, place, light, motor=ridden == "motorcycle").draw(canvas, place, "rider")


class _Layout:
    """Collects things and refuses those that would stand inside another."""

    def __init__(self, rng: random.Random, street: Street, light: Light, view: dict[str, float]):
        self.rng, self.street, self.light, self.view = rng, street, light, view
        self.things: list[Thing] = []

    def free(self, box: tuple, gap: float = 0.25) -> bool:
        x0, x1, z0, z1 = box
        return not any(
            x0 < t.box[1] + gap and x1 > t.box[0] - gap and z0 < t.box[3] + gap and z1 > t.box[2] - gap
            for t in self.things
        )  # fmt: skip

    def visible(self, x: float, z: float, margin: float = 0.0) -> bool:
        u = self.view["centre"] + self.view["focal"] * (x / z + self.view["bend"] * z)
        return -margin < u < 1 + margin

    def span(self, z: float) -> tuple[float, float]:
        """x at the left and the right border of the picture at depth z."""
        shift = self.view["bend"] * z * z
        left = -self.view["centre"] * z / self.view["focal"] - shift
        return left, (1 - self.view["centre"]) * z / self.view["focal"] - shift

    def vehicle(self, kind: str, x: float, z: float, heading: float, *, gap: float = 0.25) -> bool:
        """Puts a vehicle or a person there, if there is room and it is in view; its parts are built when drawn."""
        place = Place(x, z, heading, self.view["bend"])
        size = KINDS[kind].size(self.rng)
        seed = self.rng.getrandbits(64)
        sin, cos = abs(math.sin(heading)), abs(math.cos(heading))
        hx, hz = (sin * size.length + cos * size.width) / 2, (cos * size.length + sin * size.width) / 2
        box = (x - hx, x + hx, z - hz, z + hz)
        if box[2] < 3.0 or not self.in_view(box) or not self.free(box, gap):
            return False
        half, reach = size.width / 2, size.length / 2
        corners = np.array([(-half, 0, -reach), (half, 0, -reach), (half, 0, reach), (-half, 0, reach)])

        def draw(canvas: Canvas) -> None:
            draw_model(canvas, kind, place, size, seed, self.light)

        self.things.append(Thing(box, size.height, draw, place.to_world(corners)))
        return True

    def in_view(self, box: tuple) -> bool:
        """Whether any part of a box is between the left and the right border of the picture."""
        x0, x1, _, z1 = box
        left, right = self.span(z1)
        return x1 > left - 1.0 and x0 < right + 1.0

    def add_static(self, draw: Callable, x: float, z: float, half: float, height: float, *args, crown: float = 0.0) -> bool:
        """Furniture drawn by ``draw(canvas, rng, x, z, *args)``."""
        seed = self.rng.getrandbits(64)
        box = (x - half, x + half, z - half, z + half)
        if z < 2.5 or not self.free(box, 0.1):
            return False
        corners = np.array([(x - half, 0, z), (x + half, 0, z), (x + half, 0, z + half), (x - half, 0, z + half)], float)

        def run(canvas: Canvas) -> None:
            draw(canvas, random.Random(seed), x, z, *args)

        self.things.append(Thing(box, height, run, corners, crown))
        return True

    def group(self, kind: str, places: list[Place]) -> None:
        """Several things under one outline that nobody could tell apart: a Cityscapes group."""
        rng, light = self.rng, self.light
        members = [(p, KINDS[kind].size(rng), rng.getrandbits(64)) for p in sorted(places, key=lambda p: -p.z)]
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


def _light(rng: random.Random) -> Light:
    kind = rng.choice(["noon", "noon", "overcast", "overcast", "morning", "evening", "dusk"])
    azimuth = rng.uniform(-math.pi, math.pi)
    elevation = math.radians({"noon": rng.uniform(38, 60), "overcast": 60.0}.get(kind, rng.uniform(18, 32)))
    sun = (math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    haze = {
        "noon": (214, 224, 234), "overcast": (206, 209, 212), "morning": (232, 222, 206), "evening": (240, 206, 168), "dusk": (132, 122, 138),
    }[kind]  # fmt: skip
    strength = {"noon": rng.uniform(0.6, 0.85), "overcast": rng.uniform(0.0, 0.12), "morning": 0.7, "evening": 0.75, "dusk": 0.1}[kind]
    level = {"noon": 1.1, "overcast": 0.92, "morning": 0.98, "evening": 0.92, "dusk": rng.uniform(0.52, 0.68)}[kind]
    distance = rng.uniform(160, 420) if rng.random() > 0.15 else rng.uniform(75, 120)
    return Light(sun, strength, level * rng.uniform(0.93, 1.07), haze, distance, rng.uniform(0.6, 1.0) if kind == "dusk" else 0.0)


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
    parking = tuple(rng.choice([2.15, 2.15, 4.4]) if rng.random() < chance else 0.0 for _ in range(2))
    walk = tuple(rng.uniform(2.2, 3.4) if style in ("old", "suburb", "works") else rng.uniform(3.4, 5.5) for _ in range(2))
    verge = tuple(rng.uniform(1.5, 4.0) if style in ("suburb", "works") else (rng.uniform(1.0, 2.4) if rng.random() < 0.2 else 0.0) for _ in range(2))
    crossing = rng.uniform(14, 42) if feature == "crossing" or rng.random() < 0.3 else None
    zebra = None
    if crossing is not None and rng.random() < 0.6:
        zebra = crossing - 5.2
    elif crossing is None and rng.random() < 0.3:
        zebra = rng.uniform(8, 26)
    return Street(
        style, x - 0.25 - parking[0], high + LANE / 2 + 0.25 + parking[1], lanes, parking, walk, verge, tram, crossing, rng.uniform(6.5, 9.0), zebra,
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


def make_scene(rng: random.Random, city_style: dict[str, float], feature: str) -> Scene:
    """A street of one of the city's styles with its light, traffic and people; ``feature`` occurs in view."""
    style = rng.choices(list(city_style), list(city_style.values()))[0]
    light, street = _light(rng), _street(rng, style, feature)
    view = {
        "focal": rng.uniform(0.88, 1.02), "horizon": rng.uniform(0.4, 0.47), "centre": rng.uniform(0.43, 0.57),
        "eye": rng.uniform(1.25, 1.5), "bend": rng.choice([0.0, 0.0, rng.uniform(-0.0022, 0.0022)]),
    }  # fmt: skip
    layout = _Layout(rng, street, light, view)
    _featured(layout, feature)
    _traffic(layout)
    _parked(layout)
    _furniture(layout)
    _pedestrians(layout, feature)
    _groups(layout)
    return Scene(street, light, view, _plots(rng, street), layout.things, rng.getrandbits(64))


def _featured(layout: _Layout, feature: str) -> None:
    rng, street = layout.rng, layout.street
    if feature in ("truck", "bus"):
        for _ in range(6):
            x, heading = rng.choice(street.lanes)
            z = rng.uniform(15, 38) if heading == 0.0 else rng.uniform(13, 34)
            if layout.visible(x, z - 4) and layout.vehicle(feature, x, z, heading + rng.gauss(0, 0.02)):
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
            heading = rng.choice([rng.uniform(0.4, 1.2), rng.uniform(1.9, 2.8), math.pi / 2, 0.1]) * rng.choice([-1, 1])
            z = rng.uniform(6.5, 14)
            layout.vehicle(feature, edge + sign * rng.uniform(0.6, 1.5), z, heading)


def _traffic(layout: _Layout) -> None:
    rng, street = layout.rng, layout.street
    # Kinds of vehicles by style: car, truck, bus, cyclist, motorcyclist.
    mix = {"old": (80, 3, 2, 10, 6), "boulevard": (76, 6, 7, 7, 5), "suburb": (84, 4, 2, 8, 4), "works": (66, 22, 3, 4, 5)}[street.style]
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
            layout.vehicle(kind, x + offset, z + (4 if kind in ("truck", "bus") else 0), heading + rng.gauss(0, 0.03), gap=0.6)
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


def _parked(layout: _Layout) -> None:
    rng, street = layout.rng, layout.street
    for side, (edge, width) in enumerate(zip((street.left, street.right), street.parking, strict=True)):
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
                heading = (0.0 if sign > 0 or rng.random() < 0.3 else math.pi) if along else slant + rng.choice([0, math.pi])
                kind = rng.choices(["car", "truck", "motorcycle", "trailer"], (87, 3, 7, 3))[0] if along else "car"
                if kind == "motorcycle":
                    for k in range(rng.choice([1, 2, 3])):
                        layout.vehicle(kind, x, z - 1 + 1.1 * k, sign * rng.uniform(1.1, 2.0), gap=0.05)
                else:
                    layout.vehicle(kind, x + rng.gauss(0, 0.08), z + (1 if kind == "truck" else 0), heading + rng.gauss(0, 0.03))
            z += rng.uniform(5.6, 6.6) if along else (2.8 if abs(abs(slant) - math.pi / 2) < 0.1 else 3.4)


def _pedestrians(layout: _Layout, feature: str) -> None:
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
            layout.vehicle("person", x + rng.choice([-1, 1]) * 0.62, z + rng.uniform(-0.2, 0.3), heading, gap=-0.05)
    crossing = street.zebra if street.zebra is not None else (rng.uniform(9, 30) if feature == "crowd" else None)
    if crossing is not None:
        for _ in range(rng.choice([1, 2, 3]) + 3 * (feature == "crowd")):
            heading = rng.choice([-1, 1]) * math.pi / 2 + rng.gauss(0, 0.15)
            layout.vehicle("person", rng.uniform(street.left, street.right), crossing + rng.uniform(0.3, 2.9), heading, gap=0.0)
        if rng.random() < 0.3:
            layout.vehicle("rider", rng.uniform(street.left, street.right), crossing + 1.5, rng.choice([-1, 1]) * math.pi / 2)


def _groups(layout: _Layout) -> None:
    rng, street = layout.rng, layout.street
    for side, sign in ((0, -1), (1, 1)):
        edge, walk = (street.left, street.right)[side], street.walk[side]
        if rng.random() < 0.22:
            z = rng.uniform(40, 60)
            layout.group("person", [Place(edge + sign * rng.uniform(0.3, walk), z + rng.uniform(-2, 2), rng.choice([0, math.pi])) for _ in range(rng.randint(5, 9))])
        if rng.random() < 0.2 and street.parking[side] and street.crossing is None:
            x = edge - sign * street.parking[side] / 2
            layout.group("car", [Place(x, 84 + 6.2 * k, 0.0) for k in range(4)])
        if rng.random() < 0.2:
            z, x = rng.uniform(9, 28), edge + sign * 0.9
            layout.group("bicycle", [Place(x, z + 0.55 * k, sign * rng.uniform(1.2, 1.7)) for k in range(rng.randint(4, 7))])


def _furniture(layout: _Layout) -> None:
    rng, street = layout.rng, layout.street
    crossing = street.crossing
    for side, sign in ((0, -1), (1, 1)):
        edge, walk = (street.left, street.right)[side], street.walk[side]
        kerb = edge + sign * 0.45
        if street.style == "boulevard" or rng.random() < {"old": 0.15, "suburb": 0.45, "works": 0.3}[street.style]:
            z, step, tall = rng.uniform(6, 16), rng.uniform(9, 16), rng.uniform(5.5, 10)
            while z < 95:
                if crossing is None or not crossing - 3 < z < crossing + street.crossing_width + 3:
                    layout.add_static(furniture.draw_tree, kerb + sign * 0.3, z, 0.35, tall, tall * rng.uniform(0.8, 1.15), crown=0.3 * tall)
                z += step * rng.uniform(0.8, 1.3)
        z, step = rng.uniform(7, 22), rng.uniform(22, 34)
        while z < 110 and rng.random() < 0.95:
            layout.add_static(furniture.draw_lamp, kerb, z, 0.1, 7.0)
            z += step
        for _ in range(rng.choice([0, 1, 1, 2])):
            layout.add_static(furniture.draw_sign, kerb, rng.uniform(10, 42), 0.1, 2.6)
        for _ in range(rng.choice([0, 0, 1, 2])):
            layout.add_static(furniture.draw_static, kerb + sign * rng.uniform(0, walk - 0.9), rng.uniform(6, 26), 0.4, 0.9)
        for kind, chance in (("bicycle", 0.4), ("motorcycle", 0.12)):  # left at the kerb or against a wall
            if rng.random() < chance:
                x = edge + sign * rng.choice([0.8, walk - 0.5])
                heading = rng.choice([0.0, math.pi]) + rng.choice([rng.gauss(0, 0.3), rng.uniform(0.8, 2.0)])
                layout.vehicle(kind, x, rng.uniform(6, 18), heading)
        if rng.random() < 0.2:
            layout.add_static(furniture.draw_post, kerb, rng.uniform(8, 30), 0.1, 5.0, rng.uniform(4, 8))
        if street.style == "works" and rng.random() < 0.3:
            seed, z0 = rng.getrandbits(64), rng.uniform(3, 20)
            z1 = z0 + rng.uniform(10, 40)

            def rail(canvas: Canvas, seed=seed, x=edge + sign * 0.1, z0=z0, z1=z1) -> None:
                furniture.draw_barrier(canvas, random.Random(seed), "guard rail", x, z0, z1, 0.8)

            x = edge + sign * 0.1
            layout.things.append(Thing((x - 0.05, x + 0.05, z0, z1), 0.8, rail))
    stop = crossing - 2.0 if crossing is not None else (street.zebra - 0.6 if street.zebra is not None else None)
    if stop is not None and (crossing is not None or rng.random() < 0.5) and rng.random() < 0.85:
        layout.add_static(furniture.draw_traffic_light, street.right + 0.5, stop, 0.1, 3.4)
        layout.add_static(furniture.draw_traffic_light, street.left - 0.5, stop, 0.1, 3.4)
        if crossing is not None:
            layout.add_static(furniture.draw_traffic_light, street.right + 0.6, crossing + street.crossing_width + 1.5, 0.1, 3.4)
