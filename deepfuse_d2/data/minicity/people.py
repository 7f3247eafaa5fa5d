"""People on foot and riding: jointed figures made of thick lines and small faces."""

from __future__ import annotations

import math
import random

from .camera import Light, Place
from .canvas import Mesh
from .vehicles import Size

__all__ = ["build_person", "build_rider", "person_size"]

SKINS = [(236, 194, 166), (224, 176, 142), (198, 146, 108), (150, 102, 72), (98, 66, 48)]
HAIRS = [(34, 26, 22), (62, 42, 28), (112, 76, 44), (178, 142, 84), (150, 148, 146), (96, 40, 26)]
TOPS = [
    (186, 38, 40), (36, 62, 128), (24, 26, 30), (232, 230, 224), (64, 118, 78), (222, 176, 60),
    (120, 66, 128),
    (74, 130, 176), (204, 108, 56), (112, 112, 116), (226, 140, 160), (58, 66, 52), (160, 120,
    82), (36, 140, 140),
]  # fmt: skip
LEGS = [
    (30, 34, 48), (44, 62, 98), (24, 24, 26), (92, 84, 72), (70, 72, 76), (156, 136, 104), (50,
    46, 42), (96, 120, 150),
]  # fmt: skip
SHOES = [(24, 22, 22), (70, 48, 32), (216, 214, 210), (150, 40, 40)]


def _limb(
    mesh: Mesh, points: list[tuple], widths: tuple[float, float], color, shade: float
) -> None:
    mesh.line(points[:2], widths[0], color, shade)
    mesh.line(points[1:], widths[1], color, shade)


def _trunk(
    mesh: Mesh, low: tuple, high: tuple, halves: tuple[float, float], depth: float, color, shade
) -> None:
    """A torso between hip and shoulder centres: two crossed slabs, wide from every side."""
    (x0, y0, z0), (x1, y1, z1), (h0, h1) = low, high, halves
    mesh.poly(
        [(x0, y0, z0 - depth), (x0, y0, z0 + depth), (x1, y1, z1 + depth), (x1, y1, z1 - depth)],
        color,
        shade,
    )
    mesh.poly(
        [(x0 - h0, y0, z0), (x0 + h0, y0, z0), (x1 + h1, y1 - 0.02, z1), (x1 - h1, y1 - 0.02, z1)],
        color,
        shade,
    )
    mesh.line(
        [(x1 - h1 * 0.75, y1 - 0.03, z1), (x1 + h1 * 0.75, y1 - 0.03, z1)], 0.13, color, shade
    )


def _head(
    mesh: Mesh, at: tuple, size: float, heading: float, rng: random.Random, skin: tuple, helmet=None
) -> None:
    """A head that shows its face towards ``heading``: hair behind, skin before."""
    x, y, z = at
    hair = rng.choice(HAIRS)
    away = math.cos(heading)  # 1: seen from behind
    long, hat = rng.random() < 0.4, rng.random() < 0.18
    mesh.line([(x, y - size, z), (x, y - 1.6 * size, z)], size, skin, 0.85)
    if away > 0.3:
        if long:
            mesh.ball((x, y - 0.5 * size, z), size * 0.92, size * 1.25, hair, 0.9)
        mesh.ball(at, size * 0.86, size * 1.12, hair)
    else:
        if long:
            mesh.ball((x, y - 0.35 * size, z), size * 1.02, size * 1.25, hair, 0.9)
        mesh.ball((x, y + 0.12 * size, z - 0.01), size * 0.92, size * 1.12, hair)
        forward = 0.35 if away > -0.5 else 0.1
        mesh.ball((x, y - 0.12 * size, z + forward * size), size * 0.78, size * 0.98, skin, 1.05)
    if helmet is not None:
        mesh.ball((x, y + 0.3 * size, z), size * 1.12, size * 0.95, helmet)
    elif hat:
        mesh.ball((x, y + 0.55 * size, z), size * 0.98, size * 0.7, rng.choice(TOPS))


def person_size(rng: random.Random) -> Size:
    """Now and then a child."""
    return Size(0.5, rng.uniform(1.05, 1.4) if rng.random() < 0.14 else rng.uniform(1.6, 1.9), 0.55)


