"""Every kind of vehicle and person by name: how it is measured, built and drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from . import cycles, lorries, people, vehicles
from .camera import Light, Place
from .canvas import Canvas, Mesh
from .vehicles import Size

__all__ = ["KINDS", "Kind", "draw_model"]


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
    "bicycle": Kind(lambda rng: cycles.BICYCLE, cycles.build_bicycle),
    "motorcycle": Kind(lambda rng: cycles.MOTORCYCLE, cycles.build_motorcycle),
    "rider": Kind(lambda rng: cycles.BICYCLE._replace(height=1.8), cycles.build_bicycle),
    "motorbike rider": Kind(
        lambda rng: cycles.MOTORCYCLE._replace(height=1.7), cycles.build_motorcycle
    ),
}
_FINE = 13.0  # pixels a metre from which on small parts are drawn


def draw_model(
    canvas: Canvas,
    kind: str,
    place: Place,
    size: Size,
    seed: int,
    light: Light,
    label: str | None = "",
) -> None:
    """Build and draw one thing, and its rider; ``label=None``: into the current object."""
    rng = random.Random(seed)
    fine = canvas.camera.pixels / max(place.z, 1.0) > _FINE
    mesh = KINDS[kind].build(rng, place, light, size, fine)
    ridden = {"rider": "bicycle", "motorbike rider": "motorcycle"}.get(kind)
    own = ridden or (size.variant if kind == "trailer" else kind)
    mesh.draw(canvas, place, own if label is not None else None)
    if ridden:
        people.build_rider(rng, place, light, motor=ridden == "motorcycle").draw(
            canvas, place, "rider"
        )
