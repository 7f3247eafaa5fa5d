"""Parameters, multiply-adds and activations of a model, part by part.

Each part runs once, on inputs of the right shapes. What depends on the content of an image, the
number of proposals and detections, is fixed, so that figures can be compared.
"""

from .costs import Analysis, Cost, analyze

__all__ = ["Analysis", "Cost", "analyze"]
