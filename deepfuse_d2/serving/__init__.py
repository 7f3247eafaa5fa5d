"""Models behind HTTP: images in, predictions out, on a machine that is never asked for too much."""

from .server import Limits, serve

__all__ = ["Limits", "serve"]
