"""Houses along the street: fronts with windows, doors and shops, roofs, and what closes the view
at the far end.
"""

from __future__ import annotations

import random

from .camera import Place
from .canvas import Canvas, Mesh

__all__ = ["draw_building", "draw_skyline"]

_ZERO = Place(0.0, 0.0)

WALLS = {
    "old": [(214, 188, 148), (196, 150, 116), (226, 214, 190), (172, 104, 82), (204, 176, 162),
    (186, 190, 178), (150, 92, 74), (232, 206, 150)],
    "boulevard": [(206, 198, 184), (188, 180, 170), (164, 160, 156), (214, 192, 160), (150, 110,
    92), (190, 196, 200)],
    "suburb": [(232, 228, 218), (222, 206, 178), (178, 110, 88), (206, 212, 206), (190, 150, 130),
    (238, 222, 190)],
    "works": [(168, 170, 172), (140, 146, 152), (186, 176, 160), (150, 100, 84), (120, 132, 140),
    (200, 200, 196)],
}  # fmt: skip
ROOFS = [(134, 70, 54), (112, 62, 50), (78, 76, 80), (92, 84, 80), (150, 88, 64)]
SHOPS = [
    (150, 36, 40),
    (34, 72, 112),
    (40, 92, 64),
    (46, 44, 48),
    (196, 140, 50),
    (110, 60, 104),
    (220, 216, 206),
]
PANE = (58, 70, 84)


def _quads(x: float, cells: list[tuple[float, float, float, float]]) -> list[tuple]:
    """Rectangles (z0, z1, y0, y1) on the plane at ``x``."""
    return [
        p for z0, z1, y0, y1 in cells for p in ((x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0))
    ]


def _across(z: float, cells: list[tuple[float, float, float, float]]) -> list[tuple]:
    """Rectangles (x0, x1, y0, y1) on the plane at ``z``."""
    return [
        p for x0, x1, y0, y1 in cells for p in ((x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z))
    ]


def draw_building(
    canvas: Canvas, rng: random.Random, style: str, front: float, z0: float, z1: float
) -> None:
    """A house from z0 to z1 that faces the road, with its front at x = ``front``."""
    light = canvas.light
    side = -1.0 if front < 0 else 1.0
    floors = {
        "old": rng.randint(3, 5),
        "boulevard": rng.randint(4, 7),
        "suburb": rng.randint(1, 2),
        "works": rng.randint(1, 3),
    }[style]
    storey = rng.uniform(2.9, 3.5) if style != "works" else rng.uniform(3.4, 4.4)
    ground = storey * (1.2 if style in ("old", "boulevard") else 1.0)
    height = ground + storey * (floors - 1) + 0.5
    fade = rng.uniform(0.9, 1.04)
    wall = tuple(c * fade for c in rng.choice(WALLS[style]))
    face, end = light.shade(-side, 0, 0), light.shade(0, 0, -1)
    depth = 11.0
    back = front + side * depth
    mesh = Mesh()
    near = max(z0, 0.4)
    pitched = style == "suburb" or (style == "old" and rng.random() < 0.75) or rng.random() < 0.2
    if pitched:
        _roof(mesh, rng, light, side, front, near, z1, height, depth, wall, end)
    else:
        mesh.poly(
            [
                (front, height, near),
                (back, height, near),
                (back, height + 0.5, near),
                (front, height + 0.5, near),
            ],
            wall,
            end * 0.9,
        )
    mesh.poly(
        [(front, 0, near), (back, 0, near), (back, height, near), (front, height, near)], wall, end
    )
    # The front, in strips along the street so that its far part fades into the air.
    strips = max(1, int((z1 - near) / 5))
    for k in reversed(range(strips)):
        a, b = near + (z1 - near) * k / strips, near + (z1 - near) * (k + 1) / strips
        mesh.poly(
            [(front, 0, a), (front, 0, b), (front, height, b), (front, height, a)], wall, face
        )
    if z0 > 2:
        _end_windows(mesh, rng, front, side, z0, ground, storey, floors, end)
    _front(mesh, rng, light, style, front, side, z0, z1, ground, storey, floors, wall, face)
    trim = tuple(min(255, c * 1.12) for c in wall)
    mesh.poly(_quads(front - side * 0.12, [(near, z1, height - 0.35, height + 0.1)]), trim, face)
    mesh.draw(canvas, _ZERO, "building")


