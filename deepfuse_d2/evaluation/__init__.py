"""Evaluators: matching and averaging as pure functions, thin detectron2 evaluators on top."""

from .cityscapes_instance import CityscapesInstanceEvaluator

__all__ = ["CityscapesInstanceEvaluator"]
