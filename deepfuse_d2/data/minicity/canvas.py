"""One canvas draws picture and labels together, so they cannot disagree.

The picture is drawn at twice the final size and averaged down. Whatever is drawn *solid* between
``begin`` and ``end`` also enters a silhouette; its outline becomes the object's polygon, and that
very polygon is filled into the label map and recorded for ``polygons.json``. Objects are drawn
from far to near, so later ones hide earlier ones in both.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .camera import Camera, Light, Place

__all__ = ["Canvas", "Mesh"]

SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV
_SMALLEST = 0.3  # details of fewer square pixels are left out
_LIMIT = 1 << 24  # keeps far-off coordinates inside what OpenCV can rasterise

Color = tuple[float, float, float]


class Canvas:
    """Picture (RGB), label map and object list of a frame.

    ``owner`` holds for each pixel the index + 1 of the object in ``objects`` that it shows (0:
    none yet).
    """

    def __init__(self, camera: Camera, light: Light):
        self.camera, self.light = camera, light
        height, width = camera.height, camera.width
        self.image = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, 3), np.uint8)
        self.owner = np.zeros((height, width), np.uint16)
        self.objects: list[tuple[str, np.ndarray]] = []
        self._mask = np.zeros(self.image.shape[:2], np.uint8)
        self._label: str | None = None
        self._box = [0, 0, 0, 0]

    def begin(self, label: str) -> None:
        """Start an object; ``label`` is a Cityscapes label name, or one with "group" appended."""
        assert self._label is None, f"{label} begins inside {self._label}"
        self._label = label
        self._box = [1 << 30, 1 << 30, -1, -1]

    def end(self) -> None:
        """Close the object: its outline goes into the label map and the object list."""
        label, self._label = self._label, None
        height, width = self.owner.shape
        x0, y0 = max(self._box[0] // SUPERSAMPLE, 0), max(self._box[1] // SUPERSAMPLE, 0)
        x1 = min(self._box[2] // SUPERSAMPLE + 1, width)
        y1 = min(self._box[3] // SUPERSAMPLE + 1, height)
        if x1 <= x0 or y1 <= y0:
            return
        fine = self._mask[y0 * SUPERSAMPLE : y1 * SUPERSAMPLE, x0 * SUPERSAMPLE : x1 * SUPERSAMPLE]
        coarse = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        fine[:] = 0
        coarse = cv2.threshold(coarse, 100, 1, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(
            coarse, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0)
        )[0]
        if not contours:
            return
        polygon = max(contours, key=cv2.contourArea) if len(contours) > 1 else contours[0]
        polygon = cv2.approxPolyDP(polygon, 0.7, True)[:, 0]
        if len(polygon) < 3:
            return
        self.objects.append((label, polygon))
        cv2.fillPoly(self.owner, [polygon], len(self.objects))

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) -> the fixed-point coordinates of the large picture that OpenCV takes."""
        scaled = (points * SUPERSAMPLE - 0.5) * (1 << _SHIFT)
        return np.clip(np.rint(scaled), -_LIMIT, _LIMIT).astype(np.int32)

    def fill(self, fixed: np.ndarray, color: tuple[int, int, int], solid: bool) -> None:
        """Fill a polygon (N, 2), or several (K, N, 2), of fixed-point coordinates."""
        polygons = list(fixed) if fixed.ndim == 3 else [fixed]
        cv2.fillPoly(self.image, polygons, color, cv2.LINE_8, _SHIFT)
        if solid and self._label is not None:
            cv2.fillPoly(self._mask, polygons, 255, cv2.LINE_8, _SHIFT)

    def claim(self, fixed: np.ndarray) -> None:
        """Add a polygon to the silhouette without drawing it into the picture."""
        cv2.fillPoly(self._mask, [fixed], 255, cv2.LINE_8, _SHIFT)
        self.grow(fixed, 1)

    def stroke(
        self, fixed: np.ndarray, thickness: float, color: tuple[int, int, int], solid: bool
    ) -> None:
        """Draw an open line; ``thickness`` in pixels of the final image."""
        wide = max(1, int(thickness * SUPERSAMPLE + 0.5))
        cv2.polylines(self.image, [fixed], False, color, wide, cv2.LINE_8, _SHIFT)
        if solid and self._label is not None:
            cv2.polylines(self._mask, [fixed], False, 255, wide, cv2.LINE_8, _SHIFT)

    def disc(
        self,
        fixed: np.ndarray,
        radii: tuple[float, float],
        color: tuple[int, int, int],
        solid: bool,
    ) -> None:
        """Fill an upright ellipse; ``radii`` in pixels of the final image."""
        scale = SUPERSAMPLE << _SHIFT
        axes = (max(8, int(radii[0] * scale)), max(8, int(radii[1] * scale)))
        centre = (int(fixed[0]), int(fixed[1]))
        cv2.ellipse(self.image, centre, axes, 0, 0, 360, color, -1, cv2.LINE_8, _SHIFT)
        if solid and self._label is not None:
            cv2.ellipse(self._mask, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_8, _SHIFT)

    def grow(self, fixed: np.ndarray, margin: int) -> bool:
        """Note how far the current object reaches; False if that is outside the picture."""
        low, high = fixed.min(axis=0) >> _SHIFT, fixed.max(axis=0) >> _SHIFT
        x0, y0 = int(low[0]) - margin, int(low[1]) - margin
        x1, y1 = int(high[0]) + margin, int(high[1]) + margin
        height, width = self._mask.shape
        if x1 < 0 or y1 < 0 or x0 >= width or y0 >= height:
            return False
        box = self._box
        box[0], box[1] = min(box[0], x0), min(box[1], y0)
        box[2], box[3] = max(box[2], x1), max(box[3], y1)
        return True

    def stamp(self, stamp: np.ndarray, corner: tuple, size: tuple, ramp: np.ndarray) -> None:
        """Set a stamp (S, S, 2) of brightness and cover with its upper left at ``corner``, both
        in pixels.

        Args:
            ramp: (256, 3) uint8, the colour of each brightness.
        """
        height, width = self._mask.shape
        x, y, w, h = (v * SUPERSAMPLE for v in (*corner, *size))
        x0, y0 = max(int(x), 0), max(int(y), 0)
        x1, y1 = min(int(x + w) + 1, width), min(int(y + h) + 1, height)
        if x1 <= x0 or y1 <= y0:
            return
        sx, sy = w / stamp.shape[1], h / stamp.shape[0]
        to_stamp = np.array([[1 / sx, 0, (x0 - x) / sx], [0, 1 / sy, (y0 - y) / sy]])
        part = cv2.warpAffine(
            stamp, to_stamp, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        gray, cover = cv2.split(part)
        cover = cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)[1]
        cv2.copyTo(
            cv2.LUT(cv2.merge([gray, gray, gray]), ramp[None]), cover, self.image[y0:y1, x0:x1]
        )
        if self._label is not None:
            mask = self._mask[y0:y1, x0:x1]
            cv2.max(mask, cover, dst=mask)
            box = self._box
            box[0], box[1], box[2], box[3] = (
                min(box[0], x0),
                min(box[1], y0),
                max(box[2], x1),
                max(box[3], y1),
            )