def build_person(rng: random.Random, place: Place, light: Light, size: Size, fine: bool) -> Mesh:
    """A walking or standing person."""
    tall, mesh = size.height, Mesh()
    top, legs, shoes, skin = (
        rng.choice(TOPS),
        rng.choice(LEGS),
        rng.choice(SHOES),
        rng.choice(SKINS),
    )
    stand = rng.random() < 0.3
    swing = 0.08 if stand else rng.uniform(0.28, 0.5)
    phase = rng.choice([-1.0, 1.0]) * (1.0 if stand else rng.uniform(0.4, 1.0))
    broad = rng.uniform(0.92, 1.12)
    coat, skirt, bag = rng.random() < 0.3, rng.random() < 0.16, rng.random()
    sleeves = rng.random() < 0.7
    pose = rng.random()
    # The far arm and leg come first: the side whose x axis points away from the camera.
    far = 1.0 if math.sin(place.heading) < 0 else -1.0
    lit = light.shade(0.0, 0.2, -1.0) * 0.5 + 0.5

    def leg(side: float, shade: float) -> None:
        angle = swing * phase * side
        hip = (0.055 * side * tall, 0.52 * tall, 0.0)
        knee = (
            0.052 * side * tall,
            0.52 * tall - 0.245 * tall * math.cos(angle),
            0.245 * tall * math.sin(angle),
        )
        bend = angle - (0.35 * abs(angle) / 0.5 if angle < 0 else 0.05)
        ankle = (
            0.05 * side * tall,
            max(0.045 * tall, knee[1] - 0.245 * tall * math.cos(bend)),
            knee[2] + 0.245 * tall * math.sin(bend),
        )
        tone = skin if skirt else legs
        _limb(mesh, [hip, knee, ankle], (0.098 * tall * broad, 0.075 * tall), tone, shade)
        toe = (ankle[0], max(0.02 * tall, ankle[1] - 0.03 * tall), ankle[2] + 0.09 * tall)
        heel = (ankle[0], toe[1], ankle[2] - 0.02 * tall)
        mesh.line([heel, toe], 0.05 * tall, shoes, shade)

    def arm(side: float, shade: float) -> None:
        angle = -swing * phase * side * 0.8
        shoulder = (0.118 * side * tall * broad, 0.80 * tall, 0.0)
        elbow = (
            0.145 * side * tall * broad,
            0.80 * tall - 0.165 * tall * math.cos(angle),
            0.165 * tall * math.sin(angle),
        )
        bend = angle + (1.9 if pose < 0.12 and side == far else 0.25)
        wrist = (
            0.14 * side * tall * broad,
            elbow[1] - 0.15 * tall * math.cos(bend),
            elbow[2] + 0.15 * tall * math.sin(bend),
        )
        _limb(mesh, [shoulder, elbow, wrist], (0.066 * tall, 0.054 * tall), top, shade)
        if not sleeves:
            mesh.line([elbow, wrist], 0.05 * tall, skin, shade)
        mesh.ball(wrist, 0.026 * tall, 0.03 * tall, skin, shade)
        if bag < 0.2 and side != far:
            x, y, z = wrist
            mesh.poly(
                [(x, y, z - 0.1), (x, y, z + 0.1), (x, y - 0.3, z + 0.13), (x, y - 0.3, z - 0.13)],
                (150, 96, 60),
            )
            mesh.line([(x, y, z), (x, y - 0.26, z)], 0.12, (150, 96, 60), 0.9)

    arm(far, 0.72 * lit)
    leg(far, 0.74 * lit)
    leg(-far, lit)
    hem = 0.3 if coat else (0.33 if skirt else 0.5)
    if coat or skirt:
        _trunk(
            mesh,
            (0, hem * tall, 0),
            (0, 0.6 * tall, 0),
            (0.115 * tall * broad, 0.095 * tall * broad),
            0.08 * tall,
            top if coat else legs,
            0.9 * lit,
        )
    _trunk(
        mesh,
        (0, 0.49 * tall, 0),
        (0, 0.83 * tall, 0),
        (0.085 * tall * broad, 0.115 * tall * broad),
        0.065 * tall * broad,
        top,
        lit,
    )
    if rng.random() < 0.35:
        accent = rng.choice(TOPS)
        mesh.line([(0, 0.66 * tall, 0), (0, 0.60 * tall, 0)], 0.12 * tall, accent, lit, solid=False)
    if bag > 0.8:  # a rucksack on the back
        tone = rng.choice(TOPS)
        mesh.line(
            [(0, 0.76 * tall, -0.1 * tall), (0, 0.6 * tall, -0.1 * tall)],
            0.13 * tall,
            tone,
            0.8 * lit,
        )
        if math.cos(place.heading) > 0.2:
            mesh.poly(
                [
                    (-0.08 * tall, 0.58 * tall, -0.13 * tall),
                    (0.08 * tall, 0.58 * tall, -0.13 * tall),
                    (0.07 * tall, 0.79 * tall, -0.13 * tall),
                    (-0.07 * tall, 0.79 * tall, -0.13 * tall),
                ],
                tone,
                lit,
            )
    arm(-far, 0.93 * lit)
    _head(mesh, (0.0, 0.925 * tall, 0.015), 0.074 * tall, place.heading, rng, skin)
    return mesh


