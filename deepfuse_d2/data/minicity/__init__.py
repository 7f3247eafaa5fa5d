"""MiniCity: a procedural street in the exact layout of Cityscapes, drawn instead of downloaded."""

from .generate import ensure_minicity, generate_minicity
from .manifest import VERSION, Manifest, is_complete

__all__ = ["VERSION", "Manifest", "ensure_minicity", "generate_minicity", "is_complete"]