class Mesh:
    """Parts of one model in model coordinates (right, up, forward), projected in one go and drawn
    in order.

    Faces wind counter-clockwise as seen from outside; a part with ``cull`` is drawn only where it
    faces the camera.
    """

    def __init__(self) -> None:
        self._points: list = []
        self._items: list[tuple] = []
        self._runs: list[list[int]] = []
        self._reach = 0.0  # metres by which lines and balls exceed their points

    def poly(
        self,
        points: list,
        color: Color,
        shade: float = 1.0,
        *,
        solid: bool = True,
        cull: bool = False,
        count: int = 1,
    ) -> None:
        """A face, or ``count`` equal-length faces of one colour given one after another."""
        self._add("poly", points, color, shade, solid, cull, count)

    def line(
        self, points: list, width: float, color: Color, shade: float = 1.0, *, solid: bool = True
    ) -> None:
        """A round-capped line; ``width`` in metres."""
        self._add("line", points, color, shade, solid, False, width)

    def ball(
        self, centre: tuple, rx: float, ry: float, color: Color, shade: float = 1.0, *, solid=True
    ) -> None:
        """An upright ellipse that faces the camera; radii in metres."""
        self._add("ball", [centre], color, shade, solid, False, (rx, ry))

    def sort_from(self) -> None:
        """Parts added from here to ``sort_to`` are drawn far to near."""
        self._runs.append([len(self._items), -1])

    def sort_to(self) -> None:
        self._runs[-1][1] = len(self._items)

    def _add(self, kind, points, color, shade, solid, cull, extra) -> None:
        start = len(self._points)
        if kind != "poly":
            self._reach = max(self._reach, *extra) if kind == "ball" else max(self._reach, extra)
        self._points.extend(points)
        self._items.append((kind, start, len(self._points), color, shade, solid, cull, extra))

    def draw(self, canvas: Canvas, place: Place, label: str | None = None) -> None:
        """Draw the model; with ``label`` as an object of its own, else into the current one."""
        if not self._items:
            return
        world = place.to_world(np.array(self._points, dtype=np.float64))
        pixels, depth = canvas.camera.project(world)
        fixed = canvas.fixed(pixels)
        if label is not None:
            canvas.begin(label)
        focal = canvas.camera.pixels
        if canvas.grow(fixed, int(2 * self._reach * focal * SUPERSAMPLE / float(depth.min())) + 2):
            self._draw_parts(canvas, pixels, fixed, depth, focal)
        if label is not None:
            canvas.end()

    def _draw_parts(self, canvas: Canvas, pixels, fixed, depth, focal: float) -> None:
        starts = np.array([item[1] for item in self._items])
        means = np.add.reduceat(depth, starts) / np.diff(np.append(starts, len(depth)))
        areas = self._signed_areas(pixels, starts).tolist()
        colors = canvas.light.tints(
            [item[3] for item in self._items], means, [item[4] for item in self._items]
        )
        means = means.tolist()
        order = list(range(len(self._items)))
        for first, last in self._runs:
            order[first:last] = sorted(order[first:last], key=lambda i: -means[i])
        for i in order:
            kind, start, stop, _, _, solid, cull, extra = self._items[i]
            if cull and areas[i] >= 0:
                continue
            if kind == "poly":
                if extra == 1:
                    if not solid and abs(areas[i]) < _SMALLEST:
                        continue
                    canvas.fill(fixed[start:stop], colors[i], solid)
                else:
                    canvas.fill(fixed[start:stop].reshape(extra, -1, 2), colors[i], solid)
                continue
            scale = focal / means[i]
            if kind == "line":
                if solid or extra * scale > 0.3:
                    canvas.stroke(fixed[start:stop], extra * scale, colors[i], solid)
            else:
                canvas.disc(fixed[start], (extra[0] * scale, extra[1] * scale), colors[i], solid)

    def claim(self, canvas: Canvas, place: Place) -> None:
        """Add the model's faces to the silhouette of the current object without drawing them."""
        world = place.to_world(np.array(self._points, dtype=np.float64))
        fixed = canvas.fixed(canvas.camera.project(world)[0])
        for _, start, stop, *_ in self._items:  # faces only
            canvas.claim(fixed[start:stop])

    @staticmethod
    def _signed_areas(pixels: np.ndarray, starts: np.ndarray) -> np.ndarray:
        # The shoelace sum of every part at once; the last point of a part is followed by its first.
        following = np.arange(1, len(pixels) + 1)
        following[np.append(starts[1:], len(pixels)) - 1] = starts
        x, y = pixels[:, 0], pixels[:, 1]
        return np.add.reduceat(x * y[following] - x[following] * y, starts)


def circle(x: float, y: float, z: float, radius: float, count: int = 16) -> list[tuple]:
    """Points of a wheel: a circle in the plane across x, counter-clockwise as seen from +x."""
    steps = [2 * math.pi * k / count for k in range(count)]
    return [(x, y + radius * math.sin(a), z + radius * math.cos(a)) for a in steps]