def _roof(mesh: Mesh, rng, light, side, front, z0, z1, height, depth, wall, end) -> None:
    ridge, rise = front + side * depth / 2, rng.uniform(2.2, 4.2)
    tile = rng.choice(ROOFS)
    mesh.poly(
        [(front, height, z0), (front + side * depth, height, z0), (ridge, height + rise, z0)],
        wall,
        end,
    )
    mesh.poly([(front - side * 0.3, height, z0), (front - side * 0.3, height, z1), (ridge,
    height + rise, z1), (ridge, height + rise, z0)],
              tile, light.shade(-side * 0.6, 0.8, 0.0))  # fmt: skip
    for _ in range(rng.randint(0, 2)):
        z = rng.uniform(z0 + 1, max(z1 - 1.5, z0 + 1.2))
        x = ridge + side * rng.uniform(-0.6, 0.2)
        mesh.poly(
            _across(z, [(x - 0.4, x + 0.4, height + rise - 0.8, height + rise + 1.0)]),
            (140, 84, 68),
            end,
        )
        mesh.poly(
            _quads(x - side * 0.4, [(z, z + 0.7, height + rise - 0.8, height + rise + 1.0)]),
            (128, 76, 62),
            0.8,
        )


def _end_windows(mesh: Mesh, rng, front, side, z, ground, storey, floors, shade) -> None:
    if rng.random() < 0.45:
        return
    cells = [
        (*sorted((front + side * u, front + side * (u + 1.1))), y + 0.9, y + 2.3)
        for y in [ground + storey * k for k in range(floors - 1)] or [0.0]
        for u in (2.0, 5.0, 8.0)
    ]
    mesh.poly(_across(z, cells), PANE, shade, solid=False, count=len(cells))


def _front(
    mesh: Mesh, rng, light, style, front, side, z0, z1, ground, storey, floors, wall, face
) -> None:
    """Windows, doors, shops, ledges; a hand's breadth before the wall."""
    x = front - side * 0.03
    bay = rng.uniform(2.2, 3.2)
    bays = max(1, int((z1 - z0 - 0.8) / bay))
    bay = (z1 - z0 - 0.8) / bays
    wide, tall = bay * rng.uniform(0.4, 0.62), storey * rng.uniform(0.45, 0.6)
    frame = rng.choice([(238, 236, 230), (238, 236, 230), (96, 84, 72), (60, 60, 62)])
    sky = tuple(0.55 * p + 0.4 * h for p, h in zip(PANE, light.haze, strict=True))
    panes, frames, gleams, lit, sills = [], [], [], [], []
    starts = [z for z in (z0 + 0.4 + bay * k + (bay - wide) / 2 for k in range(bays)) if z > 0.6]
    for floor in range(1, floors):
        y = ground + storey * (floor - 1) + storey * 0.28
        for z in starts:
            frames.append((z - 0.12, z + wide + 0.12, y - 0.1, y + tall + 0.12))
            glow = rng.random() < 0.45 * light.dusk
            (lit if glow else panes).append((z, z + wide, y, y + tall))
            if not glow and rng.random() < 0.55:
                gleams.append((z, z + wide * 0.48, y + tall * rng.uniform(0.3, 0.6), y + tall))
            sills.append((z - 0.2, z + wide + 0.2, y - 0.22, y - 0.08))
    shops = style in ("old", "boulevard") and rng.random() < 0.7
    awnings = []
    for k, z in enumerate(starts):
        if shops:
            panes.append(
                (z - 0.3 * (bay - wide), z + wide + 0.3 * (bay - wide), 0.45, ground - 0.95)
            )
            gleams.append((z - 0.2 * (bay - wide), z + wide * 0.5, 1.3, ground - 1.05))
        elif k % 3 == 1:
            mesh.poly(
                _quads(x, [(z, z + 1.15, 0.0, 2.3)]), rng.choice(SHOPS), face * 0.8, solid=False
            )
        elif style != "works" or rng.random() < 0.5:
            frames.append((z - 0.12, z + wide + 0.12, 0.9, min(ground - 0.5, 0.9 + tall)))
            panes.append((z, z + wide, 1.0, min(ground - 0.6, 0.8 + tall)))
    if style == "works" and rng.random() < 0.6:
        for z in starts[::2]:
            mesh.poly(
                _quads(x, [(z - 0.3, z + wide + 0.5, 0.0, 3.0)]),
                rng.choice(SHOPS),
                face * 0.9,
                solid=False,
            )
    ledge = tuple(c * 0.84 for c in wall)
    lines = [
        (max(z0, 0.4), z1, ground + storey * k - 0.12, ground + storey * k + 0.06)
        for k in range(floors)
    ]
    mesh.poly(_quads(x, lines), ledge, face, solid=False, count=len(lines))
    for cells, color, shade in (
        (frames, frame, face), (sills, tuple(c * 0.75 for c in wall), face), (panes, PANE,
        0.4 + 0.5 * face), (gleams, sky, 1.0), (lit, (250, 206, 126), 1.0),
    ):  # fmt: skip
        if cells:
            mesh.poly(_quads(x, cells), color, shade, solid=False, count=len(cells))
    if shops:
        sign = rng.choice(SHOPS)
        a, b = max(z0 + 0.3, 0.5), z1 - 0.3
        mesh.poly(
            _quads(x - side * 0.1, [(a, b, ground - 0.85, ground - 0.2)]), sign, face, solid=False
        )
        letters, z = [], a + 0.8
        while z < b - 1.2 and len(letters) < 14:
            if rng.random() < 0.8:
                letters.append((z, z + 0.32, ground - 0.68, ground - 0.68 + rng.uniform(0.2, 0.34)))
            z += 0.48
        if letters:
            mesh.poly(
                _quads(x - side * 0.12, letters),
                (236, 232, 220),
                face,
                solid=False,
                count=len(letters),
            )
        if rng.random() < 0.5:
            awnings = [(z - 0.3, z + wide + 0.3) for z in starts[:: rng.choice([1, 2])]]
    cloth = rng.choice(SHOPS)
    for z_a, z_b in awnings:
        out = x - side * 1.1
        mesh.poly(
            [
                (x, ground - 0.9, z_a),
                (x, ground - 0.9, z_b),
                (out, ground - 1.35, z_b),
                (out, ground - 1.35, z_a),
            ],
            cloth,
            light.shade(-side * 0.4, 0.9, 0),
        )
        mesh.poly(
            [
                (out, ground - 1.35, z_a),
                (out, ground - 1.35, z_b),
                (out, ground - 1.6, z_b),
                (out, ground - 1.6, z_a),
            ],
            tuple(0.5 * c + 110 for c in cloth),
            face,
        )
    if style == "boulevard" and floors > 2 and rng.random() < 0.4:
        for floor in range(1, floors):
            y = ground + storey * (floor - 1)
            cells = [(z - 0.3, z + wide + 0.3, y, y + 0.75) for z in starts[1::2]]
            if cells:
                mesh.poly(
                    _quads(x - side * 0.7, cells),
                    (120, 122, 126),
                    face * 0.95,
                    solid=False,
                    count=len(cells),
                )


