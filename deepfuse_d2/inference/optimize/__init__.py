"""A model for use: the same predictions, sooner."""

from .model import optimize_for_inference

__all__ = ["optimize_for_inference"]
