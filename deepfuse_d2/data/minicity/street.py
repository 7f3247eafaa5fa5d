"""The open part of a street: sky, ground, kerbs, markings and shadows, drawn before anything that
stands on it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from .camera import Place
from .canvas import SUPERSAMPLE, Canvas, Mesh

__all__ = ["Street", "draw_ground", "draw_shadows", "draw_sky"]

FAR = 170.0  # metres; the ground ends here
_ZERO = Place(0.0, 0.0)
_REACHES = [0.4, 2.5, 4, 6, 9, 13, 18, 25, 35, 50, 75, 110, FAR]
_WHITE = (222, 222, 216)


@dataclass(frozen=True)
class Street:
    """Cross-section and events of a street, in metres; the camera drives at x = 0.

    Args:
        style: old, boulevard, suburb or works; decides what lines the street.
        left, right: edges of the carriageway, parking lanes included.
        lanes: (centre x, heading) of each lane.
        parking: (left, right), width of the parking lane on either side or 0.
        walk: (left, right), width of the sidewalks.
        verge: (left, right), width of the grass between sidewalk and houses.
        tram: x of a tram track or None.
        crossing: z where a cross street begins, or None; ``crossing_width`` is its width.
        zebra: z of a zebra crossing or None.
    """

    style: str
    left: float
    right: float
    lanes: list[tuple[float, float]]
    parking: tuple[float, float]
    walk: tuple[float, float]
    verge: tuple[float, float]
    tram: float | None
    crossing: float | None
    crossing_width: float
    zebra: float | None

    @property
    def front(self) -> tuple[float, float]:
        """x of the house fronts on the left and on the right."""
        return (
            self.left - self.walk[0] - self.verge[0],
            self.right + self.walk[1] + self.verge[1],
        )


def draw_sky(canvas: Canvas, rng: random.Random) -> None:
    """Fill the picture with sky: a gradient with soft clouds, brighter towards the sun."""
    light = canvas.light
    width = canvas.image.shape[1]
    noise = np.random.default_rng(rng.getrandbits(64))
    rows = np.linspace(0.0, 1.0, 24, dtype=np.float32)[:, None, None]
    clear = rng.uniform(0.0, 1.0) if light.strength > 0.2 else 0.0
    top = np.array([70, 118, 186]) * clear + np.array([176, 184, 194]) * (1 - clear)
    top = top * light.level * (1 - 0.45 * light.dusk)
    sky = top * (1 - rows) ** 1.3 + np.array(light.haze) * (1 - (1 - rows) ** 1.3)
    sky = np.broadcast_to(sky, (24, 48, 3)).astype(np.float32)
    coarse = cv2.resize(noise.random((4, 7), np.float32), (48, 24), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(noise.random((10, 16), np.float32), (48, 24), interpolation=cv2.INTER_CUBIC)
    cover = rng.uniform(0.3, 0.6)
    cloud = np.clip((0.65 * coarse + 0.35 * fine - cover) * 3.2, 0, 1)[..., None] * rng.uniform(
        0.3, 0.95
    )
    tone = np.array(light.haze) * 0.55 + 255 * 0.45 * light.level - 60 * (fine[..., None] - 0.5)
    sky = sky * (1 - cloud) + tone * cloud
    camera = canvas.camera
    far_edge = camera.horizon * camera.height + camera.eye * camera.pixels / FAR  # of the ground
    band = round((far_edge + 1.5) * SUPERSAMPLE)
    picture = cv2.resize(
        np.clip(sky, 0, 255).astype(np.uint8), (width, band), interpolation=cv2.INTER_CUBIC
    )
    canvas.image[:band] = picture
    canvas.begin("sky")
    edge = np.array([[0, 0], [width, 0], [width, band], [0, band]]) / SUPERSAMPLE
    canvas.claim(canvas.fixed(edge))
    canvas.end()


def _ribbon(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> list[tuple]:
    """A strip of ground between x0 and x1, with enough points to follow a bend."""
    steps = [z0, *[z for z in _REACHES if z0 < z < z1], z1]
    return [(x0, y, z) for z in steps] + [(x1, y, z) for z in reversed(steps)]


def _strip(canvas: Canvas, label: str, x0: float, x1: float, z0: float, z1: float, color) -> None:
    # One face per reach, so that far ground takes the colour of the air; half a percent of overlap
    # hides the seams.
    mesh = Mesh()
    steps = [z0, *[z for z in _REACHES if z0 < z < z1], z1]
    for a, b in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        mesh.poly([(x0, 0, a), (x1, 0, a), (x1, 0, b * 1.005), (x0, 0, b * 1.005)], color)
    mesh.draw(canvas, _ZERO, label)


def draw_ground(canvas: Canvas, street: Street, rng: random.Random) -> None:
    """Ground, sidewalks, carriageway, parking lanes, rails and all markings."""
    s = street
    grey = rng.uniform(98, 140)
    warm = rng.uniform(-4, 6)
    asphalt = (grey + warm, grey + 1, grey - warm + 2)
    pave = rng.choice([(168, 162, 154), (150, 148, 148), (178, 164, 148), (142, 134, 130)])
    grass = rng.choice([(104, 134, 62), (122, 138, 74), (88, 120, 58), (134, 132, 84)])
    outside = {"suburb": ("terrain", grass), "works": ("terrain", grass)}.get(
        s.style, ("sidewalk", pave)
    )
    _strip(canvas, outside[0], -90, 90, 0.4, FAR, outside[1])
    for sign, edge, walk, verge in (
        (-1, s.left, s.walk[0], s.verge[0]),
        (1, s.right, s.walk[1], s.verge[1]),
    ):
        outer = edge + sign * walk
        if verge > 0:
            _strip(canvas, "terrain", *sorted((outer, outer + sign * verge)), 0.4, FAR, grass)
        _strip(canvas, "sidewalk", *sorted((edge, outer)), 0.4, FAR, pave)
    _strip(canvas, "road", s.left, s.right, 0.4, FAR, asphalt)
    if s.crossing is not None:
        z0, z1 = s.crossing, s.crossing + s.crossing_width
        for a, b in ((-60.0, s.left), (s.right, 60.0)):
            _strip(canvas, "sidewalk", a, b, z0 - 2.4, z1 + 2.4, pave)
            _strip(canvas, "road", a - 0.05, b + 0.05, z0, z1, asphalt)
    park = tuple(c * 0.9 + 8 for c in asphalt)
    for sign, edge, width in ((-1, s.left, s.parking[0]), (1, s.right, s.parking[1])):
        if width > 0:
            stop = s.crossing - 4 if s.crossing is not None else FAR
            _strip(
                canvas, "parking", *sorted((edge, edge - sign * width)), 0.4, max(stop, 3.0), park
            )
    if s.tram is not None:
        _strip(
            canvas,
            "rail track",
            s.tram - 1.25,
            s.tram + 1.25,
            0.4,
            FAR,
            tuple(c * 0.86 for c in asphalt),
        )
    _details(canvas, s, rng, asphalt, pave)


def _details(canvas: Canvas, s: Street, rng: random.Random, asphalt, pave) -> None:
    mesh = Mesh()
    for _ in range(rng.randint(3, 8)):  # mended asphalt, manhole covers
        x, z = rng.uniform(s.left, s.right), rng.uniform(3, 40)
        w, d = rng.uniform(0.5, 2.6), rng.uniform(0.8, 7)
        mended = rng.choice([0.84, 0.9, 1.07])
        tone = tuple(c * mended for c in asphalt)
        x1 = min(x + w, s.right)
        mesh.poly([(x, 0, z), (x1, 0, z), (x1, 0, z + d), (x, 0, z + d)], tone, solid=False)
    for _ in range(rng.randint(0, 3)):
        x, z = rng.uniform(s.left + 1, s.right - 1), rng.uniform(6, 25)
        for radius, tone in ((0.36, 0.7), (0.27, 0.8)):
            turns = [k * math.pi / 6 for k in range(12)]
            cover = [(x + radius * math.cos(a), 0, z + radius * math.sin(a)) for a in turns]
            mesh.poly(cover, tuple(c * tone for c in asphalt), solid=False)
    joints = tuple(c * 0.88 for c in pave)
    for sign, edge, walk in ((-1, s.left, s.walk[0]), (1, s.right, s.walk[1])):
        cracks, z = [], 2.0
        while z < 32:
            d = 0.015 + 0.0022 * z
            cracks += [
                (edge, 0, z),
                (edge + sign * walk, 0, z),
                (edge + sign * walk, 0, z + d),
                (edge, 0, z + d),
            ]
            z *= 1.09
        mesh.poly(cracks, joints, solid=False, count=len(cracks) // 4)
        for share in (0.33, 0.66):
            x = edge + sign * walk * share
            mesh.poly(_ribbon(x - 0.015, x + 0.015, 0.4, 40), joints, solid=False)
        mesh.poly(
            _ribbon(edge - 0.02, edge + sign * 0.24, 0.4, FAR, 0.1),
            tuple(c * 1.12 for c in pave),
            solid=False,
        )
        mesh.poly(
            _ribbon(edge - 0.02, edge - sign * 0.14, 0.4, FAR),
            tuple(c * 0.72 for c in asphalt),
            solid=False,
        )
    stop = s.crossing - 1.0 if s.crossing is not None else FAR
    if s.tram is not None:
        for x in (s.tram - 0.72, s.tram + 0.72):
            mesh.poly(_ribbon(x - 0.07, x + 0.07, 0.4, FAR), (62, 60, 60), solid=False)
            mesh.poly(_ribbon(x - 0.03, x + 0.03, 0.4, FAR), (172, 174, 178), solid=False)
    wear = rng.uniform(0.72, 1.0)
    white = tuple(c * wear for c in _WHITE)
    _markings(mesh, s, rng, white, stop)
    if s.crossing is not None:
        z = s.crossing - 0.6
        mesh.poly(
            [
                (s.left + 0.2, 0, z - 0.45),
                (s.right - 0.2, 0, z - 0.45),
                (s.right - 0.2, 0, z),
                (s.left + 0.2, 0, z),
            ],
            white,
            solid=False,
        )
    if s.zebra is not None:
        bars, x = [], s.left + 0.35
        while x < s.right - 0.4:
            bars += [
                (x, 0, s.zebra),
                (x + 0.5, 0, s.zebra),
                (x + 0.5, 0, s.zebra + 3.2),
                (x, 0, s.zebra + 3.2),
            ]
            x += 1.0
        mesh.poly(bars, white, solid=False, count=len(bars) // 4)
    mesh.draw(canvas, _ZERO)


def _markings(mesh: Mesh, s: Street, rng: random.Random, white, stop: float) -> None:
    inner = sorted(x for x, _ in s.lanes)
    headings = dict(s.lanes)
    start = rng.uniform(0, 9)
    for a, b in pairwise(inner):
        x = (a + b) / 2
        if headings[a] != headings[b] and len(inner) > 2:
            for side in (-0.12, 0.12):
                mesh.poly(
                    _ribbon(x + side - 0.06, x + side + 0.06, 0.4, min(stop, 120)),
                    white,
                    solid=False,
                )
            continue
        dashes, z = [], start - 9
        while z < min(stop - 4, 110):
            z0 = max(z, 0.4)
            if z + 4 > 0.4:
                dashes += [
                    (x - 0.07, 0, z0),
                    (x + 0.07, 0, z0),
                    (x + 0.07, 0, z + 4),
                    (x - 0.07, 0, z + 4),
                ]
            z += 9 if s.style != "works" else 12
        if dashes:
            mesh.poly(dashes, white, solid=False, count=len(dashes) // 4)
    for x in (s.left + (s.parking[0] or 0.35), s.right - (s.parking[1] or 0.35)):
        if s.style != "old":
            mesh.poly(_ribbon(x - 0.06, x + 0.06, 0.4, min(stop, FAR)), white, solid=False)


def draw_shadows(canvas: Canvas, shadows: list[tuple[np.ndarray, float]]) -> None:
    """Darken world polygons (points (N, 3), share of light that remains), softly."""
    height, width = canvas.image.shape[:2]
    horizon = int(canvas.camera.horizon * height)
    # Shadows are soft, so a quarter of the picture's resolution will do. The darkest come last and
    # prevail.
    small = np.full((height // 4, width // 4), 255, np.uint8)
    shadows = sorted(shadows, key=lambda shadow: -shadow[1])
    pixels, _ = canvas.camera.project(
        np.concatenate([points for points, _ in shadows] or [np.zeros((1, 3))])
    )
    fixed = np.rint((pixels * SUPERSAMPLE / 4 - 0.5) * 16)
    fixed = np.clip(fixed, -(1 << 24), 1 << 24).astype(np.int32)
    stop = 0
    for points, remains in shadows:
        start, stop = stop, stop + len(points)
        hull = cv2.convexHull(fixed[start:stop])
        cv2.fillConvexPoly(small, hull, int(255 * remains), cv2.LINE_8, 4)
    small = cv2.blur(small, (3, 3))
    full = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)[horizon:, :, None]
    ground = canvas.image[horizon:]
    cv2.multiply(ground, cv2.merge([full, full, full]), dst=ground, scale=1 / 255)
