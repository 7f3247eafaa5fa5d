"""Models in use: optimised, and fed with whatever an application has."""

from .optimize.model import optimize_for_inference
from .predictor import Predictor
from .reading import read_image

__all__ = ["Predictor", "optimize_for_inference", "read_image"]
