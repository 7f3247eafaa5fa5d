"""What stands beside the road: trees and hedges, poles with lamps, signs and lights, fences, walls, and odd things."""

from __future__ import annotations

import math
import random

import numpy as np

from .camera import Place
from .canvas import SUPERSAMPLE, Canvas, Mesh
from .foliage import leaf_ramp, stamps

__all__ = [
    "draw_barrier", "draw_bush", "draw_lamp", "draw_post", "draw_sign", "draw_static", "draw_traffic_light", "draw_tree",
]  # fmt: skip

_ZERO = Place(0.0, 0.0)
LEAVES = [(74, 104, 44), (92, 118, 54), (62, 92, 46), (108, 122, 58), (84, 110, 70), (140, 124, 56)]
METAL = [(120, 124, 128), (92, 96, 98), (66, 70, 72), (150, 152, 150), (58, 76, 66)]


def draw_tree(canvas: Canvas, rng: random.Random, x: float, z: float, height: float) -> None:
    """A tree: a branching trunk below a crown."""
    if not canvas.camera.sees(x, z, 0.4 * height):
        return
    leaf, kind = rng.choice(LEAVES), rng.choice(["round", "round", "round", "oval", "oval", "fir"])
    bark = rng.choice([(84, 68, 54), (100, 86, 72), (70, 60, 52)])
    base = height * (rng.uniform(0.26, 0.38) if kind != "fir" else 0.12)
    width = height * rng.uniform(0.55, 0.75) * (0.75 if kind == "fir" else 1.0)
    variant, crown = rng.randrange(16), height - base
    trunk = 0.04 * height
    mesh = Mesh()
    mesh.poly([(-trunk * 0.6, 0, 0), (trunk * 0.6, 0, 0), (trunk * 0.4, base * 1.2, 0), (-trunk * 0.4, base * 1.2, 0)], bark)
    mesh.poly([(-trunk * 0.6, 0, 0), (-trunk * 0.2, 0, 0), (-trunk * 0.1, base * 1.2, 0), (-trunk * 0.4, base * 1.2, 0)], bark, 1.25, solid=False)
    if kind != "fir":
        for a in (-0.26, 0.22):
            mesh.line([(0, base * 0.85, 0), (a * width, base + 0.35 * crown, 0)], trunk * 0.5, bark, 0.9)
    canvas.begin("vegetation")
    mesh.draw(canvas, Place(x, z))
    _foliage(canvas, x, z, (width, crown), base, kind, variant, leaf)
    canvas.end()


def draw_bush(canvas: Canvas, rng: random.Random, x: float, z: float, width: float, height: float) -> None:
    """A bush or a piece of hedge."""
    if not canvas.camera.sees(x, z, 0.5 * width):
        return
    leaf, variant = rng.choice(LEAVES), rng.randrange(16)
    canvas.begin("vegetation")
    _foliage(canvas, x, z, (width, height), 0.0, "bush", variant, leaf)
    canvas.end()


def _foliage(canvas: Canvas, x: float, z: float, size: tuple, base: float, kind: str, variant: int, leaf) -> None:
    corners = np.array([[x - size[0] / 2, base + size[1], z], [x + size[0] / 2, base, z]])
    pixels, _ = canvas.camera.project(corners)
    (x0, y0), (x1, y1) = pixels
    choice = stamps(mirrored=canvas.light.sun[0] > 0)[kind]
    levels = choice[variant % len(choice)]
    level = 0
    while level + 1 < len(levels) and levels[level + 1].shape[0] >= (x1 - x0) * SUPERSAMPLE:
        level += 1
    canvas.stamp(levels[level], (x0, y0), (x1 - x0, y1 - y0), leaf_ramp(leaf, canvas.light, z))


def draw_post(canvas: Canvas, rng: random.Random, x: float, z: float, height: float, width: float = 0.1) -> None:
    """A bare pole."""
    mesh = Mesh()
    _pole(mesh, height, width, rng.choice(METAL))
    mesh.draw(canvas, Place(x, z), "pole")


def _pole(mesh: Mesh, height: float, width: float, color) -> None:
    mesh.poly([(-width / 2, 0, 0), (width / 2, 0, 0), (width / 2, height, 0), (-width / 2, height, 0)], color)
    mesh.poly([(-width / 2, 0, 0), (-width / 6, 0, 0), (-width / 6, height, 0), (-width / 2, height, 0)], color, 1.3, solid=False)


