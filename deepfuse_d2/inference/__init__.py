"""Models in use: optimised, and fed with whatever an application has."""

from .optimize import optimize_for_inference

__all__ = ["optimize_for_inference"]