def draw_skyline(canvas: Canvas, rng: random.Random, x0: float, x1: float, z: float) -> None:
    """Blocks and perhaps a steeple across the end of the street."""
    mesh = Mesh()
    shade = canvas.light.shade(0, 0, -1)
    x = x0
    while x < x1:
        width, height = rng.uniform(8, 20), rng.uniform(7, 22)
        wall = rng.choice(WALLS[rng.choice(["old", "boulevard"])])
        mesh.poly(_across(z, [(x, x + width, -0.2, height)]), wall, shade)
        cells = [
            (x + u * width / 5 + 0.6, x + u * width / 5 + width / 5 - 0.6, y, y + 1.6)
            for u in range(5)
            for y in [1.5 + 3.4 * k for k in range(int(height / 3.4))]
        ]
        if cells:
            mesh.poly(_across(z - 0.1, cells), PANE, shade, solid=False, count=len(cells))
        if rng.random() < 0.5:
            roof = rng.choice(ROOFS)
            mesh.poly(
                [
                    (x - 0.4, height, z),
                    (x + width + 0.4, height, z),
                    (x + width * 0.85, height + 3, z),
                    (x + width * 0.15, height + 3, z),
                ],
                roof,
                0.9,
            )
        x += width + rng.choice([0.0, 0.0, -1.0])
    if rng.random() < 0.3:
        x, h = rng.uniform(x0 * 0.4, x1 * 0.4), rng.uniform(26, 38)
        mesh.poly(_across(z, [(x - 3, x + 3, 0, h * 0.7)]), (176, 160, 140), shade)
        mesh.poly([(x - 3.3, h * 0.7, z), (x + 3.3, h * 0.7, z), (x, h, z)], (74, 96, 92), 0.9)
    mesh.draw(canvas, _ZERO, "building")
