"""The world of a street and its light, seen by a pinhole camera on a car.

World coordinates are metres: x to the right, y up from the ground, z forward; the camera stands at
x = z = 0. A street may bend: ``bend`` moves everything sideways by ``bend * z**2``, so that
whatever stands on the road follows it. Image coordinates are pixels of the final image with (0, 0)
at its upper left corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Camera", "Light", "Place"]

# Metres. Nearer points are moved onto this plane, which keeps walls along the road in their plane.
NEAR = 0.4


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera.

    Args:
        width, height: size of the image in pixels.
        focal: focal length in image widths (Cityscapes' camera has 1.1).
        horizon: row of the horizon in image heights.
        centre: column of the vanishing point in image widths.
        eye: height above the ground in metres.
        bend: curvature of the street in 1/metres.
    """

    width: int
    height: int
    focal: float
    horizon: float
    centre: float
    eye: float
    bend: float = 0.0

    @property
    def pixels(self) -> float:
        """Focal length in pixels: s metres at z metres are ``s * pixels / z`` pixels large."""
        return self.focal * self.width

    def sees(self, x: float, z: float, radius: float) -> bool:
        """Whether something of that radius may lie between the borders of the picture."""
        scale = self.pixels / max(z, NEAR)
        u = self.centre * self.width + (x + self.bend * z * z) * scale
        return -radius * scale < u < self.width + radius * scale

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (N, 3) -> pixels (N, 2) and depths (N,)."""
        depth = np.maximum(points[:, 2], NEAR)
        scale = self.pixels / depth
        out = np.empty((len(points), 2))
        out[:, 0] = self.centre * self.width + (points[:, 0] + self.bend * depth**2) * scale
        out[:, 1] = self.horizon * self.height + (self.eye - points[:, 1]) * scale
        return out, depth


@dataclass(frozen=True)
class Place:
    """Where a model stands in a street of some ``bend``.

    ``heading`` 0 drives away from the camera, pi towards it, pi/2 to the right.
    """

    x: float
    z: float
    heading: float = 0.0
    bend: float = 0.0

    @property
    def camera(self) -> tuple[float, float]:
        """The camera as the model sees it, (to its right, before it): tells what faces show."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        x, slant = self.x + self.bend * self.z**2, 2 * self.bend * self.z
        return self.z * (sin + slant * cos) - x * cos, -x * sin - self.z * (cos - slant * sin)

    def to_world(self, local: np.ndarray) -> np.ndarray:
        """Model points (N, 3) as (right, up, forward) -> world points (N, 3)."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        out = np.empty_like(local)
        out[:, 0] = self.x + local[:, 2] * sin + local[:, 0] * cos
        out[:, 1] = local[:, 1]
        out[:, 2] = self.z + local[:, 2] * cos - local[:, 0] * sin
        return out


@dataclass(frozen=True)
class Light:
    """Sun and air. Colours are RGB 0..255.

    Args:
        sun: unit vector to the sun (x, y, z).
        strength: share of light that comes from the sun (0: overcast).
        level: brightness of the whole scene, 1 at noon.
        haze: colour of the air; objects fade into it with ``haze_distance`` metres.
        dusk: 0 by day .. 1 when windows and lamps are lit.
    """

    sun: tuple[float, float, float]
    strength: float
    level: float
    haze: tuple[float, float, float]
    haze_distance: float
    dusk: float

    def shade(self, nx: float, ny: float, nz: float) -> float:
        """Brightness of a surface by its unit normal in world coordinates."""
        facing = nx * self.sun[0] + ny * self.sun[1] + nz * self.sun[2]
        return 0.78 + 0.10 * ny + self.strength * (0.55 * facing if facing > 0 else 0.12 * facing)

    def tint(
        self, color: tuple[float, float, float], depth: float, shade: float = 1.0
    ) -> tuple[int, int, int]:
        """A surface colour as it looks under this light at a distance."""
        air = 1.0 - math.exp(-depth / self.haze_distance)
        gain = shade * self.level * (1.0 - air)
        red, green, blue = (
            min(255, int(c * gain + h * air)) for c, h in zip(color, self.haze, strict=True)
        )
        return red, green, blue

    def tints(self, colors: list, depths: np.ndarray, shades: list[float]) -> list[list[int]]:
        """``tint`` for many surfaces at once."""
        clear = np.exp(depths / -self.haze_distance)
        gain = np.array(shades) * (self.level * clear)
        out = np.array(colors) * gain[:, None] + np.array(self.haze) * (1.0 - clear)[:, None]
        return np.minimum(out, 255.0).astype(int).tolist()
