"""MiniFields: procedural farmland seen by a time series and by one sharp image, in PASTIS-HD's
layout; drawn instead of downloaded."""

from .ceilings import best_accuracies
from .generate import ensure_minifields, generate_minifields
from .kinds import MODES
from .manifest import Manifest
from .scene import Scene, draw_scene

__all__ = [
    "MODES",
    "Manifest",
    "Scene",
    "best_accuracies",
    "draw_scene",
    "ensure_minifields",
    "generate_minifields",
]