def draw_lamp(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
    """A street lamp with an arm over the road."""
    height, arm = rng.uniform(6, 9), (1.8 if x < 0 else -1.8)
    color = rng.choice(METAL)
    mesh = Mesh()
    _pole(mesh, height, 0.17, color)
    mesh.line([(0, height, 0), (arm * 0.5, height + 0.35, 0), (arm, height + 0.35, 0)], 0.1, color)
    lit = canvas.light.dusk > 0.3
    mesh.poly([(arm * 0.8, height + 0.22, 0), (arm * 1.25, height + 0.22, 0), (arm * 1.2, height + 0.48, 0), (arm * 0.85, height + 0.48, 0)],
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
                mesh.line([(-0.12, y - 0.14, -0.06), (-0.12, y + 0.14, -0.06)], 0.08, ink, solid=False)
                mesh.line([(0.12, y - 0.14, -0.06), (0.12, y + 0.14, -0.06)], 0.12, ink, solid=False)
            else:
                mesh.line([(-0.2, y - 0.14, -0.06), (0.2, y + 0.14, -0.06)], 0.1, white, solid=False)
        elif kind in ("warn", "yield"):
            flip = 1 if kind == "warn" else -1
            outer = [(-r, y - 0.55 * r * flip, -0.05), (r, y - 0.55 * r * flip, -0.05), (0, y + 1.05 * r * flip, -0.05)]
            inner = [(px * 0.62, y + (py - y) * 0.62, pz) for px, py, pz in outer]
            mesh.poly(outer, red)
            mesh.poly(inner, white, solid=False)
            if flip > 0:
                mesh.line([(0, y - 0.1, -0.06), (0, y + 0.18, -0.06)], 0.08, ink, solid=False)
        elif kind == "info":
            mesh.poly([(-r, y - r, -0.05), (r, y - r, -0.05), (r, y + r, -0.05), (-r, y + r, -0.05)], blue)
            mesh.poly([(-r * 0.6, y - r * 0.6, -0.05), (r * 0.6, y - r * 0.6, -0.05), (0, y + r * 0.7, -0.05)], white, solid=False)
        else:
            tone = rng.choice([(236, 204, 60), blue, white])
            mesh.poly([(-1.0, y - 0.28, -0.05), (0.8, y - 0.28, -0.05), (1.05, y, -0.05), (0.8, y + 0.28, -0.05), (-1.0, y + 0.28, -0.05)], tone)
            mesh.line([(-0.75, y, -0.06), (0.5, y, -0.06)], 0.14, ink if tone != blue else white, solid=False)
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
        box.poly([(dx - 0.2, top - 1.05, -0.1), (dx + 0.2, top - 1.05, -0.1), (dx + 0.2, top, -0.1), (dx - 0.2, top, -0.1)], (26, 28, 28))
        tones = [(255, 46, 40), (255, 190, 40), (60, 240, 150)]
        for k, tone in enumerate(tones if not back else []):
            on = k == lamp
            box.ball((dx, top - 0.2 - 0.32 * k, -0.12), 0.13, 0.13, tone if on else tuple(c * 0.28 for c in tone), 1.3 if on else 1.0, solid=False)
        box.draw(canvas, Place(x, z), "traffic light")


def draw_barrier(canvas: Canvas, rng: random.Random, kind: str, x: float, z0: float, z1: float, height: float) -> None:
    """A wall, a fence or a guard rail along the street at ``x``."""
    side = -1.0 if x < 0 else 1.0
    face = canvas.light.shade(-side, 0, 0)
    mesh = Mesh()
    z0 = max(z0, 0.4)
    steps = [z0 + (z1 - z0) * k / 4 for k in range(5)]
    if kind == "wall":
        tone = rng.choice([(160, 154, 146), (150, 104, 84), (186, 180, 168), (128, 128, 130), (170, 140, 116)])
        for a, b in reversed(list(zip(steps, steps[1:], strict=False))):
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
        mesh.poly([(x, height, z0), (x, height, z1), (x, height + 0.12, z1), (x, height + 0.12, z0)], tone, face * 1.12)
        mesh.poly([(x, 0, z0), (x + side * 0.3, 0, z0), (x + side * 0.3, height + 0.12, z0), (x, height + 0.12, z0)], tone, canvas.light.shade(0, 0, -1))
        mesh.draw(canvas, _ZERO, "wall")
        return
    if kind == "guard rail":
        for y in (0.5, 0.66):
            mesh.poly([(x, y, z0), (x, y, z1), (x, y + 0.13, z1), (x, y + 0.13, z0)], (172, 174, 176), face)
        mesh.poly([(x, 0.62, z0), (x, 0.62, z1), (x, 0.67, z1), (x, 0.67, z0)], (112, 114, 116), face)
        z = z0
        while z < z1:
            mesh.line([(x, 0, z), (x, 0.6, z)], 0.1, (130, 132, 134))
            z += 2.5
        mesh.draw(canvas, _ZERO, "guard rail")
        return
    # A fence is labelled as a whole, gaps included, as annotators do; the gaps show what stood there before.
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
        mesh.poly([(x, y, z0), (x, y, z1), (x, y + 0.07, z1), (x, y + 0.07, z0)], tone, face, solid=False)
    mesh.draw(canvas, _ZERO)
    canvas.end()


def draw_static(canvas: Canvas, rng: random.Random, x: float, z: float, kind: str | None = None) -> None:
    """Things that no class counts: bins, boxes and benches ("static"), prams and suitcases ("dynamic")."""
    kind = kind or rng.choice(["bin", "box", "bench", "pram", "bollard"])
    mesh = Mesh()
    tone = rng.choice([(58, 70, 62), (84, 86, 90), (200, 110, 40), (40, 70, 120), (120, 84, 56)])
    if kind == "bin":
        mesh.poly([(-0.3, 0.1, 0), (0.3, 0.1, 0), (0.34, 1.0, 0), (-0.34, 1.0, 0)], tone)
        mesh.poly([(-0.37, 1.0, 0), (0.37, 1.0, 0), (0.3, 1.12, 0), (-0.3, 1.12, 0)], tone, 1.2)
        mesh.line([(-0.3, 0.08, 0), (0.3, 0.08, 0)], 0.14, (26, 26, 28))
    elif kind == "box":
        mesh.poly([(-0.45, 0, 0), (0.45, 0, 0), (0.45, 1.25, 0), (-0.45, 1.25, 0)], tone)
        mesh.poly([(-0.02, 0.05, 0), (0.02, 0.05, 0), (0.02, 1.2, 0), (-0.02, 1.2, 0)], tone, 0.7, solid=False)
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