def build_rider(rng: random.Random, place: Place, light: Light, *, motor: bool) -> Mesh:
    """Someone sitting on a bicycle or motorcycle that stands at the same place."""
    mesh = Mesh()
    top, legs, shoes = rng.choice(TOPS), rng.choice(LEGS), rng.choice(SHOES)
    if motor and rng.random() < 0.6:
        top = rng.choice([(26, 27, 30), (60, 62, 66), (150, 30, 34)])
    lean = rng.uniform(0.12, 0.5)
    hip = (0.0, 0.86 if motor else 0.98, -0.18)
    shoulder = (0.0, hip[1] + 0.54 * math.cos(lean), hip[2] + 0.54 * math.sin(lean))
    grip = (0.28, 1.02, 0.42) if motor else (0.24, 1.06, 0.38)
    far = 1.0 if math.sin(place.heading) < 0 else -1.0
    stroke = rng.uniform(0, 2 * math.pi)
    lit = light.shade(0.0, 0.2, -1.0) * 0.5 + 0.5

    def limbs(side: float, shade: float) -> None:
        turn = stroke + (0.0 if side > 0 else math.pi)
        if motor:
            foot, knee = (0.2 * side, 0.32, 0.1), (0.24 * side, 0.78, 0.24)
        else:
            foot = (0.12 * side, 0.3 + 0.16 * math.sin(turn), 0.02 + 0.16 * math.cos(turn))
            knee = (0.12 * side, (hip[1] + foot[1]) / 2 + 0.12, (hip[2] + foot[2]) / 2 + 0.26)
        _limb(mesh, [(0.1 * side, hip[1], hip[2]), knee, foot], (0.17, 0.13), legs, shade)
        mesh.line([foot, (foot[0], foot[1] - 0.02, foot[2] + 0.17)], 0.09, shoes, shade)
        elbow = (
            0.25 * side,
            (shoulder[1] + grip[1]) / 2 - 0.06,
            (shoulder[2] + grip[2]) / 2 - 0.03,
        )
        _limb(
            mesh,
            [
                (0.19 * side, shoulder[1] - 0.04, shoulder[2]),
                elbow,
                (grip[0] * side, grip[1], grip[2]),
            ],
            (0.115, 0.095),
            top,
            shade,
        )

    limbs(far, 0.74 * lit)
    _trunk(mesh, hip, shoulder, (0.15, 0.2), 0.12, top, lit)
    if rng.random() < 0.3:
        z = -0.17
        mesh.line(
            [(0, shoulder[1] - 0.08, shoulder[2] + z), (0, hip[1] + 0.15, hip[2] + z)],
            0.22,
            rng.choice(TOPS),
            0.85 * lit,
        )
    limbs(-far, lit)
    helmet = rng.choice(
        [(230, 230, 228), (28, 29, 32), (190, 40, 40), (50, 90, 160), (230, 190, 60)]
    )
    _head(
        mesh,
        (0.0, shoulder[1] + 0.2, shoulder[2] + 0.06),
        0.135,
        place.heading,
        rng,
        rng.choice(SKINS),
        helmet if motor or rng.random() < 0.5 else None,
    )
    return mesh
